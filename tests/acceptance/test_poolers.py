"""What docs/howto/poolers.md says of PgBouncer: its configuration, its settings, its drill, and each mode."""

from __future__ import annotations

import configparser
import os
import secrets
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest
from django.db import DatabaseError, connection, transaction

from example_project.notes.models import Note, Tag
from pg_tenants import tenant_context
from pg_tenants.exceptions import UnsafeStatement
from tests.acceptance._documents import CHECKOUT, Block, blocks, environment
from tests.fix_alias import default_alias
from tests.fix_pgbouncer import PgBouncer

PAGE = (CHECKOUT / "docs" / "howto" / "poolers.md").read_text()


def block(language: str, beginning: str) -> Block:
    """Return the page's only block of a language that has this text."""
    (found,) = [found for found in blocks(PAGE) if found.language == language and beginning in found.text]
    return found


@pytest.fixture
def database(server_params: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Return the place of a new database."""
    name = f"pooled_{os.getpid()}_{secrets.token_hex(4)}"
    with psycopg.connect(**server_params, autocommit=True) as raw:
        raw.execute(f"CREATE DATABASE {name}".encode())
        try:
            yield {**server_params, "dbname": name}
        finally:
            raw.execute(f"DROP DATABASE {name} WITH (FORCE)".encode())


def test_the_page(database: dict[str, Any], pgbouncer_factory: Callable[..., PgBouncer], tmp_path: Path) -> None:
    """With the page's configuration of both, a project migrates, makes tenants and mixes none of them up."""
    config = configparser.ConfigParser()
    config.read_string(block("ini", "[pgbouncer]").text)
    given = dict(config["pgbouncer"])
    assert {"listen_port", "auth_file"} <= set(given), "the test replaces these places"
    places = ("listen_port", "auth_file", "default_pool_size")
    # Fewer server connections than the page has, so that the drill's threads share them.
    bouncer = pgbouncer_factory(**{key: value for key, value in given.items() if key not in places})
    settings = block("python", '"direct": database(').text
    for place, params in (("pooler.example.com:6432", bouncer.params), ("db.example.com:5432", database)):
        assert f"postgresql://app@{place}/app" in settings
        url = "postgresql://{user}:{password}@{host}:{port}/".format(**params) + database["dbname"]
        settings = settings.replace(f"postgresql://app@{place}/app", url)
    (tmp_path / "pooled.py").write_text(f"from tests.child_settings import *\n{settings}")
    (tmp_path / "drill.py").write_text(block("python", "ThreadPoolExecutor").text)
    environ = environment(DJANGO_SETTINGS_MODULE="pooled", PYTHONPATH=f"{tmp_path}{os.pathsep}{CHECKOUT}")

    def run(*args: str, stdin: Path | None = None) -> str:
        with (stdin or Path(os.devnull)).open() as source:
            argv = [sys.executable, "-m", "django", *args]
            done = subprocess.run(
                argv, env=environ, stdin=source, capture_output=True, text=True, timeout=120, check=False
            )
        assert done.returncode == 0, f"{args}\n{done.stdout}\n{done.stderr}"
        return done.stdout

    run("migrate_schemas", "-v", "0")
    assert "no issues" in run("check", "--database", "default")
    for name in ("acme", "globex"):
        run("create_tenant", name, "--set", f"name={name}")
    assert run("shell", "-v", "0", stdin=tmp_path / "drill.py") == "2 tenants, wrong: 0\n"


def vacuum() -> None:
    with connection.cursor() as cursor:
        cursor.execute("VACUUM notes_tag")


def test_session_mode(acme: Any, pgbouncer_factory: Callable[..., PgBouncer]) -> None:
    """Everything works as if there were no pooler, once it is said that there is none."""
    bouncer = pgbouncer_factory(pool_mode="session")
    with default_alias(bouncer.params, bouncer.port), tenant_context(acme), pytest.raises(UnsafeStatement):
        vacuum()
    with default_alias(bouncer.params, bouncer.port, tenants={"pooler": False}), tenant_context(acme):
        vacuum()
        Tag.objects.bulk_create(Tag(name=f"tag {number}") for number in range(30))
        assert len(list(Tag.objects.iterator(chunk_size=5))) == 30
        with connection.chunked_cursor() as cursor:
            assert "ServerSide" in type(cursor.cursor).__name__


def test_statement_mode(acme: Any, globex: Any, pgbouncer_factory: Callable[..., PgBouncer]) -> None:
    """Single statements work, each with its tenant; transactions are refused by PgBouncer, and nothing is written."""
    bouncer = pgbouncer_factory(pool_mode="statement")
    with default_alias(bouncer.params, bouncer.port):
        for tenant in (acme, globex) * 20:
            with tenant_context(tenant):
                assert Note.objects.get().title == f"note of {tenant.schema_name}"
        with tenant_context(acme):
            Tag.objects.create(name="one")
            with pytest.raises(DatabaseError), transaction.atomic():
                Tag.objects.create(name="two")
            connection.close()
            assert [tag.name for tag in Tag.objects.all()] == ["one"]


def test_a_message_of_one_statement_only(acme: Any, pgbouncer_factory: Callable[..., PgBouncer]) -> None:
    """With ``disable_pqexec`` there is an error and no row, as the page warns."""
    bouncer = pgbouncer_factory(disable_pqexec="1")
    with default_alias(bouncer.params, bouncer.port), tenant_context(acme), pytest.raises(DatabaseError):
        Note.objects.get()
