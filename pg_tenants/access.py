"""Whether statements may write: PostgreSQL refuses a write in a read-only transaction.

What is asked for lives in a context variable, so it follows async code. Each statement carries it, as it does its
tenant: nothing stays on the session, and a rollback takes nothing back unseen.
"""

from __future__ import annotations

from contextlib import AsyncContextDecorator, ContextDecorator
from contextvars import ContextVar
from types import TracebackType
from typing import Any

from asgiref.sync import iscoroutinefunction, sync_to_async
from django.db import DEFAULT_DB_ALIAS, connections, transaction

from pg_tenants.exceptions import ConfigurationError, UnsafeStatement

__all__ = ["chosen", "readonly", "wanted"]


class _Choice:
    """One link: what was chosen for an alias, the savepoint that it holds for, and the choice around. Never changed."""

    __slots__ = ("outer", "owner", "readonly", "savepoint", "using")

    def __init__(self, using: str, readonly: bool, savepoint: Any, outer: _Choice | None, owner: object):
        self.using, self.readonly, self.savepoint, self.outer, self.owner = using, readonly, savepoint, outer, owner


chosen: ContextVar[_Choice | None] = ContextVar("pg_tenants_readonly", default=None)
"""The innermost choice. Cursors look whether there is one for each statement."""


def wanted(using: str) -> bool | None:
    """Return what was chosen for an alias here; None where nothing was."""
    choice = chosen.get()
    while choice is not None and choice.using != using:
        choice = choice.outer
    return None if choice is None else choice.readonly


class readonly(ContextDecorator, AsyncContextDecorator):  # noqa: N801  # a context, named as Django's are
    """Have PostgreSQL refuse writes: ``with readonly(): ...``, also ``async with`` and as a decorator.

    In an open transaction it makes a savepoint, because a transaction as a whole would stay read-only.

    Args:
        enabled: False allows writes on an alias that is read-only by ``OPTIONS["tenants"]["readonly"]``, or inside
            another ``readonly()``.
        using: the database alias.

    Raises:
        ConfigurationError: on entering, where the alias has another ENGINE.
        UnsafeStatement: on entering, where writes are to be allowed in a transaction that is read-only already.
    """

    def __init__(self, enabled: bool = True, *, using: str = DEFAULT_DB_ALIAS):
        self.enabled, self.using = enabled, using

    def __enter__(self) -> None:
        chosen.set(_Choice(self.using, self.enabled, self._savepoint(), chosen.get(), self))

    def __exit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        choice = chosen.get()
        if choice is None or choice.owner is not self:
            # A generator that was closed in another context than the one that ran it, which never had our choice.
            return
        chosen.set(choice.outer)
        if choice.savepoint is not None:
            choice.savepoint.__exit__(exc_type, exc, traceback)

    async def __aenter__(self) -> None:
        chosen.set(_Choice(self.using, self.enabled, await sync_to_async(self._savepoint)(), chosen.get(), self))

    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await sync_to_async(self.__exit__)(exc_type, exc, traceback)

    def _savepoint(self) -> Any:
        connection: Any = connections[self.using]
        now = getattr(connection, "is_readonly", None)
        if now is None:
            raise ConfigurationError(
                f"DATABASES[{self.using!r}] has the ENGINE {connection.settings_dict['ENGINE']!r}, where readonly() "
                "cannot hold. Set it to 'pg_tenants.backends.postgresql'."
            )
        if not connection.in_atomic_block or now == self.enabled:
            return None
        if not self.enabled:
            raise UnsafeStatement(
                f"readonly(False) for {self.using!r} came inside a transaction that is read-only already, and "
                "PostgreSQL does not let such a one write. Call it around transaction.atomic()."
            )
        savepoint: Any = transaction.atomic(using=self.using)
        savepoint.__enter__()
        return savepoint

    def __call__(self, function: Any) -> Any:
        """Return the function, which runs read-only; a coroutine function stays one."""
        if iscoroutinefunction(function):
            return AsyncContextDecorator.__call__(self, function)
        return ContextDecorator.__call__(self, function)
