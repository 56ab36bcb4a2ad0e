"""What has to hold in this project."""

from __future__ import annotations

import io
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

import django
import seeded_code

django.setup()

# ruff: noqa: E402

from django.core.management import call_command
from django.db import connection, transaction
from django.db.models.signals import post_migrate, pre_migrate
from django.utils import timezone

from pg_tenants import checks, current_tenant, schemas, tenant_context
from pg_tenants.catalog import differences
from pg_tenants.migrations import Target, required_registry
from pg_tenants.provisioning import content, template
from tests.projects.probe import main, probe
from tests.projects.seeded.companies.models import Company
from tests.projects.seeded.goods.models import Change, Good, Group

WARNINGS: list[str] = []


class _Keep(logging.Handler):
    def emit(self, record: logging.LogRecord) -> None:
        WARNINGS.append(record.getMessage())


def prepare() -> None:
    logging.getLogger("pg_tenants").addHandler(_Keep())
    out = io.StringIO()
    call_command("migrate_schemas", stdout=out, stderr=out)
    for name in ("keys", "cursors", "prices", "names"):
        assert f"The module {name!r} has no template" in out.getvalue(), out.getvalue()
    assert "The module 'goods' has no" not in out.getvalue(), out.getvalue()


def target(module: str, schema: str = "") -> Target:
    return Target(schema, (required_registry().modules[module],))


def create(name: str, module: str = "goods") -> Any:
    return Company.objects.create(schema_name=name, module=module, name=name.title())


def read(schema: str) -> content.Content:
    with transaction.atomic(), schemas.tenant_connection().without_prefix() as execute:
        found = content.read(execute, schema)
        transaction.set_rollback(True)
    return found


@contextmanager
def no_templates() -> Iterator[None]:
    """Have none for a while."""
    with connection.cursor() as cursor:
        cursor.execute("ALTER TABLE public.pg_tenants_templates RENAME TO elsewhere")
        try:
            yield
        finally:
            cursor.execute("ALTER TABLE public.elsewhere RENAME TO pg_tenants_templates")


def assert_equal(model: str, other: str) -> None:
    assert differences(model, other) == []
    one, two = read(model), read(other)
    # UUIDs and times differ, as they do between two migrated schemas.
    fresh = [("goods_group", "id")]
    merged, differing = content.merged(one, two, fresh)
    assert differing == []
    assert content.same(merged, two) == []
    assert {name: table.columns for name, table in one.tables.items()} == {
        name: table.columns for name, table in two.tables.items()
    }


@probe
def template_equals_migrations() -> None:
    """Definitions, rows, values of sequences and the order of columns are those that the migrations make."""
    assert isinstance(template.load(target("goods")), template.Script)
    before = len(WARNINGS)
    create("quick")
    assert len(WARNINGS) == before
    with no_templates():
        create("slow")
    assert len(WARNINGS) == before + 1
    assert_equal("slow", "quick")
    with tenant_context(Company.objects.get(schema_name="quick")):
        assert Change.objects.count() == 20
        assert Good.objects.count() == 9
        good = Good.objects.create(name="new", note="", group=Group.objects.first())
        assert good.pk == 21
        with connection.cursor() as cursor:
            cursor.execute("INSERT INTO extra (hue) VALUES ('red') RETURNING id, double, number")
            assert cursor.fetchone() == (3, 6, 9)


@probe
def values_of_their_own() -> None:
    """Times are those of the tenant's creation, and what refers to a random key follows it."""
    one, two = create("own_one"), create("own_two")
    keys = set()
    for tenant in (one, two):
        with tenant_context(tenant):
            top = Group.objects.get(name="top")
            assert Group.objects.filter(parent=top).count() == 3
            keys |= set(Group.objects.values_list("pk", flat=True))
            good = Good.objects.first()
            assert timezone.now() - good.created < timedelta(seconds=60)
            assert timedelta(days=29) < good.until - timezone.now() < timedelta(days=31)
            assert good.day in {timezone.now().date(), (timezone.now() - timedelta(minutes=1)).date()}
            assert good.note == "it's \\ word\n{x}"
            assert bytes(good.blob) == b"\x00\xff"
            assert good.data == {"a": ["b'\\", None]}
    assert len(keys) == 8


@probe
def refused_modules() -> None:
    """What cannot be the same in each schema turns the template off, by the migration or the column."""
    reasons = {
        "keys": "keys_key.value",
        "cursors": "cursors.0001_initial: a raw cursor runs CREATE",
        "prices": "prices.0001_initial: it uses rows of public.companies_rate",
        "names": "names.0001_initial: it reads the tenant's name",
    }
    for module, reason in reasons.items():
        found = template.load(target(module))
        assert isinstance(found, template.Refused), found
        assert reason in found.reason, found.reason


@probe
def refused_modules_are_checked() -> None:
    """The check of the database warns of each, with the reason."""
    found = {message.msg.split("'")[1]: message for message in checks.check_databases(["default"])}
    assert set(found) == {"keys", "cursors", "prices", "names"}, found
    assert {message.id for message in found.values()} == {"pg_tenants.W060"}
    assert "keys_key.value" in found["keys"].msg


@probe
def refused_modules_are_migrated() -> None:
    """Their tenants are made by the migrations, which says so once."""
    before = len(WARNINGS)
    for number in range(2):
        create(f"names_{number}", "names")
        with tenant_context(Company.objects.get(schema_name=f"names_{number}")), connection.cursor() as cursor:
            cursor.execute("SELECT value FROM names_name")
            assert cursor.fetchall() == [(f"Names_{number}",)]
    assert len(WARNINGS) == before + 1
    assert "'names' cannot be used" in WARNINGS[-1]


@probe
def receivers_are_called() -> None:
    """Those of users are told at each provisioning, with the tenant active; what they write stays."""
    seen = []

    def receive(signal: Any, app_config: Any, plan: Any, apps: Any, **kwargs: Any) -> None:
        if app_config.label == "goods":
            count = apps.get_model("goods", "Good").objects.count() if signal is post_migrate else None
            names = [(m.app_label, m.name) for m, _ in plan if m.app_label == "goods"]
            seen.append((current_tenant().schema_name, count, names[-1]))

    for signal in (pre_migrate, post_migrate):
        signal.connect(receive)
    try:
        create("told")
    finally:
        for signal in (pre_migrate, post_migrate):
            signal.disconnect(receive)
    newest = ("goods", "0003_more")
    assert seen == [("told", None, newest), ("told", 9, newest)], seen


@probe
def in_a_transaction() -> None:
    """Row and schema are rolled back together, and a tenant can be used at once."""
    with transaction.atomic():
        tenant = create("brief")
        with tenant_context(tenant), connection.cursor() as cursor:
            assert Good.objects.count() == 9
            # No trigger of the rows waits, so tables can be altered.
            cursor.execute("ALTER TABLE goods_good ADD COLUMN more integer")
        transaction.set_rollback(True)
    assert not schemas.exists("brief")
    assert not Company.objects.filter(schema_name="brief").exists()


@probe
def stale_when_code_changes() -> None:
    """A change of a function that a migration calls, outside of it, makes the template stale, and changing it back
    does not."""
    path = Path(seeded_code.__file__)
    text = path.read_text()
    assert isinstance(template.load(target("goods")), template.Script)
    path.write_text(text + "# changed\n")
    try:
        assert template.load(target("goods")) is None
        out = io.StringIO()
        call_command("migrate_schemas", verbosity=2, stdout=out, stderr=out)
        assert "Making the template of the module 'goods'." in out.getvalue()
        assert isinstance(template.load(target("goods")), template.Script)
    finally:
        path.write_text(text)
    assert isinstance(template.load(target("goods")), template.Script)


@probe
def a_script_that_fails() -> None:
    """The schema is migrated, and the log says why."""
    with transaction.atomic():
        with connection.cursor() as cursor:
            cursor.execute("UPDATE public.pg_tenants_templates SET rows = 'SELECT 1/0'")
        create("failing")
        assert "division by zero" in WARNINGS[-1]
        with tenant_context(Company.objects.get(schema_name="failing")):
            assert Good.objects.count() == 9
        transaction.set_rollback(True)


@probe
def fixed_modules() -> None:
    """A fixed module's template builds its schema beside another one, for a worker of a test run."""
    found = template.build(target("shared", "public"))
    assert isinstance(found, template.Script), found
    here = schemas.tenant_connection()
    with transaction.atomic(), here.as_worker("beside"):
        schemas.create("public")
        found.replay(target("shared", "public"))
        one, two = read("public"), read("beside")
        assert one.tables["companies_rate"].rows == two.tables["companies_rate"].rows
        assert differences("public", "beside") == []
        transaction.set_rollback(True)


if __name__ == "__main__":
    main(prepare)
