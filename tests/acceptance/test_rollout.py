"""The deployment without downtime of docs/howto/deploying.md, with requests running through all of it."""

from __future__ import annotations

import http.client
import json
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.acceptance.test_demo import free_port
from tests.projects.probe import new_database

ROOT = Path(__file__).parents[2]
TENANTS = [f"shop{number}" for number in range(8)]
HALF = [argument for name in TENANTS[:4] for argument in ("--schema", name)]


class Project:
    """The project on a database of its own, one process for each thing that is done."""

    def __init__(self, environ: dict[str, str]):
        self.environ = {**environ, "DJANGO_SETTINGS_MODULE": "tests.projects.rollout.settings"}

    def environ_of(self, release: int) -> dict[str, str]:
        return {**self.environ, "RELEASE": str(release)}

    def manage(self, release: int, *args: str) -> subprocess.CompletedProcess[str]:
        argv = [sys.executable, "manage.py", *args]
        return subprocess.run(
            argv, cwd=ROOT, env=self.environ_of(release), capture_output=True, text=True, timeout=120, check=False
        )

    def serve(self, release: int) -> tuple[subprocess.Popen[bytes], int]:
        port = free_port()
        argv = [sys.executable, "manage.py", "runserver", "--noreload", str(port)]
        null = subprocess.DEVNULL
        server = subprocess.Popen(argv, cwd=ROOT, env=self.environ_of(release), stdin=null, stdout=null, stderr=null)
        deadline = time.monotonic() + 60
        while ask(port, TENANTS[0], "GET") is None:
            assert time.monotonic() < deadline
            assert server.poll() is None
            time.sleep(0.1)
        return server, port


def ask(port: int, tenant: str, method: str) -> tuple[int, Any] | None:
    """Send a request, and return its status and document; None where nobody answers."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    try:
        connection.request(method, "/", headers={"Host": f"{tenant}.localhost"})
        answer = connection.getresponse()
        body = answer.read()
        return answer.status, json.loads(body) if answer.status == 200 else body
    except OSError:
        return None
    finally:
        connection.close()


class Customers:
    """Threads that order without a pause, from the server that is in service."""

    def __init__(self, port: int):
        self.port, self.phase = port, "before"
        self.answers: Counter[tuple[str, int]] = Counter()
        self.failures: list[Any] = []
        self.ordered: Counter[str] = Counter()
        self._stop = threading.Event()
        self._lock = threading.Lock()
        self._threads = [threading.Thread(target=self._order, args=(number,)) for number in range(4)]
        for thread in self._threads:
            thread.start()

    def _order(self, number: int) -> None:
        while not self._stop.is_set():
            # Two of the eight tenants are this thread's, one of each half.
            for name in (TENANTS[number], TENANTS[number + 4]):
                for method in ("POST", "GET"):
                    phase, answer = self.phase, ask(self.port, name, method)
                    with self._lock:
                        if answer is None or answer[0] != 200:
                            self.failures.append((phase, name, method, answer))
                        else:
                            self.answers[phase, answer[1]["release"]] += 1
                            self.ordered[name] += method == "POST"

    def during(self, phase: str, *, at_least: int = 12) -> None:
        """Go on to a phase, and wait until there were some requests in it."""
        self.phase = phase
        deadline = time.monotonic() + 60
        while sum(count for (of, _), count in self.answers.items() if of == phase) < at_least:
            assert time.monotonic() < deadline, self.failures
            time.sleep(0.02)

    def stop(self) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join()


@pytest.fixture
def project(server_params: dict[str, Any]) -> Iterator[Project]:
    """Return the project as its first release, with eight tenants."""
    with new_database(server_params, "rollout") as environ:
        environ.pop("PG_TENANTS_TEST_DATA", None)
        made = Project(dict(environ))
        assert made.manage(1, "migrate_schemas", "--run-syncdb", "-v0").returncode == 0
        code = (
            "from tests.projects.equal.people.models import Domain, Tenant\n"
            f"for name in {TENANTS}:\n"
            "    tenant = Tenant.objects.create(schema_name=name)\n"
            "    Domain.objects.create(domain=f'{name}.localhost', tenant=tenant)\n"
        )
        done = made.manage(1, "shell", "-v0", "-c", code)
        assert done.returncode == 0, done.stderr
        yield made


def test_expand_deploy_contract(project: Project) -> None:
    """No request fails while schemas are migrated, half of them only, and while one release replaces the other."""
    servers = []
    try:
        server, port = project.serve(1)
        servers.append(server)
        customers = Customers(port)
        try:
            customers.during("before")
            # Expand, run from the second release while the first one serves.
            assert project.manage(2, "migrate_schemas", "--check").returncode == 1
            customers.phase = "expanding"
            assert project.manage(2, "migrate_schemas", *HALF).returncode == 0
            customers.during("half expanded")
            # The gate is what keeps the second release out: it would fail in the other half.
            assert project.manage(2, "migrate_schemas", "--check").returncode == 1
            server, port = project.serve(2)
            servers.append(server)
            assert [(ask(port, name, "GET") or [0])[0] for name in (TENANTS[0], TENANTS[7])] == [200, 500]
            done = project.manage(2, "migrate_schemas")
            assert "9 schemas: 4 migrated, 5 up to date" in done.stdout
            assert project.manage(2, "migrate_schemas", "--check").returncode == 0
            customers.during("expanded")
            # Deploy: both releases serve for a moment.
            customers.port = port
            customers.during("deployed")
            servers[0].terminate()
            servers[0].wait(30)
            # Contract, from the third release, whose code is that of the second.
            customers.phase = "contracting"
            assert project.manage(3, "migrate_schemas", *HALF).returncode == 0
            customers.during("half contracted")
            assert project.manage(3, "migrate_schemas").returncode == 0
            assert project.manage(3, "migrate_schemas", "--check").returncode == 0
            customers.during("contracted")
        finally:
            customers.stop()
        answers = {name: ask(port, name, "GET") for name in TENANTS}
    finally:
        for server in servers:
            server.kill()
            server.wait()
    assert customers.failures == []
    assert {name: answer[1]["orders"] for name, answer in answers.items() if answer} == customers.ordered
    releases = {phase: {release for of, release in customers.answers if of == phase} for phase, _ in customers.answers}
    assert releases["half expanded"] == releases["expanded"] == {1}
    assert releases["half contracted"] == releases["contracted"] == {2}
