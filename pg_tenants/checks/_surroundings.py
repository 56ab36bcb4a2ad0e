"""Caches and sessions in which tenants could meet, and the admin."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from django.apps import apps
from django.conf import settings
from django.core.checks import CheckMessage, Warning  # noqa: A004  # Django's own names

from pg_tenants import conf
from pg_tenants.checks._common import MIDDLEWARE, SESSIONS, resolves_by_session
from pg_tenants.models import TenantMixin
from pg_tenants.modules import registry

__all__ = ["check_admin", "check_surroundings"]

_ENGINES = "django.contrib.sessions.backends."
_CACHE_MIDDLEWARE = [f"django.middleware.cache.{name}CacheMiddleware" for name in ("Update", "FetchFrom")]


def check_surroundings(app_configs: Sequence[Any] | None = None, **kwargs: Any) -> list[CheckMessage]:
    """Find caches and sessions in which tenants could meet."""
    if conf.get() is None:
        return []
    return [*_shared_caches(), *_early_cache_middleware(), *_unbound_sessions()]


def _shared_caches() -> Iterator[CheckMessage]:
    users = []
    engines = (f"{_ENGINES}cache", f"{_ENGINES}cached_db")
    if SESSIONS in settings.MIDDLEWARE and settings.SESSION_ENGINE in engines and not resolves_by_session():
        users.append((settings.SESSION_CACHE_ALIAS, "sessions"))
    if any(name in settings.MIDDLEWARE for name in _CACHE_MIDDLEWARE):
        users.append((settings.CACHE_MIDDLEWARE_ALIAS, "the cache middleware"))
    for alias, user in users:
        cache = settings.CACHES.get(alias, {})
        if not cache.get("KEY_FUNCTION") and cache.get("BACKEND") != "django.core.cache.backends.dummy.DummyCache":
            yield Warning(
                f"CACHES[{alias!r}], which {user} use, has no KEY_FUNCTION, so tenants may get each other's values.",
                hint="Set its KEY_FUNCTION to 'pg_tenants.contrib.cache.make_key'.",
                id="pg_tenants.W050",
            )


def _early_cache_middleware() -> Iterator[CheckMessage]:
    names = list(settings.MIDDLEWARE)
    for early in _CACHE_MIDDLEWARE:
        if MIDDLEWARE in names and early in names and names.index(early) < names.index(MIDDLEWARE):
            yield Warning(
                f"{early.rpartition('.')[2]} comes before TenantMiddleware, so pages are cached without their tenant.",
                hint=f"Move {MIDDLEWARE!r} to the top of MIDDLEWARE.",
                id="pg_tenants.W051",
            )


def _unbound_sessions() -> Iterator[CheckMessage]:
    modules, engine = registry(), settings.SESSION_ENGINE.removeprefix(_ENGINES)
    homes = modules.of_app("sessions") if modules else ()
    in_shared_table = bool(homes) and all(module.is_fixed for module in homes)
    # A session that names the tenant is read before there is one, so it cannot be bound to it.
    shared = engine in ("file", "signed_cookies") or (engine in ("db", "cached_db") and in_shared_table)
    if shared and SESSIONS in settings.MIDDLEWARE and not resolves_by_session():
        yield Warning(
            f"Tenants share the sessions of {settings.SESSION_ENGINE!r}, so one's cookie is good for another's site.",
            hint=f"Set SESSION_ENGINE to 'pg_tenants.contrib.sessions.{engine}'.",
            id="pg_tenants.W052",
        )


def check_admin(app_configs: Sequence[Any] | None = None, **kwargs: Any) -> list[CheckMessage]:
    """Find a TENANT_MODEL in the admin that makes schemas inside requests, or whose users have no shared tables."""
    config, modules = conf.get(), registry()
    if config is None or modules is None or not apps.is_installed("django.contrib.admin"):
        return []
    # Models, which this imports, can be imported only after the apps are loaded.
    from django.contrib.admin.sites import all_sites  # noqa: PLC0415

    from pg_tenants.admin import TenantAdmin  # noqa: PLC0415

    found: list[CheckMessage] = []
    registered = [
        entry for site in all_sites for model, entry in site._registry.items() if issubclass(model, TenantMixin)
    ]
    for entry in registered:
        if not isinstance(entry, TenantAdmin):
            found.append(
                Warning(
                    f"{type(entry).__name__}, of {entry.model.__name__}, does not inherit from TenantAdmin: schemas "
                    "are made inside requests, and tenants' own administrators may reach all tenants.",
                    hint=f"Write class {type(entry).__name__}(TenantAdmin), from pg_tenants.admin.",
                    id="pg_tenants.W090",
                )
            )
    needed = ("admin", "contenttypes", settings.AUTH_USER_MODEL.partition(".")[0])
    lacking = [label for label in needed if not any(module.is_fixed for module in modules.of_app(label))]
    if registered and lacking:
        found.append(
            Warning(
                f"Tenants are in the admin, which is for the public hosts, and {', '.join(map(repr, lacking))} in no "
                "fixed module, so there are no tables there for its users and its log.",
                hint="Add these apps to the fixed module of the TENANT_MODEL; they may be in tenant modules as well.",
                id="pg_tenants.W091",
            )
        )
    return found
