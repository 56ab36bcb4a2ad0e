"""With pytest-xdist the test database is begun by pytest itself, while its workers still import."""

from __future__ import annotations

import time

import psycopg
import pytest

from tests.fix_project import CLEAN, SETTINGS, Project

pytest_plugins = ["pytester"]

EXISTS = """
import time
import psycopg

def exists(seconds, sql="SELECT FROM public.pg_tenants_templates HAVING count(*) = 3"):
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        try:
            with psycopg.connect({url!r}) as session:
                if session.execute(sql).fetchall():
                    return True
        except psycopg.Error:
            pass
        time.sleep(0.05)
    return False
"""
OVERRIDES = {
    "by its name": "@pytest.fixture(scope='session')\ndef pg_test_config():\n    return {}\n",
    "by another": "@pytest.fixture(scope='session', name='django_db_setup')\ndef mine():\n    pass\n",
}


@pytest.fixture
def new(project: Project) -> Project:
    url = psycopg.conninfo.make_conninfo(**project.params)
    project.write("exists.py", EXISTS.format(url=url))
    return project


def test_before_workers_ask(new: Project) -> None:
    """The templates are there before the workers begin; these use them, and the next run does."""
    hook = (
        "def pytest_sessionstart(session):\n    if hasattr(session.config, 'workerinput'):\n        assert exists(60)\n"
    )
    new.write("conftest.py", "from exists import exists\n" + hook)
    new.write("test_it.py", CLEAN)
    new.passes("-n", "2", "--dist=each", count=2)
    made = new.sql("SELECT xmin FROM public.pg_tenants_templates")
    new.passes("-n", "2", "--dist=each", count=2)
    assert new.sql("SELECT xmin FROM public.pg_tenants_templates") == made


@pytest.mark.parametrize("how", OVERRIDES)
def test_not_where_the_project_decides(new: Project, how: str) -> None:
    """Where a fixture of the project's says which database it is, nothing is made that it might not mean."""
    new.write("conftest.py", "import pytest\n" + OVERRIDES[how])
    new.write("test_it.py", "from exists import exists\ndef test_it():\n    assert not exists(2, 'SELECT 1')\n")
    new.passes("-n", "1", count=1)


SLEEPS = """
from django.db import migrations

class Migration(migrations.Migration):
    operations = [migrations.RunSQL("SELECT pg_sleep(120)")]
"""


def test_ends_with_the_run(new: Project) -> None:
    """A run whose tests need no database ends by itself, and with it what makes one; nothing half is left."""
    folder = new.pytester.path / "slow" / "migrations"
    folder.mkdir(parents=True)
    for path in (folder.parent, folder):
        (path / "__init__.py").touch()
    (folder / "0001_slow.py").write_text(SLEEPS)
    settings = "INSTALLED_APPS = [*INSTALLED_APPS, 'slow']\nPG_TENANTS['MODULES']['shared']['apps'] += ['slow']\n"
    new.write("project_settings.py", SETTINGS + settings)
    works = f"SELECT FROM pg_stat_activity WHERE query LIKE '%sleep(%' AND datname = '{new.database}' AND pid <> "
    works += "pg_backend_pid()"
    new.write("test_it.py", f"from exists import exists\ndef test_it():\n    assert exists(60, {works!r})\n")
    begun = time.monotonic()
    new.passes("-n", "1", count=1)
    assert time.monotonic() - begun < 100
    assert not new.sql("SELECT FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()")
    assert not new.sql("SELECT FROM pg_class WHERE relname = 'pg_tenants_templates'")
