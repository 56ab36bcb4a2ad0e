"""Its Celery tasks."""

from __future__ import annotations

import os
import threading
from typing import Any

from celery import Task, signals
from django.contrib.auth.models import User

from example_project.notes.models import Note
from pg_tenants import activate, current_schema, current_tenant
from tests.projects.jobs.app import app


@signals.task_prerun.connect
def remember(task: Any, **kwargs: Any) -> None:
    """Keep what the task before has left."""
    task.request.left = current_schema()


def put(title: str) -> None:
    Note.objects.create(title=title, body="text", author=User.objects.get())


@app.task(bind=True)
def what(self: Any, *before: Any) -> dict[str, Any]:
    titles = list(Note.objects.order_by("pk").values_list("title", flat=True))
    where = f"{os.getpid()}-{threading.get_ident()}"
    return {"schema": current_schema(), "tenant": str(current_tenant()), "notes": titles, "where": where,
            "left": self.request.left}  # fmt: skip


@app.task
def trail(before: Any = None) -> list[str]:
    """Return where the tasks before and this one ran, as the rows tell."""
    flat: list[str] = []
    for item in before if isinstance(before, list) else []:
        flat += item if isinstance(item, list) else [item]
    return [*flat, Note.objects.order_by("pk").values_list("title", flat=True)[0]]


@app.task(tenant=False)
def shared(before: Any = None) -> Any:
    return [*(before or []), current_schema()]


@app.task
def write(*before: Any, title: str) -> None:
    put(title)


@app.task
def leave_another_active() -> None:
    activate("nowhere")


@app.task(bind=True, max_retries=3)
def third_time(self: Any) -> Any:
    if self.request.retries < 2:
        activate("nowhere")
        raise self.retry(countdown=0)
    return [self.request.retries, current_schema(), Note.objects.count()]


@app.task(autoretry_for=(ZeroDivisionError,), retry_kwargs={"max_retries": 2, "countdown": 0})
def retried_by_itself() -> None:
    put("try")
    raise ZeroDivisionError


@app.task
def send_another() -> str:
    return str(what.delay().id)


@app.task
def fail(*before: Any) -> None:
    raise ZeroDivisionError


@app.task
def on_error(request: Any, exc: Any, traceback: Any) -> None:
    put("handled")


class Hooked(app.Task):  # type: ignore[misc, name-defined]
    def on_success(self, *args: Any) -> None:
        put("succeeded")

    def on_failure(self, *args: Any) -> None:
        put("failed")


@app.task(base=Hooked)
def hooked(fails: bool) -> None:
    if fails:
        raise ZeroDivisionError


@app.task(base=Task)
def of_another_class(leaves: str | None) -> str | None:
    before = current_schema()
    if leaves:
        activate(leaves)
    return before
