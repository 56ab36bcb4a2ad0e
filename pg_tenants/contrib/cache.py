"""Keys of the cache that belong to the active schema."""

from __future__ import annotations

from urllib.parse import quote

from pg_tenants.context import current_schema

__all__ = ["make_key"]


def make_key(key: str, key_prefix: str, version: int | str) -> str:
    """Return the key under which the active schema's value is stored: ``schema:prefix:version:key``.

    It is meant for ``CACHES[alias]["KEY_FUNCTION"]``. Where nothing is active the first part is empty, which no
    schema's name is. What is in no tenant's name is percent-encoded there, so the first colon always ends it.

    Args:
        key: what the caller calls the value.
        key_prefix: the alias's ``KEY_PREFIX``.
        version: the version asked for, or the alias's.
    """
    return f"{quote(current_schema() or '', safe='')}:{key_prefix}:{version}:{key}"
