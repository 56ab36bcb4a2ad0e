"""A proxy that counts the messages between a client and PostgreSQL."""

from __future__ import annotations

import selectors
import socket
import struct
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import pytest

from tests.fix_alias import default_alias


@dataclass
class Wire:
    """Forwards a TCP port and counts round trips.

    A round trip is counted where the client has to wait for the server: at ReadyForQuery, and at CopyInResponse, before
    which it may not send the rows. What the client has sent is kept as ``(kind, text)``, such as
    ``(b"Q", b"SELECT 1")``.
    """

    target: tuple[str, int]
    delay: float = 0.0  # seconds that a round trip takes longer
    port: int = 0  # the one to take; 0 for any that is free
    round_trips: int = 0
    messages: list[tuple[bytes, bytes]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._listener = socket.create_server(("127.0.0.1", self.port))
        self.port = self._listener.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()

    def reset(self) -> None:
        """Forget what was counted."""
        self.round_trips = 0
        self.messages.clear()

    def close(self) -> None:
        """Take no more connections."""
        self._listener.close()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            threading.Thread(target=self._serve, args=(client,), daemon=True).start()

    def _serve(self, client: socket.socket) -> None:
        server = socket.create_connection(self.target)
        for end in (client, server):
            end.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        from_client, from_server = _Messages(startup=True), _Messages(startup=False)
        with selectors.DefaultSelector() as selector, client, server:
            selector.register(client, selectors.EVENT_READ)
            selector.register(server, selectors.EVENT_READ)
            while True:
                for key, _ in selector.select():
                    try:
                        data = key.fileobj.recv(1 << 16)  # type: ignore[union-attr]
                    except OSError:
                        return
                    if not data:
                        return
                    if key.fileobj is client:
                        self.messages.extend(from_client.feed(data))
                        if self.delay:
                            time.sleep(self.delay / 2)
                        server.sendall(data)
                    else:
                        self.round_trips += sum(kind in (b"Z", b"G") for kind, _ in from_server.feed(data))
                        if self.delay:
                            time.sleep(self.delay / 2)
                        client.sendall(data)


class _Messages:
    """Cuts a stream of PostgreSQL's protocol into messages."""

    def __init__(self, *, startup: bool):
        self._buffer, self._startup = b"", startup

    def feed(self, data: bytes) -> Iterator[tuple[bytes, bytes]]:
        self._buffer += data
        found = []
        while True:
            head = 0 if self._startup else 1
            if len(self._buffer) < head + 4:
                return iter(found)
            (size,) = struct.unpack_from("!I", self._buffer, head)
            if len(self._buffer) < head + size:
                return iter(found)
            kind, body = self._buffer[:head], self._buffer[head + 4 : head + size]
            self._buffer = self._buffer[head + size :]
            # A request for TLS or GSS encryption is answered by one byte; then comes the startup message proper.
            self._startup = self._startup and body[:4] in (struct.pack("!I", 80877103), struct.pack("!I", 80877104))
            found.append((kind, body))


@pytest.fixture
def wire(open_db: None, server_params: dict[str, Any]) -> Iterator[Wire]:
    """Put a counting proxy between Django's default alias and the server."""
    proxy = Wire((str(server_params["host"]), int(server_params["port"])))
    # Encryption would hide the messages.
    with default_alias(server_params, proxy.port, sslmode="disable", gssencmode="disable"):
        yield proxy
    proxy.close()
