"""Lookups of tenants are kept: no query when warm, and no change is missed."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from asgiref.sync import sync_to_async
from django.conf import settings
from django.core.management import call_command
from django.db import connection, connections, transaction
from django.http import HttpRequest, HttpResponse
from django.test import Client, RequestFactory, TestCase, override_settings
from django.test.utils import CaptureQueriesContext

from example_project.customers.models import Domain, Tenant
from pg_tenants import lookups, middleware
from pg_tenants.middleware import TenantMiddleware
from pg_tenants.resolvers import domains_of, tenant_by, tenant_of_domain
from tests.conftest import set_status
from tests.integration.test_middleware import HostClient, run

RAW: dict[str, Any] = settings.PG_TENANTS
LOCMEM = {"BACKEND": "django.core.cache.backends.locmem.LocMemCache", "LOCATION": "lookups"}


class Undo(Exception):
    """Takes a transaction back."""


@pytest.fixture(autouse=True)
def _forget() -> Iterator[None]:
    lookups.forget()
    yield
    lookups.forget()


def status(host: str = "acme.localhost") -> str | None:
    tenant = tenant_of_domain(host)
    return None if tenant is None else tenant.status


def queries(look: Callable[[], Any] = status) -> int:
    with CaptureQueriesContext(connection) as captured:
        look()
    return len(captured)


# -- one process ------------------------------------------------------------------------------------------------------


def test_a_warm_lookup_asks_nothing(acme: Any) -> None:
    """By domain, by a field, of a tenant's domains, and of what does not exist."""
    for look in (
        status,
        lambda: tenant_by("schema_name", "acme"),
        lambda: domains_of(acme),
        lambda: status("nobody.localhost"),
    ):
        assert [queries(look) for _ in range(3)] == [1, 0, 0]


def test_a_warm_request_asks_nothing(acme: Any, django_assert_num_queries: Any) -> None:
    """For WSGI and ASGI; under ASGI without a thread."""

    async def answer(request: HttpRequest) -> HttpResponse:
        return HttpResponse()

    def ask() -> Any:
        return RequestFactory().get("/", headers={"host": "acme.localhost"})

    app = TenantMiddleware(lambda request: HttpResponse())
    app(ask())
    with django_assert_num_queries(0):
        app(ask())

    async def main() -> None:
        await TenantMiddleware(answer)(ask())  # type: ignore[misc]

    with pytest.MonkeyPatch.context() as patch:

        def no_thread(function: Any) -> Any:
            raise AssertionError("a thread was taken")

        patch.setattr(middleware, "sync_to_async", no_thread)
        run(main())
        lookups.forget()
        with pytest.raises(AssertionError, match="a thread was taken"):
            run(main())


def test_a_shared_cache_is_asked_in_a_thread(acme: Any) -> None:
    """It may be on a network, so the event loop does not wait for it; the answer is the same."""

    async def answer(request: HttpRequest) -> HttpResponse:
        return HttpResponse(request.tenant.schema_name)  # type: ignore[attr-defined]

    async def main() -> None:
        for _ in range(2):
            request = RequestFactory().get("/", headers={"host": "acme.localhost"})
            response = await TenantMiddleware(answer)(request)  # type: ignore[misc]
            assert response.content == b"acme"

    with override_settings(CACHES={"default": LOCMEM}, PG_TENANTS={**RAW, "CACHE": "default"}):
        run(main())
        assert queries() == 0


def test_a_warm_lookup_is_fast(acme: Any) -> None:
    """Some 30 µs on an idle machine; the bound is for a busy one."""
    status()
    rounds = []
    for _ in range(7):
        began = time.perf_counter()
        for _ in range(200):
            status()
        rounds.append((time.perf_counter() - began) / 200)
    print(f"warm lookup: {min(rounds) * 1e6:.1f} µs")
    assert min(rounds) < 0.0005


def suspend(tenant: Any) -> None:
    tenant.suspend()


def change_in_bulk(tenant: Any) -> None:
    domain = tenant.domains.get()
    domain.domain = "other.localhost"
    Domain.objects.bulk_update([domain], ["domain"])


CHANGES: dict[str, Callable[[Any], Any]] = {
    "suspend": suspend,
    "update": lambda tenant: Domain.objects.filter(tenant=tenant).update(domain="other.localhost"),
    "bulk_update": change_in_bulk,
    "update_or_create": lambda tenant: Domain.objects.update_or_create(
        tenant=tenant, defaults={"domain": "other.localhost"}
    ),
    "delete the domain": lambda tenant: Domain.objects.get().delete(),
    "delete domains": lambda tenant: Domain.objects.all().delete(),
    "delete the tenant": lambda tenant: tenant.delete(),
    "delete tenants": lambda tenant: Tenant.objects.filter(pk=tenant.pk).delete(),
    "related update": lambda tenant: tenant.domains.update(domain="other.localhost"),
    "rename": lambda tenant: Domain.objects.update(domain="other.localhost"),
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_each_change_is_seen_at_once(acme: Any, change: Callable[[Any], Any]) -> None:
    """By the process that makes it, however it is made."""
    assert (status(), status("other.localhost")) == ("active", None)
    change(acme)
    assert status() in ("suspended", None)
    assert (status("other.localhost") is None) is not Domain.objects.filter(domain="other.localhost").exists()


def test_a_new_domain_is_seen_at_once(acme: Any) -> None:
    """Though it was asked for before, and whether it comes alone or with others."""
    assert status("new.localhost") is status("more.localhost") is None
    assert domains_of(acme) == (("acme.localhost", True),)
    Domain.objects.create(domain="new.localhost", tenant=acme, is_primary=False)
    assert status("new.localhost") == "active"
    assert domains_of(acme) == (("acme.localhost", True), ("new.localhost", False))
    Domain.objects.bulk_create([Domain(domain="more.localhost", tenant=acme, is_primary=False)])
    assert status("more.localhost") == "active"


def test_a_transaction_sees_its_own_changes(acme: Any) -> None:
    """And leaves nothing when it is taken back; in a part of it, too."""
    assert status() == "active"
    with contextlib.suppress(Undo), transaction.atomic():
        with contextlib.suppress(Undo), transaction.atomic():
            Domain.objects.all().delete()
            assert status() is None
            raise Undo
        assert status() == "active"
        suspend(acme)
        assert status() == "suspended"
        raise Undo
    assert status() == "active"
    with transaction.atomic():
        acme.suspend()
    assert status() == "suspended"


def test_a_thread_between_a_change_and_its_commit(acme: Any) -> None:
    """It keeps what holds for it, and that ends with the commit."""
    seen: list[Any] = []

    def look() -> None:
        seen.append(status())
        connections.close_all()

    def elsewhere() -> None:
        thread = threading.Thread(target=look)
        thread.start()
        thread.join()

    with transaction.atomic():
        acme.suspend()
        elsewhere()
    elsewhere()
    assert seen == ["active", "suspended"]


def test_a_transaction_without_atomic(acme: Any) -> None:
    """Where Django's autocommit is off."""
    assert status() == "active"
    transaction.set_autocommit(False)
    try:
        acme.suspend()
        assert status() == "suspended"
        transaction.rollback()
    finally:
        transaction.set_autocommit(True)
    assert status() == "active"


def test_each_request_has_a_copy(acme: Any) -> None:
    """What a view changes on its tenant is no other request's."""
    first = tenant_of_domain("acme.localhost")
    first.name = "Changed"
    first._state.fields_cache["x"] = 1
    second = tenant_of_domain("acme.localhost")
    assert second.name == "Acme"
    assert second._state.fields_cache == {}
    assert (second, second._state.db, second._state.adding) == (acme, "default", False)
    second.city = "Bern"
    second.save()
    assert tenant_of_domain("acme.localhost").city == "Bern"


def test_what_another_process_changes_is_seen_after_the_time(acme: Any, raw: Any) -> None:
    """Without a cache that processes share."""
    table = Tenant._meta.db_table
    with connection.cursor() as cursor:
        cursor.execute("SELECT current_schema()")
        schema = cursor.fetchone()[0]
    with override_settings(PG_TENANTS={**RAW, "CACHE_SECONDS": 0.3}):
        assert status() == "active"
        raw.execute(f'UPDATE "{schema}"."{table}" SET status = %s', ["suspended"])
        assert status() == "active"
        time.sleep(0.35)
        assert status() == "suspended"


def test_a_flood_of_unknown_hosts_is_bounded(acme: Any) -> None:
    """Each is asked for once; the table stays small."""
    assert status() == "active"
    for number in range(lookups.ABSENT_KEPT + 50):
        assert tenant_of_domain(f"h{number}.evil.example") is None
    assert len(lookups._absent) == lookups.ABSENT_KEPT
    assert queries() == 0


# -- Django's test cases ----------------------------------------------------------------------------------------------


def run_cases(*cases: type[Any]) -> None:
    import unittest

    suite = unittest.TestSuite(unittest.defaultTestLoader.loadTestsFromTestCase(case) for case in cases)
    result = unittest.TextTestRunner(verbosity=0).run(suite)
    assert result.wasSuccessful(), result.failures + result.errors
    assert result.testsRun >= len(cases)


def test_tests_that_roll_back(acme: Any) -> None:
    """A TestCase sees its own changes, before and after a warm lookup, and the next one sees none of them."""

    class First(TestCase):
        async_client_class = HostClient

        def test_it(self) -> None:
            assert status() == "active"
            acme.suspend()
            Domain.objects.create(domain="first.localhost", tenant=acme)
            assert (status(), status("first.localhost")) == ("suspended", "suspended")
            assert self.client.get("/", headers={"host": "acme.localhost"}).status_code == 503

        async def test_on_the_event_loop(self) -> None:
            await sync_to_async(acme.suspend)()
            for _ in range(2):
                response = await self.async_client.get("/", headers={"host": "acme.localhost"})
                assert response.status_code == 503

    class Second(TestCase):
        def test_it(self) -> None:
            assert (status(), status("first.localhost")) == ("active", None)

    assert status() == "active"
    run_cases(First, Second, First, Second)
    assert status() == "active"


def test_tests_that_flush(open_db: None, raw: Any) -> None:
    """Truncating tables makes everything be asked for again."""
    tenant = Tenant.objects.create(schema_name="flushed", name="Flushed")
    Domain.objects.create(domain="flushed.localhost", tenant=tenant)
    assert status("flushed.localhost") == "active"
    try:
        # As Django's TransactionTestCase gives it.
        call_command("flush", interactive=False, verbosity=0, inhibit_post_migrate=False)
        assert status("flushed.localhost") is None
    finally:
        from pg_tenants import schemas

        schemas.drop("flushed", using="default", if_exists=True)


# -- processes --------------------------------------------------------------------------------------------------------


class Other:
    """Another process of the site."""

    def __init__(self, server_params: dict[str, Any], **changes: Any):
        database = {
            "NAME": str(connection.settings_dict["NAME"]),
            "OPTIONS": connection.settings_dict["OPTIONS"],
        }
        given = {"database": database, "caches": settings.CACHES, "tenants": {"CACHE": None, **changes}}
        self.process = subprocess.Popen(
            [sys.executable, "-m", "tests.integration.lookup_child", json.dumps(given)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "DJANGO_SETTINGS_MODULE": "tests.settings"},
            cwd=Path(__file__).parents[2],
        )

    def ask(self, host: str = "acme.localhost") -> list[Any]:
        assert self.process.stdin
        assert self.process.stdout
        self.process.stdin.write(f"{host}\n")
        self.process.stdin.flush()
        return json.loads(self.process.stdout.readline())  # type: ignore[no-any-return]

    def __enter__(self) -> Other:
        return self

    def __exit__(self, *exc: object) -> None:
        self.process.communicate(timeout=20)


@pytest.fixture
def redis(tmp_path: Path) -> Iterator[subprocess.Popen[bytes]]:
    """Run a Redis server, and have it as the cache that processes share."""
    program = shutil.which("redis-server")
    if program is None:
        pytest.skip("redis-server is not installed")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    server = subprocess.Popen(
        [program, "--port", str(port), "--bind", "127.0.0.1", "--save", "", "--dir", str(tmp_path)],
        stdout=subprocess.DEVNULL,
    )
    deadline = time.monotonic() + 20
    while True:
        try:
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
            break
        except OSError:
            assert time.monotonic() < deadline, "redis-server does not start"
            time.sleep(0.05)
    caches = {
        "default": settings.CACHES["default"],
        "shared": {"BACKEND": "django.core.cache.backends.redis.RedisCache", "LOCATION": f"redis://127.0.0.1:{port}"},
    }
    try:
        with override_settings(CACHES=caches, PG_TENANTS={**RAW, "CACHE": "shared"}):
            yield server
    finally:
        server.kill()
        server.wait()


def test_two_processes_with_redis(acme: Any, redis: Any, server_params: dict[str, Any]) -> None:
    """What one changes the other sees with its next request, and asks the database only then."""
    with Other(server_params, CACHE="shared") as other:
        assert [other.ask(), other.ask()] == [["active", 1], ["active", 0]]
        assert [queries(), queries()] == [1, 0]
        acme.suspend()
        assert [other.ask(), other.ask()] == [["suspended", 1], ["suspended", 0]]
        with transaction.atomic():
            acme.resume()
            assert other.ask() == ["suspended", 0]
        assert other.ask() == ["active", 1]
        with contextlib.suppress(Undo), transaction.atomic():
            Domain.objects.all().delete()
            raise Undo
        assert other.ask() == ["active", 0]
        assert other.ask("new.localhost") == [None, 1]
        Domain.objects.create(domain="new.localhost", tenant=acme)
        assert other.ask("new.localhost") == ["active", 1]
        acme.delete()
        assert other.ask() == [None, 1]


def test_a_shared_cache_that_forgets(acme: Any, redis: Any, server_params: dict[str, Any]) -> None:
    """Losing its keys makes processes ask again; it never makes an old answer valid."""
    from django.core.cache import caches

    with Other(server_params, CACHE="shared") as other:
        assert other.ask() == ["active", 1]
        for _ in range(2):
            caches["shared"].clear()
            assert [other.ask(), other.ask()] == [["active", 1], ["active", 0]]
        acme.suspend()
        caches["shared"].clear()
        assert other.ask() == ["suspended", 1]


def test_a_shared_cache_that_is_gone(acme: Any, redis: Any, caplog: pytest.LogCaptureFixture) -> None:
    """The database is asked each time, changes are saved, and the log says why."""
    assert [queries(), queries()] == [1, 0]
    redis.kill()
    redis.wait()
    assert [queries(), queries()] == [1, 1]
    acme.suspend()
    assert status() == "suspended"
    assert "The cache 'shared' does not answer" in caplog.text


def test_the_tenant_that_is_active_does_not_name_the_key(acme: Any, redis: Any) -> None:
    """Where keys of the cache begin with the active schema, the shared one is still one."""
    from django.core.cache import caches

    from pg_tenants import tenant_context

    caches_setting = {**settings.CACHES}
    caches_setting["shared"] = {**caches_setting["shared"], "KEY_FUNCTION": f"{__name__}.key"}
    with override_settings(CACHES=caches_setting):
        assert status() == "active"
        with tenant_context(acme):
            assert queries() == 0
            acme.suspend()
        assert status() == "suspended"
        assert caches["shared"].get(lookups.STAMP_KEY) is not None


def key(name: str, prefix: str, version: int) -> str:
    from pg_tenants import current_schema

    return f"{current_schema()}:{name}"


def test_two_processes_without_a_shared_cache(acme: Any, server_params: dict[str, Any]) -> None:
    """The other one sees a change when the time is over."""
    with Other(server_params, CACHE_SECONDS=1.5) as other:
        assert [other.ask(), other.ask()] == [["active", 1], ["active", 0]]
        acme.suspend()
        assert other.ask() == ["active", 0]
        time.sleep(1.6)
        assert other.ask() == ["suspended", 1]


def test_requests_see_a_suspension_at_once(acme: Any) -> None:
    """The whole way, through the handler."""
    client = Client(headers={"host": "acme.localhost"})
    assert client.get("/login/").status_code == 200
    set_status(acme, "suspended")
    assert client.get("/login/").status_code == 503
    acme.resume()
    assert client.get("/login/").status_code == 200
