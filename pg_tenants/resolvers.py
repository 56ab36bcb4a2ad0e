"""From a request to its tenant."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from django.http import HttpRequest
from django.http.request import split_domain_port
from django.utils.module_loading import import_string

from pg_tenants import conf
from pg_tenants.context import no_schema
from pg_tenants.exceptions import ConfigurationError
from pg_tenants.models import domain_model, tenant_model
from pg_tenants.modules import registry

__all__ = ["DomainResolver", "Resolver", "home_schema", "is_public_host", "request_host", "resolvers"]

Resolver = Callable[[HttpRequest], Any]
"""Returns the tenant of a request, or None if it cannot tell."""


def request_host(request: HttpRequest) -> str:
    """Return the host that a request is for: lower case, without port and final dot.

    Raises:
        DisallowedHost: ALLOWED_HOSTS has it not.
    """
    return split_domain_port(request.get_host())[0].rstrip(".")


def is_public_host(host: str) -> bool:
    """Return whether ``PG_TENANTS["PUBLIC_HOSTS"]`` names the host."""
    return host in conf.require().public_hosts


def home_schema() -> str:
    """Return the schema that public hosts are served in: that of the TENANT_MODEL's fixed module.

    Raises:
        ConfigurationError: the TENANT_MODEL is in no fixed module.
    """
    modules = registry()
    label = tenant_model()._meta.app_label
    for module in modules.of_app(label) if modules else ():
        if module.schema is not None:
            return module.schema
    raise ConfigurationError(
        f"The app {label!r} of PG_TENANTS['TENANT_MODEL'] is in no fixed module, so public hosts have no schema. "
        "Add it to a module with a schema, such as 'public'."
    )


class DomainResolver:
    """Finds the tenant by the request's host in the DOMAIN_MODEL."""

    def __call__(self, request: HttpRequest) -> Any:
        """Return the tenant whose domain the host is, or None."""
        with no_schema():
            domain = (
                domain_model()._default_manager.select_related("tenant").filter(domain=request_host(request)).first()
            )
        return None if domain is None else domain.tenant


_loaded: tuple[object, tuple[Resolver, ...]] | None = None


def resolvers() -> tuple[Resolver, ...]:
    """Return the resolvers of ``PG_TENANTS["RESOLVERS"]``, in order.

    Raises:
        ConfigurationError: one cannot be imported or called.
    """
    global _loaded
    config = conf.require()
    if _loaded is None or _loaded[0] is not config:
        _loaded = (config, tuple(_load(entry) for entry in config.resolvers))
    return _loaded[1]


def _load(entry: Any) -> Resolver:
    found = entry
    if isinstance(entry, str):
        try:
            found = import_string(entry)
        except ImportError as exc:
            raise ConfigurationError(
                f"PG_TENANTS['RESOLVERS'] has {entry!r}, which cannot be imported: {exc}. Write the dotted path of a "
                "class or function, such as 'pg_tenants.resolvers.DomainResolver'."
            ) from exc
    resolver = found() if isinstance(found, type) else found
    if not callable(resolver):
        raise ConfigurationError(
            f"PG_TENANTS['RESOLVERS'] has {entry!r}, which is not callable. Give a class or a function that takes the "
            "request and returns a tenant or None."
        )
    return resolver  # type: ignore[no-any-return]
