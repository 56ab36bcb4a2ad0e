"""Each kind of migration ends in every schema as Django's own executor leaves it, sent again or not."""

from __future__ import annotations

import io
import json
import secrets
import uuid
from collections.abc import Callable
from typing import Any

import pytest
from django.contrib.postgres.operations import AddIndexConcurrently, CreateExtension
from django.core.management import call_command
from django.core.management.base import CommandError
from django.db import connection, migrations, models
from django.db.migrations.operations.base import Operation
from django.db.models.signals import post_migrate, pre_migrate
from django.utils import timezone

from example_project.notes.models import Note, Tag
from pg_tenants import current_schema, current_tenant, schemas, tenant_context
from pg_tenants.catalog import differences
from pg_tenants.exceptions import MigrationFailed
from pg_tenants.migrations import Options, _tracks, apply
from pg_tenants.migrations._executor import ModuleLoader
from pg_tenants.names import MARKER_TABLE
from pg_tenants.operations import TenantSQL
from pg_tenants.provisioning import fingerprint
from tests.conftest import make_tenant

FLEET = ["acme", "globex", "hooli", "initech"]


@pytest.fixture
def fleet(open_db: None) -> list[Any]:
    """Return four tenants, each with notes of its own."""
    tenants = []
    for number, name in enumerate(FLEET, 1):
        tenant = make_tenant(name)
        with tenant_context(tenant):
            for _ in range(number):
                Tag.objects.create(name=f"{name}-{_}")
        tenants.append(tenant)
    return tenants


@pytest.fixture
def add(monkeypatch: pytest.MonkeyPatch) -> Callable[..., str]:
    """Return a function that gives the app ``notes`` one more migration."""
    extra: dict[tuple[str, str], Any] = {}
    original = ModuleLoader.load_disk

    def load_disk(self: Any) -> None:
        original(self)  # type: ignore[no-untyped-call]
        for key, cls in extra.items():
            self.disk_migrations[key] = cls(key[1], key[0])

    monkeypatch.setattr(ModuleLoader, "load_disk", load_disk)

    def add(*operations: Any, name: str = "", after: str = "", **attributes: Any) -> str:
        number = len(extra) + 2
        name = name or f"{number:04}_more"
        # Templates are kept by what is in files, where this migration is not.
        monkeypatch.setattr(fingerprint, "_FORM", secrets.token_hex())
        after = after or (list(extra)[-1][1] if extra else "0001_initial")
        attributes.setdefault("dependencies", [("notes", after)])
        extra["notes", name] = type(
            "Migration", (migrations.Migration,), {"operations": list(operations), **attributes}
        )
        return name

    return add


@pytest.fixture
def replays(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, bool]]:
    """Return a list of the schemas that a recorded migration was sent to, and whether it fitted."""
    seen: list[tuple[str, bool]] = []
    original = _tracks._replay

    def replay(lesson: Any, worker: Any, target: Any) -> bool:
        fits = original(lesson, worker, target)
        seen.append((target.schema, fits))
        return fits

    monkeypatch.setattr(_tracks, "_replay", replay)
    return seen


def run(**options: Any) -> Any:
    report = apply(Options(verbosity=0, **options))
    assert [(result.schema, result.error) for result in report.failed] == []
    assert current_schema() is None
    return report


def physical(name: str) -> str:
    return schemas.tenant_connection().physical_schema(name)


def same(*others: str, model: str = "acme") -> None:
    """Compare catalogs, columns' order included, and what is recorded."""
    for other in others or FLEET[1:]:
        assert differences(physical(model), physical(other)) == []
        assert columns(model) == columns(other)
        assert recorded(model) == recorded(other)


def query(schema: str, text: str, *params: Any) -> list[Any]:
    from pg_tenants import schema_context

    with schema_context(schema), connection.cursor() as cursor:
        cursor.execute(text, params or None)
        return list(cursor.fetchall())


def columns(schema: str) -> list[Any]:
    return query(
        schema,
        "SELECT c.relname, a.attname FROM pg_class c JOIN pg_attribute a ON a.attrelid = c.oid"
        " WHERE c.relnamespace = current_schema()::regnamespace AND relkind = 'r' AND attnum > 0 AND NOT attisdropped"
        " ORDER BY 1, attnum",
    )


def recorded(schema: str) -> set[Any]:
    return set(query(schema, "SELECT app, name FROM django_migrations"))


def by_itself(name: str) -> Any:
    """Return a tenant that is made with all migrations by Django's executor."""
    return make_tenant(name)


ALL = [(name, True) for name in FLEET[1:]]

GROWTH = (
    migrations.CreateModel(
        "Attachment",
        fields=[
            ("id", models.BigAutoField(primary_key=True)),
            ("note", models.ForeignKey("notes.Note", on_delete=models.CASCADE)),
            ("tag", models.ForeignKey("notes.Tag", null=True, on_delete=models.SET_NULL)),
            ("path", models.CharField(max_length=50, unique=True)),
            ("size", models.PositiveIntegerField(db_comment="in bytes, it's said")),
        ],
        options={
            "indexes": [models.Index(fields=["size", "path"], name="attachment_by_size")],
            "constraints": [models.CheckConstraint(condition=models.Q(size__lt=10**9), name="attachment_small")],
        },
    ),
    migrations.AddField("tag", "colour", models.CharField(max_length=20, default="red", db_index=True)),
    migrations.AddField("tag", "info", models.JSONField(default=dict)),
    migrations.AlterField("tag", "name", models.CharField(max_length=300)),
)


NOT_BAD = migrations.AddConstraint("tag", models.CheckConstraint(condition=~models.Q(name="bad"), name="not_bad"))


def test_schema_operations_are_sent_again(fleet: Any, add: Any, replays: Any) -> None:
    """Tables, foreign keys, columns, indexes, checks, types and comments; as where Django's executor made them."""
    add(*GROWTH)
    run()
    assert replays == ALL
    by_itself("umbrella")
    same()
    same("acme", model="umbrella")
    assert query("hooli", "SELECT count(*), min(colour) FROM notes_tag") == [(3, "red")]
    assert query("hooli", "SELECT count(*) FROM django_content_type WHERE model = 'attachment'") == [(1,)]
    assert query("hooli", "SELECT count(*) FROM auth_permission WHERE codename LIKE '%attachment'") == [(4,)]
    ids = (
        "SELECT p.id, p.codename, c.id, c.model FROM auth_permission p"
        " JOIN django_content_type c ON c.id = content_type_id"
    )
    assert query("hooli", ids) == query("acme", ids)


def test_each_migration_is_a_transaction_in_each_schema(fleet: Any, add: Any, raw: Any) -> None:
    """What fails in the second migration leaves the first one there, and nothing of the second."""
    add(migrations.AddField("tag", "one", models.IntegerField(null=True)))
    add(
        migrations.AddField("tag", "two", models.IntegerField(null=True)),
        NOT_BAD,
    )
    raw.execute(f"UPDATE \"{physical('globex')}\".notes_tag SET name = 'bad' WHERE id = 1")
    report = apply(Options(verbosity=0))
    assert [result.schema for result in report.failed] == ["globex"]
    assert "not_bad" in str(report.failed[0].error)
    assert report.failed[0].applied == ["notes.0002_more"]
    assert ("notes_tag", "one") in columns("globex")
    assert ("notes_tag", "two") not in columns("globex")
    raw.execute(f"UPDATE \"{physical('globex')}\".notes_tag SET name = 'good' WHERE id = 1")
    assert {result.schema: result.applied for result in run().changed} == {"globex": ["notes.0003_more"]}
    same()


def test_run_python_runs_in_each_schema(fleet: Any, add: Any, replays: Any) -> None:
    """With models rendered once for all, and each schema's own rows; schema operations around it are sent again."""
    seen: dict[str, Any] = {}

    def forwards(apps: Any, schema_editor: Any) -> None:
        tag = apps.get_model("notes", "Tag")
        seen[current_tenant().schema_name] = apps
        for each in tag.objects.all():
            each.label = f"{current_schema()}:{each.name}"
            each.save()

    def backwards(apps: Any, schema_editor: Any) -> None:
        seen[f"-{current_schema()}"] = apps.get_model("notes", "Tag").objects.count()

    add(migrations.AddField("tag", "label", models.CharField(max_length=200, null=True)))
    add(migrations.RunPython(forwards, backwards))
    add(migrations.AlterField("tag", "label", models.CharField(max_length=200)))
    run()
    assert sorted(seen) == FLEET
    assert len({id(apps) for apps in seen.values()}) == 1
    assert sorted(replays) == sorted(ALL * 2)
    assert query("globex", "SELECT label FROM notes_tag ORDER BY id") == [("globex:globex-0",), ("globex:globex-1",)]
    same()
    run(app_label="notes", migration_name="0001")
    assert [seen[f"-{name}"] for name in FLEET] == [1, 2, 3, 4]
    assert ("notes_tag", "label") not in columns("hooli")
    same()


def test_content_types_of_run_python(fleet: Any, add: Any, raw: Any) -> None:
    """Historical models have caches, which are not carried from one schema to the next."""
    found: dict[str, int] = {}

    def forwards(apps: Any, schema_editor: Any) -> None:
        content_type = apps.get_model("contenttypes", "ContentType")
        found[str(current_schema())] = content_type.objects.get_by_natural_key("notes", "tag").pk

    for number, name in enumerate(FLEET):
        raw.execute(
            f'SET search_path = "{physical(name)}"; ALTER TABLE auth_permission DROP CONSTRAINT'
            " auth_permission_content_type_id_2f476e4b_fk_django_co;"
            f" UPDATE django_content_type SET id = id + {number * 1000} WHERE app_label = 'notes'; RESET search_path"
        )
    add(migrations.RunPython(forwards, migrations.RunPython.noop))
    run()
    assert [found[name] // 1000 for name in FLEET] == [0, 1, 2, 3]


def test_run_sql(fleet: Any, add: Any, replays: Any) -> None:
    """Parameters, percent signs, comments, several statements and rows of each schema; sent again."""
    add(
        migrations.RunSQL(
            [
                ("UPDATE notes_tag SET name = name || %s", [" 100% 'sure' \\ ;"]),
                "CREATE VIEW busy AS SELECT count(*) AS tags FROM notes_tag WHERE name LIKE '%'; -- done",
            ],
            "DROP VIEW busy",
        )
    )
    run()
    assert replays == ALL
    assert query("globex", "SELECT tags FROM busy") == [(2,)]
    assert query("globex", "SELECT name FROM notes_tag ORDER BY id LIMIT 1") == [("globex-0 100% 'sure' \\ ;",)]
    same()
    run(app_label="notes", migration_name="0001")
    same()
    assert query("globex", "SELECT to_regclass('busy')") == [(None,)]


@pytest.mark.parametrize(
    "text",
    [
        "SET LOCAL search_path = public; SELECT 1",
        "SELECT set_config('work_mem', '8MB', true)",
        "DO $$ BEGIN PERFORM pg_catalog.set_config('search_path', 'public', true); END $$",
    ],
)
def test_sql_that_may_leave_the_schema_is_not_sent_with_other_sql(
    fleet: Any, add: Any, replays: Any, text: str
) -> None:
    """Each statement has its own path where it is run by itself."""
    add(migrations.RunSQL([text, "CREATE TABLE stays (id int)"]))
    run()
    assert replays == []
    same()
    assert query("hooli", "SELECT to_regclass('stays') IS NOT NULL") == [(True,)]


def test_the_schemas_own_name_in_sql(fleet: Any, add: Any, replays: Any) -> None:
    """A statement that names the schema it was made for is not sent to another one."""

    class Named(Operation):
        reversible = True

        def state_forwards(self, app_label: str, state: Any) -> None:
            pass

        def database_forwards(self, app_label: str, schema_editor: Any, from_state: Any, to_state: Any) -> None:
            schema_editor.execute(f'CREATE TABLE "{physical(str(current_schema()))}".named (id int)')

        def database_backwards(self, *args: Any) -> None:
            pass

    add(Named())
    run()
    assert replays == []
    same()


def test_separate_database_and_state(fleet: Any, add: Any, replays: Any) -> None:
    """The database's operations are looked at, too: SQL is sent again, Python is not."""
    calls: list[Any] = []
    state = [migrations.AddField("tag", "rank", models.IntegerField(null=True))]
    sql = migrations.RunSQL("ALTER TABLE notes_tag ADD rank integer", "ALTER TABLE notes_tag DROP rank")
    add(migrations.SeparateDatabaseAndState(database_operations=[sql], state_operations=state))
    run()
    assert replays == ALL
    code = migrations.RunPython(lambda apps, editor: calls.append(current_schema()), migrations.RunPython.noop)
    add(migrations.SeparateDatabaseAndState(database_operations=[code]))
    run()
    assert calls == FLEET
    assert replays == ALL
    same()


def test_not_atomic(fleet: Any, add: Any, replays: Any) -> None:
    """Run in each schema, outside a transaction; indexes are made concurrently, forwards and back."""
    states: list[bool] = []
    add(
        AddIndexConcurrently("tag", models.Index(fields=["name"], name="tag_by_name")),
        migrations.RunPython(lambda apps, e: states.append(e.connection.in_atomic_block), migrations.RunPython.noop),
        migrations.RunPython(
            lambda apps, e: states.append(e.connection.in_atomic_block), migrations.RunPython.noop, atomic=True
        ),
        atomic=False,
    )
    run()
    assert states == [False, True] * 4
    assert replays == []
    same()
    assert query("hooli", "SELECT indisvalid FROM pg_index WHERE indexrelid = 'tag_by_name'::regclass") == [(True,)]
    run(app_label="notes", migration_name="0001")
    assert query("hooli", "SELECT to_regclass('tag_by_name')") == [(None,)]
    same()


def test_an_invalid_index_is_made_again(fleet: Any, add: Any, raw: Any) -> None:
    """It is what a killed or failed CREATE INDEX CONCURRENTLY leaves."""
    raw.execute(f'CREATE INDEX tag_by_name ON "{physical("globex")}".notes_tag (name)')
    raw.execute(
        "UPDATE pg_index SET indisvalid = false WHERE indexrelid = %s::regclass", [f"{physical('globex')}.tag_by_name"]
    )
    raw.execute(f'CREATE INDEX tag_by_name ON "{physical("hooli")}".notes_tag (id)')
    add(AddIndexConcurrently("tag", models.Index(fields=["name"], name="tag_by_name")), atomic=False)
    report = apply(Options(verbosity=0))
    # A valid one of that name is somebody's; it is left alone.
    assert [result.schema for result in report.failed] == ["hooli"]
    assert "already exists" in str(report.failed[0].error)
    raw.execute(f'DROP INDEX "{physical("hooli")}".tag_by_name')
    run()
    same()


def test_elidable(fleet: Any, add: Any, replays: Any) -> None:
    """It is run as others are, until it is squashed away."""
    add(migrations.RunSQL("UPDATE notes_tag SET name = name || '!'", migrations.RunSQL.noop, elidable=True))
    run()
    assert replays == ALL
    assert query("globex", "SELECT name FROM notes_tag ORDER BY 1") == [("globex-0!",), ("globex-1!",)]


def test_squashed(fleet: Any, add: Any, replays: Any) -> None:
    """Recorded where all that it replaces is applied; run where nothing is; the replaced ones where some are."""
    one = migrations.AddField("tag", "one", models.IntegerField(null=True))
    two = migrations.AddField("tag", "two", models.IntegerField(null=True))
    first, second = add(one), add(two)
    apply(Options(verbosity=0), names=["acme", "globex"])
    run_one = Options(verbosity=0, app_label="notes", migration_name="0002")
    apply(run_one, names=["hooli"])
    add(
        one,
        two,
        name="0002_squashed",
        dependencies=[("notes", "0001_initial")],
        replaces=[("notes", first), ("notes", second)],
    )
    report = run()
    assert {result.schema: result.applied for result in report.changed} == {
        "hooli": ["notes.0003_more"],
        "initech": ["notes.0002_squashed"],
    }
    same()
    assert ("notes", "0002_squashed") in recorded("acme")
    assert run().changed == []
    make_tenant("umbrella")
    assert recorded("umbrella") == recorded("acme")
    run(app_label="notes", migration_name="0001")
    assert not {("notes", name) for name in (first, second, "0002_squashed")} & recorded("acme")
    same()
    same("acme", model="umbrella")
    replays.clear()
    run()
    assert len(replays) == 4
    same()


def test_run_before(fleet: Any, add: Any) -> None:
    """It comes first, also if another app's migration asks for it."""
    add(migrations.AddField("tag", "later", models.IntegerField(null=True)))
    name = add(
        migrations.AddField("tag", "sooner", models.IntegerField(null=True)),
        dependencies=[("notes", "0001_initial")],
        run_before=[("notes", "0002_more")],
    )
    assert run().results[-1].applied == [f"notes.{name}", "notes.0002_more"]
    same()


def test_create_extension_goes_to_its_schema(fleet: Any, add: Any, raw: Any) -> None:
    """Not to the first tenant's; all have its type, and no tenant's drop or way back takes it from the others."""
    raw.execute("DROP EXTENSION IF EXISTS hstore")
    add(
        CreateExtension("hstore"),
        migrations.RunSQL("ALTER TABLE notes_tag ADD extra hstore", "ALTER TABLE notes_tag DROP extra"),
    )
    try:
        run()
        where = raw.execute("SELECT extnamespace::regnamespace::text FROM pg_extension WHERE extname = 'hstore'")
        assert where.fetchone() == ("public",)
        same()
        fleet[0].delete()
        assert query("globex", "SELECT 'a=>1'::hstore -> 'a'") == [("1",)]
        apply(Options(verbosity=0, app_label="notes", migration_name="0001"), names=["globex"])
        assert query("hooli", "SELECT 'a=>1'::hstore -> 'a'") == [("1",)]
        assert ("notes_tag", "extra") in columns("hooli")
    finally:
        raw.execute("DROP EXTENSION IF EXISTS hstore CASCADE")


SCRIPT = """
-- What the application needs.
CREATE TABLE notes_before (a int);
CREATE EXTENSION IF NOT EXISTS hstore; -- once
CREATE TABLE notes_behind (a hstore DEFAULT 'a=>1;b=>2');
"""


def test_extensions_inside_scripts(fleet: Any, add: Any, raw: Any, caplog: pytest.LogCaptureFixture) -> None:
    """Only what makes an extension leaves the schema, and only what drops one is left out, which is said once."""
    raw.execute("DROP EXTENSION IF EXISTS hstore")
    add(migrations.RunSQL(SCRIPT, "DROP TABLE notes_behind; DROP EXTENSION hstore CASCADE; DROP TABLE notes_before"))
    try:
        run()
        where = raw.execute("SELECT extnamespace::regnamespace::text FROM pg_extension WHERE extname = 'hstore'")
        assert where.fetchone() == ("public",)
        same()
        assert {("notes_before", "a"), ("notes_behind", "a")} <= set(columns("hooli"))
        apply(Options(verbosity=0, app_label="notes", migration_name="0001"), names=["acme", "globex"])
        assert not {("notes_before", "a"), ("notes_behind", "a")} & set(columns("acme"))
        same("globex")
        assert query("hooli", "SELECT a -> 'b' FROM notes_behind RIGHT JOIN (SELECT) x ON true") == [(None,)]
        assert ("notes_behind", "a") in columns("hooli")
        told = [record.getMessage() for record in caplog.records if "Left out of" in record.getMessage()]
        assert len(told) == 1
        assert "tenants' migrations: DROP EXTENSION hstore CASCADE. The extension is the whole database's" in told[0]
    finally:
        raw.execute("DROP EXTENSION IF EXISTS hstore CASCADE")


@pytest.mark.parametrize(
    ("operation", "message"),
    [
        (TenantSQL("CREATE EXTENSION hstore SCHEMA {{schema}}"), "no other tenant would find it"),
        (
            migrations.RunSQL([("CREATE TABLE x (); CREATE EXTENSION hstore; COMMENT ON TABLE x IS %s", ["y"])]),
            "Put the extension's into an operation of its own",
        ),
    ],
)
def test_extensions_that_cannot_be(fleet: Any, add: Any, raw: Any, operation: Any, message: str) -> None:
    """An error before anything is made, in each schema by itself."""
    raw.execute("DROP EXTENSION IF EXISTS hstore")
    add(operation)
    failed = apply(Options(verbosity=0)).failed
    assert [result.schema for result in failed] == FLEET
    assert all(message in str(result.error) for result in failed)
    assert raw.execute("SELECT FROM pg_extension WHERE extname = 'hstore'").fetchone() is None


class Custom(Operation):
    """An operation that nobody knows."""

    reversible = True

    def __init__(self, forwards: Callable[[Any], None]):
        self.forwards = forwards

    def state_forwards(self, app_label: str, state: Any) -> None:
        pass

    def database_forwards(self, app_label: str, schema_editor: Any, from_state: Any, to_state: Any) -> None:
        self.forwards(schema_editor)

    def database_backwards(self, *args: Any) -> None:
        pass


def test_custom_operations(fleet: Any, add: Any, replays: Any) -> None:
    """Sent again when two schemas have sent the same through the schema editor."""
    add(Custom(lambda editor: editor.execute("CREATE TABLE made (id int DEFAULT %s)", [1])))
    run()
    assert replays == ALL[1:]
    same()


@pytest.mark.parametrize("what", ["tenant", "rows", "cursor"])
def test_custom_operations_that_differ(fleet: Any, add: Any, replays: Any, what: str) -> None:
    """What asks for the tenant, or reads or writes past the schema editor, is run in each schema."""

    def forwards(editor: Any) -> None:
        value = current_tenant().pk
        if what == "rows":
            value = Tag.objects.count()
        if what == "cursor":
            with editor.connection.cursor() as cursor:
                cursor.execute("CREATE TABLE more (id int)")
        editor.execute("CREATE TABLE made (id int); INSERT INTO made VALUES (%s)", [value])

    add(Custom(forwards))
    run()
    assert replays == []
    values = [query(name, "SELECT id FROM made")[0][0] for name in FLEET]
    assert values == ([1, 2, 3, 4] if what == "rows" else [tenant.pk for tenant in fleet])
    same()


def test_names_of_constraints_are_looked_up(fleet: Any, add: Any, replays: Any, raw: Any) -> None:
    """Schemas with other names are told apart; one that is like another is served by that one's statements."""
    add(migrations.AddField("tag", "code", models.CharField(max_length=20, null=True, unique=True)))
    run()
    make_tenant("umbrella")
    replays.clear()
    for name in ("globex", "initech"):
        constraint = raw.execute(
            "SELECT conname FROM pg_constraint"
            " WHERE conrelid = %s::regclass AND contype = 'u' AND conname LIKE '%%code%%'",
            [f"{physical(name)}.notes_tag"],
        ).fetchone()[0]
        raw.execute(f'ALTER TABLE "{physical(name)}".notes_tag RENAME CONSTRAINT "{constraint}" TO by_hand')
    add(migrations.AlterField("tag", "code", models.CharField(max_length=20, null=True)))
    run()
    assert replays == [("globex", False), ("hooli", True), ("initech", False), ("initech", True), ("umbrella", True)]
    same()
    same("acme", model="umbrella")
    assert query("globex", "SELECT count(*) FROM pg_constraint WHERE conname = 'by_hand'") == [(0,)]


def test_another_catalog_under_the_same_history(fleet: Any, add: Any, replays: Any, raw: Any) -> None:
    """An index that was renamed by hand is dropped by its name of now."""
    add(migrations.AddField("tag", "code", models.IntegerField(null=True, db_index=True)))
    run()
    index = "SELECT indexrelid::regclass::text FROM pg_index WHERE indrelid = 'notes_tag'::regclass AND indkey[0] = 3"
    found = query("hooli", index)
    raw.execute(f'ALTER INDEX "{physical("hooli")}".{found[0][0]} RENAME TO by_hand')
    replays.clear()
    add(migrations.AlterField("tag", "code", models.IntegerField(null=True)))
    run()
    assert replays == [("globex", True), ("hooli", False), ("initech", True)]
    assert query("hooli", "SELECT to_regclass('by_hand')") == [(None,)]
    same()


def _count() -> int:
    return Tag.objects.count()


@pytest.mark.parametrize("default", [uuid.uuid4, timezone.now, _count])
def test_computed_defaults(fleet: Any, add: Any, replays: Any, default: Any) -> None:
    """Each schema has its own: keys, times, and what was read from its rows."""
    field: Any = {uuid.uuid4: models.UUIDField, timezone.now: models.DateTimeField}.get(default, models.IntegerField)
    add(migrations.AddField("tag", "extra", field(default=default)))
    run()
    assert replays == []
    values = [query(name, "SELECT DISTINCT extra FROM notes_tag")[0][0] for name in FLEET]
    assert len(set(values)) == 4
    if default is _count:
        assert values == [1, 2, 3, 4]
    same()


def test_backwards(fleet: Any, add: Any, replays: Any) -> None:
    """Learned from one schema as well, and each schema is as before."""
    before = {name: columns(name) for name in FLEET}
    add(*GROWTH)
    run()
    replays.clear()
    report = run(app_label="notes", migration_name="0001")
    assert report.results[-1].applied == ["-notes.0002_more"]
    assert replays == ALL
    assert {name: columns(name) for name in FLEET} == before
    same()


def test_a_way_back_that_does_not_exist(fleet: Any, add: Any) -> None:
    """It is refused before anything is changed."""
    add(migrations.RunSQL("CREATE TABLE stays (id int)"))
    run()
    with pytest.raises(MigrationFailed, match="is irreversible"):
        apply(Options(verbosity=0, app_label="notes", migration_name="0001"))
    assert query("acme", "SELECT to_regclass('stays') IS NOT NULL") == [(True,)]


def test_renamed_models(fleet: Any, add: Any) -> None:
    """Content types and permissions follow in each schema, as Django's receivers have it."""
    add(migrations.RenameModel("Tag", "Label"))
    run()
    same()
    names = "SELECT model FROM django_content_type WHERE app_label = 'notes' ORDER BY 1"
    assert [query(name, names) for name in FLEET] == [query("acme", names)] * 4
    assert ("tag",) not in query("acme", names)
    run(app_label="notes", migration_name="0001")
    assert ("tag",) in query("hooli", names)
    same()


# -- signals ----------------------------------------------------------------------------------------------------------


def test_receivers_are_called_for_each_schema(fleet: Any, add: Any, replays: Any) -> None:
    """Whoever else listens; a failing one is made up for by the next run."""
    seen: list[tuple[str, str | None]] = []
    failing = {"hooli"}

    def before(sender: Any, plan: Any, apps: Any, **kwargs: Any) -> None:
        if sender.label == "notes":
            seen.append(("pre", current_schema()))
            assert "colour" not in {field.name for field in apps.get_model("notes", "Tag")._meta.get_fields()}

    def after(sender: Any, plan: Any, apps: Any, **kwargs: Any) -> None:
        if sender.label == "notes":
            seen.append(("post", current_schema()))
            assert "colour" in {field.name for field in apps.get_model("notes", "Tag")._meta.get_fields()}
            if current_schema() in failing:
                raise RuntimeError("not now")

    pre_migrate.connect(before)
    post_migrate.connect(after)
    try:
        add(*GROWTH)
        report = apply(Options(verbosity=0))
        assert seen == [(kind, name) for name in FLEET for kind in ("pre", "post")]
        assert [result.schema for result in report.failed] == ["hooli"]
        seen.clear()
        failing.clear()
        assert run().changed == []
        assert seen == [("post", "hooli")]
        seen.clear()
        run()
        assert seen == []
    finally:
        pre_migrate.disconnect(before)
        post_migrate.disconnect(after)
    same()


def test_missing_permissions_come_back(fleet: Any, add: Any, raw: Any) -> None:
    """As Django's receiver adds what is missing, in the schema that lacks it."""
    raw.execute(f'DELETE FROM "{physical("hooli")}".auth_permission WHERE codename = %s', ["add_note"])
    add(migrations.AddField("tag", "one", models.IntegerField(null=True)))
    run()
    assert query("hooli", "SELECT count(*) FROM auth_permission") == query(
        "acme", "SELECT count(*) FROM auth_permission"
    )


# -- several at a time, canaries --------------------------------------------------------------------------------------


def test_jobs(fleet: Any, add: Any, replays: Any) -> None:
    """Threads share what one of them has learned; events come in the thread that called."""
    import threading

    threads, kinds = set(), []
    add(*GROWTH)
    add(
        migrations.RunPython(
            lambda apps, e: apps.get_model("notes", "Tag").objects.update(colour=str(current_schema()))
        )
    )

    def progress(event: Any) -> None:
        threads.add(threading.current_thread())
        kinds.append(event.kind)

    report = apply(Options(verbosity=0, jobs=3), progress=progress)
    assert report.failed == []
    assert [result.schema for result in report.results] == ["public", "billing", *FLEET]
    assert threads == {threading.current_thread()}
    assert kinds.count("migration") == 8
    assert len(replays) >= 3
    assert all(query(name, "SELECT DISTINCT colour FROM notes_tag") == [(name,)] for name in FLEET)
    same()


def test_canaries(fleet: Any, add: Any, raw: Any) -> None:
    """If one fails, no other schema is touched; if all succeed, the others follow."""
    add(NOT_BAD)
    raw.execute(f"UPDATE \"{physical('globex')}\".notes_tag SET name = 'bad' WHERE id = 1")
    report = apply(Options(verbosity=0, canary=2))
    assert {result.schema: result.error is None for result in report.results[2:]} == {"acme": True, "globex": False}
    assert report.held_back == ["hooli", "initech"]
    assert ("notes", "0002_more") not in recorded("hooli")
    out = io.StringIO()
    with pytest.raises(CommandError, match="They are canaries, so the other 2 schemas were not touched") as caught:
        call_command("migrate_schemas", canary=2, json=True, stdout=out, stderr=io.StringIO())
    assert caught.value.returncode == 1
    found = json.loads(out.getvalue())
    assert (found["failed"], found["held_back"], found["stopped_by"]) == (1, ["hooli", "initech"], "canary")
    raw.execute(f"UPDATE \"{physical('globex')}\".notes_tag SET name = 'good' WHERE id = 1")
    out = io.StringIO()
    call_command("migrate_schemas", canary=1, stdout=out, stderr=out)
    same()


@pytest.mark.parametrize("option", ["--jobs", "--canary"])
def test_counts_are_positive(fleet: Any, option: str) -> None:
    """Anything else is an error of the command line."""
    for value in ("0", "-1", "many"):
        with pytest.raises(CommandError, match=f"argument {option}"):
            call_command("migrate_schemas", option, value)


def test_the_marker_stays(fleet: Any, add: Any) -> None:
    """And so do the notes."""
    add(*GROWTH)
    run()
    for name in FLEET:
        assert query(name, f"SELECT count(*) FROM {MARKER_TABLE}") == [(0,)]
    with tenant_context(fleet[1]):
        assert Note.objects.count() == 0
