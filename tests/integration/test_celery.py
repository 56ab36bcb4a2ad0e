"""Celery tasks run in the tenant that they were sent in, in real workers."""

from __future__ import annotations

import datetime
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from celery import Celery, chain, chord, group
from django.db import connections, transaction
from django.db.models import QuerySet

from example_project.customers.models import Tenant
from example_project.notes.models import Note
from pg_tenants import current_schema, deactivate, schema_context, schemas, tenant_context
from pg_tenants.contrib.celery import for_each_tenant
from pg_tenants.contrib.jobs import KEY
from pg_tenants.exceptions import JobRefused
from pg_tenants.models import TenantStatus
from tests.conftest import make_tenant, set_status
from tests.fix_redis import Run, wait_for
from tests.projects.jobs import tasks
from tests.projects.jobs.app import app

PREFIX = "tests.projects.jobs.tasks."
A, G = "note of acme", "note of globex"


@pytest.fixture(scope="module")
def sender(redis_url: str) -> Iterator[None]:
    """Make this process send to the broker."""
    app.conf.update(broker_url=redis_url, result_backend=redis_url)
    yield
    app.close()


@pytest.fixture(scope="module", params=["prefork", "threads"])
def worker(request: pytest.FixtureRequest, run_process: Run, sender: None) -> Iterator[Path]:
    """Run a worker with two processes or threads, and return the path of its log."""
    options = ("--concurrency=2", f"--pool={request.param}", "--loglevel=INFO")
    with run_process("-m", "celery", "-A", "tests.projects.jobs.app", "worker", *options) as log:
        wait_for(lambda: " ready." in log.read_text(), "a worker", 60)
        yield log


@pytest.fixture
def eager() -> Iterator[None]:
    app.conf.update(task_always_eager=True, task_eager_propagates=True)
    yield
    app.conf.update(task_always_eager=False, task_eager_propagates=False)


def get(result: Any) -> Any:
    return result.get(timeout=30)


def in_tenant(tenant: Any, send: Any) -> Any:
    with tenant_context(tenant):
        return send()


def titles(tenant: Any) -> list[str]:
    with tenant_context(tenant):
        return list(Note.objects.order_by("pk").values_list("title", flat=True))


def test_a_task_runs_where_it_was_sent(worker: Path, acme: Any, globex: Any) -> None:
    """Each of many tasks sees its tenant alone, and none finds what the one before has left."""
    sent = []
    for number in range(30):
        tenant = (acme, globex)[number % 2]
        sent.append((tenant, in_tenant(tenant, tasks.what.delay)))
        if number % 5 == 0:
            in_tenant(tenant, tasks.leave_another_active.delay)
            in_tenant(tenant, lambda: tasks.fail.apply_async())
    where = set()
    for tenant, result in sent:
        found = get(result)
        where.add(found.pop("where"))
        assert found == {
            "schema": tenant.schema_name,
            "tenant": tenant.name,
            "notes": [f"note of {tenant.schema_name}"],
            "left": None,
        }
    assert len(where) == 2
    assert current_schema() is None


def test_what_a_schema_by_name_sends(worker: Path, acme: Any) -> None:
    """It is its tenant's; one that is no tenant's cannot send."""
    with schema_context("acme"):
        assert get(tasks.what.delay())["tenant"] == "Acme"
    with schema_context("nobody"):
        with pytest.raises(JobRefused, match="'nobody' is no saved tenant's"):
            tasks.what.delay()


def test_later(worker: Path, acme: Any) -> None:
    """A countdown and an ETA keep the tenant."""
    eta = datetime.datetime.now(datetime.UTC) + datetime.timedelta(seconds=1)
    with tenant_context(acme):
        results = [tasks.what.apply_async(countdown=1), tasks.what.apply_async(eta=eta), tasks.what.delay()]
    assert [get(result)["schema"] for result in results] == ["acme"] * 3


def test_retries(worker: Path, acme: Any) -> None:
    """A retry goes where the task was, also when the task has left another schema active."""
    assert get(in_tenant(acme, tasks.third_time.delay)) == [2, "acme", 1]
    with pytest.raises(ZeroDivisionError):
        get(in_tenant(acme, tasks.retried_by_itself.delay))
    assert titles(acme) == [A, "try", "try", "try"]


def test_tasks_sent_by_tasks(worker: Path, acme: Any) -> None:
    """They have the tenant of the task that sends them."""
    assert get(app.AsyncResult(get(in_tenant(acme, tasks.send_another.delay))))["schema"] == "acme"


def canvases() -> dict[str, Any]:
    t = tasks.trail
    return {
        "chain": (chain(t.s(), t.s(), t.s()), 3),
        "group": (group(t.s(), t.s()), [1, 1]),
        "chord": (chord([t.s(), t.s()], t.s()), 3),
        "chain with a group": (chain(t.s(), group(t.s(), t.s()), t.s(), t.s()), 6),
        "chord of chains": (chord([chain(t.s(), t.s()), t.s()], chain(t.s(), t.s())), 5),
        "group of chains": (group(chain(t.s(), t.s()), t.s()), [2, 1]),
        "chain in a chord in a chain": (chain(t.s(), chord([t.s(), chain(t.s(), t.s())], t.s()), t.s()), 7),
    }


@pytest.mark.parametrize("name", list(canvases()))
def test_canvas(worker: Path, acme: Any, globex: Any, name: str) -> None:
    """Every part runs in the tenant that sends the whole."""
    canvas, expected = canvases()[name]
    # Celery gives the same ids to what is sent twice, so results are told apart by copies alone.
    results = [(title, in_tenant(tenant, canvas.clone().apply_async)) for tenant, title in ((acme, A), (globex, G))]
    for title, result in results:
        found = get(result)
        if isinstance(expected, list):
            assert found == [[title] * count for count in expected]
        else:
            assert found == [title] * expected


def test_one_canvas_sent_by_two_tenants(worker: Path, acme: Any, globex: Any) -> None:
    """Nothing of the first sending stays in it."""
    write = tasks.write
    canvas = chain(write.si(title="1"), group(write.si(title="2"), write.si(title="2")), write.si(title="3"))
    for tenant in (acme, globex, acme):
        in_tenant(tenant, canvas.apply_async)
    wait_for(lambda: titles(acme).count("3") == 2 and "3" in titles(globex), "the last tasks")
    assert sorted(titles(acme)) == ["1", "1", "2", "2", "2", "2", "3", "3", A]
    assert sorted(titles(globex)) == ["1", "2", "2", "3", G]


def test_the_parts_between(worker: Path, acme: Any) -> None:
    """A shared task inside a chain runs without a tenant, and the ones after it with theirs."""
    with tenant_context(acme):
        result = chain(tasks.trail.s(), tasks.shared.s(), tasks.trail.s()).delay()
    assert get(result) == [A, None, A]


def test_map_and_chunks(worker: Path, acme: Any) -> None:
    """Celery's own tasks that call the project's have the tenant."""
    with tenant_context(acme):
        assert get(tasks.trail.map([1, 2]).delay()) == [[A], [A]]
        assert get(tasks.trail.chunks([(1,), (2,)], 1)()) == [[[A]], [[A]]]


def test_links(worker: Path, acme: Any, globex: Any) -> None:
    """Callbacks of success and failure run in the task's tenant; their signatures serve several tenants."""
    link, failed = tasks.write.s(title="linked"), tasks.on_error.s()
    old = tasks.write.si(title="failed")
    for tenant in (acme, globex):
        in_tenant(tenant, lambda: tasks.trail.apply_async(link=link))
        in_tenant(tenant, lambda: tasks.fail.apply_async(link_error=[failed, old]))
    for tenant in (acme, globex):
        wait_for(lambda: len(titles(tenant)) == 4, "the callbacks")  # noqa: B023
        assert sorted(titles(tenant)) == ["failed", "handled", "linked", f"note of {tenant.schema_name}"]


def test_hooks(worker: Path, acme: Any) -> None:
    """``on_success`` and ``on_failure`` run in the tenant."""
    in_tenant(acme, lambda: get(tasks.hooked.delay(False)))
    with pytest.raises(ZeroDivisionError):
        in_tenant(acme, lambda: get(tasks.hooked.delay(True)))
    wait_for(lambda: titles(acme) == [A, "succeeded", "failed"], "the hooks")


def test_on_commit(worker: Path, acme: Any, globex: Any) -> None:
    """HAZARD 13: what is sent on commit is of the tenant that registered it."""
    with transaction.atomic():
        with tenant_context(acme):
            tasks.write.delay_on_commit(title="committed")
            transaction.on_commit(lambda: tasks.write.delay(title="by hand"))
        with tenant_context(globex):
            tasks.write.apply_async_on_commit(kwargs={"title": "committed"})
    wait_for(lambda: len(titles(acme)) == 3 and len(titles(globex)) == 2, "the tasks")
    assert sorted(titles(acme)) == ["by hand", "committed", A]
    assert titles(globex) == [G, "committed"]


def test_a_task_without_a_tenant_is_refused(worker: Path, acme: Any, redis_url: str) -> None:
    """HAZARD 13: by the sender, and by the worker if the sender knows no tenants; a shared one runs."""
    deactivate()
    for send in (tasks.what.delay, tasks.what.apply, chain(tasks.what.s(), tasks.what.s()).delay):
        with pytest.raises(JobRefused, match=r"'tests\.projects\.jobs\.tasks\.what' needs a tenant and has none"):
            result = send()
            result.get()
    with schema_context("public"), pytest.raises(JobRefused, match="needs a tenant"):
        tasks.what.delay()
    with Celery(broker=redis_url, backend=redis_url, set_as_current=False) as stranger:
        with pytest.raises(JobRefused, match="needs a tenant and has none"):
            get(stranger.send_task(f"{PREFIX}what"))
        assert get(stranger.send_task(f"{PREFIX}shared")) == [None]
        # By its name, from a process that has our signals.
        assert get(in_tenant(acme, lambda: stranger.send_task(f"{PREFIX}what")))["schema"] == "acme"
    assert get(tasks.shared.delay()) == [None]
    assert get(in_tenant(acme, tasks.shared.delay)) == [None]


def test_the_second_of_a_chain_is_refused(worker: Path, open_db: None) -> None:
    """A shared task may begin a chain, and does not give the next one a tenant."""
    with pytest.raises(JobRefused, match="needs a tenant and has none"):
        get(chain(tasks.shared.s(), tasks.trail.s()).delay())


def test_a_class_of_others(worker: Path, acme: Any) -> None:
    """A task whose class is Celery's has no tenant, and what it leaves active is gone before the next."""
    for _ in range(6):
        assert get(in_tenant(acme, lambda: tasks.of_another_class.delay("acme"))) is None
    assert get(in_tenant(acme, tasks.what.delay))["left"] is None


def test_a_tenant_that_is_gone(worker: Path, open_db: None) -> None:
    """A deleted one is refused, also when there is a new one of its name."""
    tenant = make_tenant("initech")
    label = f"initech {tenant.pk}"
    tenant.delete()
    message = f"'initech' with the key '{label.split()[1]}', which does not exist"
    for _ in range(2):
        with pytest.raises(JobRefused, match=message):
            get(tasks.write.apply_async(headers={KEY: label}, kwargs={"title": "late"}))
        tenant = Tenant.objects.filter(schema_name="initech").first() or make_tenant("initech")
    assert titles(tenant) == []


@pytest.mark.parametrize("status", [status for status in TenantStatus.values if status != "active"])
def test_a_tenant_that_is_not_active(worker: Path, acme: Any, status: str) -> None:
    """The task fails with an error that names tenant and status, before its own code runs."""
    result = in_tenant(acme, lambda: tasks.write.apply_async(kwargs={"title": "late"}, countdown=1))
    set_status(acme, status)
    with pytest.raises(JobRefused, match=f"'acme', whose status is '{status}'"):
        get(result)
    set_status(acme, "active")
    assert titles(acme) == [A]


def test_a_tenant_that_was_renamed(worker: Path, open_db: None) -> None:
    """A task for the old name is refused, and names both."""
    tenant = make_tenant("initech")
    result = in_tenant(tenant, lambda: tasks.write.apply_async(kwargs={"title": "late"}, countdown=1))
    schemas.rename("initech", "initrode")
    QuerySet.update(Tenant.objects.filter(pk=tenant.pk), schema_name="initrode")
    with pytest.raises(JobRefused, match=r"'initech' .* whose schema is called 'initrode' now"):
        get(result)


@pytest.mark.parametrize("label", ["other 1", "public 0", "acme x", "acme", "'; DROP SCHEMA acme", "billing {pk}"])
def test_labels_that_lie(worker: Path, acme: Any, raw: Any, label: str) -> None:
    """A schema that is there but no tenant's, another key, no key: refused, and nothing is run in any schema."""
    raw.execute("CREATE SCHEMA IF NOT EXISTS other")
    try:
        with pytest.raises(JobRefused, match="Nothing was run"):
            get(tasks.write.apply_async(headers={KEY: label.format(pk=acme.pk)}, kwargs={"title": "lie"}))
    finally:
        raw.execute("DROP SCHEMA other")
    assert titles(acme) == [A]


def test_eager(eager: None, acme: Any, globex: Any) -> None:
    """Tasks that run at once do so in the sender's tenant, and give it back; the rules are the same."""
    with tenant_context(acme):
        assert tasks.trail.delay().get() == [A]
        assert chain(tasks.trail.s(), tasks.shared.s(), tasks.trail.s()).delay().get() == [A, None, A]
        assert chord([tasks.trail.s(), tasks.trail.s()], tasks.trail.s()).delay().get() == [A] * 3
        assert tasks.shared.delay().get() == [None]
        with tenant_context(globex):
            app.conf.task_eager_propagates = False
            assert tasks.third_time.delay().get() == [2, "globex", 1]
            app.conf.task_eager_propagates = True
            assert tasks.trail() == [G]
        with pytest.raises(ZeroDivisionError):
            tasks.fail.delay()
        assert current_schema() == "acme"
        with transaction.atomic():
            tasks.write.delay_on_commit(title="committed")
            deactivate()
    assert titles(acme) == [A, "committed"]
    with pytest.raises(JobRefused):
        tasks.trail.delay()
    set_status(acme, "suspended")
    with tenant_context(acme), pytest.raises(JobRefused, match="suspended"):
        tasks.trail.delay()
    assert current_schema() is None


def test_beat(worker: Path, run_process: Run, acme: Any, globex: Any, tmp_path: Path) -> None:
    """One entry of a real beat reaches each active tenant, and no other."""
    initech = make_tenant("initech")
    with tenant_context(initech):
        set_status(initech, "suspended")
    schedule = f"--schedule={tmp_path / 'schedule'}"
    with run_process("-m", "celery", "-A", "tests.projects.jobs.app", "beat", schedule, "--pidfile="):
        wait_for(lambda: "periodic" in titles(acme) and "periodic" in titles(globex), "the periodic task", 60)
    assert titles(initech) == []
    app.control.purge()


def test_all_tenants_in_bounded_memory(eager: None, acme: Any, globex: Any) -> None:
    """The task for all tenants reads them in parts, and counts what it sent."""
    with connections["default"].execute_wrapper(_refuse_wide):
        assert for_each_tenant.delay(f"{PREFIX}write", title="each").get() == 2
    assert titles(acme) == [A, "each"]
    assert titles(globex) == [G, "each"]


def _refuse_wide(execute: Any, sql: str, params: Any, many: bool, context: Any) -> Any:
    assert not sql.startswith("SELECT") or "customers_tenant" not in sql or "WHERE" in sql
    return execute(sql, params, many, context)
