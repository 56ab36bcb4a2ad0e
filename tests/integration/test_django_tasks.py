"""Jobs of ``django.tasks`` run in the tenant that they were enqueued in."""

from __future__ import annotations

import asyncio
import copy
import importlib
import sys
from collections.abc import Iterator
from types import ModuleType
from typing import Any

import django
import pytest
from asgiref.sync import sync_to_async
from django.core.exceptions import ImproperlyConfigured
from django.db import connections, transaction
from django.test import override_settings

from example_project.notes.models import Note
from pg_tenants import current_schema, deactivate, schema_context, tenant_context
from pg_tenants.contrib.jobs import KEY
from pg_tenants.exceptions import ConfigurationError, JobRefused
from tests.conftest import set_status
from tests.fix_redis import Run, wait_for

BACKENDS = "django.tasks.backends"
TENANT_BACKEND = "pg_tenants.contrib.tasks.TenantBackend"
needs_tasks = pytest.mark.skipif(django.VERSION < (6, 1), reason="django.tasks with tenant=False came with Django 6.1")


def entry(backend: str) -> dict[str, Any]:
    return {"BACKEND": TENANT_BACKEND, "OPTIONS": {"BACKEND": backend}}


TASKS = {
    "default": entry(f"{BACKENDS}.immediate.ImmediateBackend"),
    "dummy": entry(f"{BACKENDS}.dummy.DummyBackend"),
    "plain": {"BACKEND": f"{BACKENDS}.immediate.ImmediateBackend"},
}


@pytest.fixture
def jobs() -> Iterator[ModuleType]:
    with override_settings(TASKS=TASKS):
        yield importlib.import_module("tests.projects.jobs.django_jobs")
    sys.modules.pop("tests.projects.jobs.django_jobs")


def titles(tenant: Any) -> list[str]:
    with tenant_context(tenant):
        return list(Note.objects.order_by("pk").values_list("title", flat=True))


def refused(result: Any, words: str) -> None:
    assert result.status == "FAILED"
    assert result.errors[0].exception_class is JobRefused
    assert words in result.errors[0].traceback


@pytest.mark.skipif(django.VERSION >= (6, 0), reason="django.tasks is there")
def test_without_django_tasks() -> None:
    """The import says what is missing."""
    with pytest.raises(ImproperlyConfigured, match=r"Django has from 6\.0 on"):
        importlib.import_module("pg_tenants.contrib.tasks")


@needs_tasks
def test_at_once(jobs: ModuleType, acme: Any, globex: Any) -> None:
    """The immediate backend runs jobs in their tenant, and leaves the caller's active."""
    for tenant in (acme, globex):
        name = tenant.schema_name
        with tenant_context(tenant):
            assert jobs.what.enqueue().return_value == [name, [f"note of {name}"]]
            assert jobs.what.enqueue(before=1).kwargs == {"before": 1, KEY: f"{name} {tenant.pk}"}
            assert jobs.what_with_context.enqueue().return_value == [1, name, [f"note of {name}"]]
            assert jobs.shared.enqueue().return_value is None
            assert jobs.fail.enqueue().errors[0].exception_class is ZeroDivisionError
            assert current_schema() == name
        assert current_schema() is None


@needs_tasks
def test_asynchronous_jobs(jobs: ModuleType, acme: Any) -> None:
    """Coroutines, and what they enqueue, have the tenant, by its object or its name."""

    async def main() -> list[Any]:
        async with tenant_context(acme):
            first = await jobs.what_async.aenqueue()
        async with schema_context("acme"):
            second = await jobs.what.aenqueue()
        dummy = jobs.what_async.using(backend="dummy")
        async with tenant_context(acme):
            stored = await dummy.aenqueue()
        third = await stored.task.acall(*stored.args, **stored.kwargs)
        await sync_to_async(connections.close_all)()
        return [first.return_value, second.return_value, third]

    assert asyncio.run(main()) == [["acme", 1], ["acme", ["note of acme"]], ["acme", 1]]


@needs_tasks
def test_later(jobs: ModuleType, acme: Any, globex: Any) -> None:
    """A stored job is run in its tenant wherever the worker is; copies of the task keep what it is."""
    with tenant_context(acme):
        stored = jobs.what.using(backend="dummy").enqueue()
        shared = copy.deepcopy(jobs.shared).using(backend="dummy").enqueue()
    assert stored.task.call(*stored.args, **stored.kwargs) == ["acme", ["note of acme"]]
    with tenant_context(globex):
        assert stored.task.call(*stored.args, **stored.kwargs) == ["acme", ["note of acme"]]
        assert shared.task.call(*shared.args, **shared.kwargs) is None
        assert current_schema() == "globex"


@needs_tasks
def test_on_commit(jobs: ModuleType, acme: Any, globex: Any) -> None:
    """HAZARD 13: what is enqueued on commit is of the tenant that registered it."""
    with transaction.atomic():
        with tenant_context(acme):
            transaction.on_commit(lambda: jobs.write.enqueue(title="committed"))
        with tenant_context(globex):
            transaction.on_commit(lambda: jobs.send_another.enqueue(title="sent"))
    assert titles(acme) == ["note of acme", "committed"]
    assert titles(globex) == ["note of globex", "sent"]


@needs_tasks
def test_a_job_without_a_tenant_is_refused(jobs: ModuleType, acme: Any) -> None:
    """HAZARD 13: when it is enqueued, or when a job that has lost its tenant is run."""
    deactivate()
    with pytest.raises(JobRefused, match="'what' needs a tenant and has none"):
        jobs.what.enqueue()
    with schema_context("public"), pytest.raises(JobRefused):
        jobs.what.enqueue()
    with schema_context("nobody"), pytest.raises(JobRefused, match="'nobody' is no saved tenant's"):
        jobs.what.enqueue()
    assert jobs.shared.enqueue().return_value is None
    with tenant_context(acme):
        with pytest.raises(JobRefused, match="needs a tenant"):
            jobs.what.call()
        # A backend that does not know tenants gives it none.
        refused(jobs.what.using(backend="plain").enqueue(), "needs a tenant and has none")


@needs_tasks
def test_a_job_is_not_put_into_another_tenant_by_its_arguments(jobs: ModuleType, acme: Any, globex: Any) -> None:
    """What a view passes on from a request may name one; a stored job is enqueued again where nothing is active."""
    mine, other = ({"before": 1, KEY: f"{tenant.schema_name} {tenant.pk}"} for tenant in (acme, globex))
    for context in (tenant_context(acme), schema_context("public")):
        with context, pytest.raises(JobRefused, match=f"has 'globex {globex.pk}' as its argument"):
            jobs.what.enqueue(**other)
    with tenant_context(acme):
        assert jobs.what.enqueue(**mine).return_value == ["acme", ["note of acme"]]
    assert jobs.what.enqueue(**other).return_value == ["globex", ["note of globex"]]


@needs_tasks
def test_a_job_whose_tenant_is_gone_or_not_active(jobs: ModuleType, acme: Any) -> None:
    """It is refused before its code runs, and the message names the tenant."""
    with tenant_context(acme):
        stored = jobs.write.using(backend="dummy").enqueue(title="late")
    set_status(acme, "suspended")
    with pytest.raises(JobRefused, match="'acme', whose status is 'suspended'"):
        stored.task.call(**stored.kwargs)
    with tenant_context(acme):
        refused(jobs.write.enqueue(title="late"), "'suspended'")
    set_status(acme, "active")
    assert titles(acme) == ["note of acme"]
    with pytest.raises(JobRefused, match="'other' with the key '0', which does not exist"):
        stored.task.call(**{**stored.kwargs, KEY: "other 0"})
    with pytest.raises(JobRefused, match=r"'other' .* is called 'acme' now"):
        stored.task.call(**{**stored.kwargs, KEY: f"other {acme.pk}"})
    acme.delete()
    with pytest.raises(JobRefused, match=r"'acme' with the key .* does not exist"):
        stored.task.call(**stored.kwargs)


@needs_tasks
def test_a_task_of_another_backend(jobs: ModuleType, acme: Any) -> None:
    """One that was declared for a backend without tenants cannot be given one."""
    from django.tasks.exceptions import InvalidTask

    with tenant_context(acme), pytest.raises(InvalidTask, match="'plain' was declared for a backend without tenants"):
        jobs.plain.using(backend="default").enqueue()


@needs_tasks
@pytest.mark.parametrize("options", [{}, {"BACKEND": "nowhere.Backend"}, {"BACKEND": "nowhere"}])
def test_a_backend_that_cannot_be_imported(options: dict[str, Any]) -> None:
    """The error names the setting."""
    from pg_tenants.contrib.tasks import TenantBackend

    with pytest.raises(ConfigurationError, match=r"TASKS\['default'\]\['OPTIONS'\]\['BACKEND'\]"):
        TenantBackend("default", {"OPTIONS": options})


@needs_tasks
def test_a_database_backend_and_its_worker(run_process: Run, acme: Any, globex: Any, raw: Any) -> None:
    """Jobs of a backend of other authors, stored in `public`, run in a process of its own."""
    pytest.importorskip("django_tasks_db")
    environ = {"DJANGO_SETTINGS_MODULE": "tests.projects.jobs.tasks_settings"}
    query = (
        "SELECT status, exception_class_path, count(*) FROM django_tasks_database_dbtaskresult GROUP BY 1, 2 ORDER BY 1"
    )
    try:
        with run_process("-m", "tests.projects.jobs.enqueue", **environ) as log:
            wait_for(lambda: "enqueued" in log.read_text(), "the jobs")
        with run_process("-m", "django", "db_worker", "--interval", "0.1", **environ):
            wait_for(lambda: {row[0] for row in raw.execute(query)} <= {"FAILED", "SUCCESSFUL"}, "their ends")
        results = raw.execute(query).fetchall()
    finally:
        raw.execute("DROP TABLE IF EXISTS django_tasks_database_dbtaskresult")
        raw.execute("DELETE FROM django_migrations WHERE app = 'django_tasks_database'")
    assert results == [("FAILED", "pg_tenants.exceptions.JobRefused", 2), ("SUCCESSFUL", "", 6)]
    assert sorted(titles(acme)) == ["note of acme", "sent", "stored"]
    assert sorted(titles(globex)) == ["note of globex", "sent", "stored"]
