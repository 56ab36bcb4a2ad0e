"""From a request to its tenant."""

from __future__ import annotations

import pickle
from collections.abc import Callable, Mapping
from typing import Any

from django.core.exceptions import FieldDoesNotExist, ValidationError
from django.db import router
from django.http import HttpRequest
from django.http.request import split_domain_port
from django.utils.module_loading import import_string

from pg_tenants import conf
from pg_tenants.context import no_schema
from pg_tenants.exceptions import ConfigurationError, TenantNotFound
from pg_tenants.lookups import kept
from pg_tenants.models import domain_model, tenant_model
from pg_tenants.modules import registry
from pg_tenants.names import normalize_host

__all__ = [
    "DomainResolver",
    "HeaderResolver",
    "PathResolver",
    "Resolver",
    "SessionResolver",
    "SubdomainResolver",
    "TenantResolver",
    "domains_of",
    "home_schema",
    "is_public_host",
    "request_host",
    "resolvers",
    "tenant_by",
    "tenant_of_domain",
]

MAX_LENGTH = 253
"""Characters of the longest value that is looked up: those of the longest host."""

Resolver = Callable[[HttpRequest], Any]
"""Returns the tenant of a request, or None if the request has nothing to tell it by.

Raises:
    TenantNotFound: the request names a tenant that does not exist.
"""


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


def tenant_of_domain(host: str) -> Any:
    """Return the tenant that has this domain, or None."""
    using = router.db_for_write(domain_model())

    def fetch() -> bytes | None:
        domains = domain_model()._default_manager.using(using).select_related("tenant")
        domain = domains.filter(domain=host).first()
        return None if domain is None else pickle.dumps(domain.tenant)

    return _tenant(using, "domain", host, fetch)


def tenant_by(field: str, value: str) -> Any:
    """Return the tenant whose unique field has this value, or None."""
    using = router.db_for_write(tenant_model())

    def fetch() -> bytes | None:
        try:
            found = tenant_model()._default_manager.using(using).filter(**{field: value}).first()
        except (ValueError, ValidationError):
            return None  # Such as a word where the field has numbers.
        return None if found is None else pickle.dumps(found)

    return _tenant(using, f"tenant.{field}", value, fetch)


def domains_of(tenant: Any) -> tuple[tuple[str, bool], ...]:
    """Return a tenant's domains, each with whether it is a primary one; these first."""
    using = router.db_for_write(domain_model())

    def fetch() -> tuple[tuple[str, bool], ...]:
        domains = domain_model()._default_manager.using(using).filter(tenant=tenant.pk)
        return tuple(domains.order_by("-is_primary", "pk").values_list("domain", "is_primary"))

    with no_schema():
        return kept(using, "domains", str(tenant.pk), fetch)


def _tenant(using: str, kind: str, value: str, fetch: Callable[[], bytes | None]) -> Any:
    # What no name can be is not asked for, so nobody fills the memory with it.
    if len(value) > MAX_LENGTH or not value.isprintable():
        return None
    with no_schema():
        found = kept(using, kind, value, fetch)
    # A copy for each request, down to the values of its fields: it may be changed.
    return None if found is None else pickle.loads(found)  # noqa: S301  # our own bytes, which never left the process


class TenantResolver:
    """Base of the resolvers here: takes a value from the request, and looks for the tenant that it names.

    A subclass overrides ``value`` or ``find``. One without a value leaves the request to the next resolver.
    """

    vary: tuple[str, ...] = ()
    """Request headers that the tenant depends on; they are put into the response's ``Vary``."""

    remedy = "Create it, or correct what the request names."
    """What to do about a value that names no tenant; it ends the message of TenantNotFound."""

    def __init__(self, *, field: str = "schema_name"):
        try:
            unique = tenant_model()._meta.get_field(field).unique
        except FieldDoesNotExist:
            unique = False
        if not unique:
            raise ConfigurationError(
                f"{type(self).__name__} has the field {field!r}, and {tenant_model().__name__} has no unique field of "
                "this name. Name a unique one, such as 'schema_name'."
            )
        self.field = field

    def __call__(self, request: HttpRequest) -> Any:
        """Return the tenant, or None where the request has no value.

        Raises:
            TenantNotFound: the value names no tenant.
        """
        value = self.value(request)
        if value is None:
            return None
        tenant = self.find(value)
        if tenant is None:
            raise TenantNotFound(f"{type(self).__name__} finds no tenant for {value!r}. {self.remedy}")
        return tenant

    def value(self, request: HttpRequest) -> str | None:
        """Return what names the tenant in a request, or None if there is nothing."""
        raise NotImplementedError

    def find(self, value: str) -> Any:
        """Return the tenant that a value names, or None."""
        return tenant_by(self.field, value)

    def script(self, request: HttpRequest) -> str:
        """Return the beginning of the path that belongs to the tenant, such as ``/t/acme``; else nothing."""
        return ""


class DomainResolver(TenantResolver):
    """Finds the tenant by the request's host in the DOMAIN_MODEL.

    Each host but those of ``PUBLIC_HOSTS`` is a value, so resolvers behind this one are asked on those alone.
    """

    remedy = (
        "Give a tenant this domain, as 'manage.py create_tenant' does with --domain, or add the host to "
        "PG_TENANTS['PUBLIC_HOSTS']."
    )

    def __init__(self) -> None:
        self.field = "domain"

    def value(self, request: HttpRequest) -> str | None:
        """Return the host."""
        host = request_host(request)
        return None if is_public_host(host) else host

    def find(self, value: str) -> Any:
        """Return the tenant whose domain the host is, or None."""
        return tenant_of_domain(value)


class SubdomainResolver(TenantResolver):
    """Finds the tenant by what stands before a base domain: ``acme`` in ``acme.example.com``.

    No host has a ``_``, so with ``schema_name`` a ``-`` stands for it: ``big-co.example.com`` is ``big_co``.

    Args:
        base: the domain, such as ``example.com``. Hosts that are not under it have no value.
        field: the unique field of the TENANT_MODEL that the label is a value of.
    """

    def __init__(self, base: str, *, field: str = "schema_name"):
        super().__init__(field=field)
        try:
            self.base = normalize_host(base)
        except ValueError as exc:
            raise ConfigurationError(f"SubdomainResolver has the base {base!r}. Write a domain: {exc}") from exc

    def value(self, request: HttpRequest) -> str | None:
        """Return what stands before the base."""
        host = request_host(request)
        if is_public_host(host) or not host.endswith(f".{self.base}"):
            return None
        label = host.removesuffix(f".{self.base}")
        return label.replace("-", "_") if self.field == "schema_name" else label


class HeaderResolver(TenantResolver):
    """Finds the tenant by a header of the request. Anybody can set it: use it behind a proxy that does.

    Args:
        header: the header's name.
        field: the unique field of the TENANT_MODEL that the header is a value of.
    """

    def __init__(self, header: str = "X-Tenant", *, field: str = "schema_name"):
        super().__init__(field=field)
        self.header = header
        self.vary = (header,)

    def value(self, request: HttpRequest) -> str | None:
        """Return the header."""
        return request.headers.get(self.header)


class PathResolver(TenantResolver):
    """Finds the tenant by the beginning of the path: ``/t/acme/…``.

    For the rest of the request ``/t/acme`` is part of the script name, as if the project were mounted there: URLs are
    resolved without it, and ``reverse()`` puts it in front.

    Args:
        prefix: what stands before the tenant, with a ``/`` at both ends.
        field: the unique field of the TENANT_MODEL that the path's part is a value of.
    """

    def __init__(self, prefix: str = "/t/", *, field: str = "schema_name"):
        super().__init__(field=field)
        if not prefix.startswith("/") or not prefix.endswith("/"):
            raise ConfigurationError(f"PathResolver has the prefix {prefix!r}. Begin and end it with '/', as in '/t/'.")
        self.prefix = prefix

    def value(self, request: HttpRequest) -> str | None:
        """Return the part of the path behind the prefix."""
        if not request.path_info.startswith(self.prefix):
            return None
        return request.path_info.removeprefix(self.prefix).partition("/")[0] or None

    def script(self, request: HttpRequest) -> str:
        """Return the prefix with the tenant's part."""
        return f"{self.prefix}{self.value(request)}"


class SessionResolver(TenantResolver):
    """Finds the tenant by a value of the session, which is read before any tenant is active.

    Args:
        key: the session's key.
        field: the unique field of the TENANT_MODEL that it is a value of.
    """

    vary = ("Cookie",)

    def __init__(self, key: str = "tenant", *, field: str = "schema_name"):
        super().__init__(field=field)
        self.key = key

    def value(self, request: HttpRequest) -> str | None:
        """Return the session's value.

        Raises:
            ConfigurationError: the request has no session yet.
        """
        if not hasattr(request, "session"):
            raise ConfigurationError(
                "SessionResolver needs request.session. Put SessionMiddleware before TenantMiddleware in MIDDLEWARE, "
                "and django.contrib.sessions into a fixed module."
            )
        with no_schema():
            value = request.session.get(self.key)
        return None if value is None else str(value)


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
    found, options = entry, {}
    if isinstance(entry, (list, tuple)):
        if len(entry) != 2 or not isinstance(entry[0], str) or not isinstance(entry[1], Mapping):
            raise ConfigurationError(
                f"PG_TENANTS['RESOLVERS'] has {entry!r}. Write a pair of a dotted path and its options, such as "
                "('pg_tenants.resolvers.HeaderResolver', {'header': 'X-Tenant'})."
            )
        found, options = entry
    if isinstance(found, str):
        try:
            found = import_string(found)
        except ImportError as exc:
            raise ConfigurationError(
                f"PG_TENANTS['RESOLVERS'] has {entry!r}, which cannot be imported: {exc}. Write the dotted path of a "
                "class or function, such as 'pg_tenants.resolvers.DomainResolver'."
            ) from exc
    if options and not isinstance(found, type):
        raise ConfigurationError(f"PG_TENANTS['RESOLVERS'] has {entry!r}, which is no class. Leave its options out.")
    try:
        resolver = found(**options) if isinstance(found, type) else found
    except (TypeError, LookupError, ValueError) as exc:
        raise ConfigurationError(
            f"PG_TENANTS['RESOLVERS'] has {entry!r}, which cannot be set up. Correct its options: {exc}"
        ) from exc
    if not callable(resolver):
        raise ConfigurationError(
            f"PG_TENANTS['RESOLVERS'] has {entry!r}, which is not callable. Give a class or a function that takes the "
            "request and returns a tenant or None."
        )
    return resolver  # type: ignore[no-any-return]
