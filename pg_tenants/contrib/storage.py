"""File storages in which each tenant has a folder of its own."""

from __future__ import annotations

import posixpath
from collections.abc import Mapping
from datetime import datetime
from os import PathLike
from pathlib import PurePosixPath
from typing import Any

from django.core.exceptions import SuspiciousFileOperation
from django.core.files.base import File
from django.core.files.storage import Storage
from django.utils.deconstruct import deconstructible
from django.utils.functional import cached_property
from django.utils.module_loading import import_string

from pg_tenants.contrib._folder import folder
from pg_tenants.exceptions import NoActiveTenant

__all__ = ["TenantFileSystemStorage", "TenantStorage"]


@deconstructible(path="pg_tenants.contrib.storage.TenantStorage")
class TenantStorage(Storage):
    """Any storage, with a folder in it for each schema: what is ``a.txt`` to acme is ``acme/a.txt`` there.

    The folder is that of the schema that is active at each call, so one instance serves all tenants and threads. Names
    go in and come out without it, so they stay right where they are stored in rows.

    Args:
        backend: the dotted path of the storage's class.
        options: what that class is made with.

    Raises:
        NoActiveTenant: from every method but ``generate_filename()`` and the like, where no schema is active.
        SuspiciousFileOperation: a name leads out of the folder, or could: it is absolute or has ``..`` in it.
    """

    def __init__(self, backend: str, options: Mapping[str, Any] | None = None):
        self._backend, self._options = backend, dict(options or {})

    @cached_property
    def storage(self) -> Storage:
        """The storage that has all tenants' folders."""
        return import_string(self._backend)(**self._options)  # type: ignore[no-any-return]

    def _open(self, name: str, mode: str = "rb") -> File[Any]:
        return self.storage.open(_inside(name), mode)

    def _save(self, name: str, content: File[Any]) -> str:
        return _outside(self.storage._save(_inside(name), content))  # type: ignore[attr-defined]

    def get_valid_name(self, name: str) -> str:
        """Return a file's name as the storage may keep it."""
        return self.storage.get_valid_name(name)

    def generate_filename(self, filename: str | PathLike[str]) -> str:
        """Return a path as the storage may keep it."""
        return self.storage.generate_filename(filename)

    def get_alternative_name(self, file_root: str, file_ext: str) -> str:
        """Return another name, for a file whose own is taken."""
        return self.storage.get_alternative_name(file_root, file_ext)

    def get_available_name(self, name: str, max_length: int | None = None) -> str:
        """Return a name that is free in the tenant's folder, of ``max_length`` characters at most."""
        inside = _inside(name)
        longer = None if max_length is None else max_length + len(inside) - len(_outside(inside))
        return _outside(self.storage.get_available_name(inside, longer))

    def path(self, name: str) -> str:
        """Return a file's path on this machine."""
        return self.storage.path(_inside(name))

    def delete(self, name: str) -> None:
        """Delete a file.

        Raises:
            ValueError: the name is empty.
        """
        inside = _inside(name)
        if not _outside(inside):
            raise ValueError("The name must be given to delete().")
        self.storage.delete(inside)

    def exists(self, name: str) -> bool:
        """Return whether the tenant has a file of this name."""
        return self.storage.exists(_inside(name))

    def listdir(self, path: str) -> tuple[list[str], list[str]]:
        """Return the folders and the files in a folder of the tenant's; ``""`` is its outermost."""
        return self.storage.listdir(_inside(path))

    def size(self, name: str) -> int:
        """Return a file's size in bytes."""
        return self.storage.size(_inside(name))

    def url(self, name: str | None, *args: Any, **kwargs: Any) -> str:
        """Return a file's URL; further arguments are the storage's own."""
        return self.storage.url(_inside(name or ""), *args, **kwargs)

    def get_accessed_time(self, name: str) -> datetime:
        """Return when a file was last read."""
        return self.storage.get_accessed_time(_inside(name))

    def get_created_time(self, name: str) -> datetime:
        """Return when a file was made."""
        return self.storage.get_created_time(_inside(name))

    def get_modified_time(self, name: str) -> datetime:
        """Return when a file was last changed."""
        return self.storage.get_modified_time(_inside(name))


@deconstructible(path="pg_tenants.contrib.storage.TenantFileSystemStorage")
class TenantFileSystemStorage(TenantStorage):
    """A folder for each schema in ``MEDIA_ROOT``, and in ``MEDIA_URL``: ``media/acme/a.txt``.

    Args:
        options: those of Django's ``FileSystemStorage``, such as ``location`` and ``base_url``.
    """

    def __init__(self, **options: Any):
        super().__init__("django.core.files.storage.FileSystemStorage", options)


def _inside(name: str) -> str:
    """Return a name with the active schema's folder in front."""
    schema = folder()
    if schema is None:
        raise NoActiveTenant(
            f"No tenant is active, so nobody knows whose file {name!r} is. Enter tenant_context(…), or "
            'schema_context("public") for files of the site itself.'
        )
    path = PurePosixPath(str(name).replace("\\", "/"))
    if path.is_absolute() or ".." in path.parts or "\0" in str(path):
        raise SuspiciousFileOperation(
            f"The file's name {name!r} leads out of the folder of the schema {schema!r}. Give a relative path without "
            "'..'."
        )
    return posixpath.join(schema, *path.parts)


def _outside(name: str) -> str:
    return str(name).replace("\\", "/").partition("/")[2]
