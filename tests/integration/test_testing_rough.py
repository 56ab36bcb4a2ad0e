"""Tests that fail half-way and leave all they can behind: the next test and the next run are clean."""

from __future__ import annotations

import pytest

from tests.fix_project import CLEAN, HEAD, Project

pytest_plugins = ["pytester"]

ROUGH = (
    HEAD
    + """
import contextlib, threading
from django.db import connections
from pg_tenants import activate, schema_context

def run(sql):
    with connection.cursor() as cursor:
        cursor.execute(sql)

end = threading.Event()

@pytest.fixture(scope="session", autouse=True)
def _threads_end():
    yield
    end.set()
    for thread in threads:
        thread.join(10)

class Halfway(Exception):
    pass

threads = []

def in_thread(work):
    ready = threading.Event()
    thread = threading.Thread(target=work, args=(ready,), daemon=True)
    threads.append(thread)
    thread.start()
    assert ready.wait(30)

def leaves_a_context(tenant, make):
    tenant_context(make("acme")).__enter__()
    User.objects.create_user("acmes")

def activates(tenant, make):
    activate(make("acme"))
    User.objects.create_user("acmes")

def breaks_the_transaction(tenant, make):
    with contextlib.suppress(Exception):
        value("SELECT 1 / 0")

def loses_the_connection(tenant, make):
    make("acme")
    with contextlib.suppress(Exception):
        value("SELECT pg_terminate_backend(pg_backend_pid())")

def closes_all(tenant, make):
    make("acme")
    connections.close_all()

def leaves_a_query(tenant, make):
    def work(ready):
        with contextlib.suppress(Exception), schema_context(tenant.schema_name):
            connection.ensure_connection()
            ready.set()
            value("SELECT pg_sleep(1), count(*) FROM auth_user")
        connection.close()
    in_thread(work)

def leaves_a_transaction(tenant, make):
    def work(ready):
        with contextlib.suppress(Exception), schema_context(tenant.schema_name):
            with transaction.atomic():
                value("SELECT count(*) FROM auth_user")
                ready.set()
                end.wait(2)
        connection.close()
    in_thread(work)

def creates(tenant, make):
    with tenant_context(make("acme")):
        User.objects.create_user("acmes")

def renames(tenant, make):
    with no_schema():
        tenant.rename("initech")

def suspends(tenant, make):
    with no_schema():
        tenant.suspend()

def deletes(tenant, make):
    with no_schema():
        tenant.delete()

def makes_schemas(tenant, make):
    for name in ("acme", "raw"):
        run(f"CREATE SCHEMA {PREFIX}_{name}; CREATE TABLE {PREFIX}_{name}.things (id int)")

def drops_tables(tenant, make):
    run("DROP TABLE notes_note CASCADE")

PREFIX = "test_master"
ACTS = [leaves_a_context, activates, breaks_the_transaction, loses_the_connection, closes_all,
        leaves_a_query, leaves_a_transaction, creates, renames, suspends, deletes, makes_schemas, drops_tables]

def go(act, tenant, make):
    fresh(tenant)
    User.objects.create_user("ada")
    act(tenant, make)
    raise Halfway

def fresh(tenant):
    assert [User.objects.count(), Note.objects.count()] == [0, 0]
    made = Tenant.objects.get()
    assert (made, made.schema_name, made.status) == (tenant, "tenant", "active")
    assert current_schema() == "tenant"
    assert value("SELECT current_schemas(false)") == [f"{PREFIX}_tenant", PREFIX, f"{PREFIX}_billing", "public"]
    there = f"SELECT array_agg(nspname::text ORDER BY nspname) FROM pg_namespace WHERE nspname ~ '^{PREFIX}'"
    assert value(there) == [PREFIX, f"{PREFIX}_billing", f"{PREFIX}_tenant"]

halfway = pytest.mark.xfail(raises=Halfway, strict=True)

@halfway
@pytest.mark.parametrize("act", ACTS)
def test_rolled_back(tenant, tenant_factory, act):
    go(act, tenant, tenant_factory)

@halfway
@pytest.mark.parametrize("act", ACTS[:5])
def test_committed(transactional_db, tenant, tenant_factory, act):
    go(act, tenant, tenant_factory)

class Rough:
    @halfway
    def test_it(self):
        go(type(self).act, self.tenant, self.create_tenant)

for act in ACTS:
    for base in (TenantTestCase, TenantTransactionTestCase):
        name = f"Test_{act.__name__}_{base.__name__}"
        globals()[name] = type(name, (Rough, base), {"act": staticmethod(act), "__module__": __name__})

def test_behind(tenant):
    fresh(tenant)
def test_without_a_tenant(db):
    assert (current_schema(), Tenant.objects.count()) == (None, 0)
"""
)
ACTS = 13


def test_left_behind(project: Project) -> None:
    """Contexts, transactions, connections, threads, tenants and schemas that a failed test leaves are its own."""
    project.write("test_it.py", ROUGH)
    output = project.passes("-p", "no:xdist", "-p", "no:randomly")
    assert f"2 passed, {3 * ACTS + 5} xfailed" in output, output
    project.write("test_it.py", CLEAN)
    project.passes(count=1)
    assert project.schemas() == ["test_master", "test_master_billing", "test_master_tenant"]


ACTIVATES = (
    HEAD
    + """
from django.test import TransactionTestCase
from pg_tenants import activate, schema_context

class Leaves:
    def setUp(self):
        self.assertIsNone(current_schema())

    def test_a(self):
        activate(Tenant.objects.create(schema_name="acme", name="Acme"))
        User.objects.create_user("ada")

    def test_b(self):
        self.assertFalse(Tenant.objects.exists())
        Tenant.objects.create(schema_name="acme", name="Acme")

class TestA(Leaves, TestCase):
    pass

class TestB(Leaves, TransactionTestCase):
    pass

class TestC(TestA):
    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        assert current_schema() is None

class TestD(TenantTestCase):
    @classmethod
    def setUpTestData(cls):
        activate(cls.create_tenant("other"))

    def test_it(self):
        pass

class TestE(TestC):
    pass
"""
)


@pytest.mark.parametrize("how", ["pytest", "test", "test --parallel 2", "test --keep-failed --reverse"])
def test_left_active(project: Project, how: str) -> None:
    """What Django's own test cases leave active ends before the flush, and is not active in the next test or class."""
    project.write("test_it.py", ACTIVATES)
    if how == "pytest":
        project.passes(count=9)
    else:
        assert "Ran 9 tests" in project.manages(*how.split(), "test_it")
    assert not [name for name in project.schemas() if "acme" in name]


IMPORTED = (
    HEAD
    + """
import sys
def test_it(tenant):
    from _pytest.assertion.rewrite import AssertionRewritingHook
    ours = [module for name, module in sys.modules.items() if name.startswith("pg_tenants.") and module.__spec__]
    rewritten = [each for each in ours if isinstance(each.__spec__.loader, AssertionRewritingHook)]
    # Those that the plugin itself begins with.
    assert {each.__name__ for each in rewritten} <= {"pg_tenants.context", "pg_tenants.pytest_plugin"}
    assert len(ours) > 50
"""
)


def test_imported_as_it_is(project: Project) -> None:
    """Pytest does not rewrite the package's assertions: that takes a part of each process's start."""
    project.write("test_it.py", IMPORTED)
    project.passes(count=1)


KILLED = (
    HEAD
    + """
import signal, time

class TestA(TenantTestCase):
    def test_it(self):
        os.kill(os.getpid(), signal.SIGKILL)

class TestB(TenantTestCase):
    def test_it(self):
        time.sleep(0.5)

class TestC(TestB):
    pass
"""
)


def test_killed_worker_of_parallel(project: Project) -> None:
    """A worker of --parallel that is killed ends the run with an error that says so; Django would wait for ever."""
    project.write("test_it.py", KILLED)
    code, output = project.run("django", "test", "test_it", "--parallel", "2")
    assert code == 1
    assert "was ended by SIGKILL" in output, output
    assert "errors=1" in output, output


THREADS = (
    HEAD
    + """
import threading
from concurrent.futures import ThreadPoolExecutor

def seen():
    try:
        return current_schema()
    finally:
        connection.close()

def in_threads():
    found = []
    thread = threading.Thread(target=lambda: found.append(seen()))
    thread.start()
    thread.join()
    with ThreadPoolExecutor(1) as pool:
        return [*found, pool.submit(seen).result()]

def test_without(tenant):
    assert in_threads() == [None, None]

@pytest.mark.usefixtures("tenant_threads")
def test_with(tenant):
    assert in_threads() == ["tenant", "tenant"]

@pytest.mark.usefixtures("tenant_threads")
class TestIt(TenantTestCase):
    def test_it(self):
        assert in_threads() == ["tenant", "tenant"]

def test_without_again(tenant):
    assert in_threads() == [None, None]
"""
)


def test_threads(project: Project) -> None:
    """A thread of a test begins without a tenant, or by a fixture in that of the test."""
    project.write("test_it.py", THREADS)
    project.passes(count=4)
    project.write("pytest.ini", (project.pytester.path / "pytest.ini").read_text() + "usefixtures = tenant_threads\n")
    project.write("test_it.py", THREADS.replace("[None, None]", '["tenant", "tenant"]'))
    project.passes(count=4)
