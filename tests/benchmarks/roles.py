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
        oid = admin.execute("SELECT oid FROM pg_database WHERE datname = %s", [NAME]).fetchone()[0]  # type: ignore[index]
        try:
            measure(given, oid)
        finally:
            admin.execute(f"DROP DATABASE {NAME} WITH (FORCE)")
            with admin.transaction():
                for (role,) in admin.execute(f"SELECT rolname FROM pg_roles WHERE rolname ~ '^pgt_{oid}[_~]'").fetchall():
                    admin.execute(f'DROP ROLE "{role}"')
            admin.execute(f"DROP ROLE {NAME}")


def measure(given: Any, oid: int) -> None:
    place = conninfo.make_conninfo(given.url, dbname=NAME, user=NAME, password="bench")  # noqa: S106
    with psycopg.connect(place, autocommit=True) as own:
        options = ("", "") if own.info.server_version < 160000 else (" WITH INHERIT FALSE, SET TRUE",) * 2
        logins = group_role_name(oid, LOGINS)
        own.execute(f'CREATE ROLE "{logins}" NOLOGIN NOINHERIT; GRANT "{logins}" TO {NAME}{options[0]}')
        own.execute(
            "CREATE SCHEMA t0; CREATE TABLE t0.pg_tenants_marker (); CREATE TABLE t0.rows (id int PRIMARY KEY, text text);"
            "INSERT INTO t0.rows SELECT g, 'x' FROM generate_series(1, 1000) g; ANALYZE t0.rows"
        )
        made = 0
        for wanted in given.roles:
            started = time.perf_counter()
            with own.transaction():
                for number in range(made, wanted):
                    role = role_name(oid, f"t{number}")
                    own.execute(f'CREATE ROLE "{role}" NOLOGIN; GRANT "{role}" TO "{logins}"{options[1]}')
            took = time.perf_counter() - started
            if not made:
                role = role_name(oid, "t0")
                own.execute(f'GRANT USAGE ON SCHEMA t0 TO "{role}"; GRANT ALL ON ALL TABLES IN SCHEMA t0 TO "{role}"')
            report(given, place, own, oid, wanted, took * 1000 / max(1, wanted - made))
            made = wanted


def report(given: Any, place: str, own: Any, oid: int, count: int, each: float) -> None:
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
        own.execute("CREATE ROLE bench_roles_new NOLOGIN; GRANT bench_roles_new TO bench_roles")
        after = timed(lambda: send(connection, role))
        own.execute("DROP ROLE bench_roles_new")
    plain, with_role = (statistics.median(times[kind]) * 1e6 for kind in (0, 1))
    print(
        f"PostgreSQL {own.info.server_version // 10000}, {count} roles ({each:.2f} ms to make one): "
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
