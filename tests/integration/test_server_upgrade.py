"""The development server's data moves from one major version to another, or stays as it was."""

from __future__ import annotations

import subprocess
from pathlib import Path

import psycopg
import pytest

from pg_tenants.server import DataFolderError, EngineUnavailable, Server, ServerConfig, ServerStartFailed, engines
from tests.fix_server import ROOT, Make, call, command, needs_15, needs_embedded, query, wait_for

pytestmark = [needs_embedded, needs_15]


def fill(server: Server) -> None:
    with psycopg.connect(server.url("postgres"), autocommit=True) as connection:
        connection.execute("CREATE ROLE \"An'n\" LOGIN PASSWORD 'hers'")
        connection.execute("ALTER DATABASE app SET work_mem = '7MB'")
    with psycopg.connect(server.url("app")) as connection:
        connection.execute("CREATE EXTENSION citext")
        connection.execute('CREATE SCHEMA acme AUTHORIZATION "An\'n"')
        connection.execute("CREATE TABLE acme.note (id serial PRIMARY KEY, title citext)")
        connection.execute("INSERT INTO acme.note (title) SELECT 'Näme ' || n FROM generate_series(1, 1000) AS n")
        # A line as the dump's own ones, among the rows.
        connection.execute(
            "INSERT INTO acme.note (title) VALUES ('CREATE ROLE postgres;'), (E'a\\nCREATE ROLE postgres;')"
        )


def content(server: Server) -> tuple[str, list[object]]:
    with psycopg.connect(server.url("app")) as connection:
        rows = connection.execute("SELECT * FROM acme.note ORDER BY id").fetchall()
        setting = connection.execute("SHOW work_mem").fetchone()
        return repr(setting), list(rows)


def test_upgrade(make_server: Make, server_folder: Path) -> None:
    """A running server of version 15 is of 18 afterwards, with its data, password and port; the old is kept."""
    old = make_server(version="15", database="app")
    port = old.up().port
    fill(old)
    before = content(old)
    done = call(server_folder, "upgrade", "--pg-version", "18", "--database", "app")
    assert (done.returncode, done.stderr) == (0, "")
    assert f"The old data is in {server_folder / 'data-15'}" in done.stdout
    new = make_server(version="18", database="app")
    status = new.status()
    assert (status.running, status.port, status.version[:3], status.restart_needed) == (True, port, "18.", ())
    assert content(new) == before
    assert query(new, "SELECT current_user", user="An'n", password="hers", dbname="app") == "An'n"
    assert query(new, "SELECT nextval('acme.note_id_seq')", dbname="app") == 1003
    assert new.password_path.stat().st_mode & 0o777 == 0o600
    assert sorted(path.name for path in server_folder.iterdir() if path.is_dir()) == ["data", "data-15"]
    # Once is enough.
    done = call(server_folder, "upgrade", "--pg-version", "18")
    assert "is of PostgreSQL 18" in done.stdout
    assert new.status().pid == status.pid
    new.erase()
    assert not server_folder.exists()


def test_what_cannot_be_moved_stays(make_server: Make, server_folder: Path) -> None:
    """An extension that the new version has not is told of; the old server runs as before, a stopped one not."""
    old = make_server(version="15")
    status = old.up()
    with psycopg.connect(old.url()) as connection:
        connection.execute("CREATE EXTENSION pgcrypto")
        connection.execute("CREATE TABLE kept AS SELECT 42 AS x")
    new = make_server(version="18")
    with pytest.raises(
        ServerStartFailed, match=r'could not be moved; it is as it was(.|\n)*extension "pgcrypto" is not'
    ):
        new.upgrade()
    after = make_server(version="15").status()
    assert (after.running, after.port, after.restart_needed) == (True, status.port, ())
    assert query(old, "SELECT x FROM kept") == 42
    assert not (server_folder / "upgrade").exists()
    old.down()
    with pytest.raises(ServerStartFailed):
        new.upgrade()
    assert old.status().state == "stopped"
    assert old.status().version[:3] == "15."


def test_killed(make_server: Make, server_folder: Path) -> None:
    """An upgrade that is killed leaves the old data; the next one starts anew, or completes what was done."""
    with make_server(version="15") as old:
        with psycopg.connect(old.url()) as connection:
            connection.execute("CREATE TABLE kept AS SELECT 42 AS x")
    words = command(server_folder, "upgrade", "--pg-version", "18")
    with subprocess.Popen(words, cwd=ROOT, stdout=subprocess.DEVNULL) as process:
        wait_for(lambda: (server_folder / "upgrade" / "data" / "postmaster.pid").exists())
        process.kill()
    old = make_server(version="15")
    old.restart()
    assert query(old, "SELECT x FROM kept") == 42
    assert old.status().restart_needed == ()
    new = make_server(version="18")
    assert new.upgrade() == server_folder / "data-15"
    assert query(new, "SELECT x FROM kept") == 42
    new.down()
    # As if it had been killed between the two renames.
    beside = server_folder / "upgrade"
    beside.mkdir()
    (server_folder / "data").rename(beside / "data")
    (server_folder / "state.json").rename(beside / "state.json")
    (beside / "done").touch()
    assert new.up().running
    assert query(new, "SELECT x FROM kept") == 42
    assert not beside.exists()


def test_nothing_to_upgrade(make_server: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without data, or without programs of the old version, it is refused with the cause."""
    with pytest.raises(DataFolderError, match="has no data"):
        make_server().upgrade()
    with make_server(version="15"):
        pass
    embedded = [engine for engine in engines.available() if engine.name == "embedded"]
    monkeypatch.setattr(engines, "available", lambda: iter(embedded))
    with pytest.raises(EngineUnavailable, match="no programs of PostgreSQL 15 here"):
        Server(ServerConfig(data=make_server().config.data)).upgrade()
