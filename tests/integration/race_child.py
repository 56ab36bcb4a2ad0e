"""A process of its own that makes and deletes tenants when it is told to, for tests of races and kills.

Its argument is a database of the run's server, or the URL of another one. It reads lines such as ``create acme`` and
answers each with one of ``ok`` or the error's class and text. After ``stop post_tenant_create`` it says ``stopped``
when that signal comes, and waits for another line before it goes on. ``run archive_tenant acme FILE`` runs a command,
``hold acme`` reads in a transaction that stays open until the next line, and ``work acme`` writes notes until an error,
which it answers with behind their number.
"""

from __future__ import annotations

import sys
from typing import Any

import django
from django.conf import settings


def main() -> None:
    where = sys.argv[1]
    if "://" in where:
        from pg_tenants.conf import database

        settings.DATABASES["default"] = database(where)
    else:
        settings.DATABASES["default"]["NAME"] = where
    django.setup()
    say("ready")
    for line in sys.stdin:
        try:
            obey(*line.split())
        except Exception as exc:  # noqa: BLE001
            say(f"{type(exc).__name__}: {exc}".replace("\n", " "))
        else:
            say("ok")


def say(text: str) -> None:
    print(text, flush=True)


def obey(verb: str, name: str, *arguments: str) -> None:
    from django.core.management import call_command
    from django.db.models import signals as djangos

    from example_project.customers.models import Tenant
    from pg_tenants import signals

    if verb == "create":
        Tenant.objects.create(schema_name=name, name=name)
    elif verb == "command":
        call_command("create_tenant", name, "--set", f"name={name}", verbosity=0)
    elif verb == "delete":
        for tenant in Tenant.objects.filter(schema_name=name):
            tenant.delete()
    elif verb == "provision":
        Tenant.objects.get(schema_name=name).provision()
    elif verb == "run":
        call_command(name, *arguments, verbosity=0)
    elif verb == "hold":
        hold(Tenant.objects.get(schema_name=name))
    elif verb == "work":
        work(Tenant.objects.get(schema_name=name))
    elif verb == "stop":
        signal = getattr(signals, name, None) or getattr(djangos, name)
        # Django's own signals of tenants alone; post_migrate has apps as senders.
        sender = None if name == "post_migrate" else Tenant
        signal.connect(stop, sender=sender, weak=False)


def hold(tenant: Any) -> None:
    from django.db import transaction

    from example_project.notes.models import Note
    from pg_tenants import tenant_context

    with tenant_context(tenant), transaction.atomic():
        Note.objects.count()
        stop()
        Note.objects.count()


def work(tenant: Any) -> None:
    from django.contrib.auth.models import User

    from example_project.notes.models import Note
    from pg_tenants import tenant_context

    made = 0
    with tenant_context(tenant):
        author = User.objects.get()
        say("working")
        try:
            while True:
                Note.objects.create(title="work", body="", author=author)
                made += 1
        except Exception as exc:
            raise type(exc)(f"{made}: {exc}") from exc


def stop(**kwargs: Any) -> None:
    say("stopped")
    sys.stdin.readline()


if __name__ == "__main__":
    main()
