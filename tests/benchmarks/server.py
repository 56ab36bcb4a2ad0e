"""How long the development server takes to start, and what it takes of memory and disk.

    python -m tests.benchmarks.server --engine embedded --rounds 5

``cold`` is the first start, in an empty folder; ``warm`` one on data that is there; ``found`` is asking for a server
that runs. Each is a median, and the calls are those of ``Server``: a process needs besides what Python takes to start.
"""

from __future__ import annotations

import argparse
import resource
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import psutil

from pg_tenants.server import Server, ServerConfig


def seconds(action: Callable[[], object]) -> float:
    began = time.perf_counter()
    action()
    return time.perf_counter() - began


def memory(pid: int) -> int:
    """Return what a server and its processes take, in bytes, each shared page counted once."""
    process = psutil.Process(pid)
    return sum(each.memory_full_info().pss for each in (process, *process.children(recursive=True)))


def disk(folder: Path) -> int:
    return sum(file.lstat().st_blocks * 512 for file in folder.rglob("*"))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--engine", default="embedded")
    parser.add_argument("--pg-version", default="")
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    times: dict[str, list[float]] = {"cold": [], "warm": [], "found": [], "stop": []}
    with tempfile.TemporaryDirectory(prefix="pgs-") as base:
        Path(base).chmod(0o711)
        server = Server(ServerConfig(data=Path(base) / "s", engine=options.engine, version=options.pg_version))
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        server.up()
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
        for _ in range(options.rounds):
            server.erase()
            times["cold"].append(seconds(server.up))
            times["stop"].append(seconds(server.down))
            times["warm"].append(seconds(server.up))
            times["found"].append(seconds(server.up))
        status = server.status()
        assert status.pid is not None
        print(f"PostgreSQL {status.version}, engine {status.engine}, median of {options.rounds}")
        print(f"{'cold':<6}{cpu:8.3f} s   of processor time, of initdb alone")
        for name, found in times.items():
            print(f"{name:<6}{statistics.median(found):8.3f} s   (from {min(found):.3f} to {max(found):.3f})")
        print(f"memory{memory(status.pid) / 1e6:8.0f} MB")
        print(f"disk  {disk(status.folder) / 1e6:8.0f} MB")
        server.erase()


if __name__ == "__main__":
    main()
