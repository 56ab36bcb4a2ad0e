"""Run PostgreSQL's programs: in a clean environment, as the right user, with their words in the errors."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import time
from dataclasses import replace
from pathlib import Path

from pg_tenants.server.engines import LocalEngine
from pg_tenants.server.exceptions import EngineUnavailable, ServerStartFailed
from pg_tenants.server.folder import private_temp
from pg_tenants.server.identity import Identity

__all__ = ["environment", "readable", "run", "spawn"]

# The shell ends at once, so that the server is nobody's child and its end leaves no zombie here.
_DETACH = '"$@" >&2 & echo "$!"'


def environment() -> dict[str, str]:
    """Return the environment for PostgreSQL's programs: messages in English, none of libpq's variables."""
    kept = {key: value for key, value in os.environ.items() if not key.startswith(("PG", "LC_", "LANG"))}
    return {**kept, "LC_ALL": "C", "TZ": "UTC"}


def run(
    identity: Identity,
    command: list[str],
    *,
    deadline: float,
    stdin: str = "",
    env: dict[str, str] | None = None,
    apart: bool = False,
) -> subprocess.CompletedProcess[str]:
    """Run a program to its end and return what it wrote, standard error among standard output.

    Args:
        identity: as whom it runs.
        command: the command.
        deadline: when to give up, by ``time.monotonic()``.
        stdin: its input.
        env: variables to add.
        apart: keep standard error by itself.

    Raises:
        ServerStartFailed: it cannot be run, or took too long.
    """
    try:
        return subprocess.run(  # noqa: S603
            [*identity.prefix, *command],
            input=stdin,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE if apart else subprocess.STDOUT,
            cwd="/",
            env={**environment(), **(env or {})},
            encoding="utf-8",
            errors="replace",
            timeout=max(deadline - time.monotonic(), 0.001),
            check=False,
            **identity.popen_options,
        )
    except subprocess.TimeoutExpired as exc:
        raise ServerStartFailed(
            f"{command[0]} took longer than the time allowed for starting the server. Allow more by 'timeout'."
        ) from exc
    except OSError as exc:
        raise ServerStartFailed(f"{command[0]} cannot be run: {exc}. Repair or choose other programs.") from exc


def spawn(identity: Identity, command: list[str], log: int) -> int:
    """Start a program that outlives this process, and return its process id.

    Args:
        identity: as whom it runs.
        command: the command.
        log: the open file that takes its output.

    Raises:
        ServerStartFailed: it cannot be run.
    """
    try:
        done = subprocess.run(  # noqa: S603
            ["/bin/sh", "-c", _DETACH, "sh", *identity.prefix, *command],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=log,
            cwd="/",
            env=environment(),
            start_new_session=True,
            check=True,
            timeout=30,
            **identity.popen_options,
        )
        return int(done.stdout)
    except (OSError, subprocess.SubprocessError, ValueError) as exc:
        raise ServerStartFailed(f"{command[0]} cannot be run: {exc}. Repair or choose other programs.") from exc


def readable(engine: LocalEngine, identity: Identity) -> LocalEngine:
    """Return the engine, on a copy of its programs where those may not be read by whom they run as.

    Raises:
        EngineUnavailable: they cannot be copied.
    """
    if identity.uid is None or _runs(engine, identity):
        return engine
    # The wheel's programs find their libraries by their place, so folders keep their names.
    package = engine.programs.parent.parent
    if engine.name == "embedded":
        copy = private_temp(identity) / f"programs-{engine.version}-{(engine.programs / 'postgres').stat().st_mtime_ns}"
        if not copy.exists():
            _copy(package, copy)
        copied = replace(engine, programs=copy / package.name / "pginstall" / "bin")
        if _runs(copied, identity):
            return copied
    raise EngineUnavailable(
        f"PostgreSQL does not run as root, and user {identity.uid}, as whom it runs instead, may not run the programs "
        f"in {engine.place}. Let everybody read them, or use engine 'embedded', of which a copy is made."
    )


def _runs(engine: LocalEngine, identity: Identity) -> bool:
    share = engine.programs.parent / "share"
    script = '"$0" --version >/dev/null && { ! test -e "$1" || test -r "$1"; }'
    command = ["/bin/sh", "-c", script, str(engine.programs / "initdb"), str(share / "postgres.bki")]
    with contextlib.suppress(ServerStartFailed):
        return run(identity, command, deadline=time.monotonic() + 10).returncode == 0
    return False


def _copy(package: Path, target: Path) -> None:
    """Copy a wheel's programs and libraries to where everybody may read them; readers see all or nothing."""
    new = target.with_name(f"{target.name}.{os.getpid()}")
    try:
        for source in (package / "pginstall", package.with_name(f"{package.name}.libs")):
            if source.is_dir():
                where = new / source.relative_to(package.parent)
                shutil.copytree(source, where, symlinks=True, ignore=shutil.ignore_patterns("include"))
        for folder, _, files in os.walk(new):
            Path(folder).chmod(0o755)
            for file in files:
                path = Path(folder, file)
                if not path.is_symlink():
                    path.chmod(0o755 if os.access(path, os.X_OK) else 0o644)
        with contextlib.suppress(OSError):  # another process was faster
            new.rename(target)
    except OSError as exc:
        raise EngineUnavailable(
            f"The programs in {package} cannot be copied to {target}: {exc}. Make room there, or use the engine "
            "'system'."
        ) from exc
    finally:
        shutil.rmtree(new, ignore_errors=True)
