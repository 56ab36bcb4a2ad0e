"""Tenants that are renamed, and deleted while they are used."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from typing import Any

import pytest
from django.conf import settings
from django.core.management import call_command
from django.core.management.base import CommandError
from django.db import connection, connections, transaction
from django.test import Client, override_settings
from psycopg import sql

from example_project.customers.models import Tenant
from example_project.notes.models import Note
from pg_tenants import schemas, signals, tenant_context
from pg_tenants.exceptions import (
    InvalidSchemaName,
    SchemaDoesNotExist,
    SchemaExists,
    TenantInUse,
    UnsafeStatement,
    WrongStatus,
)
from pg_tenants.provisioning.removal import uses
from tests.conftest import set_status
from tests.integration.test_clone import dumped, nasty, physical, tenant_schemas
from tests.integration.test_commands import run
from tests.integration.test_races import Child, child, settle

__all__ = ["child", "nasty"]

SEEN = "Processes that run see it within 60 s; at once if PG_TENANTS['CACHE'] names a cache they share."


def get(host: str) -> Any:
    return Client(raise_request_exception=False).get("/", headers={"host": host})


# -- rename -----------------------------------------------------------------------------------------------------------


def test_rename(nasty: Any, raw: Any, server_params: Any, caplog: pytest.LogCaptureFixture) -> None:
    """Row and schema have the new name; nothing but the name has changed, and what names the old one is told of."""
    before = dumped("acme", server_params)
    stale = Tenant.objects.get(pk=nasty.pk)
    assert get("acme.localhost").status_code == 200
    with caplog.at_level(logging.WARNING, "pg_tenants"):
        assert nasty.rename("initech")
    assert "function by_name()" in caplog.text
    assert not nasty.rename("initech")
    assert (nasty.schema_name, Tenant.objects.get().schema_name) == ("initech", "initech")
    assert tenant_schemas() == [physical("initech")]
    assert dumped("initech", server_params).replace("initech", "acme") == before
    # Its functions with a path of their own read the new schema.
    query = sql.SQL("SELECT {}.with_path()").format(sql.Identifier(physical("initech")))
    assert raw.execute(query).fetchone() == (3,)
    assert get("acme.localhost").status_code == 200
    with tenant_context(stale), pytest.raises(SchemaDoesNotExist, match="'acme'"):
        Note.objects.count()


def test_what_cannot_be_renamed(acme: Any, globex: Any, raw: Any) -> None:
    """A name that is taken or may not be, a tenant that is active here, has no schema, or is gone; nothing changes."""
    raw.execute("CREATE SCHEMA foreign_one")
    for name, error in (
        ("globex", SchemaExists),
        ("foreign_one", SchemaExists),
        ("No Name", InvalidSchemaName),
        ("billing", InvalidSchemaName),
        (connection.settings_dict["USER"], InvalidSchemaName),
    ):
        with pytest.raises(error):
            acme.rename(name)
    raw.execute("DROP SCHEMA foreign_one")
    with tenant_context(acme), pytest.raises(TenantInUse):
        acme.rename("initech")
    for status in ("provisioning", "failed", "deleting"):
        set_status(acme, status)
        with pytest.raises(WrongStatus):
            acme.rename("initech")
    set_status(acme, "active")

    def boom(schema_name: str, **kwargs: Any) -> None:
        raise RuntimeError(schema_name)

    for signal, other in ((signals.pre_tenant_rename, "initech"), (signals.post_tenant_rename, "acme")):
        signal.connect(boom)
        try:
            with pytest.raises(RuntimeError, match=other):
                acme.rename("initech")
        finally:
            signal.disconnect(boom)
    assert acme.schema_name == "acme"
    assert tenant_schemas() == [physical("acme"), physical("globex")]
    gone = Tenant.objects.get(pk=globex.pk)
    globex.delete()
    with pytest.raises(Tenant.DoesNotExist):
        gone.rename("initech")


def test_rename_under_work(acme: Any, child: Callable[[], Child]) -> None:
    """A process that works in the tenant ends in an error that says so; nothing of its work is elsewhere."""
    worker = child()
    assert worker.ask("work acme") == "working"
    time.sleep(0.3)
    acme.rename("initech")
    made, _, error = worker.answer().removeprefix("SchemaDoesNotExist: ").partition(": ")
    assert "'acme' is not in the database" in error
    with tenant_context(acme):
        assert Note.objects.count() == int(made) + 1


def test_killed_while_a_tenant_is_renamed(acme: Any, child: Any, raw: Any, server_params: Any) -> None:
    """It has the old name, row and schema."""
    victim = child()
    assert victim.ask("stop post_tenant_rename") == "ok"
    assert victim.ask("run rename_tenant acme initech") == "stopped"
    victim.kill()
    settle(raw, server_params["dbname"])
    assert Tenant.objects.get().schema_name == "acme"
    assert tenant_schemas() == [physical("acme")]


# -- delete under traffic ---------------------------------------------------------------------------------------------


def wait_for(status: int, seen: list[Any]) -> None:
    deadline = time.monotonic() + 60
    while all(response.status_code != status for response in seen):
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_delete_under_traffic(acme: Any, globex: Any, raw: Any, child: Any) -> None:
    """Requests get the tenant's pages, then 503, then 404; what is in flight ends in a clear error, never elsewhere."""
    notes = sql.Identifier(physical("acme"), "notes_note")
    raw.execute(sql.SQL("CREATE TABLE notes_note AS SELECT * FROM {}").format(notes))
    raw.execute("UPDATE notes_note SET title = 'DECOY'")
    worker = child()
    seen: list[Any] = []
    done = threading.Event()

    def browse() -> None:
        try:
            while not done.is_set():
                seen.append(get("acme.localhost"))
        finally:
            connections.close_all()

    threads = [threading.Thread(target=browse) for _ in range(3)]
    try:
        assert worker.ask("work acme") == "working"
        for thread in threads:
            thread.start()
        wait_for(200, seen)
        assert acme.delete(grace=0.5)[0]
        wait_for(404, seen)
    finally:
        done.set()
        for thread in threads:
            thread.join(30)
        raw.execute("DROP TABLE notes_note")
    assert worker.answer().startswith("SchemaDoesNotExist: ")
    assert {200, 404} <= {response.status_code for response in seen} <= {200, 404, 500, 503}
    for response in seen:
        text = response.content.decode()
        assert "DECOY" not in text
        assert "globex" not in text
        if response.status_code == 200:
            assert "Acme" in text
        if response.status_code == 500:
            assert issubclass(response.exc_info[0], SchemaDoesNotExist)
    assert tenant_schemas() == [physical("globex")]
    assert get("globex.localhost").status_code == 200


def test_delete_of_a_tenant_that_is_held(acme: Any, child: Any, raw: Any) -> None:
    """After the grace it says by whom, and the tenant stays out of service; then the session may be ended."""
    holder = child()
    assert holder.ask("hold acme") == "stopped"
    pid = uses("acme", using="default")[0].pid
    lines: list[str] = []
    with pytest.raises(TenantInUse, match=rf"(?s)still used after 0.3 s.*pid {pid}.*idle in transaction for .*SELECT"):
        acme.delete(grace=0.3, progress=lines.append)
    assert lines == ["waiting for sessions that use acme: 1"]
    assert acme.status == "deleting"
    assert get("acme.localhost").status_code == 503
    assert "acme" in run("list_tenants", "--status", "deleting")
    with pytest.raises(WrongStatus):
        acme.resume()
    with pytest.raises(CommandError, match="--terminate needs --grace"):
        run("delete_tenant", "acme", "--noinput", "--terminate")
    assert "Deleted" in run("delete_tenant", "acme", "--noinput", "--grace", "0.2", "--terminate")
    assert tenant_schemas() == []
    assert holder.ask("go on").startswith(("OperationalError", "InterfaceError"))


def test_delete_waits_for_the_end(acme: Any, child: Any) -> None:
    """A transaction that ends within the grace is not disturbed."""
    holder = child()
    assert holder.ask("hold acme") == "stopped"
    timer = threading.Timer(0.5, lambda: holder.tell("go on"))
    timer.start()
    assert acme.delete(grace=30)[0]
    timer.join()
    assert holder.answer() == "ok"


def test_killed_while_it_waits(acme: Any, child: Any, raw: Any, server_params: Any) -> None:
    """The tenant stays out of service, and the command that is run again deletes it."""
    victim = child()
    assert victim.ask("stop pre_tenant_delete") == "ok"
    assert victim.ask("run delete_tenant acme --noinput --grace 5") == "stopped"
    victim.kill()
    settle(raw, server_params["dbname"])
    assert Tenant.objects.get().status == "deleting"
    assert tenant_schemas() == [physical("acme")]
    call_command("delete_tenant", "acme", "--noinput", "--grace", "5", verbosity=0)
    assert not Tenant.objects.exists()
    assert tenant_schemas() == []


def test_where_a_grace_cannot_be(acme: Any) -> None:
    """Not in a transaction, which would keep the status from others, and not while the tenant is active."""
    with transaction.atomic(), pytest.raises(UnsafeStatement):
        acme.delete(grace=1)
    with tenant_context(acme), pytest.raises(TenantInUse):
        acme.delete(grace=1)
    assert Tenant.objects.get().status == "active"
    set_status(acme, "provisioning")
    schemas.drop("acme")
    assert acme.delete(grace=1)[0]


# -- commands ---------------------------------------------------------------------------------------------------------


def test_suspend_and_resume_commands(acme: Any, globex: Any) -> None:
    """They may be called again, say what was done and when it is seen, and do nothing where a name is wrong."""
    assert run("suspend_tenant", "acme", "globex").splitlines() == [
        "Suspended tenant acme.",
        "Suspended tenant globex.",
        SEEN,
    ]
    assert run("suspend_tenant", "acme") == "Tenant acme was suspended already.\n"
    with pytest.raises(CommandError, match="'globe'"):
        run("resume_tenant", "acme", "globe")
    assert run("resume_tenant", "acme") == f"Resumed tenant acme.\n{SEEN}\n"
    with override_settings(PG_TENANTS={**settings.PG_TENANTS, "CACHE": "default"}):
        assert run("suspend_tenant", "acme") == "Suspended tenant acme.\n"
    assert run("resume_tenant", "acme").splitlines()[0] == "Resumed tenant acme."
    assert run("resume_tenant", "acme") == "Tenant acme was in service already.\n"
    assert set(Tenant.objects.values_list("schema_name", "status")) == {("acme", "active"), ("globex", "suspended")}


def test_clone_and_rename_commands(acme: Any) -> None:
    """They say what is done, and errors without a traceback."""
    text = run("clone_tenant", "acme", "initech", "--data", "--set", "name=Initech", "--domain", "initech.localhost")
    assert text.splitlines()[-1] == "Cloned acme to initech."
    assert "rows of notes_note" in text
    assert run("clone_tenant", "acme", "hooli", "--json") == '{"schema_name": "hooli", "source": "acme"}\n'
    for args, part in (
        (["acme", "hooli"], "already"),
        (["acme", "third", "--domain", "initech.localhost"], "--domain"),
        (["acme", "third", "--domain", "no host"], "no host"),
        (["acme", "third", "--set", "nom=x"], "no field"),
        (["acm", "third"], "acme"),
    ):
        with pytest.raises(CommandError, match=part):
            run("clone_tenant", *args)
    assert run("rename_tenant", "hooli", "third") == "Renamed tenant hooli to third.\n"
    assert run("rename_tenant", "third", "third") == "Nothing to do: the tenant is called third.\n"
    with pytest.raises(CommandError, match="already"):
        run("rename_tenant", "third", "acme")
