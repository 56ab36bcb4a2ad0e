"""An app that has moved to another module: what it leaves is named, and the how-to moves the rows."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

import psycopg
import pytest
from psycopg import sql

from tests.acceptance._documents import Block, Reader, blocks

ROOT = Path(__file__).parents[2]
PSQL = Path("/usr/lib/postgresql/15/bin")
PAGE = (ROOT / "docs/howto/moving-an-app.md").read_text()
INSERT = "INSERT INTO {}.tags_tag (name) SELECT unnest(%s::text[])"

pytestmark = pytest.mark.skipif(
    not (PSQL / "psql").exists() and not shutil.which("psql"), reason="the how-to needs psql"
)


@pytest.fixture
def database(server_params: dict[str, Any]) -> Iterator[Any]:
    """Return a bare connection to a new database."""
    name = f"{server_params['dbname']}_moving"
    drop = sql.SQL("DROP DATABASE IF EXISTS {} WITH (FORCE)").format(sql.Identifier(name))
    with psycopg.connect(**server_params, autocommit=True) as connection:
        connection.execute(drop)
        connection.execute(sql.SQL("CREATE DATABASE {}").format(sql.Identifier(name)))
        with psycopg.connect(**{**server_params, "dbname": name}, autocommit=True) as bare:
            yield bare
        connection.execute(drop)


@pytest.fixture
def reader(database: Any, server_params: dict[str, Any], tmp_path: Path) -> Iterator[Reader]:
    """Return one who follows the page in a project's folder."""
    shutil.copy(ROOT / "manage.py", tmp_path)
    user, password = (quote(str(server_params[key]), safe="") for key in ("user", "password"))
    environ = {
        **os.environ,
        "PATH": f"{Path(sys.executable).parent}:{PSQL}:{os.environ['PATH']}",
        "PYTHONPATH": str(ROOT),
        "DJANGO_SETTINGS_MODULE": "tests.projects.moving.settings",
        "DATABASE_URL": f"postgresql://{user}:{password}@127.0.0.1:{server_params['port']}/{database.info.dbname}",
    }
    with Reader(tmp_path, environ) as reader:
        yield reader


def section(heading: str) -> list[Block]:
    found = re.search(rf"^## {heading}\n(.*?)(?=^## |\Z)", PAGE, re.MULTILINE | re.DOTALL)
    assert found
    return blocks(found[1])


def manage(reader: Reader, *args: str) -> str:
    argv = [sys.executable, "manage.py", *args]
    done = subprocess.run(argv, cwd=reader.folder, env=reader.environ, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    return done.stdout + done.stderr


def project(reader: Reader, place: str) -> None:
    """Make the tables where the app is, and two tenants."""
    reader.environ["TAGS_ARE"] = place
    manage(reader, "migrate_schemas", "--run-syncdb", "-v0")
    for name in ("acme", "globex"):
        manage(reader, "create_tenant", name, "-v0")


def names(database: Any, schema: str) -> list[str]:
    return [name for (name,) in database.execute(f"SELECT name FROM {schema}.tags_tag ORDER BY name").fetchall()]


def places(database: Any) -> set[str]:
    rows = database.execute("SELECT schemaname FROM pg_tables WHERE tablename = 'tags_tag'").fetchall()
    return {schema for (schema,) in rows}


def test_from_shared_to_tenants(reader: Reader, database: Any) -> None:
    """Each tenant has the rows, with their keys and a sequence that goes on; the old table is gone."""
    project(reader, "shared")
    database.execute(INSERT.format("public"), [["one", "two"]])
    reader.environ["TAGS_ARE"] = "tenants"
    assert "pg_tenants.W071" in manage(reader, "migrate_schemas", "--plan")
    reader.follow(section("From shared to tenants"))
    assert places(database) == {"acme", "globex"}
    for schema in ("acme", "globex"):
        assert names(database, schema) == ["one", "two"]
        database.execute(INSERT.format(schema), [["three"]])
    assert database.execute("SELECT count(*) FROM public.django_migrations WHERE app = 'tags'").fetchone() == (0,)
    assert "0 migrated, 3 up to date" in manage(reader, "migrate_schemas")


def test_from_tenants_to_shared(reader: Reader, database: Any) -> None:
    """The rows of all are in one table, and a second run of the script fails without dropping that."""
    project(reader, "tenants")
    database.execute(INSERT.format("acme"), [["one", "two"]])
    database.execute(INSERT.format("globex"), [["two", "three"]])
    reader.environ["TAGS_ARE"] = "shared"
    reader.follow(section("From tenants to shared"))
    assert places(database) == {"public"}
    assert names(database, "public") == ["one", "three", "two"]
    argv = [sys.executable, "manage.py", "tenant_command", "--all", "dbshell", "--", "-f", "to_shared.sql"]
    done = subprocess.run(argv, cwd=reader.folder, env=reader.environ, capture_output=True, text=True, timeout=120)
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    assert names(database, "public") == ["one", "three", "two"]
    assert "0 migrated, 3 up to date" in manage(reader, "migrate_schemas")


def test_migrate_schemas_says_so(reader: Reader, database: Any) -> None:
    """Before it does anything, with many schemas counted rather than listed; a settled project hears nothing."""
    project(reader, "tenants")
    assert "W07" not in manage(reader, "migrate_schemas")
    for number in range(6):
        database.execute(f"CREATE SCHEMA more_{number}; CREATE TABLE more_{number}.tags_tag (name text)")
        database.execute(
            "INSERT INTO people_tenant (schema_name, module, status, created_at) VALUES (%s, '', 'suspended', now())",
            [f"more_{number}"],
        )
    reader.environ["TAGS_ARE"] = "shared"
    text = manage(reader, "migrate_schemas", "--plan")
    assert "pg_tenants.W070" in text
    assert "The app 'tags' has left tables (tags_tag) and 1 rows of django_migrations" in text
    assert "'acme', 'globex', 'more_0', 'more_1', 'more_2' and 3 more" in text
    # Tables of that name in schemas that are no tenants' are nobody's business.
    database.execute("DELETE FROM people_tenant; CREATE SCHEMA other; CREATE TABLE other.tags_tag (name text)")
    assert "W07" not in manage(reader, "migrate_schemas", "--plan")
