"""What a test has left active, by ``activate()`` or a context that it did not leave: it is for that test alone.

It ends before what stands behind the test, such as Django's flush, which would work in that tenant.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from pg_tenants.context import current

__all__ = ["RestoresContext", "restored_context"]


@contextmanager
def restored_context() -> Iterator[None]:
    """Have active behind the block what is active before it, whatever the block leaves."""
    before = current.get()
    try:
        yield
    finally:
        current.set(before)


class RestoresContext:
    """A result of unittest that does so for each test, with its ``setUp()`` and cleanups."""

    _before: Any = None

    def startTest(self, test: Any) -> None:  # noqa: N802  # as unittest has it
        """Note what is active."""
        self._before = current.get()
        super().startTest(test)  # type: ignore[misc]

    def stopTest(self, test: Any) -> None:  # noqa: N802
        """Make it active again. Django's test cases do their own part afterwards."""
        current.set(self._before)
        super().stopTest(test)  # type: ignore[misc]
