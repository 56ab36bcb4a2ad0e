"""Django's caches of content types and sites, kept apart by schema.

Both hold rows for the life of the process and know them by the alias, or not even that. The ids of one tenant's rows
mean nothing in another.
"""

from __future__ import annotations

import functools
from collections import OrderedDict
from collections.abc import Iterator, MutableMapping
from typing import Any

from django.apps import apps
from django.db import DEFAULT_DB_ALIAS

from pg_tenants.exceptions import WrongTenant
from pg_tenants.instances import TenantAlias, checked_manager, place_of_app, replace

__all__ = ["SchemaCache", "install"]

Place = tuple[str, str | None] | None
"""A schema and whose it is; None for rows that all share."""


class SchemaCache(MutableMapping[Any, Any]):
    """A mapping that has, under the same keys, other values in each schema.

    Args:
        app_label: the app whose rows it holds. Where tenants share them, so they do the cache.
        by_alias: the keys are database aliases.
        kept: how many entries of all schemas together are kept; those not used for longest go first.
    """

    def __init__(self, app_label: str, *, by_alias: bool, kept: int = 512):
        self._app_label, self._by_alias, self._kept = app_label, by_alias, kept
        self._entries: OrderedDict[tuple[Place, Any], Any] = OrderedDict()

    def _key(self, key: Any) -> tuple[Place, Any]:
        place = place_of_app(self._app_label, key if self._by_alias else DEFAULT_DB_ALIAS)
        if type(key) is TenantAlias:
            if place is not None and not key.is_of(*place):
                raise WrongTenant(
                    f"The {self._app_label} of the schema {place[0]!r} were asked for an instance that was loaded from "
                    f"{key.schema!r}. Use it within the context of {key.schema!r}, or load the one that is meant."
                )
            key = str(key)
        return place, key

    def __getitem__(self, key: Any) -> Any:
        full = self._key(key)
        value = self._entries[full]
        try:
            self._entries.move_to_end(full)
        except KeyError:
            # Another thread has just dropped it.
            self._entries[full] = value
        return value

    def __setitem__(self, key: Any, value: Any) -> None:
        self._entries[self._key(key)] = value
        while len(self._entries) > self._kept:
            try:
                self._entries.popitem(last=False)
            except KeyError:
                break

    def __delitem__(self, key: Any) -> None:
        del self._entries[self._key(key)]

    def __iter__(self) -> Iterator[Any]:
        """Iterate over the keys of all schemas."""
        return iter([key for _, key in list(self._entries)])

    def __len__(self) -> int:
        return len(self._entries)

    def clear(self) -> None:
        """Forget all entries, of all schemas."""
        self._entries.clear()


def install() -> None:
    """Put these caches in the place of Django's, where the apps are installed; once per process."""
    if apps.is_installed("django.contrib.contenttypes"):
        _install_contenttypes()
    if apps.is_installed("django.contrib.sites"):
        _install_sites()


def _install_contenttypes() -> None:
    from django.contrib.contenttypes import fields  # noqa: PLC0415
    from django.contrib.contenttypes.models import ContentType, ContentTypeManager  # noqa: PLC0415

    shared = getattr(ContentType.objects, "_cache", None)
    if isinstance(shared, SchemaCache):
        return
    original = ContentTypeManager.__init__

    @functools.wraps(original)
    def init(self: Any, *args: Any, **kwargs: Any) -> None:
        original(self, *args, **kwargs)
        self._cache = _content_types()

    # Managers of migrations' models are made anew; those of the apps' models are there already, and copies of one.
    replace(ContentTypeManager, "__init__", init)
    cache = _content_types()
    for model in apps.get_models():
        if issubclass(model, ContentType):
            for manager in (*model._meta.local_managers, *model._meta.managers):
                if isinstance(manager, ContentTypeManager):
                    replace(manager, "_cache", cache)
    factory = fields.create_generic_related_manager
    replace(fields, "create_generic_related_manager", checked_manager(factory))


def _content_types() -> SchemaCache:
    return SchemaCache("contenttypes", by_alias=True)


def _install_sites() -> None:
    from django.contrib.sites import models as sites  # noqa: PLC0415

    if isinstance(sites.SITE_CACHE, SchemaCache):
        return
    cache = SchemaCache("sites", by_alias=False)

    def clear_cache(self: Any) -> None:
        """Clear the cache of sites, of all schemas."""
        cache.clear()

    # Django's own puts a new dictionary into the module.
    replace(sites, "SITE_CACHE", cache)
    replace(sites.SiteManager, "clear_cache", clear_cache)
