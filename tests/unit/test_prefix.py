"""The prefix of a statement, and which statements it goes before."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pg_tenants.backends.prefix import Sending, advisory_key, build_prefix, classify, moving, quote
from pg_tenants.exceptions import UnsafeStatement
from pg_tenants.names import MARKER_TABLE
from pg_tenants.sqltext import split

# PostgreSQL's text has no NUL and no lone surrogates.
NAMES = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), min_size=1, max_size=15)
HOSTILE = [
    'a"b',
    "a\nb",
    "a'b",
    "a;b",
    "a--b",
    "a/*b*/c",
    "żółw",
    "a\\b",
    "%s",
    "$$",
    "a, public",
    '"; DROP TABLE x; --',
]
HOSTILE += ["**//", "*/", "/**/", "*//*/", '""', " ", "\t", "\U0001f642", 'x", "public']
PLAIN = ["SELECT 1", "INSERT INTO t VALUES (1)", "UPDATE t SET a = 1", "DELETE FROM t", "WITH a AS (SELECT 1) SELECT 1"]
OTHER = ["CREATE TABLE t ()", "VACUUM", "CALL p()", "COPY t TO STDOUT", "EXPLAIN SELECT 1", "(SELECT 1)", "SET a = 1"]
OTHER += ["PREPARE p AS SELECT 1", "EXECUTE p", "DECLARE c CURSOR FOR SELECT 1", "FETCH 1 FROM c", "DISCARD ALL"]
CONTROL = ["SAVEPOINT a", "RELEASE a", "RELEASE SAVEPOINT a", "ROLLBACK", "ROLLBACK TO a", "ROLLBACK TO SAVEPOINT a"]
CONTROL += ["BEGIN", "BEGIN ISOLATION LEVEL SERIALIZABLE", "START TRANSACTION", "COMMIT", "COMMIT AND CHAIN", "END"]
CONTROL += ["ABORT", "PREPARE TRANSACTION 'a'", "COMMIT PREPARED 'a'", "ROLLBACK PREPARED 'a'", "ROLLBACK WORK TO a"]


@pytest.mark.parametrize("statement", [*PLAIN, *OTHER])
@pytest.mark.parametrize("form", ["{}", " {}", "{};", "/* BEGIN; */ {}", "-- COMMIT;\n{}", "{lower}", "\n\t{}\n;\n"])
def test_statements_carry_their_tenant(statement: str, form: str) -> None:
    """In any case, and with comments and a semicolon."""
    query = form.format(statement, lower=statement.lower())
    assert classify(query.encode(), False) is Sending.CHECKED


@pytest.mark.parametrize("statement", CONTROL)
@pytest.mark.parametrize("form", ["{}", " {}", "{};", "/* SELECT 1; */ {}", "-- SELECT;\n{}", "{lower}", "; {} ;;"])
def test_control_of_transactions_goes_bare(statement: str, form: str) -> None:
    """A lock or a SET before it would fail, or be undone by it."""
    query = form.format(statement, lower=statement.lower())
    assert classify(query.encode(), False) is Sending.BARE


@pytest.mark.parametrize("statement", [*PLAIN, *OTHER, *CONTROL, "", ";", "-- x"])
def test_a_failed_transaction_takes_nothing_before_its_end(statement: str) -> None:
    """The server would refuse the prefix instead of the statement."""
    assert classify(statement.encode(), True) is Sending.BARE


@pytest.mark.parametrize("statement", ["", " ", ";", ";;", "-- x", "/* ; */"])
def test_an_empty_message_goes_bare(statement: str) -> None:
    """It has nothing that could go wrong."""
    assert classify(statement.encode(), False) is Sending.BARE


@pytest.mark.parametrize("first", PLAIN)
@pytest.mark.parametrize(
    "ending",
    [
        "COMMIT",
        "commit",
        "END",
        "ABORT",
        "ROLLBACK",
        "ROLLBACK AND CHAIN",
        "COMMIT WORK",
        "PREPARE TRANSACTION 'x'",
        "COMMIT PREPARED 'x'",
        "/* */ Rollback",
        "END TRANSACTION",
        "ROLLBACK PREPARED 'x'",
    ],
)
def test_a_script_that_goes_on_after_its_transaction_is_refused(first: str, ending: str) -> None:
    """The message says which statement ends it, and what to do."""
    with pytest.raises(UnsafeStatement, match="without their tenant") as caught:
        classify(f"{first}; {ending}; SELECT 2".encode(), False)
    assert ending.replace("/* */ ", "").split()[0].upper() in str(caught.value)
    assert "atomic()" in str(caught.value)
    with pytest.raises(UnsafeStatement):
        classify(f"{ending}; SELECT 2".encode(), False)


@pytest.mark.parametrize("script", ["ROLLBACK TO SAVEPOINT a; SELECT 1", "SELECT 1; ROLLBACK WORK TO a; SELECT 2"])
def test_a_script_that_goes_on_after_a_rollback_to_a_savepoint_is_refused(script: str) -> None:
    """It takes back the prefix, too, so the rest would run on the path of the savepoint: another tenant's."""
    with pytest.raises(UnsafeStatement):
        classify(script.encode(), False)


@pytest.mark.parametrize(
    "script",
    [
        "SELECT 1; SELECT 2",
        "SELECT 1; COMMIT",
        "BEGIN; SELECT 1; COMMIT",
        "SAVEPOINT a; SELECT 1; RELEASE a",
        "SELECT 'COMMIT;'; SELECT 2",
        "SELECT 1; SELECT $$; COMMIT; $$",
        "SELECT 1 /* ; COMMIT; */; SELECT 2",
        "SELECT 1; ROLLBACK TO a",
        'SELECT 1 AS "end"; SELECT 2',
    ],
)
def test_a_script_may_end_a_transaction_at_its_end(script: str) -> None:
    """Nothing runs after it; words in strings, names and comments end nothing."""
    assert classify(script.encode(), False) is not Sending.BARE


def test_a_script_in_a_failed_transaction_is_refused() -> None:
    """What comes after its ROLLBACK would have no tenant."""
    with pytest.raises(UnsafeStatement, match="Send ROLLBACK by itself"):
        classify(b"ROLLBACK; SELECT 1", True)


@pytest.mark.parametrize(
    "script",
    [
        "SELECT 1 --\r; COMMIT; SELECT 2",
        "SELECT E'a'\n'\\'' ; COMMIT; SELECT 2 --'",
        "CREATE FUNCTION begin() RETURNS int LANGUAGE sql AS 'SELECT 1'; COMMIT; SELECT 2",
    ],
)
def test_a_hidden_commit_is_found(script: str) -> None:
    """What only looks like a comment, a string or a function's body does not hide the end of the transaction."""
    with pytest.raises(UnsafeStatement):
        classify(script.encode(), False)


@given(st.lists(st.sampled_from([*PLAIN, *OTHER, *CONTROL]), min_size=2, max_size=5))
def test_no_script_runs_a_statement_after_its_transaction(statements: list[str]) -> None:
    """Whatever is accepted has none of the endings before its last statement."""
    try:
        sending = classify("; ".join(statements).encode(), False)
    except UnsafeStatement:
        return
    assert sending is not Sending.BARE
    for statement in statements[:-1]:
        assert statement.split()[0] not in ("COMMIT", "END", "ABORT", "ROLLBACK")
        assert not statement.startswith("PREPARE TRANSACTION")


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_name_is_one_identifier(name: str, raw: Any) -> None:
    """The server reads back the name that was quoted, and finds the schema by the prefix."""
    assert raw.execute(f"SELECT parse_ident({_literal(quote(name))})").fetchone()[0] == [name]
    with raw.transaction(force_rollback=True):
        raw.execute(f"CREATE SCHEMA {quote(name)}")
        raw.execute(f"CREATE TABLE {quote(name)}.{MARKER_TABLE} ()")
        raw.execute(f"CREATE TABLE {quote(name)}.here AS SELECT 1 AS one")
        prefix = build_prefix([name, "public"], name)
        cursor = raw.execute(prefix.simple + b"SELECT current_schema(), (SELECT one FROM here)")
        for _ in range(prefix.results):
            assert cursor.nextset()
        assert cursor.fetchone() == (name, 1)
        raw.execute("SET LOCAL search_path = public")
        for query in prefix.pipeline:
            cursor = raw.execute(query)
        assert cursor.fetchone()[0] == f'{quote(name)}, "public", "pg_temp"'
        assert raw.execute(b"SELECT current_schema()" + prefix.suffix).fetchone() == (name,)


def _literal(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"


@given(st.lists(NAMES | st.sampled_from(HOSTILE), min_size=1, max_size=3), st.booleans())
def test_the_parts_of_a_prefix_are_what_they_say(path: list[str], proved: bool) -> None:
    """The statements before the user's, their number, their length; and a suffix that is a comment and no more."""
    prefix = build_prefix(path, path[0] if proved else None)
    assert prefix.results == (2 if proved else 1)
    for each in (prefix, moving(prefix)):
        assert len(list(split(each.simple))) == each.results
        assert each.characters == len(each.simple.decode())
        assert each.simple.endswith(b"\n")
        assert each.simple.count(b"\n", 0, -1) == sum(name.count("\n") for name in path) + (
            path[0].count("\n") if proved else 0
        )
        assert len(list(split(each.simple + b"SELECT 1"))) == each.results + 1
        assert [len(list(split(query))) for query in each.pipeline] == [1] * len(each.pipeline)
    assert list(split(prefix.suffix)) == []
    assert len(list(split(prefix.suffix + b"; SELECT 1"))) == 1
    assert len(list(split(prefix.leave))) == 2


@given(st.lists(NAMES | st.sampled_from(HOSTILE), min_size=2, max_size=2, unique=True))
def test_statements_of_different_paths_differ(names: list[str]) -> None:
    """A prepared statement is found by its text, so no two paths may have one suffix."""
    first, second = (build_prefix([name, "public"], name) for name in names)
    assert first.suffix != second.suffix
    assert first.simple != second.simple


def test_suffixes_of_names_that_look_like_comments_differ() -> None:
    """What is taken out of a comment must not make two names one."""
    suffixes = {build_prefix([name], name).suffix for name in ("ab", "a*/b", "a/*b", "a**//b", "a/*/*b")}
    assert len(suffixes) == 5


@given(st.text())
def test_the_advisory_key_is_an_int8(name: str) -> None:
    """As pg_advisory_lock takes it."""
    try:
        key = advisory_key(name)
    except UnicodeEncodeError:
        return
    assert -(2**63) <= key < 2**63
    assert key == advisory_key(name)


def test_without_roles_nothing_is_sent_about_them() -> None:
    """Byte for byte; with a role, one statement more in the message, and one query more in a pipeline."""
    plain = build_prefix(["acme", "public"], "acme")
    lock = b'LOCK TABLE ONLY "acme".pg_tenants_marker IN ACCESS SHARE MODE'
    assert plain.simple == b'SET LOCAL search_path = "acme", "public", "pg_temp"; ' + lock + b";\n"
    assert plain.enter.endswith(b'; SET search_path = "acme", "public", "pg_temp"; ' + lock + b";")
    assert plain.leave.startswith(b"RESET search_path; SELECT pg_catalog.pg_advisory_unlock_shared(")
    assert not any(b"role" in part for part in plain.pipeline)
    assert build_prefix(["public"], None).simple == b'SET LOCAL search_path = "public", "pg_temp";\n'

    role = build_prefix(["acme", "public"], "acme", "a role")
    path = b'SET LOCAL search_path = "acme", "public", "pg_temp"; '
    assert role.simple == path + b'SET LOCAL ROLE "a role"; ' + lock + b";\n"
    assert (role.results, plain.results) == (3, 2)
    assert role.pipeline == (b"SELECT pg_catalog.set_config('role', 'a role', true)", *plain.pipeline)
    assert role.check == plain.check
    assert b'; SET ROLE "a role"; LOCK' in role.enter
    assert b'; SET "role" = DEFAULT; SELECT' in role.leave

    assert build_prefix(["public"], None, "").simple == (
        b'SET LOCAL search_path = "public", "pg_temp"; SET LOCAL "role" = DEFAULT;\n'
    )
    assert build_prefix(["public"], None, "").pipeline[0] == b"SELECT pg_catalog.set_config('role', NULL, true)"
    assert b'SET LOCAL ROLE "owner"' in build_prefix(["public"], None, "", "owner").simple
