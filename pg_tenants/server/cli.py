"""The command line: its arguments and its actions, for ``python -m pg_tenants.server`` and ``manage.py pgserver``."""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import signal
import subprocess
import sys
import textwrap
import threading
from collections.abc import Callable, Iterator, Mapping

from pg_tenants.server.cluster import Server
from pg_tenants.server.config import ENGINES, ServerConfig
from pg_tenants.server.exceptions import ServerError
from pg_tenants.server.status import Status

__all__ = ["DESCRIPTION", "add_arguments", "run"]

DESCRIPTION = "Start, stop and describe a PostgreSQL for development and tests. It is not for production."

Out = Callable[[str], None]

STOPPED = 3
"""The exit status of ``status`` where no server runs, as pg_ctl has it."""

_ACTIONS_HELP = """what to do: up starts the server, shows its log and stops it on Ctrl-C; down stops it; restart
stops and starts it as configured now; status and info describe it; url prints its DATABASE_URL; logs prints the end of
its log; psql opens a session, with what follows '--' as psql's arguments; upgrade moves the data of another major
version to the configured one; erase stops it and removes its data"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments to a parser."""
    parser.add_argument("action", choices=tuple(_ACTIONS), help=_ACTIONS_HELP)
    parser.add_argument("arguments", nargs="*", help="psql: its arguments, after 'psql --'")
    wanted = parser.add_argument_group("which server (before the environment's PGSERVER_… and the settings)")
    wanted.add_argument("--name", help="its name (default: default)")
    wanted.add_argument("--port", type=int, help="its port (default: 7432, or a free one where that is taken)")
    wanted.add_argument("--data", help="its folder")
    wanted.add_argument("--engine", help=f"what runs it: {', '.join(ENGINES)}")
    wanted.add_argument("--pg-version", help="PostgreSQL's version, such as 18 or 18.1")
    wanted.add_argument("--image", help="the image of a container, such as postgres:18")
    wanted.add_argument("--socket", action="store_true", default=None, help="a private Unix socket and no TCP port")
    wanted.add_argument("--database", help="the database of its URL (default: postgres)")
    parser.add_argument("--timeout", type=float, default=60.0, help="how long to wait, in seconds (default: 60)")
    parser.add_argument("--detach", "-d", action="store_true", help="up: return when the server takes connections")
    parser.add_argument("--json", action="store_true", help="status, info: print JSON")
    parser.add_argument("--lines", "-n", type=int, help="logs: how many lines (default: 50)")
    parser.add_argument("--follow", "-f", action="store_true", help="logs: go on with what comes, until Ctrl-C")
    parser.add_argument("--no-password", action="store_true", help="url: leave the password out")
    parser.add_argument("--yes", action="store_true", help="erase: do not ask")


def run(options: argparse.Namespace, settings: Mapping[str, object] | None, out: Out) -> int:
    """Do what the command line says.

    Args:
        options: the parsed arguments.
        settings: the mapping of ``PG_TENANTS["PGSERVER"]``, if there is one.
        out: writes a line.

    Returns:
        The exit status.

    Raises:
        ServerError: it cannot be done.
    """
    for option, default, actions in _BELONGS:
        if getattr(options, option) != default and options.action not in actions:
            shown = option if option == "arguments" else f"--{option.replace('_', '-')}"
            raise ServerError(
                f"'{shown}' goes with {' and '.join(actions)} only, not with {options.action}. Leave it out."
            )
    given = {key: getattr(options, "pg_version" if key == "version" else key) for key in _OPTIONS}
    config = ServerConfig.load(settings, options=given)
    return _ACTIONS[options.action](Server(config), options, out)


def _up(server: Server, options: argparse.Namespace, out: Out) -> int:
    before = server.status()
    began = server.runtime.log_position()
    with _signals_interrupt():
        try:
            status, started = server.start(options.timeout)
            _describe(status, out)
            if options.detach or not started:
                return 0
            out("Ctrl-C stops it. It is for development and tests, not for production.")
            for line in server.runtime.log_follow(began, lambda: server.status().pid is not None):
                out(line)
        except KeyboardInterrupt:
            # A second one goes through, for who does not want to wait.
            if not options.detach and before.pid is None:
                runtime = server.runtime
                ending = runtime.log_position()
                server.down(options.timeout)
                for line in runtime.log_since(ending):
                    out(line)
                out(f"The server {_name(before)} has stopped.")
                return 0
            raise
    if server.runtime.crashed():
        raise ServerError(
            f"The server {_name(before)} has ended by itself; {server.runtime.log_place} says why. Start it again by "
            "'up'."
        )
    out(f"The server {_name(before)} has been stopped from elsewhere.")
    return 0


def _down(server: Server, options: argparse.Namespace, out: Out) -> int:
    before = server.status()
    after = server.down(options.timeout)
    out(f"The server {_name(after)} {'did not run' if before.pid is None else 'has stopped'}.")
    return 0


def _restart(server: Server, options: argparse.Namespace, out: Out) -> int:
    _describe(server.restart(options.timeout), out)
    return 0


def _status(server: Server, options: argparse.Namespace, out: Out) -> int:
    status = server.status()
    if options.json:
        out(json.dumps(status.as_dict()))
    else:
        _describe(status, out)
    return 0 if status.running else STOPPED


def _info(server: Server, options: argparse.Namespace, out: Out) -> int:
    status = server.status()
    values = {**status.as_dict(), "password_file": str(server.password_path)}
    extensions = server.extensions() if status.running else None
    if options.json:
        out(json.dumps({**values, "extensions": extensions}))
        return 0
    for key, value in values.items():
        shown = ", ".join(value) if isinstance(value, tuple) else "" if value is None else str(value)
        out(f"{key + ':':<16}{shown}".rstrip())
    for kind, versions in (extensions or {}).items():
        out(f"extensions {kind}:")
        for line in textwrap.wrap(", ".join(f"{name} {version}" for name, version in versions.items()), 100):
            out(f"  {line}")
    return 0


def _url(server: Server, options: argparse.Namespace, out: Out) -> int:
    out(server.url(password=not options.no_password))
    return 0


def _logs(server: Server, options: argparse.Namespace, out: Out) -> int:
    runtime = server.runtime
    position = runtime.log_position()
    for line in runtime.log_tail(50 if options.lines is None else options.lines):
        out(line)
    if options.follow:
        with contextlib.suppress(KeyboardInterrupt), _signals_interrupt():
            for line in runtime.log_follow(position, lambda: True):
                out(line)
    return 0


def _psql(server: Server, options: argparse.Namespace, _out: Out) -> int:
    command, environment = server.client("psql")
    return subprocess.run(  # noqa: S603
        [*command, *options.arguments], env={**os.environ, **environment}, check=False
    ).returncode


def _upgrade(server: Server, options: argparse.Namespace, out: Out) -> int:
    kept = server.upgrade(options.timeout)
    status = server.status()
    if kept is None:
        out(f"The data of the server {_name(status)} is of PostgreSQL {status.version} already.")
        return 0
    out(f"The data of the server {_name(status)} is of PostgreSQL {status.version} now.")
    out(f"The old data is in {kept}; remove that folder when you do not need it any more.")
    _describe(status, out)
    return 0


def _erase(server: Server, options: argparse.Namespace, out: Out) -> int:
    status = server.status()
    if not options.yes:
        out(f"This stops the server {_name(status)} and removes all its data in {status.folder}.")
        out("Type the server's name to go on:")
        if sys.stdin.readline().strip() != status.name:
            raise ServerError("Nothing was removed: what was typed is not the server's name. Type it, or give '--yes'.")
    server.erase(options.timeout)
    out(f"The server {_name(status)} and its data are gone.")
    return 0


_ACTIONS: dict[str, Callable[[Server, argparse.Namespace, Out], int]] = {
    "up": _up,
    "down": _down,
    "restart": _restart,
    "status": _status,
    "info": _info,
    "url": _url,
    "logs": _logs,
    "psql": _psql,
    "upgrade": _upgrade,
    "erase": _erase,
}
_OPTIONS = ("name", "port", "data", "engine", "version", "image", "socket", "database")
_BELONGS: tuple[tuple[str, object, tuple[str, ...]], ...] = (
    ("arguments", [], ("psql",)),
    ("detach", False, ("up",)),
    ("json", False, ("status", "info")),
    ("lines", None, ("logs",)),
    ("follow", False, ("logs",)),
    ("no_password", False, ("url",)),
    ("yes", False, ("erase",)),
)


def _name(status: Status) -> str:
    return repr(status.name)


def _describe(status: Status, out: Out) -> None:
    what = f"PostgreSQL {status.version} ({status.engine}), " if status.version else ""
    if status.pid is None:
        out(f"The server {_name(status)} is stopped: {what}{status.folder}.")
        return
    doing = "runs" if status.running else f"is {status.state}"
    out(f"The server {_name(status)} {doing}: {what}pid {status.pid}, {status.host}:{status.port}.")
    if status.restart_needed:
        out(f"The configuration of {', '.join(status.restart_needed)} has changed: 'restart' puts it into force.")


@contextlib.contextmanager
def _signals_interrupt() -> Iterator[None]:
    """Let SIGTERM and SIGHUP end the block as Ctrl-C does."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    kept = {number: signal.signal(number, signal.default_int_handler) for number in (signal.SIGTERM, signal.SIGHUP)}
    try:
        yield
    finally:
        for number, handler in kept.items():
            signal.signal(number, handler)
