"""Red flags: what SQL text says of schemas, and the checks that tell of it."""

from __future__ import annotations

import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from django.apps import apps
from django.conf import settings
from django.core import checks as django_checks
from django.core.checks import CheckMessage
from django.core.management import call_command
from django.test import override_settings

from pg_tenants import checks
from pg_tenants.checks import _redflags
from pg_tenants.checks._reading import Name, Statement, read

RAW: dict[str, Any] = settings.PG_TENANTS
MODULES: dict[str, Any] = RAW["MODULES"]
# Sessions are each tenant's, and shared ones are there as well: a bare name says nothing where neither is meant.
BOTH = {
    **MODULES,
    "shared": {"schema": "public", "apps": [*MODULES["shared"]["apps"], "django.contrib.sessions"]},
}


def names(sql: str) -> list[str]:
    """Return the qualified names that are found."""
    return [f"{found.schema}.{found.table}" for found in read(sql) if isinstance(found, Name) and found.schema]


@pytest.mark.parametrize(
    ("sql", "expected"),
    [
        ('SELECT * FROM billing.a, "c d"."E" AS x JOIN f.g ON x.id = g.id', ["billing.a", "c d.E", "f.g"]),
        ("SELECT * FROM (SELECT 1 FROM a.b) q, c.d WHERE e.f IN (SELECT 1 FROM g.h)", ["a.b", "c.d", "g.h"]),
        ("INSERT INTO A.b (x) SELECT y.z FROM c.d", ["a.b", "c.d"]),
        ("UPDATE ONLY a.b SET x = c.d FROM e.f WHERE x IS DISTINCT FROM g.h", ["a.b", "e.f"]),
        ("DELETE FROM a.b USING c.d WHERE b.x = d.x", ["a.b", "c.d"]),
        ("MERGE INTO a.b USING c.d ON b.x = d.x WHEN NOT MATCHED THEN INSERT (x) VALUES (e.f)", ["a.b", "c.d"]),
        ("TRUNCATE a.b, c.d CASCADE; LOCK TABLE e.f, g.h IN SHARE MODE", ["a.b", "c.d", "e.f", "g.h"]),
        ("DROP TABLE IF EXISTS a.b, c.d", ["a.b", "c.d"]),
        ("CREATE TABLE a.b (x int REFERENCES c.d (id) ON DELETE CASCADE, y int)", ["a.b", "c.d"]),
        ("ALTER TABLE ONLY a.b ADD CONSTRAINT c FOREIGN KEY (d) REFERENCES e.f", ["a.b", "e.f"]),
        ("CREATE INDEX CONCURRENTLY i ON a.b USING gin (c public.gin_trgm_ops)", ["a.b"]),
        ("CREATE OR REPLACE VIEW a.b AS SELECT 1 FROM c.d AS x JOIN e.f y ON x.id = y.id", ["a.b", "c.d", "e.f"]),
        ("CREATE TRIGGER t BEFORE INSERT OR UPDATE OF x ON a.b FOR EACH ROW EXECUTE FUNCTION c.d()", ["a.b"]),
        ("COMMENT ON TABLE a.b IS 'of c.d'; COPY e.f FROM '/x'", ["a.b", "e.f"]),
        ("REFRESH MATERIALIZED VIEW CONCURRENTLY a.b", ["a.b"]),
        ("SELECT extract(year FROM a.b), trim(both FROM c.d), public.similarity(e.f, g.h)", []),
        ("SELECT * FROM public.unnest(x), LATERAL a.b(1)", []),
        ("SELECT a.b FROM {{tables.c}} a, {{schema}}.d FOR UPDATE OF a", []),
        ("-- FROM a.b\n/* FROM c.d */ SELECT 'FROM e.f', $$ FROM g.h $$, E'\\' FROM i.j'", []),
        ("DO $x$ BEGIN IF y THEN DELETE FROM a.b; ELSE INSERT INTO c.d VALUES (1); END IF; END $x$", ["a.b", "c.d"]),
        (
            "CREATE FUNCTION f() RETURNS int AS $$ SELECT CASE WHEN x THEN 1 ELSE 2 END FROM a.b $$ LANGUAGE sql",
            ["a.b"],
        ),
        ("CREATE FUNCTION f() RETURNS int AS $$ SELECT id INTO r.x FROM a.b $$ LANGUAGE plpgsql", ["a.b"]),
        ("CREATE FUNCTION f() RETURNS int AS $$ return 'FROM a.b' FROM c.d $$ LANGUAGE plpython3u", []),
        ("CREATE FUNCTION f() RETURNS int BEGIN ATOMIC SELECT id FROM a.b; SELECT id FROM c.d; END", ["a.b", "c.d"]),
        ("GRANT SELECT ON a.b TO c; REVOKE SELECT ON TABLE d.e FROM f", ["a.b", "d.e"]),
        ("SELECT * FROM a.b.c", []),
        ("", []),
    ],
)
def test_tables_that_sql_names(sql: str, expected: list[str]) -> None:
    """Where a table can stand; nowhere else, whatever looks alike."""
    assert sorted(dict.fromkeys(names(sql))) == sorted(expected)


@pytest.mark.parametrize(
    ("sql", "kinds"),
    [
        ("SET search_path TO a", ["path"]),
        ("set local SEARCH_PATH = a; SET SESSION search_path = b; SET SCHEMA 'c'", ["path"] * 3),
        ("SELECT pg_catalog.set_config('search_path', 'a', false)", ["path"]),
        ("ALTER ROLE a SET search_path = b; ALTER DATABASE c SET search_path = d", ["path", "path"]),
        ("DO $$ BEGIN PERFORM set_config('search_path', 'a', true); END $$", ["path"]),
        ("CREATE SCHEMA a; DROP SCHEMA a CASCADE; ALTER SCHEMA a RENAME TO b", ["schema"] * 3),
        ("CREATE EXTENSION IF NOT EXISTS a; DROP EXTENSION a", ["extension"] * 2),
        ("CREATE FUNCTION f() RETURNS int LANGUAGE sql SET search_path = '' AS 'SELECT 1'", []),
        ("SET statement_timeout = 0; SELECT 'SET search_path = a'; -- SET search_path = a", []),
        ("SELECT set_config('app.x', 'search_path', true)", []),
    ],
)
def test_statements_that_concern_schemas(sql: str, kinds: list[str]) -> None:
    """By their first words; the clause of a function, which holds for its calls alone, is none of them."""
    assert [found.kind for found in read(sql) if isinstance(found, Statement)] == kinds


def test_lines_and_common_tables() -> None:
    """Lines are those of the file, in bodies too; what WITH names is no table."""
    sql = "-- x\n\nWITH a AS (SELECT 1 FROM b)\nSELECT * FROM a, c;\nDO $$\nBEGIN\n  DELETE FROM d;\nEND $$"
    assert [(n.table, n.line, n.in_body) for n in read(sql) if isinstance(n, Name)] == [
        ("b", 3, False), ("c", 4, False), ("d", 7, True)
    ]  # fmt: skip


# -- SQL files --------------------------------------------------------------------------------------------------------


def of_file(folder: Path, sql: str, module: str = "tenant", modules: dict[str, Any] = MODULES) -> list[CheckMessage]:
    (folder / "0001_a.sql").write_text(sql)
    changed = {**modules, module: {**modules[module], "sql_migrations": folder}}
    with override_settings(PG_TENANTS={**RAW, "MODULES": changed}):
        assert checks.check_sql_migrations() == []
        return checks.check_sql_files()


@pytest.mark.parametrize(
    ("sql", "parts"),
    [
        ("SELECT 1;\nINSERT INTO billing.billing_invoice SELECT 1", ["line 2", "'billing.billing_invoice'", "test runs",
                                                                 "{{tables.billing.billing_invoice}}"]),
        ('CREATE VIEW v AS SELECT 1 FROM "billing".totals', ["'billing.totals'", "{{tables.billing.totals}}"]),
        ("DELETE FROM public.customers_tenant", ["'public.customers_tenant'", "{{tables.shared.customers_tenant}}"]),
        ("UPDATE public.notes_note SET title = ''", ["instead of the tenant's", "Write {{tables.notes_note}}."]),
        ("CREATE FUNCTION f() RETURNS int AS $$ SELECT 1 FROM billing.billing_invoice $$ LANGUAGE sql", ["bare name"]),
    ],
)  # fmt: skip
def test_w100_a_hard_coded_schema(tmp_path: Path, sql: str, parts: list[str]) -> None:
    """In a tenant module, whose SQL runs for each tenant; with what to write instead."""
    (message,) = of_file(tmp_path, sql)
    assert message.id == "pg_tenants.W100"
    for part in [str(tmp_path / "0001_a.sql"), "'tenant'", *parts]:
        assert part in f"{message.msg} {message.hint}"


@pytest.mark.parametrize(
    ("sql", "module"),
    [
        ("SELECT public.similarity('a', 'b') FROM {{tables.notes_note}}", "tenant"),
        ("CREATE INDEX i ON {{tables.notes_note}} USING gin (title public.gin_trgm_ops)", "tenant"),
        ("SELECT * FROM public.pg_stat_statements, public.spatial_ref_sys", "tenant"),
        ("SELECT 'DELETE FROM billing.billing_invoice' -- FROM billing.x", "tenant"),
        ("SELECT * FROM pg_catalog.pg_class, information_schema.tables, other.things", "tenant"),
        ("SELECT * FROM billing_invoice, customers_tenant, notes_note", "tenant"),
        ("SELECT * FROM billing.billing_invoice, public.customers_tenant", "billing"),
        ("CREATE SCHEMA archive; CREATE EXTENSION IF NOT EXISTS pg_trgm", "billing"),
    ],
)
def test_what_is_no_red_flag(tmp_path: Path, sql: str, module: str) -> None:
    """Extensions' things, the catalog, text, bare names of one table, and fixed modules, which run once."""
    assert of_file(tmp_path, sql, module) == []


def test_w102_a_path_that_is_set_in_a_body(tmp_path: Path) -> None:
    """Elsewhere in a file it is an error (E045)."""
    (message,) = of_file(tmp_path, "DO $$ BEGIN PERFORM set_config('search_path', 'public', true); END $$", "billing")
    assert message.id == "pg_tenants.W102"
    assert "line 1" in message.msg
    assert "Leave it out" in str(message.hint)


def test_w103_a_bare_name_of_several_tables(tmp_path: Path) -> None:
    """Only where the module has no such table itself: then its own is found first."""
    (message,) = of_file(tmp_path, "SELECT 1;\nDELETE FROM django_session", "billing", BOTH)
    assert message.id == "pg_tenants.W103"
    assert "line 2" in message.msg
    assert "'django_session'" in message.msg
    assert "'shared', 'tenant'" in message.msg
    assert message.hint == "Write {{tables.shared.django_session}}."
    assert of_file(tmp_path, "DELETE FROM django_session", "tenant", BOTH) == []
    assert of_file(tmp_path, "DELETE FROM {{tables.shared.django_session}}", "billing", BOTH) == []
    assert of_file(tmp_path, "DELETE FROM django_session", "billing") == []


@pytest.mark.parametrize(
    "sql", ["CREATE SCHEMA archive", "DROP SCHEMA IF EXISTS archive", "ALTER SCHEMA a RENAME TO b"]
)
def test_w104_a_schema_that_each_tenant_makes(tmp_path: Path, sql: str) -> None:
    """There is one of that name for all."""
    (message,) = of_file(tmp_path, sql)
    assert message.id == "pg_tenants.W104"
    assert sql.split()[1] in message.msg
    assert "fixed module" in str(message.hint)


def test_w105_an_extension_that_each_tenant_makes(tmp_path: Path) -> None:
    """Modules have a place for it."""
    (message,) = of_file(tmp_path, "CREATE EXTENSION IF NOT EXISTS pg_trgm")
    assert message.id == "pg_tenants.W105"
    assert "['tenant']['extensions']" in str(message.hint)


def test_files_that_take_back_are_read_too(tmp_path: Path) -> None:
    """A file is named once for each table, with the first line."""
    (tmp_path / "0001_a.down.sql").write_text("DELETE FROM billing.x;\nDELETE FROM billing.x")
    (message,) = of_file(tmp_path, "SELECT 1")
    assert "0001_a.down.sql, line 1" in message.msg


def test_w106_a_folder_in_no_module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Beside those of two modules, or in an app; folders without numbered files are none."""
    for name in ("tenant", "billing", "invoices", "dumps"):
        (tmp_path / name).mkdir()
    (tmp_path / "dumps" / "all.sql").write_text("SELECT 1")
    (tmp_path / "invoices" / "0001_a.sql").write_text("SELECT 1")
    changed = {name: {**MODULES[name], "sql_migrations": tmp_path / name} for name in ("tenant", "billing")}
    with override_settings(PG_TENANTS={**RAW, "MODULES": {**MODULES, **changed}}):
        (message,) = checks.check_sql_files()
    assert message.id == "pg_tenants.W106"
    assert str(tmp_path / "invoices") in message.msg
    assert "'tenant'" in str(message.hint)
    app = apps.get_app_config("notes")
    monkeypatch.setattr(app, "path", str(tmp_path))
    (tmp_path / "invoices").rename(tmp_path / "sql_migrations")
    (message,) = checks.check_sql_files()
    assert str(tmp_path / "sql_migrations") in message.msg


# -- migrations -------------------------------------------------------------------------------------------------------

Migrations = Callable[..., list[CheckMessage]]


@pytest.fixture
def of_migration(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Migrations:
    """Give a function that checks a project in which an app has one migration with these operations."""

    def check(operations: str, label: str = "notes", **changes: Any) -> list[CheckMessage]:
        # Modules are kept by their names.
        package = tmp_path / f"flagged_{uuid.uuid4().hex}"
        package.mkdir()
        (package / "__init__.py").touch()
        (package / "0001_initial.py").write_text(
            "from django.db import migrations\nfrom pg_tenants.operations import TenantSQL\n\n"
            f"class Migration(migrations.Migration):\n    operations = [{operations}]\n"
        )
        with override_settings(MIGRATION_MODULES={label: package.name}, PG_TENANTS={**RAW, **changes}):
            return checks.check_deployed_migrations()

    monkeypatch.syspath_prepend(tmp_path)
    return check


@pytest.mark.parametrize(
    ("operations", "check_id", "parts"),
    [
        ("migrations.RunSQL('DELETE FROM billing.x')", "W100", ["The RunSQL in the migration notes.0001_initial",
                                                                "TenantSQL instead of RunSQL", "{{tables.billing.x}}"]),
        ("TenantSQL('DELETE FROM billing.x')", "W100", ["The TenantSQL", "Write {{tables.billing.x}}."]),
        ("migrations.RunSQL(['SELECT 1', ('DELETE FROM billing.x WHERE a = %s', [1])])", "W100", ["line 2"]),
        ("migrations.RunSQL('SELECT 1', 'DROP TABLE billing.x')", "W100", ["'billing.x'"]),
        ("migrations.SeparateDatabaseAndState([migrations.RunSQL('DELETE FROM billing.x')])", "W100", ["line 1"]),
        ("migrations.RunSQL('SET search_path = public; CREATE TABLE x ()')", "W102", ["'SET search_path ='"]),
        ("migrations.RunSQL('CREATE SCHEMA x')", "W104", ["'CREATE SCHEMA x'"]),
        ("migrations.RunSQL('CREATE EXTENSION x')", "W105", ["'CREATE EXTENSION x'"]),
    ],
)  # fmt: skip
def test_operations_of_migrations(of_migration: Migrations, operations: str, check_id: str, parts: list[str]) -> None:
    """Forwards and backwards, in lists and inside others; RunSQL is told to become TenantSQL."""
    (message,) = of_migration(operations)
    assert message.id == f"pg_tenants.{check_id}"
    for part in parts:
        assert part in f"{message.msg} {message.hint}"


def test_operations_that_are_right(of_migration: Migrations) -> None:
    """Python is not read, and none of these names a schema."""
    operations = (
        "migrations.RunSQL(migrations.RunSQL.noop, migrations.RunSQL.noop), TenantSQL('DELETE FROM {{tables.x}}'), "
        "migrations.RunSQL('DELETE FROM notes_note'), "
        "migrations.RunPython(lambda apps, editor: editor.execute('DELETE FROM billing.x'))"
    )
    assert of_migration(operations) == []
    assert of_migration("migrations.RunSQL('DELETE FROM billing.x')", "billing") == []


def test_of_a_librarys_migrations_only_what_is_sure(of_migration: Migrations, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its own table in a shared schema, a path, and a schema that the second tenant cannot make."""
    assert _redflags._is_library(apps.get_app_config("auth").path)
    assert not _redflags._is_library(apps.get_app_config("notes").path)
    monkeypatch.setattr(_redflags, "_is_library", lambda path: True)
    doubtful = ["DELETE FROM billing.x", "CREATE EXTENSION IF NOT EXISTS x", "CREATE SCHEMA IF NOT EXISTS x"]
    assert of_migration(", ".join(f"migrations.RunSQL({sql!r})" for sql in doubtful)) == []
    sure = ["DELETE FROM public.notes_note", "SET search_path = public", "CREATE SCHEMA x"]
    found = of_migration(", ".join(f"migrations.RunSQL({sql!r})" for sql in sure))
    assert [message.id for message in found] == ["pg_tenants.W100", "pg_tenants.W102", "pg_tenants.W104"]
    assert all("MIGRATION_MODULES" in str(message.hint) for message in found)


def test_no_app_here_raises_a_red_flag() -> None:
    """Neither the example's nor Django's own."""
    assert checks.check_deployed_migrations() == checks.check_sql_files() == checks.check_pools() == []


def test_each_is_silenced_by_itself(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """By SILENCED_SYSTEM_CHECKS, as any check."""
    (tmp_path / "0001_a.sql").write_text("CREATE SCHEMA x; DELETE FROM billing.x")
    modules = {**MODULES, "tenant": {**MODULES["tenant"], "sql_migrations": tmp_path}}
    silenced = [*settings.SILENCED_SYSTEM_CHECKS, "pg_tenants.W104"]
    with override_settings(PG_TENANTS={**RAW, "MODULES": modules}, SILENCED_SYSTEM_CHECKS=silenced):
        call_command("check")
    told = capsys.readouterr().err
    assert "pg_tenants.W100" in told
    assert "pg_tenants.W104" not in told


# -- all of them ------------------------------------------------------------------------------------------------------


def test_the_checks_are_registered() -> None:
    """What imports all migrations runs with a database, or for deployment."""
    registry = django_checks.registry.registry
    assert {checks.check_sql_files, checks.check_migrations, checks.check_pools} <= registry.registered_checks
    assert checks.check_deployed_migrations in registry.deployment_checks
    assert checks.check_migrations() == []
    assert checks.check_deployed_migrations(databases=["default"]) == []
