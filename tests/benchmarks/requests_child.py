"""One system of the request benchmark, in a process of its own: it answers orders on its standard input.

An order is ``mode queries repeats``; the answer is the seconds of each request, in JSON.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

from django.conf import settings

NAMES = ("acme", "globex")


def configure(system: str, params: dict[str, Any], **more: Any) -> None:
    """Set Django up for a system; what is given more goes into OPTIONS."""
    engine = {
        "django": "django.db.backends.postgresql",
        "pg_tenants": "pg_tenants.backends.postgresql",
        "django-tenants": "django_tenants.postgresql_backend",
        "django-pgschemas": "django_pgschemas.postgresql",
    }[system.removesuffix(" limited")]
    options: dict[str, Any] = {"sslmode": "disable", "gssencmode": "disable", **more}
    if system == "django":
        options["options"] = "-c search_path=acme,public"
    apps = ["django.contrib.contenttypes", "tests.benchmarks.rows"]
    extra: dict[str, Any] = {}
    if system == "pg_tenants":
        apps.append("pg_tenants")
        extra["PG_TENANTS"] = {
            "TENANT_MODEL": "none.None",
            "DOMAIN_MODEL": "none.None",
            "MODULES": {
                "shared": {"schema": "public", "apps": []},
                "tenant": {"apps": ["rows", "contenttypes"]},
            },
        }
    limited = system.endswith("limited")
    settings.configure(
        DATABASES={"default": {"ENGINE": engine, "CONN_MAX_AGE": 0 if more else None, "OPTIONS": options, **params}},
        INSTALLED_APPS=apps,
        USE_TZ=True,
        DEFAULT_AUTO_FIELD="django.db.models.BigAutoField",
        TENANT_LIMIT_SET_CALLS=limited,
        PGSCHEMAS_LIMIT_SET_CALLS=limited,
        SHARED_APPS=apps,
        TENANT_APPS=apps,
        TENANT_MODEL="none.None",
        TENANTS={"public": {"APPS": apps}, "default": {"APPS": apps, "URLCONF": "x", "TENANT_MODEL": "x.X"}},
        **extra,
    )
    import django

    django.setup()


def entering(system: str) -> Callable[[str], AbstractContextManager[Any]]:
    """Return how a system's middleware makes a tenant active for a request."""
    name = system.removesuffix(" limited")
    if name == "pg_tenants":
        from pg_tenants import schema_context

        return schema_context
    if name == "django-tenants":
        from django.db import connection

        def enter(schema: str) -> AbstractContextManager[Any]:
            connection.set_schema_to_public()  # type: ignore[attr-defined]
            connection.set_schema(schema)  # type: ignore[attr-defined]
            return nullcontext()

        return enter
    if name == "django-pgschemas":
        from django_pgschemas.schema import Schema, override

        return lambda schema: override(Schema.create(schema))
    return lambda schema: nullcontext()


def main() -> None:
    """Answer orders until the input ends."""
    system, params = sys.argv[1], json.loads(sys.argv[2])
    configure(system, params)
    from django.db import transaction

    from tests.benchmarks.rows.models import Row

    enter = entering(system)

    def request(number: int, queries: int, atomic: bool) -> None:
        with enter(NAMES[number % 2]), transaction.atomic() if atomic else nullcontext():
            for _ in range(queries):
                rows = list(Row.objects.filter(id__lte=10))
                assert len(rows) == 10

    for line in sys.stdin:
        mode, queries, repeats = line.split()
        times = []
        for number in range(int(repeats)):
            began = time.perf_counter()
            request(number, int(queries), mode == "atomic")
            times.append(time.perf_counter() - began)
        print(json.dumps(times), flush=True)


if __name__ == "__main__":
    main()
