"""Telling the statements of a script apart, as PostgreSQL does."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import psycopg
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from psycopg import pq

from pg_tenants.sqltext import split

STATEMENTS = [
    "SELECT 1",
    "SELECT ';'",
    "SELECT 'it''s; here'",
    r"SELECT E'it\'s; here'",
    r"SELECT e'a\\'",
    r"SELECT 'a\'",
    'SELECT 1 AS "a;""b"',
    "SELECT U&\"a;b\", U&'c;d'",
    "SELECT $$a;b$$",
    "SELECT $tag$a;$$;$b$;$tag$",
    "SELECT $ünï$a;b$ünï$",
    "SELECT 1 /* ; */",
    "SELECT 1 /* ; /* ; */ ; */ + 1",
    "SELECT 1 -- ; COMMIT\n + 1",
    "SELECT a$b$c, d$b$e FROM t",
    "SELECT $1, $2",
    "SELECT 1/*/**/*/",
    "INSERT INTO t VALUES (1, ';')",
    "CREATE RULE r AS ON INSERT TO t DO (DELETE FROM u; DELETE FROM v)",
    "CREATE FUNCTION f() RETURNS int BEGIN ATOMIC SELECT 1; SELECT 2; END",
    "CREATE OR REPLACE PROCEDURE p() BEGIN ATOMIC SELECT CASE WHEN true THEN 1 END; SELECT 2; END",
    "CREATE FUNCTION f() RETURNS int LANGUAGE plpgsql AS $$ BEGIN PERFORM 1; END $$",
    "DO $do$ BEGIN EXECUTE 'COMMIT;'; END $do$",
    "COMMIT",
    "BEGIN",
    "ROLLBACK TO SAVEPOINT a",
    "PREPARE TRANSACTION 'x'",
]
BLANKS = st.sampled_from(["", " ", "\n", "-- a; comment\n", "/* a; /* b; */ */", "\t\r\n"])


def first_words(text: bytes) -> list[bytes]:
    return next((words for _, words in split(text)), [])


def parts(text: str) -> list[list[bytes]]:
    return [words for _, words in split(text.encode())]


@pytest.mark.parametrize("statement", STATEMENTS)
def test_one_statement_is_one(statement: str) -> None:
    """With or without a semicolon behind it, and with comments around it."""
    assert len(parts(statement)) == 1
    assert len(parts(f"{statement};")) == 1
    assert len(parts(f"/* ; */ {statement} ; -- ;")) == 1


@given(st.lists(st.tuples(BLANKS, st.sampled_from(STATEMENTS), BLANKS)))
def test_what_is_joined_comes_apart(pieces: list[tuple[str, str, str]]) -> None:
    """A script of any statements has as many, each with its own first words, and each where it begins."""
    script = ";".join(before + statement + after for before, statement, after in pieces)
    found = list(split(script.encode()))
    assert [words for _, words in found] == [parts(statement)[0] for _, statement, _ in pieces]
    for (start, _), (_, statement, _) in zip(found, pieces, strict=True):
        assert script.encode()[start:].startswith(statement.encode())


@given(st.text())
@example("'")
@example('U&"')
@example("$$")
@example("/* /* */")
@example("E'\\")
def test_any_text_is_read_to_its_end(text: str) -> None:
    """No text raises, and starts are places in the text, in order."""
    starts = [start for start, _ in split(text.encode())]
    assert starts == sorted(set(starts))
    assert all(0 <= start < len(text.encode()) for start in starts)


@given(st.binary())
def test_any_bytes_are_read_to_their_end(text: bytes) -> None:
    """Also such as are no UTF-8."""
    for _, words in split(text):
        assert len(words) <= 4


@given(st.lists(st.sampled_from(["", " ", "\n", "--x\n", "/**/", ";", "/* ; */"])))
def test_nothing_is_no_statement(pieces: list[str]) -> None:
    """Semicolons, blanks and comments alone are none."""
    assert parts("".join(pieces)) == []
    assert first_words("".join(pieces).encode()) == []


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("Commit", [b"commit"]),
        ("/* x */ -- y\n RollBack  /* z */ to savepoint s", [b"rollback", b"to", b"savepoint", b"s"]),
        ('"commit"', []),
        ("(SELECT 1) UNION SELECT 2", [b"union", b"select"]),
        ("commit_all", [b"commit_all"]),
        ("WITH a AS (DELETE FROM b) SELECT c FROM a", [b"with", b"a", b"as", b"select"]),
        ("", []),
    ],
)
def test_first_words(text: str, words: list[bytes]) -> None:
    """They are lower-case, outside brackets and comments, four at most; quoted names are no words."""
    assert first_words(text.encode()) == words


@pytest.mark.parametrize(
    "script",
    [
        # A comment ends at a carriage return, too.
        "SELECT 1 --\r; COMMIT; SELECT 2",
        # A string constant that goes on in another line keeps its kind, so \' ends none of these.
        "SELECT E'a'\n'\\'' ; COMMIT; SELECT 2 --'",
        # A function may be called begin.
        "CREATE FUNCTION begin() RETURNS int LANGUAGE sql AS 'SELECT 1'; COMMIT; SELECT 2",
        "CREATE FUNCTION f() RETURNS int LANGUAGE sql AS 'SELECT 1' SET a.begin = 1; COMMIT; SELECT 2",
        "CREATE FUNCTION f() RETURNS int BEGIN ATOMIC SELECT 1; END; COMMIT; SELECT 2",
    ],
)
def test_no_commit_hides(script: str) -> None:
    """What PostgreSQL takes for a COMMIT of its own is one here."""
    assert [b"commit"] in parts(script)
    assert len(parts(script)) == 3


@pytest.mark.parametrize(
    "statement",
    [
        "SELECT E'a'\n'b\\'; COMMIT; SELECT 1 --'",
        "SELECT E'a' -- c\n'b\\'; COMMIT'",
        "CREATE FUNCTION f() RETURNS int BEGIN ATOMIC SELECT 1 AS end; SELECT 2; END",
    ],
)
def test_no_statement_is_torn(statement: str) -> None:
    """What PostgreSQL takes for one statement is one here."""
    assert len(parts(statement)) == 1


FRAGMENTS = st.sampled_from(
    [
        "'",
        "''",
        "\\",
        "\\'",
        "'a'",
        "E'a",
        "e'",
        "U&'a'",
        '"a"',
        "$$",
        "$a$",
        "a",
        "1",
        " ",
        "\n",
        "\r",
        "--",
        "/*",
        "*/",
        " -- '\n",
        "; SELECT 2",
        ";",
        "\n'",
        ", 1",
        " AS b",
    ]
)
SCRIPTS = st.lists(FRAGMENTS, max_size=10).map(lambda fragments: "SELECT " + "".join(fragments))


@settings(max_examples=400)
@given(script=SCRIPTS)
@example(script="SELECT E'a'\n'\\''; SELECT 2 --'")
@example(script="SELECT 1 --\r; SELECT 2")
@example(script="SELECT 'a' -- '\n'b'; SELECT 2")
def test_the_server_runs_as_many_statements_as_were_found(script: str, server: Any) -> None:
    """Whatever quotes and comments are between them, if the server takes the script at all."""
    server.send_query(script.encode())
    statuses = []
    while (result := server.get_result()) is not None:
        statuses.append(result.status)
    if pq.ExecStatus.FATAL_ERROR not in statuses:
        assert len(parts(script)) == len(statuses) - statuses.count(pq.ExecStatus.EMPTY_QUERY)


@pytest.fixture(scope="module")
def server(server_params: dict[str, Any]) -> Iterator[Any]:
    """Return libpq's own connection, which sends what it is given."""
    with psycopg.connect(**server_params, autocommit=True) as connection:
        yield connection.pgconn
