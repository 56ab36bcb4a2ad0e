"""Another process of the same site: looks up the hosts that it reads, one a line, and prints what it found."""

from __future__ import annotations

import json
import os
import sys
from typing import Any


def main() -> None:
    import django
    from django.conf import settings

    given: dict[str, Any] = json.loads(sys.argv[1])
    os.environ["DJANGO_SETTINGS_MODULE"] = "tests.settings"
    settings.DATABASES["default"].update(given["database"])
    settings.CACHES = {"default": settings.CACHES["default"], **given["caches"]}
    settings.PG_TENANTS = {**settings.PG_TENANTS, **given["tenants"]}
    django.setup()
    from django.db import connection

    from pg_tenants.resolvers import tenant_of_domain

    # A new connection asks for more than the lookup does.
    tenant_of_domain("first.example")
    queries = 0

    def count(execute: Any, *args: Any) -> Any:
        nonlocal queries
        queries += 1
        return execute(*args)

    with connection.execute_wrapper(count):
        for line in sys.stdin:
            queries = 0
            tenant = tenant_of_domain(line.strip())
            print(json.dumps([None if tenant is None else tenant.status, queries]), flush=True)


if __name__ == "__main__":
    main()
