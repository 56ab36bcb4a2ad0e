"""The test's connections in the thread in which asgiref runs the ORM of asynchronous code."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from asgiref.sync import SyncToAsync
from django.db import connections

__all__ = ["shared_with_async"]


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
