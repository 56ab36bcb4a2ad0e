"""Whether statements may write: PostgreSQL refuses a write in a read-only transaction.

What is asked for lives in a context variable, so it follows async code. Each statement carries it, as it does its
tenant: nothing stays on the session, and a rollback takes nothing back unseen.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import AbstractAsyncContextManager, AsyncContextDecorator, ContextDecorator
from contextvars import ContextVar
from types import MappingProxyType, TracebackType
from typing import Any

from asgiref.sync import iscoroutinefunction, sync_to_async
from django.db import DEFAULT_DB_ALIAS, connections, transaction

from pg_tenants.exceptions import ConfigurationError, UnsafeStatement

__all__ = ["chosen", "readonly", "savepoints", "wanted"]


class _Choice:
    """One link: what was chosen for an alias, the savepoints that it holds for, and the choice around. Never changed.

    A task may have two transactions open on an alias: Django's, and that of ``pg_tenants.sql``.
    """

    __slots__ = ("asavepoint", "outer", "owner", "readonly", "savepoint", "using")

    def __init__(self, using: str, readonly: bool, savepoint: Any, owner: object, asavepoint: Any = None):
        self.using, self.readonly, self.savepoint, self.asavepoint = using, readonly, savepoint, asavepoint
        self.outer, self.owner = chosen.get(), owner


savepoints: ContextVar[Mapping[str, Callable[[], AbstractAsyncContextManager[Any]]]] = ContextVar(
    "pg_tenants_savepoints", default=MappingProxyType({})
)
"""What makes a savepoint in the asynchronous transaction that is open on an alias: ``pg_tenants.sql`` sets it."""

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
        if self._open_async() is not None:
            raise UnsafeStatement(
                f"'with readonly()' for {self.using!r} came inside atransaction(), where it cannot make a savepoint. "
                "Write 'async with readonly()'."
            )
        chosen.set(_Choice(self.using, self.enabled, self._savepoint(), self))

    def __exit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        choice = self._leave()
        if choice is not None and choice.savepoint is not None:
            choice.savepoint.__exit__(exc_type, exc, traceback)

    async def __aenter__(self) -> None:
        maker = self._open_async()
        savepoint = await sync_to_async(self._savepoint)()
        asavepoint = None
        if maker is not None:
            self._refuse_writing()
            asavepoint = maker()
            await asavepoint.__aenter__()
        chosen.set(_Choice(self.using, self.enabled, savepoint, self, asavepoint))

    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        choice = self._leave()
        if choice is None:
            return
        try:
            if choice.asavepoint is not None:
                await choice.asavepoint.__aexit__(exc_type, exc, traceback)
        finally:
            if choice.savepoint is not None:
                await sync_to_async(choice.savepoint.__exit__)(exc_type, exc, traceback)

    def _leave(self) -> _Choice | None:
        choice = chosen.get()
        if choice is None or choice.owner is not self:
            # A generator that was closed in another context than the one that ran it, which never had our choice.
            return None
        chosen.set(choice.outer)
        return choice

    def _open_async(self) -> Callable[[], AbstractAsyncContextManager[Any]] | None:
        """Return what makes a savepoint in the open asynchronous transaction; None where none is needed."""
        maker = savepoints.get().get(self.using)
        return None if maker is None or self._now() == self.enabled else maker

    def _now(self) -> bool:
        connection: Any = connections[self.using]
        now: bool | None = getattr(connection, "is_readonly", None)
        if now is None:
            raise ConfigurationError(
                f"DATABASES[{self.using!r}] has the ENGINE {connection.settings_dict['ENGINE']!r}, where readonly() "
                "cannot hold. Set it to 'pg_tenants.backends.postgresql'."
            )
        return now

    def _refuse_writing(self) -> None:
        if not self.enabled:
            raise UnsafeStatement(
                f"readonly(False) for {self.using!r} came inside a transaction that is read-only already, and "
                "PostgreSQL does not let such a one write. Call it around the transaction."
            )

    def _savepoint(self) -> Any:
        if self._now() == self.enabled or not connections[self.using].in_atomic_block:
            return None
        self._refuse_writing()
        savepoint: Any = transaction.atomic(using=self.using)
        savepoint.__enter__()
        return savepoint

    def __call__(self, function: Any) -> Any:
        """Return the function, which runs read-only; a coroutine function stays one."""
        if iscoroutinefunction(function):
            return AsyncContextDecorator.__call__(self, function)
        return ContextDecorator.__call__(self, function)
