"""The plugin for pytest and the test runner, each run in processes of its own on a server of this run."""

from __future__ import annotations

import json
import signal
import time
from pathlib import Path

import psycopg
import pytest

from tests.fix_project import CLEAN, HEAD, SETTINGS, Project, wait_for

pytest_plugins = ["pytester"]

FIXTURES = (
    HEAD
    + """
@pytest.mark.parametrize("number", range(4))
def test_worker(tenant, number, pg_test_schema, pg_test_worker, request):
    assert pg_test_schema == f"test_{pg_test_worker}"
    assert Note.objects.count() == 0
    Note.objects.create(title="a", body="b", author=User.objects.create_user("ada"))
    path = [f"{pg_test_schema}_tenant", pg_test_schema, f"{pg_test_schema}_billing", "public"]
    assert value("SELECT current_schemas(false)") == path
    assert [found.schema_name for found in Tenant.objects.all()] == ["tenant"] == [current_schema()]
    assert connection.settings_dict["NAME"] == os.environ["EXPECTED_DATABASE"]

def test_no_tenant(db):
    assert Tenant.objects.count() == 0
    assert current_schema() is None

def test_committed(transactional_db, tenant_factory):
    for made in (tenant_factory("acme"), tenant_factory()):
        with tenant_context(made):
            User.objects.create_user("ada")

def test_after_a_test_that_committed(tenant, tenant_factory):
    assert User.objects.count() == 0
    with tenant_context(tenant_factory("acme", domain="acme.test")):
        assert User.objects.count() == 0
    assert Domain.objects.get(tenant__schema_name="acme").domain == "acme.test"

@pytest.mark.tenant("globex", name="Globex Inc")
def test_mark(tenant_client):
    assert current_schema() == "globex"
    assert Tenant.objects.get().name == "Globex Inc"
    user = User.objects.create_user("ada")
    tenant_client.force_login(user)
    request = tenant_client.get("/").wsgi_request
    assert (request.user, request.tenant.schema_name) == (user, "globex")
    assert tenant_client.session["_auth_user_id"] == str(user.pk)
    tenant_client.logout()
    assert tenant_client.get("/").wsgi_request.user.is_anonymous

def test_async_client(tenant, async_tenant_client):
    from asgiref.sync import async_to_sync
    user = User.objects.create_user("ada", password="x")
    assert async_to_sync(async_tenant_client.alogin)(username="ada", password="x")
    request = async_to_sync(async_tenant_client.get)("/").asgi_request
    assert request.tenant == tenant
    assert request.get_host() == "tenant.localhost"

def test_factory(tenant):
    request = TenantRequestFactory(tenant).get("/")
    assert (request.tenant, request.get_host()) == (tenant, "tenant.localhost")

def test_isolated(pg_isolated, pg_session_isolated, pg_test_schema, pg_schema_info):
    assert pg_isolated.schema == pg_test_schema == pg_schema_info["schema"]
    schemas = {"shared": pg_test_schema, "billing": f"{pg_test_schema}_billing", "tenant": None}
    assert pg_schema_info["modules"] == schemas
    assert pg_session_isolated.execute("SELECT current_schema()").fetchone()[0] == pg_test_schema
    pg_session_isolated.execute("CREATE TABLE committed (id int)")
    pg_session_isolated.execute("INSERT INTO committed VALUES (1)")

def test_isolated_has_committed(pg_session_isolated):
    assert pg_session_isolated.execute("DELETE FROM committed RETURNING id").fetchall() == [(1,)]
    pg_session_isolated.execute("DROP TABLE committed")

@pytest.mark.parametrize("number", range(2))
def test_clean_schema(pg_clean_schema, number):
    with pg_clean_schema.session() as session:
        session.execute("CREATE TABLE notes (id int)")

def test_migrate_factory(pg_migrate_factory, pg_isolated):
    with pg_migrate_factory("tenant", extensions=["citext"]) as isolated:
        with isolated.active():
            assert Note.objects.count() == 0
        with isolated.connect() as session:
            assert session.execute("SELECT count(*) FROM notes_note").fetchone() == (0,)
            session.execute("CREATE TABLE cases (id citext)")
            session.rollback()
    with pg_isolated.connect() as session:
        assert session.execute("SELECT to_regnamespace(%s)", [isolated.schema]).fetchone() == (None,)

def test_session(db_session):
    with db_session.cursor() as cursor:
        cursor.execute("CREATE TABLE gone (id int)")
    assert db_session.in_atomic_block

def test_database(test_db):
    assert Tenant.objects.count() == 0
    assert not test_db.in_atomic_block
    assert value("SELECT to_regclass('gone') IS NULL")
"""
)


@pytest.mark.parametrize("workers", [0, 3])
def test_fixtures(project: Project, workers: int) -> None:
    """Each worker has its own schemas in one test database; the fixtures have the names and scopes of the reference."""
    project.write("test_fixtures.py", FIXTURES)
    project.environment["EXPECTED_DATABASE"] = project.database
    options = ("-n", str(workers), "--dist=loadfile") if workers else ()
    if workers:
        for name in ("test_more.py", "test_others.py"):
            project.write(name, HEAD + "def test_it(tenant):\n    assert User.objects.count() == 0\n")
    project.passes(*options, count=17 + (2 if workers else 0))
    names = project.schemas()
    own = {name.split("_")[1] for name in names}
    assert own == ({"gw0", "gw1", "gw2"} if workers else {"master"})
    assert not [name for name in names if "acme" in name or "migrated" in name or "clean" in name]


CASES = (
    HEAD
    + """
from urllib.parse import urlsplit
from urllib.request import Request, urlopen

class TestOne(TenantTestCase):
    fixtures = ["users"]

    @classmethod
    def setUpTestData(cls):
        cls.ada = User.objects.create_user("ada")
        cls.other = cls.create_tenant("other")

    def test_changes_are_rolled_back(self):
        self.ada.delete()
        self.tenant.name = "changed"
        with tenant_context(self.other):
            self.assertEqual(User.objects.count(), 0)

    def test_sees_what_the_class_made(self):
        self.assertEqual(self.tenant.name, "tenant")
        self.assertEqual(set(User.objects.values_list("username", flat=True)), {"ada", "from_fixture"})
        self.assertEqual(self.tenant_client.get("/").status_code, 200)

    def test_tenant_can_be_deleted(self):
        with no_schema():
            self.tenant.delete()
            self.assertEqual(Tenant.objects.get(), self.other)

    async def test_async(self):
        self.assertEqual(await User.objects.acount(), 2)
        self.assertEqual((await self.async_tenant_client.get("/")).status_code, 200)

class TestTwo(TenantTestCase):
    tenant_schema_name, tenant_domain, tenant_fields = "globex", "globex.localhost", {"name": "Globex"}

    def test_own_name(self):
        self.assertEqual((current_schema(), self.tenant.name), ("globex", "Globex"))
        self.assertEqual(User.objects.count(), 0)

class TestCommitting(TenantTransactionTestCase):
    serialized_rollback = True
    fixtures = ["users"]

    def test_one(self):
        self.assertEqual(User.objects.get().username, "from_fixture")
        User.objects.create_user("ada")

    def test_two(self):
        self.assertEqual(User.objects.get().username, "from_fixture")
        from django.contrib.auth.models import Permission
        self.assertTrue(Permission.objects.exists())
        User.objects.create_user("ada")

class TestLive(TenantLiveServerTestCase):
    def test_answers(self):
        place = urlsplit(self.live_server_url)
        self.assertEqual(place.hostname, "tenant.localhost")
        request = Request(f"http://127.0.0.1:{place.port}/", headers={"Host": place.netloc})
        self.assertEqual(urlopen(request).status, 200)

class TestPlain(TestCase):
    def test_sees_no_tenant(self):
        self.assertEqual((Tenant.objects.count(), current_schema()), (0, None))
"""
)
USERS = [
    {"model": "auth.user", "fields": {"username": "from_fixture", "password": "", "date_joined": "2020-01-01T00:00Z"}}
]


@pytest.mark.parametrize(
    "how",
    ["pytest", "test --reverse", "test --parallel 2 --keepdb --shuffle 7", "spawn", "test --debug-sql --keep-failed"],
)
def test_cases(project: Project, how: str) -> None:
    """Test cases in a tenant: setUpTestData, fixtures, several tenants, serialized_rollback, under each runner."""
    project.write("test_cases.py", CASES)
    fixtures = project.pytester.mkdir("fixtures")
    (fixtures / "users.json").write_text(json.dumps(USERS))
    project.write("project_settings.py", f"{SETTINGS}\nFIXTURE_DIRS = [{str(fixtures)!r}]\n")
    if how == "pytest":
        project.passes("-n", "2", count=9)
        return
    if how == "spawn":
        project.write(
            "spawned.py",
            "import multiprocessing\nfrom django.core.management import execute_from_command_line\n"
            "if __name__ == '__main__':\n    multiprocessing.set_start_method('spawn')\n"
            "    execute_from_command_line(['manage.py', 'test', 'test_cases', '--parallel', '2'])\n",
        )
        code, output = project.run("spawned")
        assert code == 0, output
    else:
        output = project.manages(*how.split(), "test_cases")
    assert "Ran 9 tests" in output
    expected = {"master", "1", "2"} if "parallel" in how or how == "spawn" else {"master"}
    assert {name.split("_")[1] for name in project.schemas()} == expected


def test_idle_without_tenants(project: Project) -> None:
    """In a project without PG_TENANTS, or without Django, the plugin does nothing."""
    project.write(
        "project_settings.py",
        "SECRET_KEY = 'x'\nINSTALLED_APPS = ['django.contrib.auth', 'django.contrib.contenttypes']\n"
        "DATABASES = {'default': {'ENGINE': 'django.db.backends.sqlite3', 'NAME': ':memory:'}}\n",
    )
    project.write(
        "test_it.py",
        "def test_it(db):\n    from django.contrib.auth.models import User\n    User.objects.create_user('x')\n",
    )
    assert "pg_isolated" not in project.passes(count=1)
    project.write("pytest.ini", "[pytest]\naddopts = -p no:django -p no:cacheprovider\n")
    project.write("test_it.py", "def test_it():\n    pass\n")
    project.passes(count=1)


def test_listed_in_a_conftest(project: Project) -> None:
    """A conftest that lists the plugin does not register it twice."""
    project.write("conftest.py", "pytest_plugins = ['pg_tenants.pytest_plugin']\n")
    project.write("test_it.py", HEAD + "def test_it(tenant):\n    assert User.objects.count() == 0\n")
    project.passes(count=1)


def test_failed_rows_are_kept(project: Project) -> None:
    """--keep-failed copies what a failed test saw; test_schemas lists and drops it; the next tests are not touched."""
    project.write(
        "test_it.py",
        HEAD
        + """
def test_function(tenant, tenant_factory):
    User.objects.create_user("kept")
    tenant_factory("acme")
    assert False

class TestIt(TenantTestCase):
    def test_a(self):
        User.objects.create_user("kept")
        self.fail()

    def test_b(self):
        self.assertEqual(User.objects.count(), 0)
""",
    )
    code, output = project.run("pytest", "-q", "--keep-failed")
    assert code == 1
    assert "2 failed, 1 passed" in output
    assert "kept_1_acme" in output
    for number in (1, 2):
        assert project.sql(f"SELECT username FROM kept_{number}_tenant.auth_user") == [("kept",)]
    assert "rows of test_it.py::test_function" in project.manages("test_schemas")
    project.manages("test_schemas", "clean")
    assert "kept_1" in project.schemas()
    project.manages("test_schemas", "clean", "--kept")
    assert project.schemas() == []
    assert "Nothing" in project.manages("test_schemas", "clean")
    project.manages("test_schemas", "clean", "--drop-database")
    assert "There is no test database" in project.manages("test_schemas")


WAITING = (
    HEAD
    + """
import time

def test_waits(transactional_db, tenant_factory):
    with tenant_context(tenant_factory("acme")):
        User.objects.create_user("ada")
    with transaction.atomic():
        made = tenant_factory()
        open("waiting", "w").write(str(os.getpid()))
        value("SELECT pg_sleep(600)")
"""
)


@pytest.mark.parametrize("how", ["kill", "interrupt"])
def test_next_run_is_clean(project: Project, how: str) -> None:
    """After kill -9 or Ctrl-C in the middle of a test the next run is clean and starts by itself."""
    project.write("test_it.py", WAITING)
    waiting = project.pytester.path / "waiting"
    process = project.start("pytest", "-q")
    try:
        wait_for(lambda: waiting.exists() and waiting.read_text())
        process.send_signal(signal.SIGKILL if how == "kill" else signal.SIGINT)
        process.communicate(timeout=60)
    finally:
        process.kill()
    project.write("test_it.py", CLEAN)
    project.passes(count=1)
    assert "test_master_acme" not in project.schemas()


def test_killed_worker_of_xdist(project: Project) -> None:
    """A worker of pytest-xdist that is killed is replaced, and what it left harms nobody."""
    project.write(
        "test_it.py",
        HEAD
        + """
import pathlib, signal
@pytest.mark.parametrize("number", range(6))
def test_it(tenant, number):
    assert User.objects.count() == 0
    User.objects.create_user("ada")
    mark = pathlib.Path("killed")
    if number == 2 and not mark.exists():
        mark.touch()
        os.kill(os.getpid(), signal.SIGKILL)
""",
    )
    _, output = project.run("pytest", "-q", "-n", "2")
    assert "1 failed, 5 passed" in output, output
    project.passes("-n", "2", count=6)


def test_second_run_is_refused(project: Project) -> None:
    """A second run on the same schemas is refused by a message that names the first one; with another name it runs."""
    project.write("test_it.py", WAITING)
    waiting = project.pytester.path / "waiting"
    process = project.start("pytest", "-q")
    try:
        wait_for(lambda: waiting.exists() and waiting.read_text())
        project.write("test_it.py", CLEAN)
        code, output = project.run("pytest", "-q", "--tenants-wait=0.5")
        assert code == 1
        assert f"in use by another test run: process {process.pid} on" in output, output
        project.passes("-n", "1", count=1)
        assert f"in use by process {process.pid} on" in project.manages("test_schemas")
        code, output = project.run("django", "test_schemas", "clean", "--drop-database")
        assert code == 1
        assert "cannot be dropped" in output
        second = project.start("pytest", "-q", "--tenants-wait=60")
        time.sleep(1)
        process.kill()
        output, _ = second.communicate(timeout=120)
        assert "1 passed" in output, output
    finally:
        process.kill()
        process.communicate()


def test_test_that_fails_halfway(project: Project) -> None:
    """A test that fails in the middle, with its transaction broken, leaves nothing to the next one."""
    project.write(
        "test_it.py",
        HEAD
        + """
def test_breaks(tenant):
    User.objects.create_user("ada")
    value("SELECT 1 / 0")

def test_breaks_after_commit(transactional_db, tenant):
    User.objects.create_user("ada")
    value("SELECT 1 / 0")

class TestBreaks(TenantTestCase):
    def test_a(self):
        User.objects.create_user("ada")
        value("SELECT 1 / 0")
    def test_b(self):
        self.assertEqual(User.objects.count(), 0)
"""
        + CLEAN.removeprefix(HEAD),
    )
    _, output = project.run("pytest", "-q")
    assert "3 failed, 2 passed" in output, output
    assert "error" not in output.splitlines()[-1]


def test_never_stale(project: Project) -> None:
    """A later run uses the schemas as they are; a changed, added or removed migration is noticed, without a flag."""
    app = project.pytester.mkpydir("things")
    (app / "migrations").mkdir()
    (app / "migrations" / "__init__.py").touch()
    first = app / "migrations" / "0001_initial.py"
    model = "from django.db import models\nclass Thing(models.Model):\n    {0} = models.IntegerField({1})\n"
    migration = (
        "from django.db import migrations, models\nclass Migration(migrations.Migration):\n    initial = True\n"
        "    operations = [migrations.CreateModel('Thing', [('id', models.BigAutoField(primary_key=True)),"
        " ('{0}', models.IntegerField({1}))])]\n"
    )
    project.write(
        "project_settings.py",
        SETTINGS
        + "INSTALLED_APPS = [*INSTALLED_APPS, 'things']\n"
        + "PG_TENANTS['MODULES']['tenant']['apps'] = [*PG_TENANTS['MODULES']['tenant']['apps'], 'things']\n",
    )
    body = HEAD + "from things.models import Thing\ndef test_it(tenant):\n    Thing.objects.create({0}=1)\n"

    def written(name: str, options: str = "") -> None:
        (app / "models.py").write_text(model.format(name, options))
        first.write_text(migration.format(name, options))
        project.write("test_it.py", body.format(name))

    def oid() -> int:
        return int(project.sql("SELECT oid FROM pg_namespace WHERE nspname = 'test_master_tenant'")[0][0])

    written("one")
    project.passes(count=1)
    made = oid()
    project.passes(count=1)
    assert oid() == made
    written("two")
    project.passes(count=1)
    assert oid() != made
    (app / "migrations" / "0002_more.py").write_text(
        "from django.db import migrations, models\nclass Migration(migrations.Migration):\n"
        "    dependencies = [('things', '0001_initial')]\n"
        "    operations = [migrations.RenameField('thing', 'two', 'three')]\n"
    )
    (app / "models.py").write_text(model.format("three", ""))
    project.write("test_it.py", body.format("three"))
    project.passes(count=1)
    (app / "migrations" / "0002_more.py").unlink()
    written("two")
    project.passes(count=1)
    made = oid()
    # What somebody has written into the schemas meanwhile is noticed as well.
    project.sql("INSERT INTO test_master_tenant.things_thing (two) VALUES (7)")
    project.passes(count=1)
    assert oid() != made


@pytest.mark.parametrize("how", ["pytest", "manage.py"])
def test_database_for_each_worker(project: Project, how: str) -> None:
    """With a database of its own, cloned from one that is kept, a worker has schemas under their real names."""
    project.write(
        "test_it.py",
        HEAD
        + """
class TestIt(TenantTestCase):
    def test_it(self):
        self.assertEqual(value("SELECT current_schemas(false)"), ["tenant", "public", "billing"])
        User.objects.create_user("ada")

class TestOther(TenantTransactionTestCase):
    def test_it(self):
        self.create_tenant("acme")
        User.objects.create_user("ada")

    def test_again(self):
        self.create_tenant("acme")
        self.assertEqual(User.objects.count(), 0)
""",
    )
    query = "SELECT oid FROM pg_database WHERE datname = current_database() || '_model'"
    made = []
    for _ in range(2):
        if how == "pytest":
            project.passes("-n", "2", "--tenants-isolation=database", count=3)
        else:
            assert "OK" in project.manages("test", "test_it", "--parallel", "2", "--isolation", "database")
        made.append(project.sql(query))
    assert made[0] == made[1] != []
    names = {
        name
        for (name,) in project.sql("SELECT datname FROM pg_database WHERE starts_with(datname, current_database())")
    }
    assert names == {project.database, f"{project.database}_model"}
    project.manages("test_schemas", "clean", "--drop-database")


def test_create_db(project: Project) -> None:
    """--create-db makes the test database anew, once for all workers."""
    project.write("test_it.py", CLEAN)
    project.passes(count=1)
    before = project.sql("SELECT oid FROM pg_database WHERE datname = current_database()")
    project.passes("-n", "2", "--dist=each", "--create-db", count=2)
    assert project.sql("SELECT oid FROM pg_database WHERE datname = current_database()") != before
    assert {name.split("_")[1] for name in project.schemas()} == {"gw0", "gw1"}


def test_embedded_server(project: Project, tmp_path: Path) -> None:
    """Without a configured server the development server is started, once for all workers, and stopped at the end."""
    folder = tmp_path / "server"
    project.environment["DATABASE_URL"] = "pgserver:///app"
    project.write(
        "project_settings.py",
        SETTINGS + f"PG_TENANTS['PGSERVER'] = {{'name': 'own', 'data': {str(folder)!r}, 'engine': 'embedded'}}\n",
    )
    project.write("test_it.py", CLEAN)
    project.passes("-n", "2", "--dist=each", count=2)
    assert "stopped" in project.run("django", "pgserver", "status")[1]
    for name in ("HOST", "PORT", "USER", "PASSWORD"):
        where = psycopg.conninfo.conninfo_to_dict(project_url(project))
        project.environment[f"TEST_DB_{name}"] = str(
            where[{"HOST": "host", "PORT": "port", "USER": "user"}.get(name, "password")]
        )
    project.passes(count=1)
    assert "stopped" in project.run("django", "pgserver", "status")[1]
    project.run("django", "pgserver", "erase", "--yes")


def project_url(project: Project) -> str:
    return psycopg.conninfo.make_conninfo(**{**project.params, "dbname": "postgres"})


LAB_MODELS = """
from django.db import models

class Sample(models.Model):
    owner = models.ForeignKey("customers.Tenant", models.PROTECT)
"""
LAB_MIGRATION = """
from django.db import migrations, models

class Migration(migrations.Migration):
    initial = True
    dependencies = [("customers", "0001_initial")]
    operations = [
        migrations.CreateModel(
            "Sample",
            [
                ("id", models.BigAutoField(primary_key=True)),
                ("owner", models.ForeignKey("customers.tenant", models.PROTECT)),
            ],
        ),
    ]
"""
TYPES = (
    HEAD
    + """
from django.db import ProgrammingError
from lab.models import Sample
from pg_tenants import schemas
from pg_tenants.exceptions import RowInUse
from pg_tenants.migrations import Target, required_registry
from pg_tenants.provisioning import template

@pytest.fixture
def tenant_fields():
    return {"module": "tenant"}

@pytest.mark.parametrize("number", range(2))
@pytest.mark.tenant(module="lab")
def test_mark(tenant, number):
    assert (tenant.schema_name, tenant.module, Sample.objects.count()) == ("tenant_lab", "lab", 0)
    made_by = template.load(Target("lab", (required_registry().modules["lab"],)), using="default")
    assert isinstance(made_by, template.Script)

def test_fields(tenant):
    assert (tenant.schema_name, Note.objects.count()) == ("tenant_tenant", 0)

@pytest.mark.tenant(module="lab")
def test_commits(transactional_db, tenant):
    Sample.objects.create(owner=tenant)

@pytest.mark.tenant(module="lab")
def test_behind_it(tenant):
    assert (Tenant.objects.count(), Sample.objects.count()) == (1, 0)

def test_deleting_a_tenant_that_its_own_rows_refer_to(transactional_db, tenant_factory):
    acme, globex = tenant_factory("acme", module="lab"), tenant_factory("globex", module="lab")
    other = tenant_factory("other")
    with tenant_context(acme):
        Sample.objects.create(owner=acme)
    with tenant_context(globex):
        Sample.objects.create(owner=other)
    acme.delete()
    assert not schemas.exists("acme")
    with pytest.raises(RowInUse, match="'lab_sample' in the schema '.*globex'"):
        other.delete()
    assert schemas.exists("other")
    globex.delete()
    other.delete()
    assert not Tenant.objects.exists()

def test_the_same_in_one_transaction(tenant_factory):
    acme = tenant_factory("acme", module="lab")
    with tenant_context(acme):
        Sample.objects.create(owner=acme)
    acme.delete()
    assert not schemas.exists("acme")

def test_factory(tenant_factory):
    with tenant_context(tenant_factory("acme", module="lab")), pytest.raises(ProgrammingError) as raised:
        Note.objects.count()
    assert "'acme' is of the module 'lab'" in raised.value.__notes__[0]
    assert "module 'tenant' alone" in raised.value.__notes__[0]
"""
)


def test_tenant_types(project: Project) -> None:
    """With several tenant modules, one of which refers to shared tables: from the first run on, in parallel.

    A test that does not say which module is meant fails alone, and the error says how to.
    """
    migrations = project.pytester.mkpydir("lab") / "migrations"
    migrations.mkdir()
    (migrations / "__init__.py").touch()
    project.write("lab/models.py", LAB_MODELS)
    project.write("lab/migrations/0001_initial.py", LAB_MIGRATION)
    project.write(
        "project_settings.py",
        f"{SETTINGS}\nINSTALLED_APPS = [*INSTALLED_APPS, 'lab']\nMODULES = PG_TENANTS['MODULES']\n"
        "PG_TENANTS = {**PG_TENANTS, 'MODULES': {**MODULES, 'lab': {'apps': ['lab']}}}\n",
    )
    project.write("test_types.py", TYPES)
    project.passes("-n", "2", count=8)
    project.write("test_unnamed.py", "def test_it(tenant):\n    pass\n")
    code, output = project.run("pytest", "-q")
    assert code == 1
    assert "8 passed, 1 error" in output
    assert "@pytest.mark.tenant(module='tenant')" in output
