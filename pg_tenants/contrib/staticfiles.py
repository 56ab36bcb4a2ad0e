"""Static files that a tenant has in the place of the project's."""

from __future__ import annotations

import posixpath
from typing import Any

from django.contrib.staticfiles import finders
from django.contrib.staticfiles.storage import ManifestStaticFilesStorage, StaticFilesStorage
from django.core.files.storage import Storage

from pg_tenants import conf
from pg_tenants.contrib._folder import folder

__all__ = ["TenantManifestStaticFilesStorage", "TenantStaticFilesMixin", "TenantStaticFilesStorage"]


class TenantStaticFilesMixin(Storage):
    """Makes ``{% static "logo.svg" %}`` lead to ``tenants/<schema>/logo.svg`` where there is such a file.

    Args:
        tenants: the folder, among the static files, that has a folder for each schema.
    """

    def __init__(self, *args: Any, tenants: str = "tenants", **kwargs: Any):
        super().__init__(*args, **kwargs)
        self._tenants = tenants

    def url(self, name: str | None, *args: Any, **kwargs: Any) -> str:
        """Return a file's URL: that of the active schema's own, or of the project's."""
        schema = folder()
        if schema is not None and name and ".." not in name.split("/"):
            own = posixpath.join(self._tenants, schema, name)
            path = own.partition("#")[0].partition("?")[0]
            if not path.endswith("/") and self._has(path):
                name = own
        return super().url(name, *args, **kwargs)

    def _has(self, path: str) -> bool:
        # In debug mode nothing need be collected.
        if conf.django_setting("DEBUG"):
            return finders.find(path) is not None
        if hasattr(self, "hashed_files"):
            manifest: Any = self
            return manifest.hash_key(manifest.clean_name(path)) in manifest.hashed_files
        return self.exists(path)


class TenantStaticFilesStorage(TenantStaticFilesMixin, StaticFilesStorage):
    """Django's ``StaticFilesStorage``, with tenants' own files first."""


class TenantManifestStaticFilesStorage(TenantStaticFilesMixin, ManifestStaticFilesStorage):
    """Django's ``ManifestStaticFilesStorage``, with tenants' own files first."""
