"""Its jobs of ``django.tasks``."""

from __future__ import annotations

from typing import Any

from django.contrib.auth.models import User
from django.tasks import task

from example_project.notes.models import Note
from pg_tenants import current_schema


def _what() -> list[Any]:
    return [current_schema(), list(Note.objects.order_by("pk").values_list("title", flat=True))]


@task
def what(before: int = 0) -> list[Any]:
    return _what()


@task(takes_context=True)
def what_with_context(context: Any) -> list[Any]:
    return [context.attempt, *_what()]


@task
async def what_async() -> list[Any]:
    return [current_schema(), await Note.objects.acount()]


@task(tenant=False)
def shared() -> str | None:
    return current_schema()


@task
def write(title: str) -> None:
    Note.objects.create(title=title, body="text", author=User.objects.get())


@task
def send_another(title: str) -> None:
    write.enqueue(title=title)


@task
def fail() -> None:
    raise ZeroDivisionError


@task(backend="plain")
def plain() -> None:
    pass
