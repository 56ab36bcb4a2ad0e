"""Ports of 127.0.0.1: whether one is free, and who has it."""

from __future__ import annotations

import errno
import socket

import psutil

__all__ = ["HOST", "free_port", "is_taken", "owner"]

HOST = "127.0.0.1"


def is_taken(port: int) -> bool:
    """Tell whether another program listens on the port. Other reasons against it are PostgreSQL's to word."""
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, port))
        except OSError as exc:
            return exc.errno == errno.EADDRINUSE
        return False


def free_port() -> int:
    """Return a port that nobody listens on."""
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        probe.bind((HOST, 0))
        port: int = probe.getsockname()[1]
        return port


def owner(port: int) -> str:
    """Return who listens on the port, as words for a message; "another program" where it cannot be told."""
    try:
        for connection in psutil.net_connections(kind="tcp"):
            if connection.status == psutil.CONN_LISTEN and connection.laddr[1:] == (port,) and connection.pid:
                process = psutil.Process(connection.pid)
                return f"pid {connection.pid} ({' '.join(process.cmdline())[:100] or process.name()})"
    except (psutil.Error, OSError):
        pass
    return "another program"
