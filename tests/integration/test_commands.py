"""`create_tenant`, `list_tenants`, `delete_tenant`, `tenant_command`."""

from __future__ import annotations

import io
import json
import re
import sys
from typing import Any

import pytest
from django.contrib.auth.models import User
from django.core.management import ManagementUtility, call_command, get_commands
from django.core.management.base import BaseCommand, CommandError
from django.db import connection
from django.test.utils import CaptureQueriesContext
from django.utils import timezone

from example_project.customers.models import Domain, Tenant
from example_project.notes.models import Note, Tag
from pg_tenants import current_schema, schemas, tenant_context
from tests.conftest import make_tenant


def run(command: str, *args: str, **kwargs: Any) -> str:
    out = io.StringIO()
    call_command(command, *args, stdout=out, stderr=out, **kwargs)
    assert current_schema() is None
    return out.getvalue()


def nothing_made(name: str) -> bool:
    return not Tenant.objects.filter(schema_name=name).exists() and not schemas.exists(name)


# -- create_tenant ----------------------------------------------------------------------------------------------------


def test_create_tenant(open_db: None) -> None:
    """Row, schema, domain and fields."""
    text = run("create_tenant", "acme", "--domain", "Acme.Example.", "--set", "name=Acme = Co", "--set", "plan=team")
    assert "Created tenant acme" in text
    tenant = Tenant.objects.get(schema_name="acme")
    assert (tenant.name, tenant.plan, tenant.is_active) == ("Acme = Co", "team", True)
    assert list(tenant.domains.values_list("domain", "is_primary")) == [("acme.example", True)]
    with tenant_context(tenant):
        assert Note.objects.count() == 0


def test_create_tenant_without_a_domain_and_as_json(open_db: None) -> None:
    """The output is for machines."""
    found = json.loads(run("create_tenant", "acme", "--set", "name=Acme", "--json"))
    assert found["schema_name"] == "acme"
    assert found["domain"] is None
    assert not Domain.objects.filter(tenant__schema_name="acme").exists()
    assert run("create_tenant", "globex", "--set", "name=G", "--module", "tenant", verbosity=0) == ""


@pytest.mark.parametrize(
    ("args", "part"),
    [
        (["Acme", "--set", "name=x"], "'Acme' cannot be a schema's name"),
        (["public", "--set", "name=x"], "'public'"),
        (["billing", "--set", "name=x"], "another part of the project"),
        (["acme", "--set", "name"], "'name' has no '='"),
        (["acme", "--set", "nme=x"], "no field 'nme'"),
        (["acme", "--set", "colour=red", "--set", "name=x"], "#rrggbb"),
        (["acme", "--set", "plan=huge", "--set", "name=x"], "'huge' is not a valid choice"),
        (["acme"], "name: This field cannot be blank. Give it by --set name=VALUE."),
        (["acme", "--set", "created_at=soon", "--set", "name=x"], "soon"),
        (["acme", "--set", "name=x", "--module", "nope"], "'nope'"),
        (["acme", "--set", "name=x", "--domain", "http://acme.example/"], "is no host's name"),
        (["acme", "--set", "name=x", "--domain", "taken.localhost"], "already exists"),
        (["acme", "--set", "name=x", "--domain", "TAKEN.localhost"], "already exists"),
        (["acme", "--set", "name=x", "--set", "schema_name=other"], "schema_name"),
        (["acme", "--set", "name=x", "--set", "module=tenant"], "module"),
        (["acme", "--set", "name=x", "--set", "domains=1"], "'domains'"),
        (["taken", "--set", "name=x"], "already"),
    ],
)
def test_create_tenant_with_a_mistake(taken: Any, args: list[str], part: str) -> None:
    """One line that says what is wrong; nothing is made."""
    before = Tenant.objects.count()
    with pytest.raises(CommandError) as caught:
        run("create_tenant", *args)
    assert part in str(caught.value)
    assert Tenant.objects.count() == before
    if args[0] == "acme":
        assert nothing_made("acme")


@pytest.fixture
def taken(open_db: None) -> Any:
    """Return a row of a tenant that costs no schema."""
    tenant = Tenant(schema_name="taken", name="Taken", module="tenant", status="active", created_at=timezone.now())
    Tenant._base_manager.bulk_create([tenant])
    Domain.objects.create(domain="taken.localhost", tenant=tenant)
    return tenant


def test_create_tenant_where_the_schema_is_there(open_db: None, raw: Any) -> None:
    """It is not taken over, and the message names it."""
    name = schemas.tenant_connection().physical_schema("acme")
    raw.execute(f'CREATE SCHEMA "{name}"')
    try:
        with pytest.raises(CommandError, match=f"schema '{name}' already"):
            run("create_tenant", "acme", "--set", "name=x", "--domain", "acme.localhost")
        assert not Tenant.objects.filter(schema_name="acme").exists()
        assert not Domain.objects.filter(domain="acme.localhost").exists()
    finally:
        raw.execute(f'DROP SCHEMA "{name}"')


# -- list_tenants -----------------------------------------------------------------------------------------------------


def test_list_tenants(taken: Any) -> None:
    """For people, for machines, by status; the primary domain first."""
    Domain.objects.create(domain="a.localhost", tenant=taken, is_primary=False)
    other = Tenant(schema_name="asleep", name="Asleep", module="tenant", status="suspended", created_at=timezone.now())
    Tenant._base_manager.bulk_create([other])
    lines = run("list_tenants").splitlines()
    assert [line.split()[:2] for line in lines] == [["asleep", "suspended"], ["taken", "active"]]
    assert lines[1].endswith("taken.localhost, a.localhost")
    assert lines[0].endswith("-")
    found = json.loads(run("list_tenants", "--json"))
    assert found[1] == {
        "schema_name": "taken",
        "module": "tenant",
        "status": "active",
        "created_at": taken.created_at.isoformat(),
        "age_days": 0,
        "domains": ["taken.localhost", "a.localhost"],
    }
    assert [row["schema_name"] for row in json.loads(run("list_tenants", "--json", "--status", "suspended"))] == [
        "asleep"
    ]
    with pytest.raises(CommandError, match="invalid choice: 'sleepy'"):
        run("list_tenants", "--status", "sleepy")


def test_list_tenants_with_sizes(acme: Any) -> None:
    """Of all in one statement; unknown where there is no schema."""
    Tenant(schema_name="later").save(provision=False)
    with tenant_context(acme):
        Tag.objects.bulk_create(Tag(name=f"t{number}") for number in range(1000))
        with connection.cursor() as cursor:
            cursor.execute("ANALYZE notes_tag")
    with CaptureQueriesContext(connection) as queries:
        found = {row["schema_name"]: row for row in json.loads(run("list_tenants", "--json", "--sizes"))}
    assert len(queries) == 3
    assert found["acme"]["bytes"] > 100_000
    assert 1000 <= found["acme"]["rows_estimate"] < 3000
    assert (found["later"]["bytes"], found["later"]["rows_estimate"]) == (None, None)
    lines = run("list_tenants", "--sizes").splitlines()
    assert re.fullmatch(r"acme   active +[\d.]+ [KM]B +~\d+ rows  acme.localhost", lines[0]), lines[0]
    assert re.fullmatch(r"later  provisioning +- +- rows  -", lines[1]), lines[1]


def test_list_tenants_without_any(open_db: None) -> None:
    """It says how to create one; JSON is an empty list."""
    assert "create_tenant" in run("list_tenants")
    assert json.loads(run("list_tenants", "--json")) == []


# -- delete_tenant ----------------------------------------------------------------------------------------------------


def answer(monkeypatch: pytest.MonkeyPatch, text: str | None) -> list[str]:
    asked: list[str] = []

    def fake(prompt: str = "") -> str:
        asked.append(prompt)
        if text is None:
            raise EOFError
        return text

    monkeypatch.setattr("builtins.input", fake)
    return asked


def test_delete_tenant_asks(acme: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """For the schema's name; anything else, or no terminal, deletes nothing."""
    for text in ("", "y", "yes", "ACME", "acme2", None):
        asked = answer(monkeypatch, text)
        with pytest.raises(CommandError, match="Nothing was deleted"):
            run("delete_tenant", "acme")
        assert len(asked) == 1
        assert "acme" in asked[0]
    with tenant_context(acme):
        assert Note.objects.count() == 1
    answer(monkeypatch, " acme ")
    text = run("delete_tenant", "acme")
    assert "Acme" in text
    assert "Deleted tenant acme" in text
    assert nothing_made("acme")


@pytest.mark.parametrize("option", ["--noinput", "--no-input"])
def test_delete_tenant_without_asking(acme: Any, monkeypatch: pytest.MonkeyPatch, option: str) -> None:
    """For scripts."""
    asked = answer(monkeypatch, "no")
    run("delete_tenant", "acme", option)
    assert asked == []
    assert nothing_made("acme")


def test_delete_tenant_that_is_not_there(taken: Any, open_db: None) -> None:
    """The nearest is named."""
    with pytest.raises(CommandError, match=r"no tenant 'takn'\. Did you mean 'taken'\?"):
        run("delete_tenant", "takn", "--noinput")
    Domain.objects.all().delete()
    Tenant._base_manager.all()._raw_delete("default")
    with pytest.raises(CommandError, match="There is no tenant yet"):
        run("delete_tenant", "taken", "--noinput")


def test_delete_tenant_inside_it(acme: Any) -> None:
    """Refused in one line."""
    with tenant_context(acme), pytest.raises(CommandError, match="'acme' is active here"):
        call_command("delete_tenant", "acme", "--noinput")
    assert Tenant.objects.filter(schema_name="acme").exists()


# -- tenant_command ---------------------------------------------------------------------------------------------------


class Probe(BaseCommand):
    """Tells where it runs, and fails where it is told to."""

    ran: list[Any]
    failures: dict[str | None, Any]

    def add_arguments(self, parser: Any) -> None:
        parser.add_argument("words", nargs="*")
        parser.add_argument("--schema")
        parser.add_argument("--all", action="store_true")

    def handle(self, *args: Any, **options: Any) -> str | None:
        self.ran.append((current_schema(), options["words"], options["schema"], options["all"]))
        if failure := self.failures.get(current_schema()):
            raise failure
        return f"here is {current_schema()}"


@pytest.fixture
def probe(monkeypatch: pytest.MonkeyPatch) -> Probe:
    """Install a command for the length of the test."""
    command = Probe()
    command.ran, command.failures = [], {}
    monkeypatch.setitem(get_commands(), "probe", command)
    return command


def test_a_command_in_one_tenant(acme: Any, globex: Any, probe: Probe) -> None:
    """Its options, also those that tenant_command has, are its own."""
    text = run("tenant_command", "--schema", "acme", "probe", "a", "--schema", "b", "--all")
    assert probe.ran == [("acme", ["a"], "b", True)]
    assert text.strip() == "here is acme"
    run("tenant_command", "--schema", "globex", "createsuperuser", "--username", "bob", "--email", "", "--noinput")
    with tenant_context(globex):
        assert User.objects.filter(username="bob", is_superuser=True).exists()
    with tenant_context(acme):
        assert not User.objects.filter(username="bob").exists()


def test_a_command_in_some_and_in_all_tenants(acme: Any, globex: Any, probe: Probe) -> None:
    """All are the active ones, in the order of their names; the output says which is which."""
    make_tenant("initech")
    Tenant.objects.get(schema_name="globex").suspend()
    run("tenant_command", "--schema", "globex", "--schema", "acme", "--schema", "globex", "probe")
    assert [ran[0] for ran in probe.ran] == ["globex", "acme"]
    probe.ran.clear()
    text = run("tenant_command", "--all", "probe")
    assert [ran[0] for ran in probe.ran] == ["acme", "initech"]
    assert text.splitlines() == ["acme:", "here is acme", "initech:", "here is initech"]


def test_a_command_that_reads_the_database(acme: Any, globex: Any) -> None:
    """One of Django's own."""
    text = run("tenant_command", "--all", "dumpdata", "notes.note", "--format", "jsonl")
    assert text.index("note of acme") < text.index("globex:") < text.index("note of globex")


@pytest.mark.parametrize("error", [CommandError("broken"), ValueError("broken"), SystemExit(3), KeyError("broken")])
def test_a_command_that_fails_in_one_of_several(acme: Any, globex: Any, probe: Probe, error: BaseException) -> None:
    """The others run, the failing one is named with its reason, and the exit status is not 0."""
    initech = make_tenant("initech")
    probe.failures = {"globex": error}
    with pytest.raises(CommandError) as caught:
        run("tenant_command", "--all", "probe")
    assert [ran[0] for ran in probe.ran] == ["acme", "globex", "initech"]
    assert "probe failed in 1 of 3 tenants" in str(caught.value)
    assert "globex: " in str(caught.value)
    assert ("3" if isinstance(error, SystemExit) else "broken") in str(caught.value)
    assert caught.value.returncode != 0
    assert current_schema() is None
    assert initech.is_active


def test_a_database_error_in_one_tenant_leaves_the_connection_usable(acme: Any, globex: Any, probe: Probe) -> None:
    """For the tenants after it."""
    with tenant_context(acme), connection.cursor() as cursor:
        cursor.execute("DROP TABLE notes_note_tags; DROP TABLE notes_note")
    with pytest.raises(CommandError, match="failed in 1 of 2 tenants") as caught:
        run("tenant_command", "--all", "dumpdata", "notes.note")
    assert "acme: " in str(caught.value)


def test_a_command_that_fails_in_the_only_tenant(acme: Any, probe: Probe) -> None:
    """Its own error comes through, with its status."""
    probe.failures = {"acme": CommandError("broken", returncode=7)}
    with pytest.raises(CommandError, match=r"^broken$") as caught:
        run("tenant_command", "--schema", "acme", "probe")
    assert caught.value.returncode == 7


def test_an_interrupt_stops_all(acme: Any, globex: Any, probe: Probe) -> None:
    """Ctrl-C means all of it."""
    probe.failures = {"acme": KeyboardInterrupt()}
    with pytest.raises(KeyboardInterrupt):
        run("tenant_command", "--all", "probe")
    assert [ran[0] for ran in probe.ran] == ["acme"]


@pytest.mark.parametrize(
    ("args", "part"),
    [
        (["--schema", "takn", "probe"], "Did you mean 'taken'?"),
        (["--schema", "taken", "--schema", "nope", "probe"], "'nope'"),
        (["--schema", "taken", "prob"], "no command 'prob'"),
        (["--all", "creatsuperuser"], "Did you mean 'createsuperuser'?"),
        (["probe"], "one of the arguments --schema --all is required"),
        (["--all", "--schema", "taken", "probe"], "not allowed with"),
        (["--all"], "command"),
    ],
)
def test_a_mistake_in_the_call(taken: Any, probe: Probe, args: list[str], part: str) -> None:
    """It is told before anything runs."""
    with pytest.raises(CommandError) as caught:
        run("tenant_command", *args)
    assert part in str(caught.value)
    assert probe.ran == []


def test_the_exit_status_of_the_command_line(
    taken: Any, probe: Probe, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Errors go to stderr, in words."""
    monkeypatch.setattr(sys, "argv", ["manage.py"])
    for argv in (
        ["delete_tenant", "takn", "--noinput"],
        ["create_tenant", "Bad", "--set", "name=x"],
        ["tenant_command", "--schema", "nope", "probe"],
    ):
        with pytest.raises(SystemExit) as stop:
            ManagementUtility(["manage.py", *argv]).execute()
        assert stop.value.code == 1
        captured = capsys.readouterr()
        assert captured.err.startswith("CommandError: ")
        assert "Traceback" not in captured.err
