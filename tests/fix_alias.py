"""Leading Django's default alias somewhere else for a while."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any


@contextmanager
def default_alias(params: dict[str, Any], port: int, **options: Any) -> Iterator[None]:
    """Connect the default alias as ``params`` say, but to this port of 127.0.0.1, and with these OPTIONS alone."""
    from django.db import connections

    connection = connections["default"]
    before = dict(connection.settings_dict)
    connection.close()
    connection.settings_dict.update(
        HOST="127.0.0.1",
        PORT=str(port),
        USER=str(params["user"]),
        PASSWORD=str(params["password"]),
        OPTIONS=options,
    )
    try:
        yield
    finally:
        connections.close_all()
        connection.settings_dict.clear()
        connection.settings_dict.update(before)
