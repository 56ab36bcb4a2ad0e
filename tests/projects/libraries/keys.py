"""A cache key for each tenant."""

from __future__ import annotations

from pg_tenants import current_schema

__all__ = ["make_key"]


def make_key(key: str, prefix: str, version: int) -> str:
    """Return the key with the active schema in front."""
    return f"{current_schema() or ''}:{prefix}:{version}:{key}"
