"""Test runs that are killed at any moment: the next one is clean and starts by itself.

The short form runs with the tests. The long one, with so many kills of each runner:
``PG_TENANTS_KILLS=20 pytest tests/integration/test_testing_killed.py -s``.
"""

from __future__ import annotations

import os
import random
import signal
import subprocess
import time
from collections.abc import Sequence

import psutil
import pytest

from tests.fix_project import HEAD, Project, wait_for

pytest_plugins = ["pytester"]

KILLS = int(os.environ.get("PG_TENANTS_KILLS", "0"))
SEED = int(os.environ.get("PG_TENANTS_KILLS_SEED", "0")) or random.randrange(10**6)
ENDS_WITHIN = 240.0
"""How long what is left of a run may take to end, in seconds. It is a second or two on an idle machine."""

TESTS = (
    HEAD
    + """
import time

class Rough:
    def test_committing_or_not(self):
        assert User.objects.count() == 0
        User.objects.create_user("ada")
        with tenant_context(self.create_tenant("acme")):
            assert User.objects.count() == 0
            User.objects.create_user("bob")
        time.sleep(0.1)

    def test_in_the_server(self):
        assert [User.objects.count(), Tenant.objects.count()] == [0, 1]
        with transaction.atomic():
            User.objects.create_user("ada")
            value("SELECT pg_sleep(0.2)")
"""
    + "".join(
        f"\nclass Test{kind}{number}(Rough, Tenant{kind}TestCase):\n    pass\n"
        for number in range(3)
        for kind in ("", "Transaction")
    )
)
COUNT = 12
MANAGE = """
import multiprocessing, os, sys
from django.core.management import execute_from_command_line
if __name__ == "__main__":
    multiprocessing.set_start_method(os.environ["START_METHOD"])
    execute_from_command_line(["manage.py", *sys.argv[1:]])
"""
RUNNERS: dict[str, Sequence[str]] = {
    "pytest": ("pytest", "-q", "-n", "3"),
    "manage.py": ("manage", "test", "test_it", "--parallel", "3"),
}
WAYS = ("kill the controller", "kill a worker", "interrupt", "end")


class Run:
    """A run of the tests, with all processes that belong to it."""

    def __init__(self, project: Project, runner: str):
        self.output = project.pytester.path / "output.txt"
        with self.output.open("w") as file:
            self.process = subprocess.Popen(
                project.command(*RUNNERS[runner]),
                cwd=project.pytester.path,
                env=project.environment,
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    def members(self) -> list[psutil.Process]:
        """Return its processes, the controller's own excepted."""
        return [process for process in psutil.process_iter() if self._is_member(process)]

    def _is_member(self, process: psutil.Process) -> bool:
        try:
            return (
                process.pid != self.process.pid
                and process.status() != psutil.STATUS_ZOMBIE
                and os.getsid(process.pid) == self.process.pid
            )
        except (ProcessLookupError, psutil.Error):
            return False

    def hit(self, way: str, chance: random.Random) -> None:
        """Kill or interrupt a part of it."""
        if way == "interrupt":
            # As a terminal does: all processes in the foreground get it.
            os.killpg(self.process.pid, signal.SIGINT)
        elif way == "end":
            self.process.terminate()
        elif way == "kill the controller":
            self.process.kill()
        elif workers := self.members():
            chance.choice(workers).send_signal(signal.SIGKILL)

    def end(self, *, interrupt: bool = False) -> None:
        """Wait until it has ended, with all its processes.

        Args:
            interrupt: send Ctrl-C if it does not end by itself.
        """
        try:
            try:
                self.process.wait(ENDS_WITHIN)
            except subprocess.TimeoutExpired:
                if not interrupt:
                    raise
                os.killpg(self.process.pid, signal.SIGINT)
                self.process.wait(ENDS_WITHIN)
            wait_for(lambda: not self.members(), ENDS_WITHIN)
        except BaseException:
            print(self.output.read_text())
            self.give_up()
            raise

    def give_up(self) -> None:
        for process in self.members():
            process.kill()
        self.process.kill()
        self.process.wait()


def whole(project: Project, runner: str) -> float:
    """Run the tests undisturbed, see that they pass, and return how long it took, in seconds."""
    begun = time.monotonic()
    run = Run(project, runner)
    run.end()
    output = run.output.read_text()
    assert run.process.returncode == 0, output
    assert f"{COUNT} passed" in output or f"Ran {COUNT} tests" in output, output
    return time.monotonic() - begun


@pytest.mark.parametrize("runner", RUNNERS)
def test_killed_at_any_moment(project: Project, runner: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Whatever of a run is killed, and whenever: all of it ends, the next run passes, and nothing is left to clean."""
    chance = random.Random(f"{SEED} {runner}")
    project.write("test_it.py", TESTS)
    project.write("manage.py", MANAGE)
    project.environment["START_METHOD"] = "fork"
    lasts = whole(project, runner) if KILLS else 3.0
    for number in range(KILLS or 1):
        way = WAYS[number % len(WAYS)]
        # forkserver is not for Django 5.2.
        project.environment["START_METHOD"] = chance.choice(("fork", "spawn"))
        begun = time.monotonic()
        run = Run(project, runner)
        moment = chance.uniform(0.2, lasts)
        time.sleep(moment)
        run.hit(way, chance)
        # pytest-xdist itself waits for ever if a worker is killed before it has collected its tests.
        run.end(interrupt=runner == "pytest" and way == "kill a worker")
        lasted = time.monotonic() - begun
        said = run.output.read_text().strip().rpartition("\n")[2]
        lasts = whole(project, runner)
        with capsys.disabled():
            if KILLS:
                print(f"\n{runner} {number}: {way} at {moment:.1f} s, ended at {lasted:.1f} s ({said});", end=" ")
                print(f"next run {lasts:.1f} s", flush=True)
    project.manages("test_schemas", "clean")
    assert project.schemas() == []
    assert project.sql("SELECT datname FROM pg_database WHERE starts_with(datname, current_database())") == [
        (project.database,)
    ]
    owners = (
        "SELECT application_name FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()"
    )
    assert project.sql(owners) == []
