"""Clones of tenants: structure and rows, in spite of everything that a schema can hold."""

from __future__ import annotations

import subprocess
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from asgiref.sync import async_to_sync
from django.contrib.auth.models import Permission, User
from django.db import IntegrityError, connection, connections, transaction
from psycopg import sql

from example_project.customers.models import Domain, Tenant
from example_project.notes.models import Note, Tag
from pg_tenants import schemas, tenant_context
from pg_tenants.catalog import differences, mentions
from pg_tenants.exceptions import (
    InvalidSchemaName,
    ProgramUnavailable,
    SchemaDiffers,
    SchemaDoesNotExist,
    SchemaExists,
    UnsafeStatement,
    WrongStatus,
)
from pg_tenants.provisioning import _programs
from pg_tenants.signals import post_tenant_create
from tests.conftest import make_tenant, set_status
from tests.integration.nasty import NASTY, ROWS, run_in

ROLE = "test_clone_reader"


def physical(name: str) -> str:
    return schemas.tenant_connection().physical_schema(name)


def differing(one: str, other: str) -> set[str]:
    return {difference.name for difference in differences(physical(one), physical(other))}


def tenant_schemas() -> list[str]:
    fixed = {physical(name) for name in ("public", "billing")}
    return [name for name in schemas.list() if name not in fixed]


@pytest.fixture
def nasty(acme: Any, raw: Any) -> Any:
    """Return the tenant acme with one of everything that PostgreSQL has, beside what the migrations made."""
    raw.execute(
        f"DO $$ BEGIN CREATE ROLE {ROLE} NOLOGIN; EXCEPTION WHEN duplicate_object OR unique_violation THEN NULL; END $$"
    )
    run_in(raw, physical("acme"), NASTY, role=ROLE)
    run_in(raw, physical("acme"), ROWS, role=ROLE)
    return acme


def dumped(name: str, server_params: dict[str, Any], *options: str) -> str:
    """Return what pg_dump says of a schema."""
    _, program = _programs.find("pg_dump", connection.pg_version // 10000)
    where = {key: str(server_params[key]) for key in ("host", "port", "user", "password", "dbname")}
    done = subprocess.run(
        [str(program), "-n", physical(name), "-T", "*.pg_tenants_marker_*", *options, "--no-comments", "--inserts"],
        env={f"PG{key.upper()}": value for key, value in where.items()} | {"PGDATABASE": where["dbname"]},
        capture_output=True,
        text=True,
        check=True,
    )
    # The index is one whose text changes by being read.
    lines = [line for line in done.stdout.splitlines() if not line.startswith(("--", "\\")) and "_some" not in line]
    return "\n".join(lines)


def test_everything_is_cloned(nasty: Any, raw: Any, server_params: dict[str, Any]) -> None:
    """Defaults, identity, types, partitions, functions, policies, grants, comments and rows are as in the source."""
    before = dumped("acme", server_params)
    lines: list[str] = []
    clone = nasty.clone("initech", data=True, domain="Initech.localhost", name="Initech", progress=lines.append)
    assert differing("acme", "initech") <= {"thing.thing_some"}
    assert dumped("acme", server_params) == before
    assert dumped("initech", server_params).replace("initech", "acme").splitlines() == before.splitlines()
    assert (clone.status, clone.name, clone.module) == ("active", "Initech", "tenant")
    assert Domain.objects.get(tenant=clone).domain == "initech.localhost"
    with tenant_context(clone):
        assert Note.objects.get().title == "note of acme"
        Note.objects.create(title="new", body="", author=Note.objects.get().author)
    with tenant_context(nasty):
        assert Note.objects.count() == 1
    # Sequences are the clone's own, at the source's values.
    insert = "INSERT INTO {}.thing (label, by_text) VALUES ('x', 0) RETURNING id, serial, number"
    first = raw.execute(sql.SQL(insert).format(sql.Identifier(physical("initech")))).fetchone()
    second = raw.execute(sql.SQL(insert).format(sql.Identifier(physical("acme")))).fetchone()
    assert first == second == (500, 43, 102)
    # What PostgreSQL does not follow is told of: bodies, and names inside literals.
    assert {str(one) for one in mentions(physical("initech"), physical("acme"))} == {
        "function by_name()",
        "column thing.by_text",
        "column thing.label",
    }
    assert any("function by_name()" in line for line in lines)
    assert any("rows of thing" in line for line in lines)


def test_the_structure_is_cloned(nasty: Any, raw: Any) -> None:
    """What the source has beside its migrations comes too; the tables have the rows that migrations write."""
    clone = nasty.clone("initech", name="Initech")
    assert differing("acme", "initech") <= {"thing.thing_some"}
    fresh = make_tenant("globex")
    with tenant_context(clone):
        assert (Note.objects.count(), Tag.objects.count(), Permission.objects.count()) == (0, 0, permissions(fresh))
    assert rows(raw, "initech", "thing") == rows(raw, "initech", "parts") == 0
    assert rows(raw, "initech", "django_migrations") == rows(raw, "globex", "django_migrations")
    last = sql.SQL("SELECT last_value FROM {}.{}")
    for name in ("django_migrations_id_seq", "auth_permission_id_seq"):
        one, two = (
            raw.execute(last.format(sql.Identifier(physical(of)), sql.Identifier(name))).fetchone()
            for of in ("initech", "globex")
        )
        assert one == two
    assert not Domain.objects.filter(tenant=clone).exists()
    assert tenant_schemas() == sorted(physical(name) for name in ("acme", "globex", "initech"))


def permissions(tenant: Any) -> int:
    with tenant_context(tenant):
        return int(Permission.objects.count())


def rows(raw: Any, schema: str, table: str) -> int:
    query = sql.SQL("SELECT count(*) FROM {}.{}").format(sql.Identifier(physical(schema)), sql.Identifier(table))
    return int(raw.execute(query).fetchone()[0])


def test_without_programs(acme: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """A structure that the migrations make needs no pg_dump, also in a transaction; rows need one, and are told so."""
    monkeypatch.setattr(_programs, "_candidates", lambda program: iter([(9, Path("/old/pg_dump"))]))
    with transaction.atomic():
        assert acme.clone("initech", name="x").is_active
    with pytest.raises(ProgramUnavailable, match=r"no pg_dump of .*\d+ or newer here. Found: 9 \(/old/pg_dump\)"):
        acme.clone("hooli", data=True)
    assert not Tenant.objects.filter(schema_name="hooli").exists()


def test_which_program(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """That of the server's version, or else of the nearest newer one; one that does not run is passed over."""
    monkeypatch.setattr(_programs, "_FOLDERS", ())
    for name, text in (("a", "15.3"), ("b", "17.1 (Debian)"), ("c", "16beta1"), ("d", "")):
        (tmp_path / name).mkdir()
        program = tmp_path / name / "pg_dump"
        program.write_text(f'#!/bin/sh\n[ -n "{text}" ] && echo "pg_dump (PostgreSQL) {text}"\n')
        program.chmod(0o755)
    monkeypatch.setenv("PATH", ":".join(str(tmp_path / name) for name in "dcba"))
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert [_programs.find("pg_dump", major) for major in (14, 15, 16, 17)] == [
        (15, tmp_path / "a" / "pg_dump"),
        (15, tmp_path / "a" / "pg_dump"),
        (16, tmp_path / "c" / "pg_dump"),
        (17, tmp_path / "b" / "pg_dump"),
    ]
    with pytest.raises(ProgramUnavailable, match=r"Found: 15 .*; 16 .*; 17 .*postgresql-client-18"):
        _programs.find("pg_dump", 18)


def test_what_cannot_be_cloned(acme: Any, globex: Any) -> None:
    """A taken or bad name, and a source that has no schema or is going."""
    for name, status, error in (
        ("globex", "active", SchemaExists),
        ("Bad Name", "active", InvalidSchemaName),
        ("initech", "deleting", WrongStatus),
        ("initech", "provisioning", WrongStatus),
    ):
        set_status(acme, status)
        for data in (True, False):
            with pytest.raises(error):
                acme.clone(name, data=data, name="x")
    set_status(acme, "active")
    assert tenant_schemas() == [physical("acme"), physical("globex")]


def test_rows_are_not_cloned_inside_a_transaction(acme: Any) -> None:
    """What is not committed would be missing, so it is refused."""
    with transaction.atomic(), pytest.raises(UnsafeStatement, match="TransactionTestCase"):
        acme.clone("initech", data=True)


def test_a_source_that_lacks_migrations(acme: Any, raw: Any) -> None:
    """Its structure has no rows to go with; a clone with rows is as far behind as the source."""
    name = sql.Identifier(physical("acme"))
    raw.execute(sql.SQL("DELETE FROM {}.django_migrations WHERE app = 'notes'").format(name))
    with pytest.raises(SchemaDiffers, match="migrate_schemas --schema acme"):
        acme.clone("initech")
    acme.clone("initech", data=True)
    assert rows(raw, "initech", "django_migrations") == rows(raw, "acme", "django_migrations")


@pytest.mark.parametrize("data", [True, False])
def test_a_clone_that_fails_leaves_nothing(nasty: Any, raw: Any, data: bool) -> None:
    """Whatever raises, at the end even; the source has its name and its rows."""

    def boom(**kwargs: Any) -> None:
        raise RuntimeError("boom")

    post_tenant_create.connect(boom)
    try:
        with pytest.raises(RuntimeError):
            nasty.clone("initech", data=data, domain="initech.localhost")
    finally:
        post_tenant_create.disconnect(boom)
    with pytest.raises(IntegrityError):
        nasty.clone("initech", data=data, domain="acme.localhost")
    assert tenant_schemas() == [physical("acme")]
    assert Tenant.objects.get() == nasty
    assert rows(raw, "acme", "thing") == 3


def test_clones_under_traffic(acme: Any, raw: Any) -> None:
    """While the source is written and read, nobody sees an error or another schema, and a clone is of one moment."""
    failed: list[BaseException] = []
    done = threading.Event()
    passed = [0, 0]

    def write() -> None:
        with tenant_context(acme):
            author = User.objects.get()
            while not done.is_set():
                with transaction.atomic():
                    Note.objects.create(title="a", body="", author=author)
                    Tag.objects.create(name=f"t{Note.objects.count()}")
                passed[0] += 1

    def read() -> None:
        with tenant_context(acme):
            while not done.is_set():
                assert User.objects.get().username == "ada-acme"
                passed[1] += 1

    def guarded(work: Any) -> None:
        try:
            work()
        except BaseException as exc:  # noqa: BLE001
            failed.append(exc)
        finally:
            connections.close_all()

    threads = [threading.Thread(target=guarded, args=(work,)) for work in (write, read, read)]
    for thread in threads:
        thread.start()
    try:
        clones = [acme.clone(f"copy{number}", data=True, name="x") for number in range(3)]
        before = list(passed)
        time.sleep(0.3)
    finally:
        done.set()
        for thread in threads:
            thread.join(30)
    assert not failed
    assert before[0] > 3
    assert passed[0] > before[0]
    for clone in clones:
        with tenant_context(clone):
            # The note of the fixture has no tag.
            assert Note.objects.count() == Tag.objects.count() + 1


def test_a_source_that_is_changed_meanwhile(acme: Any, raw: Any) -> None:
    """The clone would be neither as before nor as after, so there is none; the message says what differs."""

    def change(line: str) -> None:
        if line == "filling initech":
            raw.execute(sql.SQL("CREATE TABLE {} ()").format(sql.Identifier(physical("acme"), "late")))

    with pytest.raises(SchemaDiffers, match=r"(?s)changed meanwhile.*table late is missing"):
        acme.clone("initech", data=True, progress=change)
    assert tenant_schemas() == [physical("acme")]


def test_a_pipeline_while_the_source_is_named_back(acme: Any, raw: Any) -> None:
    """Its check cannot tell that from a schema that was away for a moment: an error, which says what to do."""
    name = physical("acme")

    def rename() -> None:
        time.sleep(0.3)
        with raw.transaction():
            raw.execute(f'ALTER SCHEMA "{name}" RENAME TO away; ALTER SCHEMA away RENAME TO "{name}"')

    with ThreadPoolExecutor(1) as pool, tenant_context(acme), connection.cursor() as cursor:
        done = pool.submit(rename)
        with pytest.raises(SchemaDoesNotExist, match=r"'acme' was renamed, closed or cloned .* Send it again\."):
            cursor.executemany("SELECT pg_sleep(%s)", [[0.6], [0.6]])
        done.result()
        assert Note.objects.count() == 1


def test_two_clones_of_one_source_at_once(acme: Any) -> None:
    """Both are made; the source steps aside for one after the other."""
    failed: list[BaseException] = []

    def clone(name: str) -> None:
        try:
            Tenant.objects.get(schema_name="acme").clone(name, data=True, name=name)
        except BaseException as exc:  # noqa: BLE001
            failed.append(exc)
        finally:
            connections.close_all()

    threads = [threading.Thread(target=clone, args=(name,)) for name in ("one", "two")]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert not failed
    assert tenant_schemas() == sorted(physical(name) for name in ("acme", "one", "two"))


def test_the_path_is_as_before(acme: Any) -> None:
    """What a clone sets for itself does not stay with the transaction or the connection."""
    names = ("search_path", "check_function_bodies", "client_min_messages", "row_security", "lock_timeout")
    query = "SELECT " + ", ".join(f"current_setting('{name}')" for name in names)
    with connection.cursor() as cursor:
        cursor.execute(query)
        before = cursor.fetchone()
        acme.clone("initech", data=True)
        cursor.execute(query)
        assert cursor.fetchone() == before


def test_behind_a_pooler(acme: Any, through_pgbouncer: Any, tmp_path: Path) -> None:
    """What needs a program is refused, and says what to do; a structure, a new name and a deletion need none."""
    with pytest.raises(UnsafeStatement, match=r"through a connection pooler.*\['pooler'\] to False"):
        acme.clone("initech", data=True)
    with pytest.raises(UnsafeStatement, match="through a connection pooler"):
        acme.archive(tmp_path / "file")
    clone = acme.clone("initech", name="x")
    assert clone.rename("hooli")
    assert clone.delete(grace=1)[0]
    assert tenant_schemas() == [physical("acme")]


def test_grants_to_a_role_of_the_schema_are_not_cloned(acme: Any, raw: Any) -> None:
    """It would let one tenant's role into another's schema; grants to others are cloned."""
    roles = ("pgt_1_acme", "pgt_1_very~long", "test_clone_other")
    schema = sql.Identifier(physical("acme"))
    try:
        for role in map(sql.Identifier, roles):
            raw.execute(sql.SQL("CREATE ROLE {}").format(role))
            raw.execute(
                sql.SQL(
                    "GRANT USAGE ON SCHEMA {0} TO {1};"
                    "GRANT SELECT ON ALL TABLES IN SCHEMA {0} TO {1} WITH GRANT OPTION;"
                    "ALTER DEFAULT PRIVILEGES IN SCHEMA {0} GRANT SELECT ON TABLES TO {1}"
                ).format(schema, role)
            )
        acme.clone("initech", data=True)
        found = raw.execute(
            "SELECT DISTINCT grantee::regrole::text FROM (SELECT nspacl AS acl FROM pg_namespace WHERE nspname = %(n)s"
            " UNION ALL SELECT relacl FROM pg_class WHERE relnamespace = to_regnamespace(%(n)s)"
            " UNION ALL SELECT defaclacl FROM pg_default_acl WHERE defaclnamespace = to_regnamespace(%(n)s)) a,"
            " aclexplode(acl) WHERE grantee::regrole <> current_user::regrole ORDER BY 1",
            {"n": physical("initech")},
        ).fetchall()
        assert found == [("test_clone_other",)]
    finally:
        for role in map(sql.Identifier, roles):
            raw.execute(sql.SQL("DROP OWNED BY {0}; DROP ROLE {0}").format(role))


def test_async_forms(acme: Any) -> None:
    """Each has one that may be awaited."""

    async def live() -> list[Any]:
        clone = await acme.aclone("initech", name="x")
        moved = await clone.asuspend(), await clone.aresume(), await clone.arename("hooli"), await clone.aprovision()
        return [*moved, (await clone.adelete(grace=1))[0]]

    assert async_to_sync(live)() == [True, True, True, False, 1]
    assert not Tenant.objects.exclude(pk=acme.pk).exists()
