"""Bad input: each an error, or a check, that names value, cause and remedy."""

from __future__ import annotations

import io
import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psycopg
import pytest
from django.conf import settings
from django.core.checks import CheckMessage
from django.core.management import call_command
from django.core.management.base import CommandError, SystemCheckError
from django.db import DatabaseError, connections
from django.db.utils import NotSupportedError, OperationalError
from django.test import override_settings
from django.utils import timezone
from psycopg import sql

from example_project.customers.models import Tenant
from example_project.notes.models import Note
from pg_tenants import checks, extensions, schemas, tenant_context
from pg_tenants.exceptions import ConfigurationError, ExtensionUnavailable, PgTenantsError, SchemaNotPermitted
from pg_tenants.provisioning import store
from tests.conftest import make_tenant

ROOT = Path(__file__).resolve().parents[2]
RAW: dict[str, Any] = settings.PG_TENANTS
SECRET = "hunter2-secret"
ROLE = "test_poor_role"


@contextmanager
def connected_as(server_params: dict[str, Any], **changes: Any) -> Iterator[None]:
    """Point the default alias to the run's server by host and password, with changes."""
    default = connections["default"]
    before = dict(default.settings_dict)
    default.close()
    tenants = {key: value for key, value in before["OPTIONS"].get("tenants", {}).items() if key != "pgserver"}
    default.settings_dict.update(
        HOST="127.0.0.1",
        PORT=str(server_params["port"]),
        USER=str(server_params["user"]),
        PASSWORD=str(server_params["password"]),
        OPTIONS={"tenants": tenants},
    )
    default.settings_dict.update(changes)
    try:
        yield
    finally:
        default.close()
        default.settings_dict.clear()
        default.settings_dict.update(before)


def database_check() -> CheckMessage:
    (message,) = checks.check_databases(["default"])
    assert message.hint
    assert SECRET not in f"{message.msg} {message.hint}"
    return message


def migrating() -> str:
    with pytest.raises((SystemCheckError, CommandError)) as caught:
        call_command("migrate_schemas", stdout=io.StringIO(), stderr=io.StringIO(), skip_checks=False)
    assert SECRET not in str(caught.value)
    return str(caught.value)


# -- reaching the server ----------------------------------------------------------------------------------------------


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])


def test_a_server_that_cannot_be_reached(open_db: None, server_params: dict[str, Any]) -> None:
    """Host and port, and how to start one."""
    port = free_port()
    with connected_as(server_params, PORT=str(port), PASSWORD=SECRET):
        with pytest.raises(OperationalError) as caught:
            Tenant.objects.count()
        for part in ("127.0.0.1", f"port {port}", "DATABASES['default']", "manage.py pgserver up"):
            assert part in str(caught.value)
        assert SECRET not in str(caught.value)
        message = database_check()
        assert message.id == "pg_tenants.E020"
        assert "DATABASES['default'] cannot be used" in message.msg
        assert "pgserver up" in str(message.hint)
        assert "(pg_tenants.E020)" in migrating()


def test_a_wrong_password(open_db: None, server_params: dict[str, Any]) -> None:
    """User and setting; never the password."""
    with connected_as(server_params, PASSWORD=SECRET):
        with pytest.raises(OperationalError, match=r"Check USER \('.*'\) and PASSWORD") as caught:
            Tenant.objects.count()
        assert SECRET not in str(caught.value)
        message = database_check()
    assert message.id == "pg_tenants.E020"
    assert f"USER ({server_params['user']!r})" in str(message.hint)


def test_an_unknown_user(open_db: None, server_params: dict[str, Any]) -> None:
    """The same words: PostgreSQL does not tell which of the two is wrong."""
    with connected_as(server_params, USER="nobody", PASSWORD=SECRET):
        message = database_check()
    assert message.id == "pg_tenants.E020"
    assert "'nobody'" in str(message.hint)


def test_a_database_that_is_not_there(open_db: None, server_params: dict[str, Any]) -> None:
    """Its name, and what to do."""
    with connected_as(server_params, NAME="no_such_database"):
        message = database_check()
    assert message.id == "pg_tenants.E020"
    assert "Create the database 'no_such_database'" in str(message.hint)


def test_a_host_that_is_not_there(open_db: None, server_params: dict[str, Any]) -> None:
    """A name that does not resolve."""
    with connected_as(server_params, HOST="nowhere.invalid"):
        message = database_check()
    assert message.id == "pg_tenants.E020"
    assert "nowhere.invalid" in f"{message.msg} {message.hint}"


def test_a_development_server_that_cannot_start(open_db: None) -> None:
    """It is a check, too, and no traceback."""
    connections["default"].close()
    with override_settings(PG_TENANTS={**RAW, "PGSERVER": {"name": "tests", "engine": "embedded", "version": "3"}}):
        message = database_check()
    assert message.id == "pg_tenants.E020"
    assert "3" in message.msg


def test_a_server_that_is_too_old(open_db: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """Both versions are named."""
    connection = connections["default"]
    connection.close()
    monkeypatch.setattr(type(connection.features), "minimum_database_version", (99,))

    def asked_again() -> None:
        connection.close()
        # Django asks each alias once.
        monkeypatch.setattr("django.db.backends.base.base.RAN_DB_VERSION_CHECK", set())

    asked_again()
    with pytest.raises(NotSupportedError, match=r"PostgreSQL 99 or later is required \(found \d+"):
        Tenant.objects.count()
    asked_again()
    message = database_check()
    assert message.id == "pg_tenants.E021"
    assert "PostgreSQL 99 or later is required" in message.msg
    assert "Upgrade the server" in str(message.hint)
    asked_again()
    assert "PostgreSQL 99" in migrating()
    monkeypatch.undo()
    connection.close()


def test_locks(open_db: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """Too few of them are warned of, with the number to set."""
    # The server of the tests has 300 connections.
    for needed, locks in ((4096, 4000 * 300 // 20), (8192, 4097 * 300 // 20)):
        monkeypatch.setattr(store, "locks_needed", lambda using, locks=locks: locks)
        message = database_check()
        assert message.id == "pg_tenants.W024"
        assert "max_locks_per_transaction is 1024" in message.msg
        assert f"to {needed} or more" in str(message.hint)


def test_an_alias_of_another_engine(open_db: None) -> None:
    """Functions of ours that are given it say what it has and what it needs."""
    connections.settings["plain"] = {**connections.settings["default"], "ENGINE": "django.db.backends.postgresql"}
    try:
        with pytest.raises(ConfigurationError, match=r"'plain'.*'django\.db\.backends\..*Set it to 'pg_tenants"):
            schemas.create("acme", using="plain")
        with pytest.raises(CommandError, match="another ENGINE"):
            call_command("migrate_schemas", database="plain")
        with pytest.raises((CommandError, ConfigurationError)):
            extensions.install(["citext"], using="plain")
    finally:
        del connections.settings["plain"]
        if hasattr(connections._connections, "plain"):  # type: ignore[attr-defined]
            del connections["plain"]


# -- privileges -------------------------------------------------------------------------------------------------------


@pytest.fixture
def role(open_db: None, raw: Any, server_params: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Return the settings of a role that may read and write what is there, and make nothing."""
    name = f"{ROLE}_{raw.info.dbname}"
    identifier = sql.Identifier(name)
    raw.execute(sql.SQL("DROP ROLE IF EXISTS {}").format(identifier))
    raw.execute(sql.SQL("CREATE ROLE {} LOGIN PASSWORD {}").format(identifier, sql.Literal(SECRET)))
    physical = schemas.tenant_connection().physical_schema
    for schema in (physical("public"), physical("billing")):
        where = sql.Identifier(schema)
        raw.execute(sql.SQL("GRANT USAGE ON SCHEMA {} TO {}").format(where, identifier))
        raw.execute(sql.SQL("GRANT ALL ON ALL TABLES IN SCHEMA {} TO {}").format(where, identifier))
        raw.execute(sql.SQL("GRANT ALL ON ALL SEQUENCES IN SCHEMA {} TO {}").format(where, identifier))
    yield {"USER": name, "PASSWORD": SECRET}
    connections["default"].close()
    raw.execute(sql.SQL("DROP OWNED BY {}").format(identifier))
    raw.execute(sql.SQL("DROP ROLE {}").format(identifier))


def test_a_role_that_may_not_make_schemas(role: Any, raw: Any, server_params: dict[str, Any]) -> None:
    """Role, schema, database, and the statement that helps; the check warns before."""
    with connected_as(server_params, **role):
        with pytest.raises(SchemaNotPermitted) as caught:
            Tenant.objects.create(schema_name="acme")
        grant = f'GRANT CREATE ON DATABASE "{raw.info.dbname}" TO "{role["USER"]}"'
        for part in (repr(role["USER"]), "acme", repr(raw.info.dbname), grant):
            assert part in str(caught.value)
        assert isinstance(caught.value, DatabaseError)
        assert not Tenant.objects.filter(schema_name="acme").exists()
        with pytest.raises(CommandError, match="GRANT CREATE ON DATABASE"):
            call_command("create_tenant", "acme", "--set", "name=x", stdout=io.StringIO())
        message = database_check()
        assert message.id == "pg_tenants.W022"
        assert repr(role["USER"]) in message.msg
        assert grant in str(message.hint)
    raw.execute(grant)
    with connected_as(server_params, **role):
        assert checks.check_databases(["default"]) == []
        tenant = make_tenant("acme")
        with tenant_context(tenant):
            assert Note.objects.count() == 0
        tenant.delete()


def test_a_role_that_may_not_use_a_tenants_schema(role: Any, acme: Any, server_params: dict[str, Any]) -> None:
    """It is an error that says so, and never the next schema on the path."""
    with connected_as(server_params, **role), tenant_context(acme):
        with pytest.raises(SchemaNotPermitted, match=r"'.*acme'.*Grant it USAGE"):
            Note.objects.count()
        with pytest.raises(SchemaNotPermitted):
            Tenant.objects.count()


def test_a_role_that_may_not_drop_a_tenants_schema(role: Any, acme: Any, server_params: dict[str, Any]) -> None:
    """Row and schema stay."""
    with connected_as(server_params, **role), pytest.raises(DatabaseError, match=r"denied|owner"):
        Tenant.objects.get(pk=acme.pk).delete()
    with tenant_context(acme):
        assert Note.objects.count() == 1
    assert Tenant.objects.filter(pk=acme.pk).exists()


def test_a_role_that_may_not_install_an_extension(role: Any, raw: Any, server_params: dict[str, Any]) -> None:
    """Role, extension, database, and both remedies; nothing of PostgreSQL's own words is lost."""
    with connected_as(server_params, **role):
        for name in ("citext", "pageinspect"):
            with pytest.raises(ExtensionUnavailable) as caught:
                extensions.install([name])
            for part in (
                repr(role["USER"]),
                repr(name),
                repr(raw.info.dbname),
                "superuser",
                "GRANT CREATE ON DATABASE",
            ):
                assert part in str(caught.value)
            assert f'CREATE EXTENSION "{name}"' in str(caught.value)
            assert isinstance(caught.value.__cause__, DatabaseError)
        modules = {**RAW["MODULES"], "tenant": {**RAW["MODULES"]["tenant"], "extensions": ["citext"]}}
        with override_settings(PG_TENANTS={**RAW, "MODULES": modules}):
            assert "may not install the extension 'citext'" in migrating()


def test_a_role_that_may_not_make_the_extensions_schema(role: Any, server_params: dict[str, Any]) -> None:
    """The setting is named."""
    with connected_as(server_params, **role):
        with pytest.raises(SchemaNotPermitted, match=r"'ext_there'.*EXTENSIONS_SCHEMA"):
            extensions.install(["citext"], schema="ext_there")


def test_a_role_in_a_new_database(role: Any, raw: Any, server_params: dict[str, Any]) -> None:
    """Migrating says what is missing, before it has made half of it."""
    name = f"{raw.info.dbname}_poor"
    drop = sql.SQL("DROP DATABASE IF EXISTS {} WITH (FORCE)").format(sql.Identifier(name))
    raw.execute(drop)
    raw.execute(sql.SQL("CREATE DATABASE {}").format(sql.Identifier(name)))
    try:
        with connected_as(server_params, NAME=name, **role):
            text = migrating()
        assert f'"{name}"' in text
        assert "GRANT CREATE ON DATABASE" in text or "GRANT USAGE, CREATE ON SCHEMA" in text
        assert SECRET not in text
    finally:
        raw.execute(drop)


# -- data that cannot be ----------------------------------------------------------------------------------------------


def test_a_row_with_a_bad_name(open_db: None) -> None:
    """A row that came past save() harms nobody: its schema is proved by each statement."""
    row = Tenant(schema_name='x"; DROP TABLE customers_tenant; --', name="x", module="tenant", status="active")
    row.created_at = timezone.now()
    Tenant._base_manager.bulk_create([row])
    try:
        with tenant_context(row), pytest.raises(PgTenantsError):
            Note.objects.count()
        assert Tenant.objects.filter(pk=row.pk).exists()
    finally:
        Tenant._base_manager.filter(pk=row.pk)._raw_delete("default")


@pytest.mark.parametrize("name", ["a\0b", 'a"; SELECT 1; --', "a\nb", "żółw", "$user", "pg_catalog", "a" * 70, "%s"])
def test_a_schema_that_cannot_be(open_db: None, name: str) -> None:
    """Nothing runs, in all ways of sending."""
    from pg_tenants import schema_context

    with schema_context(name), connections["default"].cursor() as cursor:
        for statement, params in (("SELECT 1", None), ("SELECT %s::int", [1])):
            with pytest.raises((DatabaseError, psycopg.Error, ValueError)):
                cursor.execute(statement, params)
        with pytest.raises((DatabaseError, psycopg.Error, ValueError)):
            cursor.executemany("SELECT %s", [[1], [2]])
    assert Tenant.objects.count() >= 0


# -- the command line -------------------------------------------------------------------------------------------------


def on_command_line(
    command: str, folder: Path, settings: str, params: dict[str, Any]
) -> subprocess.CompletedProcess[str]:
    (folder / "own_settings.py").write_text(f"from tests.child_settings import *\n{settings}\n")
    url = "postgresql://{user}:{password}@{host}:{port}/{dbname}".format(**params)
    environ = {**os.environ, "DATABASE_URL": url, "DJANGO_SETTINGS_MODULE": "own_settings"}
    environ["PYTHONPATH"] = os.pathsep.join([str(folder), str(ROOT)])
    return subprocess.run(
        [sys.executable, "-m", "django", command],
        env=environ,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def test_a_command_without_a_server(tmp_path: Path, server_params: dict[str, Any]) -> None:
    """The error says what to do, without a traceback."""
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    done = on_command_line("list_tenants", tmp_path, "", {**server_params, "host": "127.0.0.1", "port": port})
    assert done.returncode == 1
    assert done.stderr.startswith("CommandError: connection")
    assert f"No PostgreSQL answers at 127.0.0.1, port {port}" in done.stderr
    assert "Traceback" not in done.stderr


def test_installed_apps_without_ours(tmp_path: Path, server_params: dict[str, Any]) -> None:
    """Django's own ``migrate``, which is then in the place of ours, is refused before it records anything."""
    without = "INSTALLED_APPS.remove('pg_tenants')"
    done = on_command_line("migrate", tmp_path, without, server_params)
    assert done.returncode == 1
    assert "Add 'pg_tenants' to INSTALLED_APPS" in done.stderr
    assert "Applying" not in done.stdout
