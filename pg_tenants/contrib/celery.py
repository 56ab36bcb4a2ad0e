"""Celery tasks run in the tenant that they were sent in.

``Celery("project", task_cls="pg_tenants.contrib.celery:TenantTask")`` switches it on.
"""

from __future__ import annotations

from typing import Any

from celery import shared_task, signals
from celery.contrib.django.task import DjangoTask

from pg_tenants.context import ActiveContext, active, deactivate, no_schema, tenant_context
from pg_tenants.contrib.jobs import KEY, active_label, active_tenants, context_of, refuse_unlabelled

__all__ = ["TenantTask", "for_each_tenant"]

SCOPE = "pg_tenants_scope"
"""Where a running task's context is kept: an attribute of its request."""


class TenantTask(DjangoTask):  # type: ignore[type-arg]
    """A task that runs in the tenant that was active when it was sent, or is refused.

    ``@app.task(tenant=False)`` declares one that works for no tenant: it runs with none active, whoever sends it.
    """

    abstract = True
    tenant = True

    def apply_async(self, args: Any = None, kwargs: Any = None, *more: Any, **options: Any) -> Any:
        """Send the task.

        Raises:
            JobRefused: it needs a tenant, and none is active.
        """
        headers = options.get("headers") or {}
        if KEY not in headers:
            label = active_label()
            if not label and self._needs_tenant:
                raise refuse_unlabelled(self.name)
            options["headers"] = {**headers, KEY: label}
        return super().apply_async(args, kwargs, *more, **options)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Run the task in its tenant; called as a plain function, where the caller is.

        Raises:
            JobRefused: it needs a tenant and has none, or its tenant cannot be worked for.
        """
        request = self.request
        if request.called_directly or SCOPE in vars(request):
            return super().__call__(*args, **kwargs)
        scope = self._scope()
        # It is left by task_postrun, so callbacks and handlers of failures run in the tenant as well.
        setattr(request, SCOPE, scope)
        scope.__enter__()
        return self.run(*args, **kwargs)

    @property
    def _needs_tenant(self) -> bool:
        # Celery's own are made from this class too. Those that run the project's tasks get their label.
        return bool(self.tenant) and not self.name.startswith("celery.")

    def _scope(self) -> ActiveContext:
        label = (self.request.headers or {}).get(KEY)
        if not self.tenant:
            return no_schema()
        if label:
            return context_of(label, self.name)
        if label is None and self.request.is_eager and active_label():
            return ActiveContext(active())
        if self._needs_tenant:
            raise refuse_unlabelled(self.name)
        return no_schema()


@signals.task_postrun.connect
def _leave(task: Any, **kwargs: Any) -> None:
    request = task.request
    scope = vars(request).get(SCOPE)
    if scope is not None:
        scope.__exit__(None, None, None)
    if not request.is_eager:
        # Nothing is active between a worker's tasks; one of another class may have called activate().
        deactivate()


@signals.before_task_publish.connect
def _label(headers: dict[str, Any], body: Any, **kwargs: Any) -> None:
    """Label a message, and the tasks that it carries along, which a worker will send later."""
    if KEY not in headers:
        headers[KEY] = active_label()
    if isinstance(body, tuple) and len(body) == 3:
        carried = body[2]
        for name in ("callbacks", "errbacks", "chain", "chord"):
            carried[name] = _labelled(carried.get(name), headers[KEY])


def _labelled(found: Any, label: str) -> Any:
    """Return a labelled copy of signatures, which may be sent again by another tenant."""
    if isinstance(found, (list, tuple)):
        return [_labelled(item, label) for item in found]
    if not isinstance(found, dict):
        return found
    options, kwargs = dict(found.get("options") or {}), dict(found.get("kwargs") or {})
    options["headers"] = {KEY: label, **(options.get("headers") or {})}
    for holder, names in ((options, ("link", "link_error", "chord")), (kwargs, ("tasks", "header", "body"))):
        # The arguments of a project's own task may be called so, too.
        if holder is options or found.get("subtask_type"):
            holder.update({name: _labelled(holder[name], label) for name in names if name in holder})
    return {**found, "options": options, "kwargs": kwargs}


@shared_task(bind=True, base=TenantTask, tenant=False, name="pg_tenants.for_each_tenant")
def for_each_tenant(self: Any, task: str, *args: Any, **kwargs: Any) -> int:
    """Send a task once in each active tenant, and return how often; for periodic jobs.

    Args:
        task: the task's name, such as ``"notes.tasks.send_digest"``.
        args: its arguments.
        kwargs: its keyword arguments.

    Raises:
        NotRegistered: the worker knows no such task.
    """
    target, sent = self.app.tasks[task], 0
    for tenant in active_tenants():
        with tenant_context(tenant):
            target.apply_async(args, kwargs)
        sent += 1
    return sent
