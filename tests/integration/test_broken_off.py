"""Migrations that are not atomic and were broken off between or inside their operations."""

from __future__ import annotations

import re
from typing import Any

import pytest
from django.core.management import call_command
from django.core.management.base import CommandError

from pg_tenants import schema_context
from pg_tenants.catalog import differences
from pg_tenants.migrations import Options, apply
from pg_tenants.migrations._pieces import Pieces
from pg_tenants.schemas import tenant_connection

LABELS = (
    'migrations.CreateModel("Label", [("id", models.BigAutoField(primary_key=True)), '
    '("tag", models.ForeignKey("notes.Tag", null=True, on_delete=models.CASCADE))]), '
)
SIZE = 'migrations.AddField("tag", "size", models.IntegerField(default=0)), '
INDEX = 'AddIndexConcurrently("tag", models.Index(fields=["size"], name="tag_by_size")), '
VIEW = 'migrations.RunSQL("CREATE VIEW sizes AS SELECT size FROM notes_tag", "DROP VIEW sizes"), '
CHECK = (
    'migrations.AddConstraint("tag", models.CheckConstraint(condition=~models.Q(name="bad"), name="notes_tag_good")), '
)


class Killed(BaseException):
    """Stands for the end of the process: nothing behind it is run."""


@pytest.fixture
def dies(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Return a function that lets a run end when it would write down that so many operations are done."""

    def at(done: int | None) -> None:
        original = Pieces._note

        def note(self: Any, count: int, *, was_killed: bool) -> None:
            if count == done:
                raise Killed
            original(self, count, was_killed=was_killed)

        with monkeypatch.context() as patch:
            patch.setattr(Pieces, "_note", note)
            with pytest.raises(Killed):
                apply(Options(verbosity=0))
        tenant_connection().close()

    return at


def failures(**options: Any) -> dict[str, str]:
    return {result.schema: str(result.error) for result in apply(Options(verbosity=0, **options)).failed}


def marks(schema: str) -> list[str]:
    with schema_context(schema), tenant_connection().cursor() as cursor:
        cursor.execute("SELECT name FROM django_migrations WHERE app = 'pg_tenants:unfinished'")
        return [name for (name,) in cursor.fetchall()]


def execute(schema: str, text: str) -> None:
    with schema_context(schema), tenant_connection().cursor() as cursor:
        cursor.execute(text)


def same() -> None:
    name = tenant_connection().physical_schema
    assert differences(name("globex"), name("acme")) == []
    assert marks("acme") == marks("globex") == []


@pytest.mark.parametrize("done", [1, 2, 3, 5])
def test_the_next_run_goes_on(acme: Any, globex: Any, notes_migrations: Any, dies: Any, done: int) -> None:
    """An operation and the note of it are one transaction; one that cannot be in any is run again."""
    notes_migrations.add("0002_parts", LABELS + SIZE + INDEX + VIEW + CHECK, atomic=False)
    dies(done)
    assert failures() == {}
    same()
    # And back: what was done backwards is not done again either.
    assert failures(app_label="notes", migration_name="0001") == {}
    same()


def test_what_may_have_been_done_is_said(acme: Any, globex: Any, notes_migrations: Any, dies: Any) -> None:
    """Raw SQL that was run and not noted fails when it is run again; the message has the place and the ways out."""
    notes_migrations.add("0002_parts", SIZE + VIEW + CHECK, atomic=False)
    dies(2)
    found = failures()
    assert list(found) == ["acme"]
    for part in (
        "notes.0002_parts, operation 2 of 3 (Raw SQL operation): ",
        'relation "sizes" already exists',
        "its first operation is done",
        "killed in this operation",
        "'migrate_schemas --schema … notes 0002_parts --fake'",
    ):
        assert part in found["acme"]
    # The same again: nothing is forgotten by looking.
    assert failures() == found
    execute("acme", "DROP VIEW sizes")
    assert failures() == {}
    same()


def test_recorded_by_hand(acme: Any, globex: Any, notes_migrations: Any, dies: Any) -> None:
    """--fake ends it, and a later way back and forth runs all of its operations."""
    notes_migrations.add("0002_parts", SIZE + VIEW + CHECK, atomic=False)
    dies(2)
    execute("acme", "ALTER TABLE notes_tag ADD CONSTRAINT notes_tag_good CHECK (NOT (name = 'bad'))")
    call_command("migrate_schemas", "notes", "0002_parts", schema=["acme"], fake=True, verbosity=0)
    assert failures() == {}
    same()
    for target in ("0001", "0002"):
        assert failures(app_label="notes", migration_name=target) == {}
    same()


def test_an_operation_that_fails(acme: Any, globex: Any, notes_migrations: Any) -> None:
    """What is before it stays; the next run begins with it, whatever has become of the cause or its own text."""
    notes_migrations.add("0002_parts", LABELS + SIZE + CHECK + VIEW, atomic=False)
    execute("acme", "INSERT INTO notes_tag (name) VALUES ('bad')")
    found = failures()
    assert list(found) == ["acme"]
    assert "operation 3 of 4 (Create constraint notes_tag_good on model tag)" in found["acme"]
    assert "its first 2 operations are done and noted" in found["acme"]
    assert "killed" not in found["acme"]
    execute("acme", "UPDATE notes_tag SET name = 'good'")
    assert failures() == {}
    same()


def test_a_file_that_is_changed_meanwhile(acme: Any, notes_migrations: Any, dies: Any) -> None:
    """What is done must stay in the file; what is not may change, the migration may even become atomic."""
    notes_migrations.add("0002_parts", SIZE + VIEW + CHECK, atomic=False)
    dies(2)
    execute("acme", "DROP VIEW sizes")
    for operations in (LABELS + VIEW, VIEW, ""):
        notes_migrations.remove("0002_parts")
        notes_migrations.add("0002_parts", operations, atomic=False)
        assert "its file has other operations there now" in failures()["acme"]
    notes_migrations.remove("0002_parts")
    notes_migrations.add("0002_parts", SIZE + CHECK)
    assert failures() == {}
    assert marks("acme") == []


def test_no_way_back_over_half_a_migration(acme: Any, globex: Any, notes_migrations: Any, dies: Any) -> None:
    """It would be taken for done when it comes again."""
    notes_migrations.add("0002_parts", SIZE + VIEW + CHECK, atomic=False)
    dies(2)
    with pytest.raises(CommandError, match=re.escape("The migration notes.0002_parts is half applied in the schema")):
        call_command("migrate_schemas", "notes", "zero", schema=["acme"], verbosity=0)
    execute("acme", "DROP VIEW sizes")
    assert failures() == {}
    assert failures(app_label="notes", migration_name="zero") == {}
    assert failures() == {}
    same()


def test_by_the_way_of_a_schema_alone(acme: Any, globex: Any, notes_migrations: Any, dies: Any) -> None:
    """With --fake-initial a schema runs Django's own executor, which goes on as well."""
    notes_migrations.add("0002_parts", SIZE + VIEW + CHECK, atomic=False)
    dies(3)
    (mark,) = marks("acme")
    assert mark.startswith("notes.0002_parts 2 ")
    assert failures(fake_initial=True) == {}
    same()
    assert failures(app_label="notes", migration_name="0001") == {}
    assert failures(fake_initial=True) == {}
    same()
