"""The migrations of the first release, which the later ones have as well."""

from __future__ import annotations

from importlib import import_module
from typing import Any


def module(name: str, release: int = 1) -> Any:
    """Return a migration that an earlier release has."""
    return import_module(f"tests.projects.rollout.shop.release{release}.{name}").Migration
