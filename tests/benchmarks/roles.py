"""What a tenant's role costs: in each statement, and by the number of roles that a login may take on.

    python -m tests.benchmarks.roles --url postgresql://postgres@127.0.0.1:5432/postgres [--roles 10 1000 10000]

Made and removed by this program: the database and the login ``bench_roles``, and the roles of its tenants. Statements
are sent by bare psycopg, as the backend builds them; those of the two kinds take turns.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from typing import Any

import psycopg
from psycopg import conninfo

from pg_tenants.backends.prefix import build_prefix
from pg_tenants.names import LOGINS, group_role_name, role_name

NAME = "bench_roles"
QUERY = b"SELECT text FROM rows WHERE id = 1"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--url", required=True)
    parser.add_argument("--roles", type=int, nargs="+", default=[10, 1000, 10000])
    parser.add_argument("--repeat", type=int, default=2000)
    given = parser.parse_args()
    with psycopg.connect(given.url, autocommit=True) as admin:
        admin.execute(f"CREATE ROLE {NAME} LOGIN CREATEROLE PASSWORD 'bench'")
        admin.execute(f"CREATE DATABASE {NAME} OWNER {NAME}")
        row = admin.execute("SELECT oid FROM pg_database WHERE datname = %s", [NAME]).fetchone()
        assert row is not None
        try:
            measure(given, admin, row[0])
        finally:
            admin.execute(f"DROP DATABASE {NAME} WITH (FORCE)")
            found = admin.execute("SELECT rolname FROM pg_roles WHERE rolname ~ %s", [f"^pgt_{row[0]}[_~]"]).fetchall()
            with admin.transaction():
                for (role,) in found:
                    admin.execute(f'DROP ROLE "{role}"')
            admin.execute(f"DROP ROLE {NAME}")


def measure(given: Any, admin: Any, oid: int) -> None:
    place = conninfo.make_conninfo(given.url, dbname=NAME, user=NAME, password="bench")
    with psycopg.connect(place, autocommit=True) as own:
        grants_have_options = own.info.server_version >= 160000
        options = " WITH INHERIT FALSE, SET TRUE" if grants_have_options else ""
        logins = group_role_name(oid, LOGINS)
        own.execute(f'CREATE ROLE "{logins}" NOLOGIN NOINHERIT; GRANT "{logins}" TO {NAME}{options}')
        own.execute(
            "CREATE SCHEMA t0; CREATE TABLE t0.pg_tenants_marker ();"
            "CREATE TABLE t0.rows (id int PRIMARY KEY, text text);"
            "INSERT INTO t0.rows SELECT g, 'x' FROM generate_series(1, 1000) g; ANALYZE t0.rows"
        )
        made = 0
        for wanted in given.roles:
            # All but the last by a superuser, with the rights that the login would have got: making one is measured.
            for number in range(made, wanted):
                role = role_name(oid, f"t{number}")
                by = own if number == wanted - 1 else admin
                started = time.perf_counter()
                by.execute(f'CREATE ROLE "{role}" NOLOGIN; GRANT "{role}" TO "{logins}"{options}')
                took = time.perf_counter() - started
                if by is admin and grants_have_options:
                    by.execute(f'GRANT "{role}" TO {NAME} WITH ADMIN TRUE, INHERIT FALSE, SET FALSE')
            if not made:
                role = role_name(oid, "t0")
                own.execute(f'GRANT USAGE ON SCHEMA t0 TO "{role}"; GRANT ALL ON ALL TABLES IN SCHEMA t0 TO "{role}"')
            report(given, place, admin, oid, wanted, took * 1000)
            made = wanted


def report(given: Any, place: str, admin: Any, oid: int, count: int, each: float) -> None:
    without = build_prefix(["t0", "public"], "t0")
    role = build_prefix(["t0", "public"], "t0", role_name(oid, "t0"))
    first = []
    for prefix in (without, role):
        with psycopg.connect(place, autocommit=True) as fresh:
            first.append(timed(lambda prefix=prefix, fresh=fresh: send(fresh, prefix)))
    with psycopg.connect(place, autocommit=True) as connection:
        for prefix in (without, role) * 50:
            send(connection, prefix)
        times: dict[int, list[float]] = {0: [], 1: []}
        for number in range(given.repeat):
            for kind, prefix in enumerate((without, role)) if number % 2 else ((1, role), (0, without)):
                times[kind].append(timed(lambda prefix=prefix: send(connection, prefix)))
        admin.execute("CREATE ROLE bench_roles_new NOLOGIN; GRANT bench_roles_new TO bench_roles")
        after = timed(lambda: send(connection, role))
        admin.execute("DROP ROLE bench_roles_new")
    plain, with_role = (statistics.median(times[kind]) * 1e6 for kind in (0, 1))
    print(
        f"PostgreSQL {admin.info.server_version // 10000}, {count} roles ({each:.2f} ms to make the last): "
        f"statement {plain:.0f} us, with role {with_role:.0f} us (+{with_role - plain:.0f}); first on a connection "
        f"{first[0] * 1000:.1f} ms, with role {first[1] * 1000:.1f} ms; next after a new role {after * 1000:.1f} ms"
    )


def send(connection: Any, prefix: Any) -> None:
    result = connection.pgconn.exec_(prefix.simple + QUERY + prefix.check)
    assert result.status in (1, 2), connection.pgconn.error_message


def timed(function: Callable[[], None]) -> float:
    started = time.perf_counter()
    function()
    return time.perf_counter() - started


if __name__ == "__main__":
    main()
