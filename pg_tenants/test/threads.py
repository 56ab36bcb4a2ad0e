"""Threads of tests: those of asgiref get the test's connections, those that a test starts get its tenant if wanted."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import copy_context
from typing import Any

from asgiref.sync import SyncToAsync
from django.db import connections

__all__ = ["shared_with_async", "threads_inherit"]


@contextmanager
def threads_inherit() -> Iterator[None]:
    """Have threads begin in a copy of the context of who starts them, so in the same tenant, meanwhile.

    That is what Python 3.14 does by its option ``thread_inherit_context``. A thread that has a context of its own, as
    one may since then, keeps it.
    """
    begin = threading.Thread.start

    def start(self: threading.Thread) -> None:
        if getattr(self, "_context", None) is None:
            _run_in_context(self)
        begin(self)

    threading.Thread.start = start  # type: ignore[method-assign]
    try:
        yield
    finally:
        threading.Thread.start = begin  # type: ignore[method-assign]


def _run_in_context(thread: threading.Thread) -> None:
    context, run = copy_context(), thread.run

    def run_there() -> None:
        # Else the thread would refer to itself.
        del thread.run
        context.run(run)

    thread.run = run_there  # type: ignore[method-assign]


@contextmanager
def shared_with_async() -> Iterator[None]:
    """Have asynchronous code that begins in this thread use this thread's connections."""
    own = {alias: connections[alias] for alias in connections}
    for connection in own.values():
        connection.inc_thread_sharing()
    before = _there(lambda: _replace(own))
    try:
        yield
    finally:
        _there(lambda: _replace(before))
        for connection in own.values():
            connection.dec_thread_sharing()


def _there(work: Callable[[], Any]) -> Any:
    return SyncToAsync.single_thread_executor.submit(work).result()


def _replace(wanted: dict[str, Any]) -> dict[str, Any]:
    """Give this thread the connections, and return those that it had."""
    before = {connection.alias: connection for connection in connections.all(initialized_only=True)}
    for alias in {*before, *wanted}:
        if alias in wanted:
            connections[alias] = wanted[alias]
        else:
            del connections[alias]
    return before
