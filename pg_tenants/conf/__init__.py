"""Settings: one typed, lazy view of ``PG_TENANTS`` and of ``DATABASES[alias]["OPTIONS"]["tenants"]``.

This is the only package that reads Django's settings for the rest of pg_tenants. A setting is read when it is needed,
so ``override_settings`` works.
"""

from __future__ import annotations

from typing import Any

from django.conf import settings

from pg_tenants.conf._alias import alias_options, database, tenant_options
from pg_tenants.conf._model import (
    ALIAS_KEYS,
    ENGINE,
    KEYS,
    MIGRATIONS_KEYS,
    MODULE_KEYS,
    NO_ENGINE,
    TIMEOUTS,
    AliasOptions,
    Config,
    ModuleConfig,
    Monitoring,
    Retry,
    Timeouts,
)
from pg_tenants.conf._project import parse
from pg_tenants.conf._reading import nearest
from pg_tenants.exceptions import ConfigurationError

__all__ = [
    "ALIAS_KEYS",
    "ENGINE",
    "KEYS",
    "MIGRATIONS_KEYS",
    "MODULE_KEYS",
    "NO_ENGINE",
    "TIMEOUTS",
    "AliasOptions",
    "Config",
    "ModuleConfig",
    "Monitoring",
    "Retry",
    "Timeouts",
    "alias_options",
    "auto_migrates",
    "database",
    "django_setting",
    "get",
    "nearest",
    "pgserver",
    "require",
    "settle_media_urls",
    "tenant_options",
]

_parsed: tuple[object, Config] | None = None


def get() -> Config | None:
    """Return the parsed ``PG_TENANTS``, or None where the project has none."""
    global _parsed
    raw = getattr(settings, "PG_TENANTS", None)
    if raw is None:
        return None
    cached = _parsed
    if cached is None or cached[0] is not raw:
        _parsed = cached = (raw, parse(raw))
    return cached[1]


def django_setting(name: str) -> Any:
    """Return one of Django's own settings."""
    return getattr(settings, name)


def pgserver() -> dict[str, Any]:
    """Return ``PG_TENANTS["PGSERVER"]``; a server that has no name there is called as the project's package.

    It works without ``PG_TENANTS`` as well.
    """
    config = get()
    project = str(getattr(settings, "SETTINGS_MODULE", None) or "default").partition(".")[0]
    return {"name": project, **(config.pgserver if config else {})}


def auto_migrates() -> bool:
    """Return whether ``runserver`` brings all schemas up to date: in development alone."""
    config = get()
    return config is not None and config.auto_migrate and bool(settings.DEBUG)


def settle_media_urls() -> None:
    """Have Django compute relative ``STATIC_URL`` and ``MEDIA_URL`` under the script prefix that holds now.

    It does so when they are first read, and keeps the result for the whole process.
    """
    settings.STATIC_URL, settings.MEDIA_URL  # noqa: B018


def require() -> Config:
    """Return the parsed ``PG_TENANTS``.

    Raises:
        ConfigurationError: the project has none.
    """
    config = get()
    if config is None:
        raise ConfigurationError(
            "settings.PG_TENANTS is missing. Set it to a dictionary with TENANT_MODEL, DOMAIN_MODEL and MODULES."
        )
    return config
