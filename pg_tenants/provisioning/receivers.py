"""The receivers of Django's migrate signals: Django's own are part of a template, all others are called each time."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, overload

from django.apps import apps
from django.db.migrations.migration import Migration
from django.db.migrations.state import ProjectState
from django.db.models.signals import post_migrate, pre_migrate
from django.dispatch import Signal

from pg_tenants.context import ActiveContext
from pg_tenants.migrations import ModuleLoader, Target
from pg_tenants.provisioning.fingerprint import DJANGOS_RECEIVERS, receiver_of

__all__ = ["djangos_only", "tell_after", "tell_before"]


@contextmanager
def djangos_only() -> Iterator[None]:
    """Leave receivers that are not Django's own out while migrations are run for a template.

    It changes the signals of the process, so no other thread may migrate meanwhile.
    """
    signals = (pre_migrate, post_migrate)
    kept = [signal.receivers for signal in signals]
    try:
        for signal in signals:
            signal.receivers = [entry for entry in signal.receivers if _is_djangos(entry)]
            signal.sender_receivers_cache.clear()
        yield
    finally:
        for signal, entries in zip(signals, kept, strict=True):
            signal.receivers = entries
            signal.sender_receivers_cache.clear()


def tell_before(target: Target, migrations: Sequence[str], *, using: str) -> None:
    """Tell all other receivers, in the schema of a target, that it is about to be filled from a template."""
    _send(pre_migrate, target, migrations, using, ProjectState().apps)


def tell_after(target: Target, migrations: Sequence[str], *, using: str) -> None:
    """Tell all other receivers, in the schema of a target, that it has been filled."""
    if "contenttypes" in target.apps:
        # It may hold ids of a schema of the same name that is gone.
        apps.get_model("contenttypes", "ContentType").objects.clear_cache()
    _send(post_migrate, target, migrations, using, apps)


def _is_djangos(entry: tuple[Any, ...]) -> bool:
    return getattr(receiver_of(entry), "__module__", "") in DJANGOS_RECEIVERS


def _send(signal: Signal, target: Target, migrations: Sequence[str], using: str, models: Any) -> None:
    others = Signal()
    others.receivers = [entry for entry in signal.receivers if not _is_djangos(entry)]
    if not others.receivers:
        return
    plan = _Plan(migrations)
    with ActiveContext(target.active):
        for config in apps.get_app_configs():
            if config.models_module is not None:
                others.send(
                    sender=config,
                    app_config=config,
                    verbosity=0,
                    interactive=False,
                    using=using,
                    stdout=sys.stdout,
                    plan=plan,
                    apps=models,
                )


class _Plan(Sequence[tuple[Migration, bool]]):
    """The migrations of a template as Django gives a plan; they are loaded when somebody looks."""

    def __init__(self, names: Sequence[str]):
        self._names = names
        self._loaded: list[tuple[Migration, bool]] | None = None

    def __len__(self) -> int:
        return len(self._names)

    @overload
    def __getitem__(self, index: int) -> tuple[Migration, bool]: ...
    @overload
    def __getitem__(self, index: slice) -> list[tuple[Migration, bool]]: ...

    def __getitem__(self, index: Any) -> Any:
        if self._loaded is None:
            found = ModuleLoader(None, ()).disk_migrations
            keys = [tuple(name.split(".", 1)) for name in self._names]
            self._loaded = [(found[key], False) for key in keys]  # type: ignore[index]
        return self._loaded[index]
