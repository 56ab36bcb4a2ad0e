"""SQL files of modules: in one plan with Django's migrations, recorded in each schema, and noticed when changed."""

from __future__ import annotations

import getpass
import io
import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from django.conf import settings
from django.core.management import call_command
from django.core.management.base import CommandError
from django.db import connection
from django.test import override_settings
from django.test.utils import CaptureQueriesContext
from psycopg import sql as psql

from example_project.customers.models import Tenant
from pg_tenants import catalog, current_schema, migrations, schemas, tenant_context
from pg_tenants.checks import check_sql_migrations
from pg_tenants.exceptions import MigrationFailed, SchemaDiffers, SchemaDoesNotExist
from pg_tenants.migrations._executor import ModuleExecutor
from pg_tenants.names import SQL_HISTORY_TABLE
from tests.conftest import _with_note, make_tenant


def run(*args: str, command: str = "migrate_schemas", **kwargs: Any) -> str:
    out = io.StringIO()
    call_command(command, *args, stdout=out, stderr=out, no_color=True, **kwargs)
    assert current_schema() is None
    return out.getvalue()


def report(*args: str) -> dict[str, list[str]]:
    found = json.loads(run("--json", *args))
    return {entry["schema"]: entry["migrations"] for entry in found["schemas"]}


def refused(*args: str) -> str:
    with pytest.raises(CommandError) as caught:
        run(*args)
    return str(caught.value)


def physical(name: str) -> str:
    return schemas.tenant_connection().physical_schema(name)


class Folders:
    """The folders of two modules."""

    def __init__(self, place: Path, raw: Any):
        self.place, self.raw = place, raw

    def write(self, name: str, text: str | bytes, module: str = "tenant") -> Path:
        path = self.place / module / name
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
        return path

    def value(self, query: str, schema: str = "acme") -> Any:
        """Return the first value that a query of a schema gives."""
        row = self.raw.execute(query.replace("{}", f'"{physical(schema)}"')).fetchone()
        return row and row[0]

    def has(self, relation: str, schema: str = "acme") -> bool:
        return bool(self.value(f"SELECT to_regclass('{{}}.{relation}') IS NOT NULL", schema))


@contextmanager
def folders(raw: Any, place: Path, **changes: Any) -> Iterator[Folders]:
    """Give the modules `tenant` and `billing` folders of SQL files."""
    modules = {name: dict(module) for name, module in settings.PG_TENANTS["MODULES"].items()}
    for name in ("tenant", "billing"):
        (place / name).mkdir()
        modules[name]["sql_migrations"] = place / name
    modules["tenant"].update(changes)
    with override_settings(PG_TENANTS={**settings.PG_TENANTS, "MODULES": modules}):
        yield Folders(place, raw)
    billing = psql.Identifier(physical("billing"))
    clean = (
        "DROP TABLE IF EXISTS {0}.made, {0}.pg_tenants_sql_migrations CASCADE;"
        " DELETE FROM {0}.django_migrations WHERE app LIKE 'sql:%'"
    )
    raw.execute(psql.SQL(clean).format(billing))


@pytest.fixture
def files(open_db: None, raw: Any, tmp_path: Path) -> Iterator[Folders]:
    """Return the folders; tenants have nothing else, so they are made in no time."""
    with folders(raw, tmp_path, apps=[], extensions=[]) as found:
        yield found


@pytest.fixture
def full(open_db: None, raw: Any, tmp_path: Path) -> Iterator[Folders]:
    """Return the folders; tenants have their apps as well."""
    with folders(raw, tmp_path) as found:
        yield found


@pytest.fixture
def acme(files: Folders) -> Any:
    return make_tenant("acme")


@pytest.fixture
def globex(files: Folders) -> Any:
    return make_tenant("globex")


# -- one plan ---------------------------------------------------------------------------------------------------------


def test_one_plan_has_both(acme: Any, globex: Any, files: Folders) -> None:
    """Plan, list, check and JSON show files like migrations; each schema runs those of its module, by number."""
    files.write("2_second.sql", "ALTER TABLE made ADD two int;")
    files.write("10_tenth.sql", "ALTER TABLE made ADD ten int")
    files.write("0001_first.sql", "CREATE TABLE made (one int);")
    files.write("README.md", "not SQL")
    files.write("0001_made.sql", "CREATE TABLE {{tables.made}} (total int)", "billing")
    tenants = ["sql:tenant.0001_first", "sql:tenant.2_second", "sql:tenant.10_tenth"]
    wanted = {"public": [], "billing": ["sql:billing.0001_made"], "acme": tenants, "globex": tenants}
    assert report("--plan") == wanted
    text = run("--plan")
    assert text.index("sql:billing.0001_made") < text.index("acme (tenant)") < text.index("sql:tenant.10_tenth")
    assert "acme     tenant   3 pending" in run("--list")
    with pytest.raises(SystemExit):
        run("--check")
    assert not files.has("made")
    text = run("--schema", "acme")
    assert "acme: Applied sql:tenant.0001_first, sql:tenant.2_second, sql:tenant.10_tenth" in text
    assert not files.has("made", "globex")
    assert report() == {**wanted, "acme": []}
    assert report() == {key: [] for key in wanted}
    run("--check")
    columns = (
        "SELECT string_agg(attname, ' ' ORDER BY attnum) FROM pg_attribute"
        " WHERE attnum > 0 AND attrelid = '{}.made'::regclass"
    )
    assert files.value(columns) == files.value(columns, "globex") == "one two ten"
    assert files.value(columns, "billing") == "total"


def test_the_record(acme: Any, files: Folders) -> None:
    """Each run is kept, with who, when and how long; that a file is applied is in Django's record."""
    files.write("0001_slow.sql", "SELECT pg_sleep(0.05)")
    files.write("0001_slow.down.sql", "SELECT 1")
    run("--schema", "acme")
    run("sql:tenant", "zero", "--schema", "acme")
    run("sql:tenant", "--fake", "--schema", "acme")
    runs = migrations.sql_history("acme")
    assert [(r.module, r.name, r.direction, r.faked, r.in_force) for r in runs] == [
        ("tenant", "0001_slow", "up", False, False),
        ("tenant", "0001_slow", "down", False, False),
        ("tenant", "0001_slow", "up", True, True),
    ]
    first = runs[0]
    assert first.milliseconds
    assert 50 <= first.milliseconds < 5000
    assert first.role == files.raw.info.user
    assert first.client.startswith(f"{getpass.getuser()}@")
    assert first.checksum == runs[2].checksum != runs[1].checksum
    assert "applied at" in str(first)
    assert "recorded at" in str(runs[2])
    assert files.value("SELECT count(*) FROM {}.django_migrations WHERE app = 'sql:tenant'") == 1
    assert migrations.sql_history("public") == []
    with pytest.raises(SchemaDoesNotExist):
        migrations.sql_history("nowhere")


def test_a_new_tenant(full: Folders) -> None:
    """It gets the files with its migrations, with a record of its own."""
    full.write("0001_made.sql", "CREATE TABLE {{tables.made}} AS SELECT count(*) AS notes FROM {{tables.notes_note}};")
    make_tenant("acme")
    assert full.has("made")
    assert len(migrations.sql_history("acme")) == 1
    assert report() == {"public": [], "billing": [], "acme": []}
    run("--schema", "acme", "--plan")


def test_templates_mean_the_schema_that_is_migrated(full: Folders) -> None:
    """Each its own; text in strings, comments and dollar quotes stays, and so do percent signs."""
    for name in ("acme", "globex"):
        _with_note(name)
    full.write(
        "0001_text.sql",
        """-- {{nothing}} and 100%
        CREATE TABLE {{tables.made}} (text text DEFAULT '{{tables.x}} 100% %s');
        INSERT INTO {{schema}}.made SELECT 'note: ' || title FROM {{tables.notes_note}};
        INSERT INTO made (text) VALUES ($body${{schema}}$body$), (DEFAULT);
        INSERT INTO made SELECT schema_name FROM {{tables.customers_tenant}} WHERE schema_name = 'globex' AND 5 % 3 = 2;
        """,
    )
    run()
    texts = "SELECT array_agg(text ORDER BY ctid) FROM {}.made"
    for name in ("acme", "globex"):
        assert full.value(texts, name) == [f"note: note of {name}", "{{schema}}", "{{tables.x}} 100% %s", "globex"]


def test_fixed_modules_sharing_a_schema(files: Folders, tmp_path: Path) -> None:
    """Each has its own numbers and its own record there."""
    for module in ("billing", "reports"):
        (tmp_path / module).mkdir(exist_ok=True)
        files.write("0001_one.sql", f"CREATE TABLE IF NOT EXISTS made (); COMMENT ON TABLE made IS '{module}'", module)
    modules = {
        **settings.PG_TENANTS["MODULES"],
        "reports": {"schema": "billing", "sql_migrations": str(tmp_path / "reports")},
    }
    with override_settings(PG_TENANTS={**settings.PG_TENANTS, "MODULES": modules}):
        assert report("--schema", "billing")["billing"] == ["sql:billing.0001_one", "sql:reports.0001_one"]
        assert {r.module for r in migrations.sql_history("billing")} == {"billing", "reports"}


# -- order among Django's migrations ----------------------------------------------------------------------------------


def planned(history: list[tuple[str, str]] | None = None) -> list[str]:
    """Return what a schema would run, of auth and of the files."""
    (module,) = (m for m in migrations.required_registry() if m.name == "tenant")
    executor = ModuleExecutor(schemas.tenant_connection(), module.labels, history=history or [])
    plan = executor.migration_plan(executor.own_targets())
    full = executor.migration_plan(executor.loader.graph.leaf_nodes(), clean_start=True)
    names = [f"{m.app_label}.{m.name}"[:15] for m, _ in plan]
    assert [n for n in (f"{m.app_label}.{m.name}"[:15] for m, _ in full) if n in names] == names
    return names


def test_files_without_a_place_are_last(full: Folders) -> None:
    """Behind all migrations of the module's apps."""
    full.write("0001_a.sql", "SELECT 1")
    full.write("0002_b.sql", "SELECT 1")
    assert planned()[-2:] == ["sql:tenant.0001", "sql:tenant.0002"]


def test_a_file_runs_where_it_was_written(full: Folders) -> None:
    """Behind what it comes after and before all that is newer, so a new schema is made as the old ones were."""
    full.write("0001_a.sql", "-- pg_tenants: after=auth.0003_alter_user_email_max_length\nSELECT 1")
    full.write("0002_b.sql", "SELECT 1")
    full.write("0003_c.sql", "-- pg_tenants: after=auth.0005_alter_user_last_login_null atomic=true\nSELECT 1")
    full.write("0004_d.sql", "-- pg_tenants: after=auth.0007_alter_validators_add_error_messages\nSELECT 1")
    full.write("0005_e.sql", "SELECT 1")
    found = planned()
    auth = [name for name in found if name.startswith(("auth.000", "sql"))]
    assert auth[:12] == [
        "auth.0001_initi",
        "auth.0002_alter",
        "auth.0003_alter",
        "sql:tenant.0001",
        "auth.0004_alter",
        "auth.0005_alter",
        "sql:tenant.0002",
        "sql:tenant.0003",
        "auth.0006_requi",
        "auth.0007_alter",
        "sql:tenant.0004",
        "auth.0008_alter",
    ]
    assert found[-1] == "sql:tenant.0005"


def test_a_file_before_a_migration(full: Folders) -> None:
    """It runs before that, and behind what that needs."""
    full.write("0001_a.sql", "-- pg_tenants: before=auth.0004_alter_user_username_opts\nSELECT 1")
    found = planned()
    assert found.index("auth.0003_alter") + 1 == found.index("sql:tenant.0001") < found.index("auth.0004_alter")


def test_a_migration_taken_back_takes_its_files_along(full: Folders) -> None:
    """Those that come after it, first."""
    make_tenant("acme")
    full.write("0001_made.sql", "-- pg_tenants: after=notes.0001_initial\nCREATE VIEW made AS TABLE notes_note")
    full.write("0001_made.down.sql", "DROP VIEW made")
    assert report("--schema", "acme")["acme"] == ["sql:tenant.0001_made"]
    assert report("notes", "zero", "--schema", "acme")["acme"] == ["-sql:tenant.0001_made", "-notes.0001_initial"]
    assert not full.has("made")
    assert report("--schema", "acme")["acme"] == ["notes.0001_initial", "sql:tenant.0001_made"]


def test_a_cycle(acme: Any, files: Folders) -> None:
    """It is told, and nothing is run."""
    files.write("0001_a.sql", "-- pg_tenants: after=notes.0001_initial before=auth.0001_initial\nSELECT 1")
    assert "depend on each other" in refused()
    assert migrations.sql_history("acme") == []


# -- backwards --------------------------------------------------------------------------------------------------------


def test_backwards(acme: Any, globex: Any, files: Folders) -> None:
    """To a number, or to zero, by the files that take back; and forwards again."""
    for number in (1, 2, 3):
        files.write(f"{number}_t{number}.sql", f"CREATE TABLE made{number} ()")
        files.write(f"{number}_t{number}.down.sql", f"DROP TABLE {{{{tables.made{number}}}}}")
    run()
    assert report("sql:tenant", "1", "--schema", "acme")["acme"] == ["-sql:tenant.3_t3", "-sql:tenant.2_t2"]
    assert [files.has(f"made{n}") for n in (1, 2, 3)] == [True, False, False]
    assert files.has("made3", "globex")
    assert report("sql:tenant", "0002", "--schema", "acme")["acme"] == ["sql:tenant.2_t2"]
    assert report("sql:tenant", "2_t2", "--schema", "acme")["acme"] == []
    assert report("sql:tenant", "zero")["globex"] == ["-sql:tenant.3_t3", "-sql:tenant.2_t2", "-sql:tenant.1_t1"]
    assert not files.has("made1")
    run()
    assert files.has("made3")


def test_without_a_file_that_takes_back(acme: Any, files: Folders) -> None:
    """It is an error that names the file, and nothing is done; it may be faked."""
    files.write("0001_made.sql", "CREATE TABLE made ()")
    files.write("0002_more.sql", "ALTER TABLE made ADD x int")
    files.write("0002_more.down.sql", "")
    run()
    assert "its operation 'SQL file 0001_made.sql' is irreversible" in refused("sql:tenant", "zero")
    assert files.has("made")
    run("sql:tenant", "zero", "--fake")
    assert files.has("made")
    assert report("--plan")["acme"] == ["sql:tenant.0001_made", "sql:tenant.0002_more"]
    assert "already exists" in refused()
    run("--fake")
    assert report("--plan")["acme"] == []


@pytest.mark.parametrize(
    ("args", "part"),
    [
        (["sql:tenants"], "Did you mean 'sql:tenant'?"),
        (["sql:shared"], "No installed app"),
        (["sql:tenant", "7"], "no migration that begins with '7'"),
    ],
)
def test_unknown_files(acme: Any, files: Folders, args: list[str], part: str) -> None:
    """They are errors."""
    files.write("0001_a.sql", "SELECT 1")
    assert part in refused(*args)


# -- changed, missing, late -------------------------------------------------------------------------------------------


def test_an_edited_file(acme: Any, globex: Any, files: Folders) -> None:
    """It is an error of the schemas that have it applied, also where there is nothing else to do."""
    path = files.write("0001_made.sql", "CREATE TABLE made ()")
    run("--schema", "acme")
    before = migrations.sql_history("acme")[0].checksum
    path.write_text("CREATE TABLE made (x int)")
    for args in ((), ("--plan",), ("--check",), ("--list",)):
        text = refused(*args)
        assert f"acme: MigrationFailed: The file {path} was changed after it was applied" in text
        assert "globex" not in text
    assert files.has("made", "globex")
    files.write("0001_made.sql", f"-- pg_tenants: was={before[:12]}\nCREATE TABLE made (x int)")
    run("--check")
    assert report() == {"public": [], "billing": [], "acme": [], "globex": []}


def test_what_is_no_change(acme: Any, files: Folders) -> None:
    """Other ends of lines, a byte order mark, and directives."""
    files.write("0001_made.sql", "CREATE TABLE made (\n x int\n);\n")
    run()
    for text in (
        b"CREATE TABLE made (\r\n x int\r\n);\r\n",
        b"\xef\xbb\xbfCREATE TABLE made (\n x int\n);\n",
        b"CREATE TABLE made (\r x int\r);\r",
        b"-- pg_tenants: after=notes.0001_initial late=true\nCREATE TABLE made (\n x int\n);\n",
    ):
        files.write("0001_made.sql", text)
        assert report()["acme"] == []
    files.write("0001_made.sql", "CREATE TABLE made (\n x  int\n);\n")
    assert "was changed" in refused()


def test_a_missing_file(acme: Any, files: Folders) -> None:
    """Applied and gone is an error."""
    path = files.write("0001_made.sql", "CREATE TABLE made ()")
    run()
    path.unlink()
    assert "0001_made.sql of sql:tenant is applied and not in the folder" in refused("--check")
    path.write_text("CREATE TABLE made ()")
    run("--check")


def test_a_late_file(acme: Any, globex: Any, files: Folders) -> None:
    """One with a lower number than an applied one is an error, unless it says that it may be late."""
    files.write("0001_one.sql", "SELECT 1")
    files.write("0003_three.sql", "CREATE TABLE made ()")
    run("--schema", "acme")
    path = files.write("0002_two.sql", "COMMENT ON SCHEMA {{schema}} IS 'two'")
    text = refused()
    assert f"acme: MigrationFailed: The file {path} is late: 0003_three is applied already" in text
    assert [r.name for r in migrations.sql_history("globex")] == ["0001_one", "0002_two", "0003_three"]
    path.write_text("-- pg_tenants: late=true\n" + path.read_text())
    assert report("--plan")["acme"] == ["sql:tenant.0002_two"]
    files.write("0004_four.sql", "SELECT 4")
    assert report("sql:tenant")["acme"] == ["sql:tenant.0002_two", "sql:tenant.0004_four"]
    assert report() == {"public": [], "billing": [], "acme": [], "globex": []}


def test_reading_the_record_of_many_schemas(acme: Any, files: Folders) -> None:
    """It takes as many statements for forty schemas as for ten."""
    files.write("0001_made.sql", "CREATE TABLE made ()")
    run()
    counts = []
    tables = ("pg_tenants_marker", "django_migrations", SQL_HISTORY_TABLE)
    columns = [f.column for f in Tenant._meta.local_fields if f.column not in ("id", "schema_name")]
    for start, stop in ((0, 10), (10, 40)):
        names = [f"many{number}" for number in range(start, stop)]
        for name in names:
            own, model = psql.Identifier(physical(name)), psql.Identifier(physical("acme"))
            files.raw.execute(psql.SQL("CREATE SCHEMA {}").format(own))
            for table in tables:
                files.raw.execute(
                    psql.SQL("CREATE TABLE {}.{} AS TABLE {}.{}").format(
                        own, psql.Identifier(table), model, psql.Identifier(table)
                    )
                )
        with connection.cursor() as cursor:
            cursor.execute(
                f"INSERT INTO customers_tenant (schema_name, {', '.join(columns)}) SELECT new, {', '.join(columns)}"
                " FROM customers_tenant, unnest(%s::text[]) AS new WHERE schema_name = 'acme'",
                [names],
            )
        with CaptureQueriesContext(connection) as seen:
            assert len(report("--plan")) == 3 + stop
        counts.append(len(seen))
    files.raw.execute(
        psql.SQL("UPDATE {}.pg_tenants_sql_migrations SET checksum = 'x'").format(psql.Identifier(physical("many39")))
    )
    try:
        assert counts[0] == counts[1]
        text = refused("--check")
        assert "many39: MigrationFailed" in text
        assert "1 schema cannot be migrated" in text
    finally:
        with connection.cursor() as cursor:
            cursor.execute("DELETE FROM customers_tenant WHERE schema_name LIKE 'many%%'", [])
        for number in range(40):
            files.raw.execute(psql.SQL("DROP SCHEMA {} CASCADE").format(psql.Identifier(physical(f"many{number}"))))


# -- transactions -----------------------------------------------------------------------------------------------------


def test_a_failing_file(acme: Any, globex: Any, files: Folders) -> None:
    """It is rolled back in that schema alone, and named with its line; the next run does what is left."""
    path = files.write(
        "0001_made.sql", "CREATE TABLE made (x int);\nINSERT INTO {{tables.made}}\n  SELECT 1 FROM extra;\n"
    )
    files.raw.execute(psql.SQL("CREATE TABLE {}.extra ()").format(psql.Identifier(physical("globex"))))
    text = refused()
    assert f'acme: ProgrammingError: {path}, line 3: relation "extra" does not exist' in text
    assert "globex" not in text
    assert not files.has("made")
    assert files.has("made", "globex")
    assert migrations.sql_history("acme") == []
    files.raw.execute(psql.SQL("CREATE TABLE {}.extra ()").format(psql.Identifier(physical("acme"))))
    assert report() == {"public": [], "billing": [], "acme": ["sql:tenant.0001_made"], "globex": []}


def test_what_cannot_run_in_a_transaction(acme: Any, files: Folders) -> None:
    """It is an error that tells the directive; with that it runs, in its schema."""
    files.raw.execute(psql.SQL("CREATE TABLE {}.other (title text)").format(psql.Identifier(physical("acme"))))
    text = "CREATE INDEX CONCURRENTLY made ON {{tables.other}} (title)"
    path = files.write("0001_index.sql", text)
    found = refused()
    assert f"{path}" in found
    assert "'-- pg_tenants: atomic=false'" in found
    files.write("0001_index.sql", f"-- pg_tenants: atomic=false\n{text};\nVACUUM other;")
    files.write("0001_index.down.sql", "DROP INDEX made")
    run()
    assert files.value("SELECT indisvalid FROM pg_index WHERE indexrelid = '{}.made'::regclass") is True
    run("sql:tenant", "zero")
    assert not files.has("made")


def test_a_file_outside_a_transaction_that_fails_half_way(acme: Any, files: Folders) -> None:
    """What was done is said, the file is not recorded as applied, and it can be run again."""
    files.write(
        "0001_half.sql",
        "-- pg_tenants: atomic=false\nCREATE TABLE IF NOT EXISTS made (x int);\n\nINSERT INTO made\nSELECT 1 / 0;\n"
        "SELECT 1;",
    )
    text = refused()
    assert "0001_half.sql, line 4: division by zero" in text
    assert "Statement 2 of 3 failed; the first is done" in text
    assert files.has("made")
    (left,) = migrations.sql_history("acme")
    assert left.finished_at is None
    assert not left.in_force
    assert "did not come to its end" in str(left)
    assert report("--plan")["acme"] == ["sql:tenant.0001_half"]
    files.write("0001_half.sql", "-- pg_tenants: atomic=false\nCREATE TABLE IF NOT EXISTS made (x int);")
    run()
    assert [r.in_force for r in migrations.sql_history("acme")] == [False, True]


def test_an_index_that_was_left_invalid(acme: Any, files: Folders) -> None:
    """The next run makes it anew."""
    index = "CREATE UNIQUE INDEX CONCURRENTLY IF NOT EXISTS one ON twice (x);"
    files.write("0001_twice.sql", "CREATE TABLE twice AS SELECT 1 AS x FROM generate_series(1, 2);")
    files.write("0002_index.sql", f"-- pg_tenants: atomic=false\n{index}")
    assert "could not create unique index" in refused()
    with tenant_context(acme), connection.cursor() as cursor:
        cursor.execute("DELETE FROM twice WHERE ctid = '(0,1)'")
    run()
    with tenant_context(acme), connection.cursor() as cursor:
        cursor.execute("SELECT indisvalid FROM pg_index WHERE indexrelid = 'one'::regclass")
        assert cursor.fetchall() == [(True,)]


def test_a_new_tenant_of_a_module_with_a_concurrent_index(files: Folders) -> None:
    """A tenant is made in one transaction; nobody uses its tables yet, so the index is made plainly."""
    files.write("0000_other.sql", "CREATE TABLE other (title text)")
    files.write(
        "0001_index.sql",
        "-- pg_tenants: atomic=false\nCREATE INDEX CONCURRENTLY IF NOT EXISTS made ON {{tables.other}} (title);\n"
        "CREATE MATERIALIZED VIEW seen AS SELECT 1 AS one; CREATE UNIQUE INDEX ON seen (one);\n"
        "REFRESH MATERIALIZED VIEW CONCURRENTLY seen; DROP INDEX CONCURRENTLY IF EXISTS none",
    )
    make_tenant("acme")
    assert files.value("SELECT indisvalid FROM pg_index WHERE indexrelid = '{}.made'::regclass") is True
    assert report("--plan")["acme"] == []


def test_a_tenant_that_cannot_be_made(files: Folders) -> None:
    """With what no transaction takes, nothing is left of it, and the file is named."""
    files.write("0001_vacuum.sql", "-- pg_tenants: atomic=false\nVACUUM")
    with pytest.raises(MigrationFailed, match=r"0001_vacuum\.sql.*It cannot be part of making a tenant"):
        make_tenant("acme")
    assert not Tenant.objects.filter(schema_name="acme").exists()
    assert not schemas.exists("acme")


# -- what files may be ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "text", "check", "parts"),
    [
        ("0001_a.sql", b"SELECT 1;\nSELECT '\xff'", "E045", ["line 2", "not in UTF-8"]),
        ("0001_a.sql", "SELECT 1;\n\\i other.sql\n", "E045", ["line 2", "'\\\\i'", "psql"]),
        ("0001_a.sql", "\\set x 1", "E045", ["line 1", "'\\\\set'"]),
        ("0001_a.sql", "COPY a (b, c)\nFROM STDIN;", "E045", ["line 1", "COPY", "INSERT"]),
        ("0001_a.sql", "COPY {{tables.a}} FROM stdin WITH (FORMAT csv)", "E045", ["COPY"]),
        ("0001_a.sql", "COPY a TO STDOUT", "E045", ["COPY"]),
        ("0001_a.sql", "SELECT 1;\nBEGIN;\nSELECT 2;\nCOMMIT;", "E045", ["line 2", "BEGIN", "atomic=false"]),
        ("0001_a.sql", "SELECT 1; ROLLBACK TO x", "E045", ["ROLLBACK TO"]),
        ("0001_a.sql", "SET search_path = other", "E045", ["SET SEARCH_PATH", "Leave it out"]),
        ("0001_a.sql", "set local search_path to other", "E045", ["search_path"]),
        ("0001_a.sql", "SELECT 1;\nSELECT pg_catalog.set_config('search_path', '', false);", "E045", ["line 2"]),
        ("0001_a.sql", "DISCARD ALL", "E045", ["DISCARD ALL"]),
        ("0001_a.sql", "-- pg_tenants: atomic=no\nSELECT 1", "E045", ["line 1", "atomic=no", "atomic=true"]),
        ("0001_a.sql", "SELECT 1;\n-- pg_tenants: atomik=true", "E045", ["line 2", "Did you mean 'atomic'?"]),
        ("0001_a.sql", "-- pg_tenants: after = notes.0001_initial\nSELECT 1", "E045", ["key=value"]),
        ("0001_a.sql", "-- pg_tenants: after=notes\nSELECT 1", "E045", ["after=notes.0001_initial"]),
        ("0001_a.sql", "-- pg_tenants: was=abc\nSELECT 1", "E045", ["12 or more hexadecimal digits"]),
        ("0001_a.sql", "SELECT {{tables.billin.x}}", "E046", ["'billin'", "Did you mean 'billing'?"]),
        ("0001_a.sql", "SELECT\n{{table.x}}", "E046", ["line 2", "Did you mean 'tables'?"]),
        (
            "0001_a.sql",
            "-- pg_tenants: after=notes.0002_x\nSELECT 1",
            "E046",
            ["'notes.0002_x'", "'notes.0001_initial'"],
        ),
        ("0001_a.sql", "-- pg_tenants: before=note.0001_x\nSELECT 1", "E046", ["Did you mean 'notes'?"]),
        ("first.sql", "SELECT 1", "E043", ["first.sql", "0001_totals.sql"]),
        ("0001.sql", "SELECT 1", "E043", ["0001.sql"]),
        ("0001_a b.sql", "SELECT 1", "E043", ["0001_a b.sql"]),
        ("0001_A.SQL", "SELECT 1", "E043", ["0001_A.SQL"]),
        ("0009_b.down.sql", "SELECT 1", "E043", ["0009_b.sql, and there is none"]),
        ("1_b.sql", "SELECT 1", "E044", ["0001_ok.sql", "1_b.sql", "same number"]),
    ],
)
def test_files_that_cannot_be_run(files: Folders, name: str, text: str | bytes, check: str, parts: list[str]) -> None:
    """A check finds each, with the file and the line; without checks too nothing is run."""
    if not name.startswith("0001"):
        files.write("0001_ok.sql", "SELECT 1")
    path = files.write(name, text)
    (found,) = check_sql_migrations()
    assert found.id == f"pg_tenants.{check}"
    if check != "E044":
        assert str(path) in found.msg
    for part in parts:
        assert part in f"{found.msg} {found.hint}"
    assert found.msg in refused_without_checks()


def refused_without_checks() -> str:
    with pytest.raises(CommandError) as caught:
        run(skip_checks=True)
    return str(caught.value)


def test_files_that_can(acme: Any, files: Folders) -> None:
    """What only looks like such things."""
    for number, text in enumerate(
        [
            "SELECT 'COMMIT; \\i x', $$ BEGIN; COMMIT; SET search_path = x $$; -- \\q",
            "CREATE FUNCTION f() RETURNS int LANGUAGE sql SET search_path = '' BEGIN ATOMIC SELECT 1; SELECT 2; END",
            "DO $$ BEGIN PERFORM 1; END $$;\nCREATE PROCEDURE p() LANGUAGE sql AS 'SELECT 1'",
            "CREATE TYPE mood AS ENUM ('a'); ALTER TYPE mood ADD VALUE 'b'",
            "SELECT 1 AS begin; SELECT current_setting('search_path')",
            "/* only\n */ SELECT E'\\\\' -- pg_tenants is a name",
        ]
    ):
        files.write(f"{number}_a.sql", text)
    assert check_sql_migrations() == []
    assert len(report()["acme"]) == 6


def test_a_file_without_a_statement(acme: Any, files: Folders) -> None:
    """A check warns of it, and it is not recorded as applied."""
    files.write("0001_a.sql", "-- to be written\n")
    (found,) = check_sql_migrations()
    assert found.id == "pg_tenants.W042"
    assert "has no statement" in refused()
    assert migrations.sql_history("acme") == []


def test_folders(files: Folders, tmp_path: Path) -> None:
    """One that is missing, and one of two modules, is found by a check."""
    (tmp_path / "tenant").rmdir()
    (found,) = check_sql_migrations()
    assert found.id == "pg_tenants.E042"
    assert f"{tmp_path}/tenant" in found.msg
    assert "make_sql_migration tenant" in str(found.hint)
    assert "no such folder" in refused_without_checks()
    (tmp_path / "tenant").symlink_to(tmp_path / "billing")
    (found,) = check_sql_migrations()
    assert found.id == "pg_tenants.E047"
    assert "'billing' and 'tenant'" in found.msg


# -- the table is this package's --------------------------------------------------------------------------------------


def test_the_table_is_no_projects(full: Folders) -> None:
    """Introspection, inspectdb and the comparison of schemas leave it out; flushing keeps it."""
    full.write("0001_a.sql", "SELECT 1")
    acme = make_tenant("acme")
    with override_settings(PG_TENANTS=without_folders()):
        make_tenant("globex")
    assert schemas.table_exists(SQL_HISTORY_TABLE, schema="acme")
    assert catalog.differences(physical("acme"), physical("globex")) == []
    with tenant_context(acme), connection.cursor() as cursor:
        assert SQL_HISTORY_TABLE not in connection.introspection.table_names(cursor)
        out = io.StringIO()
        call_command("inspectdb", stdout=out)
        assert "notes_note" in out.getvalue()
        assert SQL_HISTORY_TABLE not in out.getvalue()
        call_command("flush", interactive=False, verbosity=0)
    assert len(migrations.sql_history("acme")) == 1


def without_folders() -> Any:
    modules = {
        name: {key: value for key, value in module.items() if key != "sql_migrations"}
        for name, module in settings.PG_TENANTS["MODULES"].items()
    }
    return {**settings.PG_TENANTS, "MODULES": modules}


def test_the_record_of_another_schema_is_never_taken(acme: Any, files: Folders) -> None:
    """Not that of a fixed module on the tenant's path."""
    files.write("0001_made.sql", "CREATE TABLE made ()", "billing")
    files.write("0001_made.sql", "CREATE TABLE made ()")
    run("--schema", "billing")
    assert report()["acme"] == ["sql:tenant.0001_made"]
    assert [r.module for r in migrations.sql_history("billing")] == ["billing"]
    assert [r.module for r in migrations.sql_history("acme")] == ["tenant"]


def test_taking_over_a_schema(files: Folders) -> None:
    """One that has not recorded the files is not what the migrations make."""
    files.write("0001_made.sql", "CREATE TABLE made ()")
    own = psql.Identifier(physical("acme"))
    files.raw.execute(psql.SQL("CREATE SCHEMA {0}; CREATE TABLE {0}.made ()").format(own))
    try:
        with pytest.raises(SchemaDiffers, match=r"migration sql:tenant\.0001_made is missing"):
            Tenant(schema_name="acme").save(adopt=True)
    finally:
        files.raw.execute(psql.SQL("DROP SCHEMA {} CASCADE").format(own))


# -- commands ---------------------------------------------------------------------------------------------------------


def test_make_sql_migration(full: Folders, tmp_path: Path) -> None:
    """The next number, a clean name, a place in the order; the folder is made if it is missing."""
    (tmp_path / "tenant").rmdir()
    path = Path(run("tenant", "Add totals, per  Note!", command="make_sql_migration").strip())
    assert path == tmp_path / "tenant" / "0001_add_totals_per_note.sql"
    lines = path.read_text().splitlines()
    assert "-- pg_tenants: after=notes.0001_initial" in lines
    assert any(line.startswith("-- pg_tenants: after=auth.0012") for line in lines)
    assert not any("contenttypes" in line for line in lines)
    path.write_text(path.read_text() + "CREATE TABLE made ();\n")
    full.write("9_nine.sql", "SELECT 1")
    both = run("tenant", "more", "--down", command="make_sql_migration").split()
    assert [Path(each).name for each in both] == ["0010_more.sql", "0010_more.down.sql"]
    with Path(both[0]).open("a") as file:
        file.write("ALTER TABLE made ADD x int")
    Path(both[1]).write_text("ALTER TABLE made DROP x")
    assert check_sql_migrations() == []
    make_tenant("acme")
    assert [f"sql:tenant.{r.name}" for r in migrations.sql_history("acme")] == [
        "sql:tenant.0001_add_totals_per_note",
        "sql:tenant.9_nine",
        "sql:tenant.0010_more",
    ]
    assert report("sql:tenant", "9")["acme"] == ["-sql:tenant.0010_more"]


@pytest.mark.parametrize(
    ("module", "name", "parts"),
    [
        ("shared", "x", ["no folder of SQL files", "PG_TENANTS['MODULES']['shared']['sql_migrations']"]),
        ("tenants", "x", ["no module 'tenants'", "Did you mean 'tenant'?"]),
        ("tenant", "§§", ["'§§'", "plain letters"]),
    ],
)
def test_make_sql_migration_refuses(files: Folders, module: str, name: str, parts: list[str]) -> None:
    """It says what to set."""
    with pytest.raises(CommandError) as caught:
        run(module, name, command="make_sql_migration")
    for part in parts:
        assert part in str(caught.value)


def test_showmigrations(full: Folders) -> None:
    """It shows files as it shows migrations, and with more verbosity their runs."""
    full.write("0001_a.sql", "SELECT 1")
    full.write("0001_b.sql", "SELECT 1", "billing")
    acme = make_tenant("acme")
    full.write("0002_a.sql", "SELECT 1")
    with tenant_context(acme):
        out = io.StringIO()
        call_command("showmigrations", stdout=out, no_color=True)
        assert "sql:tenant\n [X] 0001_a\n [ ] 0002_a\n" in out.getvalue()
        assert "[X] 0001_initial" in out.getvalue()
        out = io.StringIO()
        call_command("showmigrations", "sql:tenant", verbosity=2, stdout=out, no_color=True)
        assert out.getvalue().startswith("sql:tenant\n [X] 0001_a\n     applied at 20")
        assert f"by {full.raw.info.user} from" in out.getvalue()
        assert "notes" not in out.getvalue()
        out = io.StringIO()
        call_command("showmigrations", "--plan", stdout=out, no_color=True)
        assert "[X]  sql:tenant.0001_a\n[ ]  sql:tenant.0002_a\n" in out.getvalue()
    assert "sql:billing\n [ ] 0001_b\n" in run(command="showmigrations")


def test_makemigrations_is_not_disturbed(full: Folders) -> None:
    """Files change no model."""
    full.write("0001_a.sql", "CREATE TABLE made ()")
    assert "No changes detected" in run("--check", "--dry-run", command="makemigrations")
