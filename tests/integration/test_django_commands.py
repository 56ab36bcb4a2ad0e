"""Django's own commands: without a tenant, and inside one by `tenant_command`."""

from __future__ import annotations

import contextlib
import io
import json
import os
import pty
import select
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
from django.contrib.auth.models import Permission, User
from django.contrib.contenttypes.models import ContentType
from django.contrib.sessions.models import Session
from django.core.cache import caches
from django.core.management import call_command
from django.core.management.base import CommandError
from django.db import connection
from django.db.migrations.exceptions import InconsistentMigrationHistory
from django.db.migrations.loader import MigrationLoader
from django.test import override_settings
from django.utils import timezone
from psycopg import sql

from example_project.billing.models import Invoice
from example_project.customers.models import Tenant
from example_project.notes.models import Note, Tag
from pg_tenants import current_schema, schema_context, schemas, tenant_context
from pg_tenants.exceptions import UnsafeStatement
from pg_tenants.management.refusals import _djangos_check_history

ROOT = Path(__file__).parents[2]
PSQL = Path("/usr/lib/postgresql/15/bin")
# The processes hash as Django does by default, the tests as it is fast.
HASHERS = [f"django.contrib.auth.hashers.{name}PasswordHasher" for name in ("PBKDF2", "MD5")]
needs_psql = pytest.mark.skipif(not (PSQL / "psql").exists() and not shutil.which("psql"), reason="psql is missing")


def run(*args: str, **kwargs: Any) -> str:
    out = io.StringIO()
    call_command(*args, stdout=out, stderr=out, **kwargs)
    return out.getvalue()


def inside(schema: str, *args: str, **kwargs: Any) -> str:
    return run("tenant_command", "--schema", schema, *args, **kwargs)


@pytest.fixture
def environ(server_params: dict[str, Any]) -> dict[str, str]:
    """Return the environment of a project that uses the worker's test database."""
    user, password = (quote(str(server_params[key]), safe="") for key in ("user", "password"))
    place = f"{server_params['host']}:{server_params['port']}"
    return {
        **os.environ,
        "PATH": f"{PSQL}:{os.environ['PATH']}",
        "PYTHONPATH": str(ROOT),
        "DJANGO_SETTINGS_MODULE": "tests.child_settings",
        "DATABASE_URL": f"postgresql://{user}:{password}@{place}/{server_params['dbname']}",
    }


Manage = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture
def manage(environ: dict[str, str]) -> Manage:
    """Return a function that runs a command in a process of its own."""

    def start(*args: str, stdin: str = "") -> subprocess.CompletedProcess[str]:
        argv = [sys.executable, "-m", "django", *args]
        return subprocess.run(argv, env=environ, cwd=ROOT, input=stdin, capture_output=True, text=True, timeout=120)

    return start


def on_terminal(environ: dict[str, str], args: list[str], answers: list[tuple[str, str]]) -> tuple[int, str]:
    """Run a command on a terminal, answer its questions in order, and return its status and what it printed."""
    pid, terminal = pty.fork()
    if pid == 0:
        os.chdir(ROOT)
        os.execve(sys.executable, [sys.executable, "-m", "django", *args], environ)
    seen, waiting, deadline = "", list(answers), time.monotonic() + 60
    with os.fdopen(terminal, "rb+", buffering=0) as stream, contextlib.suppress(OSError):
        while time.monotonic() < deadline:
            if not select.select([stream], [], [], 1)[0]:
                continue
            data = os.read(stream.fileno(), 4096)
            if not data:
                break
            seen += data.decode()
            if waiting and waiting[0][0] in seen.rpartition("\n")[2]:
                os.write(stream.fileno(), waiting.pop(0)[1].encode() + b"\n")
    _, status = os.waitpid(pid, 0)
    assert not waiting, seen
    return os.waitstatus_to_exitcode(status), seen


# -- without a tenant -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "args",
    [
        ("createsuperuser", "--noinput", "--username", "bob", "--email", "bob@example.com"),
        ("changepassword", "ada-acme"),
        ("clearsessions",),
        ("remove_stale_contenttypes", "--noinput"),
        ("dumpdata", "notes"),
        ("dumpdata", "auth.user"),
        ("dumpdata", "customers", "notes.note"),
        ("sqlmigrate", "notes", "0001"),
        ("sqlsequencereset", "notes"),
        ("showmigrations", "notes"),
        ("showmigrations", "--plan", "customers", "notes"),
    ],
    ids=lambda args: " ".join(args[:2]),
)
def test_a_command_about_tenants_tables(acme: Any, args: tuple[str, ...]) -> None:
    """It ends in one line that names `tenant_command`."""
    with pytest.raises(CommandError) as caught:
        run(*args)
    assert f"tenant_command --schema NAME {args[0]}" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_such_a_command_as_a_process(acme: Any, manage: Manage) -> None:
    """One line on stderr, no traceback unless asked for, and a status that is not 0."""
    done = manage("clearsessions")
    assert done.returncode == 1
    assert done.stdout == ""
    assert done.stderr.startswith("CommandError: ")
    assert done.stderr.count("\n") == 1
    done = manage("clearsessions", "--traceback")
    assert "Traceback" in done.stderr
    assert done.returncode == 1


def test_an_error_of_ours_in_any_command(acme: Any, raw: Any) -> None:
    """Becomes the one line that commands end with."""
    raw.execute(sql.SQL("DROP SCHEMA {} CASCADE").format(sql.Identifier(physical("acme"))))
    with pytest.raises(CommandError, match="'acme' is not in the database"):
        inside("acme", "clearsessions")


def physical(name: str) -> str:
    return schemas.tenant_connection().physical_schema(name)


# -- users ------------------------------------------------------------------------------------------------------------


def test_createsuperuser_on_a_terminal(acme: Any, globex: Any, environ: dict[str, str]) -> None:
    """Asks, and makes the user in that tenant alone."""
    status, seen = on_terminal(
        environ,
        ["tenant_command", "--schema", "acme", "createsuperuser"],
        [
            ("Username", "ada-acme"),
            ("Username", "grace"),
            ("Email", "grace@example.com"),
            ("Password:", "correct horse 7"),
            ("Password (again):", "correct horse 7"),
        ],
    )
    assert "That username is already taken" in seen
    assert "Superuser created successfully." in seen
    assert status == 0
    with tenant_context(acme):
        with override_settings(PASSWORD_HASHERS=HASHERS):
            assert User.objects.get(username="grace").check_password("correct horse 7")
    with tenant_context(globex):
        assert not User.objects.filter(username="grace").exists()


def test_createsuperuser_without_questions(acme: Any, globex: Any, manage: Manage) -> None:
    """In one tenant, and in all; where the user is there already, that tenant is named."""
    options = ("createsuperuser", "--noinput", "--username", "bob", "--email", "bob@example.com")
    assert manage("tenant_command", "--schema", "acme", *options).returncode == 0
    done = manage("tenant_command", "--all", *options)
    assert done.returncode == 1
    assert "failed in 1 of 2 tenants" in done.stderr
    assert "acme: Error: That username is already taken" in done.stderr
    with tenant_context(globex):
        assert User.objects.get(username="bob").is_superuser


def test_changepassword_on_a_terminal(acme: Any, globex: Any, environ: dict[str, str]) -> None:
    """Changes that tenant's user."""
    for tenant in (acme, globex):
        with tenant_context(tenant):
            User.objects.create_user("eve", password="before")
    status, seen = on_terminal(
        environ,
        ["tenant_command", "--schema", "globex", "changepassword", "eve"],
        [("Password:", "correct horse 7"), ("Password (again):", "correct horse 7")],
    )
    assert status == 0
    assert "Password changed successfully for user 'eve'" in seen
    for tenant, password in ((acme, "before"), (globex, "correct horse 7")):
        with tenant_context(tenant):
            with override_settings(PASSWORD_HASHERS=HASHERS):
                assert User.objects.get(username="eve").check_password(password)


# -- migrations -------------------------------------------------------------------------------------------------------


def test_showmigrations(acme: Any) -> None:
    """Each schema by its own record: the fixed modules' under their names, in a tenant its own."""
    everywhere = run("showmigrations")
    assert everywhere.split("\n")[:4] == ["public (shared)", "customers", " [X] 0001_initial", "billing (billing)"]
    assert "[ ]" not in everywhere
    assert "notes" not in everywhere
    text = inside("acme", "showmigrations")
    assert "[ ]" not in text
    assert "customers" not in text
    assert "notes\n [X] 0001_initial" in text
    call_command("migrate_schemas", "notes", "zero", schema=["acme"], verbosity=0)
    assert inside("acme", "showmigrations", "notes") == "notes\n [ ] 0001_initial\n"
    plan = inside("acme", "showmigrations", "--plan", "-v2")
    assert "[ ]  notes.0001_initial ... (auth.0001_initial" in plan
    assert "[X]  auth.0001_initial ... (contenttypes.0001_initial)" in plan
    assert "[X]  billing.0001_initial" in inside("billing", "showmigrations", "--plan")
    with pytest.raises(SystemExit):
        run("showmigrations", "nothing")
    with pytest.raises(CommandError, match="'customers' has no tables in the schema 'acme': it is in 'shared'"):
        inside("acme", "showmigrations", "customers")


def test_showmigrations_of_a_new_database(acme: Any, raw: Any, manage: Manage, environ: dict[str, str]) -> None:
    """All are open, also before any schema is there."""
    name = f"{connection.settings_dict['NAME']}_new"
    drop = sql.SQL("DROP DATABASE IF EXISTS {} WITH (FORCE)").format(sql.Identifier(name))
    raw.execute(drop)
    raw.execute(sql.SQL("CREATE DATABASE {}").format(sql.Identifier(name)))
    environ["DATABASE_URL"] = environ["DATABASE_URL"].rpartition("/")[0] + f"/{name}"
    try:
        assert "billing\n [ ] 0001_initial" in manage("showmigrations").stdout
        assert "[X]" not in manage("showmigrations", "--plan").stdout
        assert "No changes detected" in manage("makemigrations", "--check").stdout
        done = manage("list_tenants")
        assert "run migrate_schemas first" in done.stderr
        assert done.stderr.count("\n") == 1
    finally:
        raw.execute(drop)


def test_sqlmigrate(acme: Any) -> None:
    """The SQL of an app that is there; elsewhere an error rather than "no-op"."""
    assert 'CREATE TABLE "customers_tenant"' in run("sqlmigrate", "customers", "0001")
    assert 'CREATE TABLE "notes_note"' in inside("acme", "sqlmigrate", "notes", "0001")
    with pytest.raises(CommandError, match="'customers' has no tables in the schema 'acme'"):
        inside("acme", "sqlmigrate", "customers", "0001")


def test_makemigrations(acme: Any) -> None:
    """Without a tenant and in one, it finds nothing to do and no inconsistency."""
    for args in (("makemigrations", "--check"), ("makemigrations", "--dry-run", "notes")):
        assert "No changes detected" in run(*args)
        assert "No changes detected" in inside("acme", *args)


def test_makemigrations_where_a_shared_app_depends_on_a_tenants(acme: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """The record of public lacks the tenant's migrations, rightly; what its own module lacks is still told."""
    from importlib import import_module

    initial = import_module("example_project.customers.migrations.0001_initial").Migration
    monkeypatch.setattr(initial, "dependencies", [*initial.dependencies, ("notes", "0001_initial")])
    with pytest.raises(InconsistentMigrationHistory, match="dependency notes"):
        _djangos_check_history(MigrationLoader(None), connection)
    assert "No changes detected" in run("makemigrations", "--check")
    assert "No changes detected" in inside("acme", "makemigrations", "--check")
    with tenant_context(acme), connection.cursor() as cursor:
        cursor.execute("DELETE FROM django_migrations WHERE app = 'auth' AND name = '0001_initial'")
        with pytest.raises(InconsistentMigrationHistory, match="before its dependency auth"):
            call_command("makemigrations", "--check", stdout=io.StringIO())


@pytest.mark.parametrize("name", ["migrate", "migrate_schemas"])
def test_migrating_by_tenant_command(acme: Any, globex: Any, name: str) -> None:
    """It would migrate all tenants, so it is refused with the option to use."""
    with pytest.raises(CommandError, match=f"manage.py {name} --schema NAME"):
        inside("acme", name, "notes", "zero")
    with tenant_context(globex):
        assert Note.objects.count() == 1


def test_squashing_and_optimizing(acme: Any, tmp_path: Path, manage: Manage, environ: dict[str, str]) -> None:
    """They write files and leave the database alone."""
    app = tmp_path / "probe_app"
    (app / "migrations").mkdir(parents=True)
    (app / "__init__.py").touch()
    (app / "migrations" / "__init__.py").touch()
    (app / "models.py").write_text(
        "from django.db import models\n\n\nclass Thing(models.Model):\n    a = models.IntegerField()\n"
    )
    (tmp_path / "probe_settings.py").write_text(
        "from example_project.settings import *\n"
        "INSTALLED_APPS = [*INSTALLED_APPS, 'probe_app']\n"
        "MODULES = PG_TENANTS['MODULES']\n"
        "tenant = {**MODULES['tenant'], 'apps': [*MODULES['tenant']['apps'], 'probe_app']}\n"
        "PG_TENANTS = {**PG_TENANTS, 'MODULES': {**MODULES, 'tenant': tenant}}\n"
    )
    environ.update(PYTHONPATH=f"{ROOT}:{tmp_path}", DJANGO_SETTINGS_MODULE="probe_settings")
    assert manage("makemigrations", "probe_app").returncode == 0
    model = (app / "models.py").read_text()
    (app / "models.py").write_text(model + "    b = models.IntegerField(null=True)\n")
    assert manage("makemigrations", "probe_app", "-n", "b").returncode == 0
    done = manage("squashmigrations", "probe_app", "0002", "--noinput")
    assert done.returncode == 0, done.stderr
    assert len(list((app / "migrations").glob("0001_squashed*.py"))) == 1
    assert manage("optimizemigration", "probe_app", "0001_initial", "--check").returncode == 0
    assert not schemas.table_exists("probe_app_thing", schema="acme")
    assert not schemas.table_exists("probe_app_thing", schema="public")
    assert "probe_app\n [ ] 0001_squashed" in manage("tenant_command", "--schema", "acme", "showmigrations").stdout


# -- rows -------------------------------------------------------------------------------------------------------------


def test_dumpdata_and_loaddata(acme: Any, globex: Any, tmp_path: Path) -> None:
    """What one tenant has goes into another; the output is as Django writes it."""
    with tenant_context(acme):
        Tag.objects.create(name="moved")
    text = inside("acme", "dumpdata", "notes.tag")
    assert text.count("\n") <= 1
    fixture = tmp_path / "tags.json"
    fixture.write_text(text)
    assert "Installed 1 object(s)" in inside("globex", "loaddata", str(fixture))
    with tenant_context(globex):
        assert Tag.objects.get().name == "moved"
    assert {row["model"].partition(".")[0] for row in json.loads(run("dumpdata"))} == {"customers"}
    assert "auth.user" in inside("acme", "dumpdata", "--indent", "1")
    assert "customers" not in {row["model"].partition(".")[0] for row in json.loads(inside("acme", "dumpdata"))}


def test_loaddata_of_what_has_no_table_there(acme: Any, tmp_path: Path) -> None:
    """Refused, and nothing of the fixture is kept; Django's would pass over such rows."""
    tag = {"model": "notes.tag", "pk": 7, "fields": {"name": "seven"}}
    invoice = {
        "model": "billing.invoice",
        "pk": 7,
        "fields": {
            "tenant_id": acme.pk,
            "number": "7",
            "customer_name": "x",
            "issued_on": "2026-01-01",
            "due_on": "2026-01-02",
            "currency": "EUR",
        },
    }
    fixture = tmp_path / "mixed.json"
    fixture.write_text(json.dumps([tag, invoice]))
    with pytest.raises(CommandError, match="'billing' has no tables in the schema 'acme'"):
        inside("acme", "loaddata", str(fixture))
    with tenant_context(acme):
        assert not Tag.objects.exists()
    fixture.write_text(json.dumps([invoice, tag]))
    with pytest.raises(CommandError, match="tenant_command --schema NAME loaddata"):
        run("loaddata", str(fixture))
    assert not Invoice.objects.exists()
    run("loaddata", str(fixture), "--exclude", "notes")
    assert Invoice.objects.get().number == "7"
    Invoice.objects.all().delete()


def test_flush_in_one_tenant(acme: Any, globex: Any) -> None:
    """Its tables alone are emptied, and its content types and permissions made again, there."""
    with tenant_context(globex):
        # The numbers differ from acme's, so what is made by the wrong cache is found out.
        ContentType.objects.all().delete()
        call_command("tenant_command", "--schema", "globex", "flush", "--noinput", stdout=io.StringIO())
        User.objects.create_user("left")
        ContentType.objects.create(app_label="x", model="x")
        before = list(ContentType.objects.order_by("pk").values_list("pk", "model"))
    text = inside("acme", "flush", "--noinput")
    assert "schema 'acme'" in text
    with tenant_context(acme):
        assert not Note.objects.exists()
        assert not User.objects.exists()
        assert Permission.objects.filter(content_type__app_label="notes", content_type__model="note").count() == 4
        assert {p.content_type_id for p in Permission.objects.all()} <= set(
            ContentType.objects.values_list("pk", flat=True)
        )
    with tenant_context(globex):
        assert User.objects.get().username == "left"
        assert list(ContentType.objects.order_by("pk").values_list("pk", "model")) == before
    assert Tenant.objects.count() == 2


def test_flush_in_all_tenants(acme: Any, globex: Any) -> None:
    """Each has its own content types and permissions again."""
    run("tenant_command", "--all", "flush", "--noinput", verbosity=0)
    for tenant in (acme, globex):
        with tenant_context(tenant):
            assert not User.objects.exists()
            found = Permission.objects.values_list("content_type__app_label", "content_type__model", "codename")
            assert ("notes", "note", "add_note") in found
            assert ContentType.objects.get(app_label="notes", model="note").pk < 20


def test_flush_without_a_tenant(acme: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Refused while there are tenants; else the fixed modules' tables, and it says so."""
    Invoice.objects.create(tenant_id=1, number="1", issued_on="2026-01-01", due_on="2026-01-01", currency="EUR")
    for args in (("flush", "--noinput"), ("tenant_command", "--schema", "public", "flush", "--noinput")):
        with pytest.raises(CommandError, match="There are tenants"):
            run(*args)
    assert Invoice.objects.exists()
    assert "schema 'billing'" in inside("billing", "flush", "--noinput")
    assert not Invoice.objects.exists()
    assert Tenant.objects.exists()
    acme.delete()
    Invoice.objects.create(tenant_id=1, number="1", issued_on="2026-01-01", due_on="2026-01-01", currency="EUR")
    asked: list[str] = []
    for answer, left in (("no", 1), ("yes", 0)):
        monkeypatch.setattr("builtins.input", lambda prompt, answer=answer: (asked.append(prompt), answer)[1])
        text = run("flush")
        assert Invoice.objects.count() == left
    assert "fixed modules (public, billing)" in asked[0]
    assert "fixed modules (public, billing)" in text


def test_sqlflush_and_sqlsequencereset(acme: Any) -> None:
    """They name the tables of where they run, and no others."""
    assert "customers_tenant" in run("sqlflush")
    assert "notes_note" not in run("sqlflush")
    text = inside("acme", "sqlflush")
    assert '"notes_note"' in text
    assert "customers_tenant" not in text
    assert "marker" not in text
    assert "notes_tag" in inside("acme", "sqlsequencereset", "notes")
    assert "customers_tenant" in run("sqlsequencereset", "customers")


def test_clearsessions(acme: Any, globex: Any) -> None:
    """For every tenant by `--all`."""
    for tenant in (acme, globex):
        with tenant_context(tenant):
            Session.objects.create(session_key="old", session_data="", expire_date=timezone.now())
    inside("acme", "clearsessions")
    counts = []
    for tenant in (acme, globex):
        with tenant_context(tenant):
            counts.append(Session.objects.count())
    assert counts == [0, 1]
    run("tenant_command", "--all", "clearsessions")
    with tenant_context(globex):
        assert not Session.objects.exists()


def test_remove_stale_contenttypes(acme: Any, globex: Any) -> None:
    """In the tenant alone."""
    for tenant in (acme, globex):
        with tenant_context(tenant):
            ContentType.objects.create(app_label="notes", model="gone")
    inside("acme", "remove_stale_contenttypes", "--noinput")
    for tenant, count in ((acme, 0), (globex, 1)):
        with tenant_context(tenant):
            assert ContentType.objects.filter(model="gone").count() == count
            assert ContentType.objects.filter(model="note").exists()


def test_createcachetable(acme: Any, globex: Any) -> None:
    """It makes the table where it runs: once for all tenants, or in one tenant for itself."""
    settings = {"default": {"BACKEND": "django.core.cache.backends.db.DatabaseCache", "LOCATION": "cache_rows"}}
    try:
        with override_settings(CACHES=settings):
            run("createcachetable")
            run("createcachetable")
            assert schemas.table_exists("cache_rows", schema="public")
            assert not schemas.table_exists("cache_rows", schema="acme")
            caches["default"].set("key", "shared")
            with tenant_context(globex):
                assert caches["default"].get("key") == "shared"
            inside("acme", "createcachetable")
            assert schemas.table_exists("cache_rows", schema="acme")
            with tenant_context(acme):
                assert caches["default"].get("key") is None
                caches["default"].set("key", "own")
            assert caches["default"].get("key") == "shared"
    finally:
        with connection.cursor() as cursor:
            cursor.execute("DROP TABLE IF EXISTS cache_rows")


def test_inspectdb(acme: Any, raw: Any) -> None:
    """The tables of the active schema, or of the fixed modules'; also where two schemas have one of the same name."""
    raw.execute(sql.SQL("CREATE TABLE {}.twin (mine int)").format(sql.Identifier(physical("acme"))))
    raw.execute(sql.SQL("CREATE TABLE {}.twin (shared int)").format(sql.Identifier(physical("public"))))
    try:
        text = inside("acme", "inspectdb")
        assert "class NotesNote(" in text
        assert "mine = " in text
        assert "shared = " not in text
        assert "CustomersTenant" not in text
        assert "marker" not in text.lower()
        text = run("inspectdb")
        assert "class CustomersTenant(" in text
        assert "class BillingInvoice(" in text
        assert "shared = " in text
        assert "NotesNote" not in text
        assert "class BillingInvoice(" not in inside("public", "inspectdb")
    finally:
        raw.execute(sql.SQL("DROP TABLE {}.twin").format(sql.Identifier(physical("public"))))


# -- shells -----------------------------------------------------------------------------------------------------------


def test_shell(acme: Any, globex: Any, manage: Manage) -> None:
    """The tenant is active inside, from `-c` and from stdin, with Django's automatic imports."""
    code = "from pg_tenants import current_schema; print(current_schema(), [n.title for n in Note.objects.all()])"
    done = manage("tenant_command", "--schema", "acme", "shell", "-v0", "-c", code)
    assert done.stdout.strip() == "acme ['note of acme']", done.stderr
    done = manage("tenant_command", "-v0", "--schema", "globex", "shell", stdin="print(Note.objects.get().title)\n")
    assert done.stdout.strip() == "note of globex", done.stderr
    done = manage("shell", "-v0", "-c", "print(Tenant.objects.count())")
    assert done.stdout.strip() == "2"
    done = manage("shell", "-v0", "-c", "Note.objects.count()")
    assert done.returncode == 1
    assert "no tenant is active" in done.stderr


@needs_psql
def test_dbshell(acme: Any, globex: Any, manage: Manage) -> None:
    """Psql opens in the tenant's schema, or on the fixed modules' path; its arguments go behind `--`."""
    query = ("dbshell", "--", "-At", "-c", "SELECT title FROM notes_note", "-c", "SHOW search_path")
    done = manage("tenant_command", "--schema", "acme", *query)
    assert done.stdout.split("\n")[:2] == ["note of acme", '"acme","public","billing","pg_temp"'], done.stderr
    done = manage("dbshell", "--", "-At", "-c", "SELECT count(*) FROM customers_tenant", "-c", "SHOW search_path")
    assert done.stdout.split("\n")[:2] == ["2", '"public","billing","pg_temp"'], done.stderr
    done = manage(*query)
    assert 'relation "notes_note" does not exist' in done.stderr
    done = manage("tenant_command", "--schema", "globex", "dbshell", stdin="DELETE FROM notes_note;\n")
    assert done.stdout == "DELETE 1\n"
    done = manage("tenant_command", "--schema", "acme", "dbshell", "--", "-c", "SELECT 1/0")
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    done = manage("tenant_command", "--all", "dbshell", "--", "-Atc", "SELECT count(*) FROM notes_note")
    assert done.stdout.replace(":\n", "=") in ("acme=1\nglobex=0\n", "1\n0\nacme=globex=")


@needs_psql
def test_what_dbshell_starts(acme: Any, environ: dict[str, str], manage: Manage, tmp_path: Path) -> None:
    """The password is in psql's environment, not among its arguments; a missing schema starts nothing."""
    program = tmp_path / "psql"
    program.write_text('#!/bin/sh\necho "$@"\necho "$PGOPTIONS"\necho "$PGPASSWORD"\n')
    program.chmod(0o755)
    environ["PATH"] = f"{tmp_path}:{environ['PATH']}"
    done = manage("tenant_command", "--schema", "acme", "dbshell")
    arguments, options, password = done.stdout.splitlines()
    assert password
    assert password not in arguments
    assert options == '-c search_path="acme","public","billing","pg_temp"'
    schemas.rename("acme", "elsewhere")
    try:
        done = manage("tenant_command", "--schema", "acme", "dbshell")
        assert done.stdout == ""
        assert done.stderr.startswith("CommandError: The active schema 'acme' is not in the database")
    finally:
        schemas.rename("elsewhere", "acme")


@needs_psql
def test_dbshell_of_other_aliases(acme: Any, make_alias: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Behind a pooler it is refused; an alias bound to a schema opens there; options of the alias are kept."""
    seen: list[Any] = []
    monkeypatch.setattr(subprocess, "run", lambda args, env, check: seen.append((args, env)))
    make_alias("pooled", tenants={"pooler": True})
    with tenant_context(acme), pytest.raises(CommandError, match=r"connection pooler.*--database ALIAS") as caught:
        run("dbshell", database="pooled")
    assert isinstance(caught.value.__cause__, UnsafeStatement)
    assert seen == []
    make_alias("bound", tenants={"schema": "acme"}, options="-c work_mem=8MB")
    run("dbshell", database="bound")
    assert seen[0][1]["PGOPTIONS"] == '-c work_mem=8MB -c search_path="acme","public","pg_temp"'
    run("dbshell")
    assert connection.settings_dict["NAME"] in seen[1][0]
    assert str(connection.get_connection_params()["port"]) in seen[1][0]


# -- the rest ---------------------------------------------------------------------------------------------------------


def test_runserver_tells_of_pending_migrations(acme: Any, environ: dict[str, str]) -> None:
    """Of tenants' as well, by the schemas' names; nothing where there is nothing."""
    assert "Migrations are pending" not in first_output(environ)
    call_command("migrate_schemas", "notes", "zero", schema=["acme"], verbosity=0)
    assert "Migrations are pending in 1 of 3 schemas (acme). Run 'python manage.py migrate_schemas'" in first_output(
        environ
    )


def first_output(environ: dict[str, str]) -> str:
    """Start a real development server on a free port, and return what it prints until it listens."""
    argv = [sys.executable, "-u", "-m", "django", "runserver", "--noreload", "--nostatic", "127.0.0.1:0"]
    with subprocess.Popen(
        argv, env=environ, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    ) as server:
        assert server.stdout is not None
        text = ""
        try:
            for line in server.stdout:
                text += line
                if "Quit the server" in line:
                    break
        finally:
            server.terminate()
            server.wait(20)
    assert "development server at http" in text
    return text


def test_check_and_diffsettings(acme: Any) -> None:
    """Without a tenant and in one."""
    for before in ((), ("tenant_command", "--schema", "acme")):
        assert "no issues" in run(*before, "check", "--database", "default")
        assert "PG_TENANTS" in run(*before, "diffsettings")


def test_options_that_all_commands_have(acme: Any, globex: Any) -> None:
    """Before the command they go with it, behind it they are its own."""
    assert inside("acme", "-v0", "flush", "--noinput") == ""
    assert inside("acme", "-v0", "flush", "--noinput", "-v1") != ""
    assert "\033[" in run("tenant_command", "--schema", "acme", "--force-color", "showmigrations")
    assert "\033[" in inside("acme", "showmigrations", "--force-color")
    assert "\033[" not in inside("acme", "showmigrations", "--no-color")
    assert inside("acme", "showmigrations", "--database", "default", "notes") == "notes\n [X] 0001_initial\n"
    with pytest.raises(CommandError, match="nowhere"):
        inside("acme", "showmigrations", "--database", "nowhere")


def test_options_of_the_process(acme: Any, manage: Manage) -> None:
    """A traceback, and other settings, are had from either place."""
    before = ("tenant_command", "--schema", "acme")
    assert manage(*before, "loaddata", "nothing").stderr.startswith("CommandError: No fixture")
    for args in (("--traceback", "loaddata", "nothing"), ("loaddata", "nothing", "--traceback")):
        assert "Traceback" in manage(*before, *args).stderr
    done = manage(*before, "diffsettings", "--settings", "nothing_like_it")
    assert "nothing_like_it" in done.stderr


def test_a_fixed_modules_schema_by_tenant_command(acme: Any) -> None:
    """It is active inside, as a tenant's would be."""
    assert "customers.tenant" in inside("public", "dumpdata", "customers.tenant")
    with pytest.raises(CommandError, match="no tables in the schema 'billing'"):
        inside("billing", "dumpdata", "customers.tenant")
    assert current_schema() is None


def test_the_router_and_tables_of_no_app(acme: Any) -> None:
    """Django's cache table belongs to no app: it may be made everywhere."""
    from django.db import router

    assert router.allow_migrate("default", "django_cache")
    with schema_context("acme"):
        assert router.allow_migrate("default", "django_cache")
        assert not router.allow_migrate("default", "customers")
