"""The active schema: which tenant the current thread, task or request works for.

It lives in one context variable, so it follows async code and never crosses threads by itself. The contexts keep no
state on themselves or on the tenant: each entry is a link of a chain that the variable holds. So one instance may be
shared by threads and tasks, entered twice, and used as a decorator.
"""

from __future__ import annotations

import asyncio
import functools
import inspect
from collections.abc import Callable, Coroutine, Hashable
from contextvars import ContextVar, copy_context
from types import TracebackType
from typing import Any, NamedTuple, TypeVar, cast

from asgiref.sync import iscoroutinefunction

__all__ = [
    "ActiveContext",
    "ActiveSchema",
    "activate",
    "active",
    "as_owner",
    "bind",
    "current_schema",
    "current_tenant",
    "deactivate",
    "no_schema",
    "schema_context",
    "tenant_context",
]

F = TypeVar("F", bound=Callable[..., Any])


class ActiveSchema(NamedTuple):
    """What is active: the schema's name, its module where that is known, and the tenant where there is one.

    ``as_owner`` says that statements keep the rights of the connection's own role, where ``PG_TENANTS["ROLES"]`` has
    them take on that of the tenant. ``identity`` tells the tenant from others that had or will have a schema of the
    same name; each statement proves it. None means whichever has the name.
    """

    schema_name: str
    module: str | None = None
    tenant: Any = None
    as_owner: bool = False
    identity: str | None = None


class _Entry:
    """One link: what is active, the entry around it, and the context that made it. It is never changed."""

    __slots__ = ("active", "key", "outer", "owner", "schema_name")

    def __init__(self, active: ActiveSchema | None, outer: _Entry | None, owner: object):
        self.active, self.outer, self.owner = active, outer, owner
        self.schema_name = None if active is None else active.schema_name
        # What the prefix of a statement depends on: the module says in which database the schema is.
        self.key: Hashable = self.schema_name
        if active is not None and (active.module or active.as_owner or active.identity):
            self.key = (active.schema_name, active.module, active.as_owner, active.identity)


current: ContextVar[_Entry | None] = ContextVar("pg_tenants_active_schema", default=None)
"""The innermost entry. Cursors read it for each statement; everything else asks the functions below."""


def active() -> ActiveSchema | None:
    """Return what is active here, or None."""
    entry = current.get()
    return None if entry is None else entry.active


def current_schema() -> str | None:
    """Return the name of the active schema, or None."""
    entry = current.get()
    return None if entry is None else entry.schema_name


def current_tenant() -> Any:
    """Return the active tenant, or None where none is active or a schema was named without its tenant."""
    entry = current.get()
    return None if entry is None or entry.active is None else entry.active.tenant


class ActiveContext:
    """Makes something active for a while: ``with``, ``async with``, or a decorator."""

    def __init__(self, target: ActiveSchema | None, value: Any = None):
        self.target = target
        self._value = value

    def __enter__(self) -> Any:
        current.set(_Entry(self.target, current.get(), self))
        return self._value

    def __exit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        entry = current.get()
        if entry is not None and entry.owner is self:
            current.set(entry.outer)
            return
        above = list[_Entry]()
        while entry is not None and entry.owner is not self:
            above.append(entry)
            entry = entry.outer
        # No entry of ours: a generator that was closed in another context than the one that ran it. That context never
        # had our entry, so nothing is to be taken back there.
        if entry is None:
            return
        # Entries above ours: a generator that was closed while its consumer had entered another context. Those stay.
        remaining = entry.outer
        for later in reversed(above):
            remaining = _Entry(later.active, remaining, later.owner)
        current.set(remaining)

    async def __aenter__(self) -> Any:
        return self.__enter__()

    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.__exit__(exc_type, exc, traceback)

    def __call__(self, function: F) -> F:
        if inspect.isasyncgenfunction(function):
            wrapper = self._wrap_async_generator(function)
        elif inspect.isgeneratorfunction(function):
            wrapper = self._wrap_generator(function)
        elif _is_coroutine_function(function):
            wrapper = self._wrap_coroutine(function)
        else:
            wrapper = self._wrap_function(function)
        return cast(F, functools.wraps(function)(wrapper))

    def _wrap_function(self, function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            with self:
                return function(*args, **kwargs)

        return call

    def _wrap_coroutine(self, function: Callable[..., Any]) -> Callable[..., Any]:
        async def call(*args: Any, **kwargs: Any) -> Any:
            with self:
                return await function(*args, **kwargs)

        return call

    def _wrap_generator(self, function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            # Each step runs in a context of the generator's own: what is active inside is never seen by the loop that
            # consumes it, and the other way round.
            own = copy_context()
            own.run(self.__enter__)
            generator = function(*args, **kwargs)
            try:
                step: Callable[[], Any] = functools.partial(next, generator)
                while True:
                    try:
                        item = own.run(step)
                    except StopIteration as stop:
                        return stop.value
                    try:
                        step = functools.partial(generator.send, (yield item))
                    except GeneratorExit:
                        raise
                    except BaseException as exc:  # noqa: BLE001  # the generator's to handle
                        step = functools.partial(generator.throw, exc)
            finally:
                own.run(generator.close)

        return call

    def _wrap_async_generator(self, function: Callable[..., Any]) -> Callable[..., Any]:
        async def call(*args: Any, **kwargs: Any) -> Any:
            # As above; a task is what runs in a context of its own.
            own = copy_context()
            own.run(self.__enter__)
            generator = own.run(function, *args, **kwargs)

            async def step(method: Callable[..., Any], value: Any) -> Any:
                return await method(value)

            async def close() -> None:
                await generator.aclose()

            def run(coroutine: Coroutine[Any, Any, Any]) -> asyncio.Task[Any]:
                return asyncio.get_running_loop().create_task(coroutine, context=own)

            method, value = generator.asend, None
            try:
                while True:
                    try:
                        item = await run(step(method, value))
                    except StopAsyncIteration:
                        return
                    try:
                        method, value = generator.asend, (yield item)
                    except GeneratorExit:
                        raise
                    except BaseException as exc:  # noqa: BLE001  # the generator's to handle
                        method, value = generator.athrow, exc
            finally:
                await run(close())

        return call


def _is_coroutine_function(function: Any) -> bool:
    while isinstance(function, functools.partial):
        function = function.func
    return iscoroutinefunction(function) or iscoroutinefunction(getattr(function, "__call__", None))  # noqa: B004


class schema_context(ActiveContext):  # noqa: N801
    """Make a schema active: ``with schema_context("billing"): ...``, also ``async with`` and as a decorator.

    Args:
        schema_name: a fixed module's schema, or a tenant's. That it exists is proved by each statement.
        module: the tenant module that the schema belongs to, where a project has several.

    Raises:
        TypeError: the name is no string.
    """

    def __init__(self, schema_name: str, *, module: str | None = None):
        self.target = _target(schema_name, module)
        self._value = schema_name


class tenant_context(ActiveContext):  # noqa: N801
    """Make a tenant active: ``with tenant_context(acme): ...``, also ``async with`` and as a decorator.

    Args:
        tenant: an instance of the TENANT_MODEL.

    Raises:
        TypeError: the value is no tenant.
    """

    def __init__(self, tenant: Any):
        super().__init__(_target_of(tenant), tenant)


class as_owner(ActiveContext):  # noqa: N801
    """Keep the rights of the connection's own role for a while: ``with as_owner(): ...``, for DDL in a tenant.

    Without ``PG_TENANTS["ROLES"]`` it changes nothing. What is active where it is entered stays so.
    """

    def __init__(self) -> None:
        super().__init__(None)

    def __enter__(self) -> None:
        # Not what was active where it was made: as a decorator that is the import of a module.
        target = active()
        target = None if target is None else target._replace(as_owner=True)
        current.set(_Entry(target, current.get(), self))


class no_schema(ActiveContext):  # noqa: N801
    """Make nothing active for a while: statements see the fixed modules alone."""

    def __init__(self) -> None:
        super().__init__(None)


def activate(target: Any) -> None:
    """Make a tenant, or a schema by its name, active until something else is or the context around ends.

    Args:
        target: an instance of the TENANT_MODEL, or a schema's name.

    Raises:
        TypeError: the value is neither.
    """
    _replace(_target(target, None) if isinstance(target, str) else _target_of(target))


def deactivate() -> None:
    """Make nothing active until something else is or the context around ends."""
    _replace(None)


def bind(function: F) -> F:
    """Return ``function`` bound to what is active now, for work that is done later or in another thread."""
    return ActiveContext(active())(function)


def _replace(target: ActiveSchema | None) -> None:
    entry = current.get()
    current.set(_Entry(target, None, None) if entry is None else _Entry(target, entry.outer, entry.owner))


def _target(schema_name: object, module: str | None) -> ActiveSchema:
    if not isinstance(schema_name, str) or not schema_name:
        raise TypeError(f"{schema_name!r} is no schema's name. Give a string, or use tenant_context for a tenant.")
    return ActiveSchema(schema_name, module)


def _target_of(tenant: Any) -> ActiveSchema:
    schema_name = getattr(tenant, "schema_name", None)
    if isinstance(tenant, str) or not isinstance(schema_name, str) or not schema_name:
        raise TypeError(f"{tenant!r} is no tenant: it has no schema_name. Use schema_context for a schema's name.")
    identity = getattr(tenant, "schema_identity", None)
    return ActiveSchema(schema_name, getattr(tenant, "module", None) or None, tenant, identity=identity)
