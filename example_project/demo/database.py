"""The demo's database: the embedded server, or the one that DATABASE_URL names."""

from __future__ import annotations

import time
from collections.abc import Callable
from types import TracebackType
from typing import Any, Self

from django.core.management import call_command
from django.db import connections

from example_project.billing.models import Invoice
from example_project.customers.models import Tenant
from example_project.loading import load_companies, load_staff, read_companies
from pg_tenants import conf, schemas
from pg_tenants.server import Server, ServerConfig

__all__ = ["Database"]

_IN_USE = 0x64656D6F
"""The key of an advisory lock that each demo shares while it runs."""


class Database:
    """Starts the server if none is named, and stops what it has started, unless another demo uses it by then.

    Args:
        say: prints a line of progress.
        reset: begin with nothing of earlier runs.
    """

    def __init__(self, say: Callable[[str], None], *, reset: bool = False):
        self._say, self._reset = say, reset
        embedded = schemas.tenant_connection().tenant_options.pgserver
        self._server = Server(ServerConfig.load(conf.pgserver())) if embedded else None
        self._session: Any = None
        self.started = False
        """Whether the database server runs because of this demo."""

    def __enter__(self) -> Self:
        if self._server is not None:
            if self._reset:
                self._server.erase()
                self._say("Removed the database of earlier runs.")
            began = time.monotonic()
            status, self.started = self._server.start()
            what = "Started" if self.started else "Found"
            self._say(f"{what} PostgreSQL {status.version} on port {status.port} ({time.monotonic() - began:.1f} s).")
        return self

    def __exit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        connections.close_all()
        if self._server is not None and self.started:
            if self._session is not None and not self._ask("SELECT pg_catalog.pg_try_advisory_lock(%s)"):
                self._say("PostgreSQL goes on: another demo uses it. Later: python manage.py pgserver down")
            else:
                self._server.down()
                self._say("Stopped PostgreSQL.")
        if self._session is not None:
            self._session.close()

    def fill(self) -> list[Tenant]:
        """Migrate every schema, load the companies, and return their tenants."""
        call_command("migrate_schemas", verbosity=0, skip_checks=False)
        if self._server is not None:
            self._session = schemas.tenant_connection().copy()
            self._ask("SELECT pg_catalog.pg_advisory_lock_shared(%s)")
        if self._reset and self._server is None:
            self._remove_companies()
        began = time.monotonic()
        load_staff()
        tenants = load_companies()
        self._say(f"{len(tenants)} companies are there ({time.monotonic() - began:.1f} s).")
        return tenants

    def _ask(self, query: str) -> Any:
        with self._session.cursor() as cursor:
            cursor.execute(query, [_IN_USE])
            return cursor.fetchone()[0]

    def _remove_companies(self) -> None:
        labels = [company["label"] for company in read_companies()]
        for tenant in Tenant.objects.filter(schema_name__in=labels):
            Invoice.objects.filter(tenant_id=tenant.pk).delete()
            tenant.delete()
        self._say("Removed the companies of earlier runs.")
