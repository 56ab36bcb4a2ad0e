"""The demo's site: Django's development server, in a thread."""

from __future__ import annotations

import errno
import threading
from types import TracebackType
from typing import Any, Self

from django.contrib.staticfiles.handlers import StaticFilesHandler
from django.core.management.base import CommandError
from django.core.servers.basehttp import ThreadedWSGIServer, WSGIRequestHandler, get_internal_wsgi_application

__all__ = ["Site", "listen"]

HOST = "127.0.0.1"


class _QuietHandler(WSGIRequestHandler):
    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002  # the name is the base class's
        pass


def listen(port: int) -> ThreadedWSGIServer:
    """Take a TCP port of 127.0.0.1, so that nothing else is done in vain where it is taken; nobody is answered yet.

    Args:
        port: the port; 0 for any free one.

    Raises:
        CommandError: it is taken, or is no port.
    """
    try:
        return ThreadedWSGIServer((HOST, port), _QuietHandler)
    except OverflowError as exc:
        raise CommandError(f"{port} is no port. Give a number from 0 to 65535.") from exc
    except OSError as exc:
        if exc.errno != errno.EADDRINUSE:
            raise
        raise CommandError(
            f"Port {port} of {HOST} is taken by another program. Choose another one: demo --port 8001."
        ) from exc


class Site:
    """Serves the example project while the context lasts.

    Args:
        server: what listens.
    """

    def __init__(self, server: ThreadedWSGIServer):
        self._server = server
        self._thread: threading.Thread

    def __enter__(self) -> Self:
        self._server.set_app(StaticFilesHandler(get_internal_wsgi_application()))
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.1}, daemon=True)
        self._thread.start()
        return self

    def __exit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._server.shutdown()
        self._thread.join()

    @property
    def port(self) -> int:
        """Return the TCP port."""
        return int(self._server.server_port)

    def address(self, host: str) -> str:
        """Return the address of a host's home page."""
        return f"http://{host}:{self.port}/"

    def wait(self) -> None:
        """Serve until the process is interrupted."""
        while True:
            self._thread.join(timeout=1.0)
