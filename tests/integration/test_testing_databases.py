"""What test databases are made of, and when they are made anew; each run is in processes of its own."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import django
import psycopg
import pytest

from tests.fix_project import HEAD, SETTINGS, Project

pytest_plugins = ["pytester"]

MODEL = """
from django.db import models
class Thing(models.Model):
    {0} = models.IntegerField()
"""
CREATES = (
    "from django.db import migrations, models\nfrom things.helper import write\n"
    "class Migration(migrations.Migration):\n    initial = True\n    operations = [\n"
    "        migrations.CreateModel('Thing', [('id', models.BigAutoField(primary_key=True)),"
    " ('one', models.IntegerField())]),\n"
    "        migrations.RunPython(write, migrations.RunPython.noop)]\n"
)
RENAMES = (
    "from django.db import migrations, models\nclass Migration(migrations.Migration):\n"
    "    dependencies = [('things', '0001_initial')]\n"
    "    operations = [migrations.RenameField('thing', 'one', 'two')]\n"
)
SQUASHED = (
    "from django.db import migrations, models\nfrom things.helper import write\n"
    "class Migration(migrations.Migration):\n    initial = True\n    {0}\n"
    "    operations = [\n        migrations.CreateModel('Thing', [('id', models.BigAutoField(primary_key=True)),"
    " ('two', models.IntegerField())]),\n"
    "        migrations.RunPython(write, migrations.RunPython.noop)]\n"
)
HELPER = "def write(apps, editor):\n    editor.execute({0!r})\n"
PROJECT = (
    SETTINGS
    + """
INSTALLED_APPS = [*INSTALLED_APPS, "things"]
tenant = PG_TENANTS["MODULES"]["tenant"]
tenant["apps"] = [*tenant["apps"], "things"]
tenant["extensions"] = [{0}]
tenant["sql_migrations"] = {1!r}
"""
)
IT = (
    HEAD
    + """
from django.db.migrations.recorder import MigrationRecorder

def test_it(tenant):
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT attname::text FROM pg_attribute WHERE attrelid = 'things_thing'::regclass AND attnum = 2")
        column = cursor.fetchone()[0]
        cursor.execute("SELECT answer() || ' ' || 'a'::citext::text" if {extension} else "SELECT answer()")
        answer = cursor.fetchone()[0]
    names = sorted(MigrationRecorder(connection).applied_migrations())
    seen = [column, answer, [name for app, name in names if app == "things"],
            value("SELECT obj_description('things_thing'::regclass)")]
    assert seen == {expected}
"""
)


class Things:
    """An app whose parts change from one run of the tests to the next."""

    def __init__(self, project: Project):
        self.project = project
        app = project.pytester.mkpydir("things")
        self.app, self.migrations, self.sql = app, app / "migrations", project.pytester.mkdir("sql")
        self.migrations.mkdir()
        (self.migrations / "__init__.py").touch()
        self.column, self.answer, self.comment = "one", "1", "a"
        self.names = ["0001_initial"]
        self.extension = False
        self.made: Any = None

    def has(self, name: str, text: str) -> None:
        (self.migrations / f"{name}.py").write_text(text)

    def lacks(self, name: str) -> None:
        (self.migrations / f"{name}.py").unlink()

    def receives(self, comment: str) -> None:
        """Have a receiver of ``post_migrate`` that leaves something else than the migrations."""
        self.comment = comment
        (self.app / "apps.py").write_text(
            "from django.apps import AppConfig\nfrom django.db import connection\n"
            "from django.db.models.signals import post_migrate\n\n"
            "def comment(sender, **kwargs):\n    with connection.cursor() as cursor:\n"
            # Django tells all apps in each schema, the fixed modules' too.
            "        cursor.execute(\"SELECT to_regclass('things_thing')\")\n"
            "        if cursor.fetchone()[0]:\n"
            f"            cursor.execute(\"COMMENT ON TABLE things_thing IS '{comment}'\")\n\n"
            "class Config(AppConfig):\n    name = 'things'\n\n    def ready(self):\n"
            "        post_migrate.connect(comment, sender=self)\n"
        )

    def is_rebuilt(self, *, rebuilt: bool = True) -> None:
        """Run the test, which sees that the schema is as the files say, and whether it was made anew."""
        (self.app / "models.py").write_text(MODEL.format(self.column))
        (self.app / "helper.py").write_text(HELPER.format(f"COMMENT ON TABLE things_thing IS '{self.comment}'"))
        (self.sql / "0001_answer.sql").write_text(
            f"CREATE FUNCTION answer() RETURNS text LANGUAGE sql AS $$ SELECT '{self.answer}' $$;"
        )
        extensions = "'citext', 'pg_trgm'" if self.extension else "'pg_trgm'"
        self.project.write("project_settings.py", PROJECT.format(extensions, str(self.sql)))
        answer = f"{self.answer} a" if self.extension else self.answer
        expected = [self.column, answer, self.names, self.comment]
        self.project.write("test_it.py", IT.format(extension=self.extension, expected=expected))
        self.project.passes("-p", "no:xdist", count=1)
        before, self.made = (
            self.made,
            self.project.sql("SELECT oid FROM pg_namespace WHERE nspname = 'test_master_tenant'"),
        )
        assert (before != self.made) == rebuilt


def test_noticed_by_content(project: Project) -> None:
    """Squashed migrations, SQL files, helpers, extensions, another Django, receivers: all are noticed, by content."""
    things = Things(project)
    things.has("0001_initial", CREATES)
    things.is_rebuilt()
    things.is_rebuilt(rebuilt=False)
    things.has("0002_more", RENAMES)
    things.column, things.names = "two", ["0001_initial", "0002_more"]
    things.is_rebuilt()
    replaces = "replaces = [('things', '0001_initial'), ('things', '0002_more')]"
    things.has("0001_squashed", SQUASHED.format(replaces))
    things.names = ["0001_initial", "0001_squashed", "0002_more"]
    things.is_rebuilt()
    things.lacks("0001_initial")
    things.lacks("0002_more")
    things.has("0001_squashed", SQUASHED.format(""))
    things.names = ["0001_squashed"]
    things.is_rebuilt()
    things.answer = "2"
    things.is_rebuilt()
    things.comment = "b"
    things.is_rebuilt()
    things.extension = True
    things.is_rebuilt()
    assert project.sql("SELECT extname FROM pg_extension WHERE extname = 'citext'")
    another_django(project)
    things.is_rebuilt()
    things.is_rebuilt(rebuilt=False)
    # What a receiver of the project's own does is not known, so it is called in each run.
    things.receives("c")
    things.is_rebuilt()
    things.receives("d")
    things.is_rebuilt()


def another_django(project: Project) -> None:
    """Put a Django of another version in the place of the installed one."""
    installed = Path(django.__file__).parent
    copy = project.pytester.mkdir("another") / "django"
    copy.mkdir()
    for part in installed.iterdir():
        if part.name not in ("__init__.py", "__pycache__"):
            (copy / part.name).symlink_to(part)
    text = (installed / "__init__.py").read_text()
    version = f"VERSION = ({django.VERSION[0]}, {django.VERSION[1]}, 99, 'final', 0)\n"
    assert "VERSION = " in text
    before, _, behind = text.partition("VERSION = ")
    (copy / "__init__.py").write_text(before + version + behind.partition("\n")[2])
    project.environment["PYTHONPATH"] = f"{copy.parent}:{project.environment['PYTHONPATH']}"


UNMIGRATED = HEAD + (
    """
from django.db.migrations.recorder import MigrationRecorder

def test_it(tenant, tenant_factory):
    assert not MigrationRecorder(connection).has_table() or not MigrationRecorder.Migration.objects.exists()
    Note.objects.create(title="a", body="b", author=User.objects.create_user("ada"))
    with tenant_context(tenant_factory("acme")):
        assert Note.objects.count() == 0
        assert value("SELECT count(*) FROM information_schema.columns WHERE table_schema = current_schema()"
                     " AND table_name = 'things_thing' AND column_name = '{0}'") == {1}

class TestIt(TenantTestCase):
    def test_it(self):
        assert not Note.objects.exists()
"""
)


@pytest.mark.parametrize("how", ["--nomigrations", "MIGRATE", "manage.py"])
def test_without_migrations(project: Project, how: str) -> None:
    """TEST["MIGRATE"] = False and --nomigrations: tables are those of the models, tenants' too, and never stale."""
    migrate = "" if how == "--nomigrations" else "DATABASES['default']['TEST'] = {'MIGRATE': False}\n"
    app = project.pytester.mkpydir("things")
    project.write(
        "project_settings.py",
        SETTINGS
        + "INSTALLED_APPS = [*INSTALLED_APPS, 'things']\n"
        + "PG_TENANTS['MODULES']['tenant']['apps'] = [*PG_TENANTS['MODULES']['tenant']['apps'], 'things']\n"
        + migrate,
    )
    options = ("--nomigrations",) if how == "--nomigrations" else ()
    made = []
    bases = ("class Base(models.Model):\n    ", "class Base(models.Model):\n    more = models.IntegerField()\n    ")
    for number, base in enumerate((bases[0], bases[0], bases[1])):
        project.write("base.py", f"from django.db import models\n{base}class Meta:\n        abstract = True\n")
        (app / "models.py").write_text("from base import Base\nclass Thing(Base):\n    pass\n")
        project.write("test_it.py", UNMIGRATED.format("more", int(number == 2)))
        if how == "manage.py":
            project.write("test_it.py", UNMIGRATED.partition("def test_it(tenant,")[0] + CASE)
            project.manages("test", "test_it", "--parallel", "2")
        else:
            project.passes(*options, count=2)
        made.append(project.sql("SELECT oid FROM pg_namespace WHERE nspname = 'test_master'"))
    assert made[0] == made[1]


CASE = """
class TestIt(TenantTestCase):
    def test_it(self):
        assert not MigrationRecorder(connection).has_table() or not MigrationRecorder.Migration.objects.exists()
        assert not Note.objects.exists()

class TestOther(TestIt):
    pass
"""

EXTENSION = (
    HEAD
    + """
def test_it(tenant, pg_isolated):
    assert value("SELECT similarity('a', 'a')") == 1
    assert value("SELECT extnamespace::regnamespace::text FROM pg_extension WHERE extname = 'pg_trgm'") == "elsewhere"
    assert value("SELECT current_schemas(false)")[-1] == "elsewhere"
    with pg_isolated.connect() as session:
        assert session.execute("SELECT similarity('a', 'a')").fetchone() == (1,)

class TestIt(TenantTransactionTestCase):
    def test_it(self):
        assert value("SELECT similarity('a', 'a')") == 1
"""
)


def test_extension_that_is_elsewhere(project: Project, server_params: dict[str, Any]) -> None:
    """An extension that a prepared test database has in another schema stays there, and that schema is on the path."""
    with psycopg.connect(**{**server_params, "dbname": "postgres"}, autocommit=True) as session:
        session.execute(f'CREATE DATABASE "{project.database}"')
    project.sql("CREATE SCHEMA elsewhere")
    project.sql("CREATE EXTENSION pg_trgm SCHEMA elsewhere")
    project.write("test_it.py", EXTENSION)
    for options in ((), (), ("-n", "2")):
        project.passes(*options, count=2)
    project.write(
        "test_it.py", EXTENSION.partition("def test_it(tenant,")[0] + "class" + EXTENSION.rpartition("class")[2]
    )
    project.manages("test", "test_it", "--parallel", "2")


ALIASES = """
DATABASES["default"]["TEST"] = {"NAME": {0!r}, "TEMPLATE": "template0", "DEPENDENCIES": ["plain"]}
DATABASES["replica"] = {**DATABASES["default"], "TEST": {"MIRROR": "default"}}
DATABASES["bound"] = {**DATABASES["default"], "OPTIONS": {"tenants": {"schema": "bound"}},
                      "TEST": {"NAME": {0!r}, "MIGRATE": False}}
DATABASES["plain"] = {"ENGINE": "django.db.backends.sqlite3", "NAME": ":memory:", "TEST": {"DEPENDENCIES": []}}
DATABASE_ROUTERS = ["routing.Router", *DATABASE_ROUTERS]
"""
ROUTER = """
class Router:
    def allow_migrate(self, db, app_label, **hints):
        return app_label in ("auth", "contenttypes") if db == "plain" else None
"""
SEVERAL = (
    HEAD
    + """
from django.db import connections

@pytest.mark.django_db(databases="__all__")
def test_it(tenant, pg_test_schema):
    assert connections["replica"].settings_dict["NAME"] == connection.settings_dict["NAME"] == {0!r}
    with connections["bound"].cursor() as cursor:
        cursor.execute("SELECT current_schema()")
        assert cursor.fetchone()[0] == f"{{pg_test_schema}}_bound"
    assert User.objects.using("plain").count() == 0

class TestIt(TenantTransactionTestCase):
    databases = "__all__"
    def test_it(self):
        User.objects.create_user("ada")
        assert User.objects.using("replica").count() == 1

class TestLater(TestIt):
    pass
"""
)


def test_several_aliases(project: Project) -> None:
    """NAME, TEMPLATE, MIRROR, DEPENDENCIES and MIGRATE of several aliases, one of them of another backend."""
    project.database = f"{project.database}_named"
    project.params["dbname"] = project.database
    project.write("project_settings.py", SETTINGS + ALIASES.replace("{0!r}", repr(project.database)))
    project.write("routing.py", ROUTER)
    project.write("test_it.py", SEVERAL.format(project.database))
    project.passes("-n", "2", count=3)
    project.passes(count=3)
    project.write("test_it.py", SEVERAL.partition("@pytest")[0] + "class" + SEVERAL.partition("class")[2])
    project.manages("test", "test_it", "--parallel", "2")


ASYNC_RUNNER = """
import asyncio, inspect
import pytest

@pytest.hookimpl(tryfirst=True)
def pytest_pyfunc_call(pyfuncitem):
    if not inspect.iscoroutinefunction(pyfuncitem.obj):
        return None
    names = pyfuncitem._fixtureinfo.argnames
    asyncio.run(pyfuncitem.obj(**{name: pyfuncitem.funcargs[name] for name in names}))
    return True
"""
ASYNC = (
    HEAD
    + """
import asyncio

@pytest.mark.parametrize("number", range(2))
async def test_writes(tenant, async_tenant_client, number):
    assert await User.objects.acount() == 0
    await asyncio.gather(*(User.objects.acreate_user(f"ada{number}") for number in range(5)))
    assert await User.objects.acount() == 5
    assert (await async_tenant_client.get("/")).status_code == 200

@pytest.fixture
def ada(tenant):
    return User.objects.create_user("ada")

async def test_sees_its_fixtures(ada):
    assert await User.objects.aget() == ada

async def test_without_a_tenant(db):
    assert await Tenant.objects.acount() == 0
    await Tenant.objects.acreate(schema_name="acme", name="Acme")

async def test_commits(transactional_db, tenant):
    await User.objects.acreate_user("ada")

async def test_no_database():
    with pytest.raises(RuntimeError, match="Database access not allowed"):
        await User.objects.acount()

def test_behind(tenant):
    assert [User.objects.count(), Tenant.objects.count()] == [0, 1]
"""
)


def test_asynchronous_tests(project: Project) -> None:
    """The ORM of an asynchronous test sees what its fixtures have written, and all is rolled back behind it.

    The test runs as under pytest-asyncio: in an event loop, outside of async_to_sync().
    """
    project.write("conftest.py", ASYNC_RUNNER)
    project.write("test_it.py", ASYNC)
    project.passes("-p", "no:randomly", count=7)


def test_overridden_migrations(project: Project) -> None:
    """A test that overrides MIGRATION_MODULES does so for itself: not for the ready schema, which others use."""
    project.write(
        "test_it.py",
        HEAD
        + """
from django.test import override_settings

@override_settings(MIGRATION_MODULES={"notes": "nowhere.migrations"})
class TestA(TenantTransactionTestCase):
    def test_a(self):
        assert not Note.objects.exists()
    def test_b(self):
        assert not Note.objects.exists()

class TestB(TenantTransactionTestCase):
    def test_behind(self):
        assert not Note.objects.exists()
""",
    )
    project.passes(count=3)


def test_failed_rows_of_parallel_workers(project: Project) -> None:
    """manage.py test --keep-failed keeps the rows of tests that fail in workers of --parallel."""
    project.write(
        "test_it.py",
        HEAD
        + """
class TestOne(TenantTestCase):
    def test_fails(self):
        User.objects.create_user(type(self).__name__)
        with self.subTest("first"):
            self.fail()

class TestTwo(TenantTestCase):
    def test_fails(self):
        User.objects.create_user(type(self).__name__)
        1 / 0
""",
    )
    # Django's runner breaks off without it, as tracebacks cannot be pickled.
    project.pytester.mkpydir("tblib").joinpath("pickling_support.py").write_text(
        "import copyreg, types\ndef nothing():\n    return None\n"
        "def install():\n    copyreg.pickle(types.TracebackType, lambda traceback: (nothing, ()))\n"
    )
    code, output = project.run("django", "test", "test_it", "--parallel", "2", "--keep-failed")
    assert code == 1
    assert "failures=1, errors=1" in output, output
    kept = [name for name in project.schemas() if name.startswith("kept_") and name.endswith("_tenant")]
    assert {project.sql(f"SELECT username FROM {name}.auth_user")[0][0] for name in kept} == {"TestOne", "TestTwo"}
