"""A schema into a file, and from a file into a schema of any name.

``pg_dump`` writes names in full, and no rewriting of its text is right everywhere: a name may be an alias, a column, or
a part of a literal. So the text is run as it is. For that time the new schema has the name that the text uses, and a
schema that has it already is called something else. All of this is one transaction, so nobody else sees these names.
What refers to the schemas does so by their numbers, and PostgreSQL writes the right names for them afterwards; left
over are texts that it does not look into, which ``pg_tenants.catalog.mentions`` finds.
"""

from __future__ import annotations

import itertools
import re
import secrets
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from django.db import DatabaseError, IntegrityError
from psycopg import sql

from pg_tenants.backends.prefix import advisory_key, path_text, quote
from pg_tenants.context import no_schema
from pg_tenants.dumptext import without_stamps
from pg_tenants.exceptions import CopyFailed
from pg_tenants.names import MARKER_TABLE
from pg_tenants.provisioning import _programs
from pg_tenants.schemas import tenant_connection
from pg_tenants.sqltext import split

__all__ = ["Progress", "dump", "dump_version", "load"]

Progress = Callable[[str], None]
"""Takes a line that says what is done now."""

_KEPT_SETTINGS = (b"default_tablespace", b"default_table_access_method")
_LOCAL = {
    "check_function_bodies": "off",
    "client_min_messages": "warning",
    "idle_in_transaction_session_timeout": "0",
    "lock_timeout": "0",
    "row_security": "off",
    "standard_conforming_strings": "on",
    "statement_timeout": "0",
    "xmloption": "content",
}
_RESTRICT = re.compile(rb"^\\restrict (\w+)\r?\n", re.MULTILINE)
_PIECE = 1 << 16
# A role of a tenant's schema, as pg_tenants makes it: for another schema it would be the wrong tenant's.
_TENANTS_GRANT = re.compile(rb'(?:TO|FROM) "?pgt_\d+[_~][^"\s]*?"?(?: WITH GRANT OPTION)?;')


def dump_version(using: str) -> int:
    """Return the major version of the pg_dump that fits an alias's server.

    Raises:
        ProgramUnavailable: there is none.
    """
    return _pg_dump(using)[0]


def _pg_dump(using: str) -> tuple[int, Path]:
    connection: Any = tenant_connection(using)
    with no_schema():
        return _programs.find("pg_dump", int(connection.pg_version) // 10000)


@contextmanager
def dump(schema: str, *, using: str, structure_only: bool = False, snapshot: str | None = None) -> Iterator[IO[bytes]]:
    """Give a schema, without its marker, as a stream in the custom format of pg_dump; of one moment.

    Args:
        schema: its name.
        using: the database alias.
        structure_only: leave the rows out.
        snapshot: a snapshot that a transaction has exported, which is the moment; None for now.

    Raises:
        CopyFailed: pg_dump failed.
        ProgramUnavailable: there is no pg_dump for this server.
        UnsafeStatement: the alias leads through a pooler.
    """
    connection = tenant_connection(using)
    name = quote(connection.physical_schema(schema))
    arguments, environment = _programs.libpq(connection)
    command = [
        str(_pg_dump(using)[1]),
        "--format=custom",
        f"--schema={name}",
        f"--exclude-table={name}.{MARKER_TABLE}*",
        "--strict-names",
        "--no-owner",
        "--no-publications",
        "--no-subscriptions",
        *(["--schema-only"] if structure_only else []),
        *([f"--snapshot={snapshot}"] if snapshot else []),
        *arguments,
    ]
    with _programs.output(command, environment, f"The schema {name} cannot be dumped") as stream:
        yield stream


def load(
    path: Path,
    dumped: str,
    schema: str,
    *,
    using: str,
    major: int,
    privileges: bool = True,
    rows: Callable[[str], None] | None = None,
    progress: Progress | None = None,
) -> None:
    """Fill a new schema, which has its marker alone, from a dump; in the transaction of the caller.

    Args:
        path: the dump.
        dumped: what the schema was called in the database that it is from.
        schema: the new schema's name.
        using: the database alias.
        major: the version of the pg_dump that wrote it.
        privileges: grant what was granted on the objects.
        rows: puts rows into the tables, instead of those in the dump. It is called before there are indexes,
            constraints and triggers, with the schema's name at that moment.
        progress: is told of each table.

    Raises:
        CopyFailed: the dump cannot be read, or the database refuses something in it.
        ProgramUnavailable: there is no pg_restore for the dump.
    """
    program = str(_programs.find("pg_restore", major)[1])
    name = tenant_connection(using).physical_schema(schema)

    def text(section: str) -> list[str]:
        options = [f"--section={section}", "--no-owner", *([] if privileges else ["--no-privileges"]), "--file=-"]
        return [program, *options, str(path)]

    what = f"The schema {name!r} cannot be filled"
    with no_schema(), _worded(what, using), _settings(using), _called(name, dumped, using):
        _run_script(_programs.run(text("pre-data"), {}, what), using)
        if rows is not None:
            rows(dumped)
        else:
            with _programs.output(text("data"), {}, what) as stream:
                _copy(stream, using, what, progress)
        if progress:
            progress("indexes, constraints and triggers")
        _run_script(_programs.run(text("post-data"), {}, what), using)


@contextmanager
def _settings(using: str) -> Iterator[None]:
    """Set for a part of the transaction what a dump's text relies on; after an error its rollback takes that back."""
    connection = tenant_connection(using)
    names = [*_LOCAL, "search_path", *(name.decode() for name in _KEPT_SETTINGS)]
    with connection.without_prefix() as execute:
        listed = ", ".join(f"pg_catalog.current_setting('{name}')" for name in names)
        before = execute(f"SELECT {listed}").fetchone()
        execute("; ".join(f"SET LOCAL {name} = '{value}'" for name, value in _LOCAL.items()))
    yield
    with connection.without_prefix() as execute:
        for name, value in zip(names, before, strict=True):
            literal = sql.Literal(value).as_string()
            execute(f"SELECT pg_catalog.set_config('{name}', {literal}, true)")


@contextmanager
def _called(name: str, dumped: str, using: str) -> Iterator[None]:
    """Call a schema what the dump calls it; one that has that name steps aside meanwhile."""
    connection = tenant_connection(using)
    aside = f"aside_of_pg_tenants_{secrets.token_hex(8)}"
    # Names in the text are full, but what functions call need not be, and is then what they find in their own schema.
    path = path_text(dict.fromkeys([dumped, *connection.search_path(None)]))
    with connection.without_prefix() as execute:
        # Shared, it waits for no VACUUM and keeps dropping and renaming away; the other keeps a second one of us away.
        execute(f"SELECT pg_catalog.pg_advisory_xact_lock_shared({advisory_key(dumped)})")
        execute(f"SELECT pg_catalog.pg_advisory_xact_lock({advisory_key(f'{dumped} aside')})")
        taken = (
            name != dumped
            and execute(
                f"SELECT EXISTS (SELECT FROM pg_catalog.pg_namespace WHERE nspname = {_literal(dumped)})"  # noqa: S608
            ).fetchone()[0]
        )
        if taken:
            execute(f"ALTER SCHEMA {quote(dumped)} RENAME TO {aside}")
        if name != dumped:
            execute(f"ALTER SCHEMA {quote(name)} RENAME TO {quote(dumped)}")
        execute(f"SET LOCAL search_path = {path}")
    yield
    with connection.without_prefix() as execute:
        if name != dumped:
            execute(f"ALTER SCHEMA {quote(dumped)} RENAME TO {quote(name)}")
        if taken:
            execute(f"ALTER SCHEMA {aside} RENAME TO {quote(dumped)}")


@contextmanager
def _worded(what: str, using: str) -> Iterator[None]:
    try:
        yield
    except IntegrityError as exc:
        cause: Any = exc.__cause__
        missing = getattr(cause, "sqlstate", "") == "23503"
        remedy = (
            "A row refers to one of another schema that is not in this database. Bring that row here first."
            if missing
            else "The rows do not fit the constraints of this database. Change or remove the rows that they name."
        )
        raise CopyFailed(f"{what}: {exc} {remedy} Nothing was changed.") from exc
    except DatabaseError as exc:
        raise CopyFailed(
            f"{what}: {str(exc).strip()}. Nothing was changed. Repair what PostgreSQL names, and try again."
        ) from exc


def _run_script(script: bytes, using: str) -> None:
    """Run the text of a section in one message, without its settings for a session of its own."""
    token = _RESTRICT.search(script)
    if token:
        # The lines that guard psql against the text; the words are of chance, so nothing else reads like them.
        script = script.replace(token[0], b"", 1)
        script = re.sub(rb"^\\unrestrict %b\r?\n?" % token[1], b"", script, flags=re.MULTILINE)
    text = b"".join(_own(script))
    if text.strip():
        with tenant_connection(using).without_prefix() as execute:
            execute(text)  # type: ignore[arg-type]  # psycopg takes bytes as well


def _own(script: bytes) -> Iterator[bytes]:
    found = [*split(script), (len(script), [])]
    for (start, words), (end, _) in itertools.pairwise(found):
        statement = script[start:end]
        if words[:1] == [b"set"]:
            if words[1] in _KEPT_SETTINGS:
                yield b"SET LOCAL" + statement[3:]
        elif (
            words[:3] != [b"select", b"pg_catalog", b"set_config"]
            and words[:2] != [b"create", b"schema"]
            and not (_is_grant(words) and _TENANTS_GRANT.search(statement))
        ):
            yield without_stamps(statement)


def _is_grant(words: list[bytes]) -> bool:
    return words[0] in (b"grant", b"revoke") or words[:3] == [b"alter", b"default", b"privileges"]


def _copy(stream: IO[bytes], using: str, what: str, progress: Progress | None) -> None:
    """Run the text of the data section: COPY with its rows, and the values of sequences."""
    connection: Any = tenant_connection(using)
    with connection.wrap_database_errors, connection.connection.cursor() as cursor:
        for statement in _statements(stream):
            if statement.endswith(b" FROM stdin;\n"):
                if progress:
                    progress("rows of " + statement[5:].split(b" (")[0].rpartition(b".")[2].decode())
                with cursor.copy(statement) as copy:
                    for piece in _rows(stream, what):
                        copy.write(piece)
            elif not statement.startswith((b"SET ", b"SELECT pg_catalog.set_config(")):
                cursor.execute(statement)


def _statements(stream: IO[bytes]) -> Iterator[bytes]:
    statement = b""
    for line in iter(stream.readline, b""):
        if not statement and (not line.strip() or line.startswith((b"--", b"\\"))):
            continue
        statement += line
        if line.endswith(b";\n"):
            yield statement
            statement = b""


def _rows(stream: IO[bytes], what: str) -> Iterator[bytes]:
    piece: list[bytes] = []
    size = 0
    for line in iter(stream.readline, b""):
        if line == b"\\.\n":
            yield b"".join(piece)
            return
        piece.append(line)
        size += len(line)
        if size > _PIECE:
            yield b"".join(piece)
            piece, size = [], 0
    raise CopyFailed(f"{what}: the rows break off, so the dump is damaged. Make it again.")


def _literal(value: str) -> str:
    return sql.Literal(value).as_string()
