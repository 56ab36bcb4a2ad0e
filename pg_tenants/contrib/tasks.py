"""Jobs of ``django.tasks`` run in the tenant that they were enqueued in. It needs Django 6.0 or later.

``TASKS = {"default": {"BACKEND": "pg_tenants.contrib.tasks.TenantBackend", "OPTIONS": {"BACKEND": "…"}}}`` switches it
on for the backend named in ``OPTIONS``.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from asgiref.sync import sync_to_async
from django.utils.module_loading import import_string

from pg_tenants.context import ActiveContext, active, no_schema
from pg_tenants.contrib.jobs import KEY, active_label, context_of, refuse_unlabelled
from pg_tenants.exceptions import ConfigurationError, JobRefused

try:
    from django.tasks import Task
    from django.tasks.backends.base import BaseTaskBackend
    from django.tasks.exceptions import InvalidTask
except ImportError as exc:
    raise ConfigurationError(
        "pg_tenants.contrib.tasks needs django.tasks, which Django has from 6.0 on. Update Django, or use Celery with "
        "pg_tenants.contrib.celery."
    ) from exc

__all__ = ["TenantBackend", "TenantTask"]


@dataclass(frozen=True, kw_only=True)
class TenantTask(Task):  # type: ignore[type-arg]
    """What ``@task`` makes for a backend that knows tenants.

    Attributes:
        tenant: False for a job that works for no tenant; it runs with none active, whoever enqueues it.
    """

    tenant: bool = True

    def call(self, *args: Any, **kwargs: Any) -> Any:
        """Run the function in the job's tenant.

        Raises:
            JobRefused: it needs a tenant and has none, or its tenant cannot be worked for.
        """
        with self._scope(kwargs.pop(KEY, "")):
            return super().call(*args, **kwargs)

    async def acall(self, *args: Any, **kwargs: Any) -> Any:
        """Run the function in the job's tenant, as ``call()`` does."""
        async with await sync_to_async(self._scope)(kwargs.pop(KEY, "")):
            return await super().acall(*args, **kwargs)

    def _scope(self, label: str) -> ActiveContext:
        if not self.tenant:
            return no_schema()
        if not label:
            raise refuse_unlabelled(self.name)
        return context_of(label, self.name)


class _Labelling(BaseTaskBackend):
    """Puts the tenant among a job's arguments, which every backend stores; ``TenantTask`` takes it out."""

    task_class = TenantTask

    def validate_task(self, task: Any) -> None:
        """Check a task when it is declared.

        Raises:
            InvalidTask: it was declared for a backend without tenants.
        """
        if not isinstance(task, TenantTask):
            raise InvalidTask(
                f"The task {task.name!r} was declared for a backend without tenants, so the backend {self.alias!r} "
                f"cannot give it one. Declare it with @task(backend={self.alias!r})."
            )
        super().validate_task(task)

    def enqueue(self, task: Any, args: Any, kwargs: Any) -> Any:
        """Enqueue a job with the tenant that is active.

        Raises:
            JobRefused: the task needs a tenant, and none is active.
        """
        return super().enqueue(task, args, _labelled(task, kwargs))

    async def aenqueue(self, task: Any, args: Any, kwargs: Any) -> Any:
        """As ``enqueue``."""
        return await super().aenqueue(task, args, await sync_to_async(_labelled)(task, kwargs))


def _labelled(task: Any, kwargs: dict[str, Any]) -> dict[str, Any]:
    label, needs_tenant = active_label(), getattr(task, "tenant", True)
    if KEY in kwargs:
        # A stored job that is put into the queue again has its own. Among what a request of some tenant passes on, it
        # would be a visitor's choice.
        if needs_tenant and active() is not None and kwargs[KEY] != label:
            raise JobRefused(
                f"The job {task.name!r} has {kwargs[KEY]!r} as its argument {KEY!r}, and {label or 'no tenant'!r} is "
                "active. Nothing was enqueued. Leave the argument out, or enqueue it again with nothing active."
            )
        return kwargs
    if not label and needs_tenant:
        raise refuse_unlabelled(task.name)
    return {**kwargs, KEY: label}


def TenantBackend(alias: str, params: dict[str, Any]) -> Any:  # noqa: N802  # settings name it as they name a class
    """Return the backend that ``OPTIONS["BACKEND"]`` names, made to keep tenants.

    Args:
        alias: the backend's key in ``TASKS``.
        params: its entry; the rest of ``OPTIONS`` goes to that backend.

    Raises:
        ConfigurationError: no backend is named, or it cannot be imported.
    """
    options = dict(params.get("OPTIONS") or {})
    path = options.pop("BACKEND", None)
    try:
        backend = import_string(path or "")
    except ImportError as exc:
        raise ConfigurationError(
            f"TASKS[{alias!r}]['OPTIONS']['BACKEND'] is {path!r}, which cannot be imported. Name the backend that "
            "stores the jobs, such as 'django.tasks.backends.immediate.ImmediateBackend'."
        ) from exc
    return type(f"Tenant{backend.__name__}", (_Labelling, backend), {})(alias, {**params, "OPTIONS": options})
