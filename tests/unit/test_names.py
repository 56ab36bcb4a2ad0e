"""What a schema may be called."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pg_tenants.exceptions import InvalidSchemaName, PgTenantsError
from pg_tenants.names import MARKER_TABLE, MAX_SCHEMA_NAME_BYTES, physical_name, validate_schema_name

GOOD = st.from_regex(r"[a-z][a-z0-9_]{0,50}", fullmatch=True)
POSTGRES_LIMIT = 63


def accepts(name: object, **kwargs: Any) -> bool:
    try:
        return validate_schema_name(name, **kwargs) == name
    except InvalidSchemaName:
        return False


@given(st.text())
def test_whatever_is_accepted_keeps_to_the_contract(name: str) -> None:
    """Only [a-z][a-z0-9_]* of at most 51 bytes, no reserved prefix, passes; the rest is refused with its reason."""
    allowed = set("abcdefghijklmnopqrstuvwxyz0123456789_")
    try:
        validate_schema_name(name)
    except InvalidSchemaName as exc:
        assert repr(name) in str(exc)
        assert "Use lower-case ASCII letters" in str(exc)
    else:
        assert name
        assert set(name) <= allowed
        assert name[0] in "abcdefghijklmnopqrstuvwxyz"
        assert not name.startswith("pg_")
        assert name not in ("public", "information_schema")
        assert len(name.encode()) <= MAX_SCHEMA_NAME_BYTES


@given(
    GOOD,
    st.sampled_from([" ", "\n", "\0", '"', "'", ";", "-", ".", "A", "é", "\u0131", "\u0663", "\u200b", "$"]),
    st.data(),
)
def test_one_foreign_character_anywhere_is_refused(name: str, character: str, data: Any) -> None:
    """Also at the end, where a pattern with `$` would let a newline pass, and also digits of other scripts."""
    place = data.draw(st.integers(0, len(name)))
    assert not accepts(name[:place] + character + name[place:])


@given(GOOD, GOOD)
def test_two_accepted_names_are_two_schemas(one: str, two: str) -> None:
    """Under any worker PostgreSQL's cut at 63 bytes never makes two names one, nor a tenant the worker's public."""
    for worker in ("", "test_gw0", "test_gw12", "test_master"):
        first, second = (physical_name(name, worker) for name in (one, two))
        assert len(first.encode()) <= POSTGRES_LIMIT
        assert (first[:POSTGRES_LIMIT] == second[:POSTGRES_LIMIT]) == (one == two)
        assert first != physical_name("public", worker)


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("", "it is empty"),
        ("public", "shared schema of every database"),
        ("information_schema", "PostgreSQL uses this schema itself"),
        ("pg_catalog", "begin with pg_"),
        ("pg_", "begin with pg_"),
        ("pg_tenants", "begin with pg_"),
        ("select", "reserved word"),
        ("user", "reserved word"),
        ("system_user", "reserved word"),
        ("Acme", "other characters"),
        ("ACME", "other characters"),
        ("1acme", "does not begin with a letter"),
        ("_acme", "does not begin with a letter"),
        ("acme\n", "other characters"),
        ("ac me", "other characters"),
        ('ac"me', "other characters"),
        ("acme\0", "other characters"),
        ("żółw", "other characters"),
        ("a" * (MAX_SCHEMA_NAME_BYTES + 1), f"it has {MAX_SCHEMA_NAME_BYTES + 1} bytes, more than 51"),
        (None, "of type NoneType"),
        (7, "of type int"),
        (b"acme", "of type bytes"),
    ],
)
def test_a_refusal_says_why(name: object, reason: str) -> None:
    """The message has the value, the cause and the remedy."""
    with pytest.raises(InvalidSchemaName) as caught:
        validate_schema_name(name)
    assert repr(name) in str(caught.value)
    assert reason in str(caught.value)
    assert "51 bytes at most" in str(caught.value)
    assert isinstance(caught.value, PgTenantsError)
    assert isinstance(caught.value, ValueError)


@pytest.mark.parametrize("name", ["a", "acme", "a1", "a_", "pg", "pgx", "publics", "selects", "a" * 51, "test_gw0"])
def test_good_names_pass(name: str) -> None:
    """The longest leaves room for `test_master_`."""
    assert validate_schema_name(name) == name
    assert len(physical_name("a" * MAX_SCHEMA_NAME_BYTES, "test_master")) == POSTGRES_LIMIT


def test_names_of_others_are_refused() -> None:
    """A fixed module's schema, or the extensions', is no tenant's."""
    with pytest.raises(InvalidSchemaName, match="another part of the project has this schema"):
        validate_schema_name("billing", taken=["billing", "extensions"])
    assert validate_schema_name("acme", taken=iter(["billing"])) == "acme"


def test_a_fixed_module_may_have_public() -> None:
    """And nothing else that a tenant may not."""
    assert validate_schema_name("public", fixed=True) == "public"
    for name in ("information_schema", "pg_catalog", "Public", "select", "", "a" * 52):
        assert not accepts(name, fixed=True)


def test_a_worker_stands_for_public_and_goes_before_the_rest() -> None:
    """Outside tests a schema is called as the project calls it."""
    assert physical_name("public") == "public"
    assert physical_name("acme") == "acme"
    assert physical_name("public", "test_gw0") == "test_gw0"
    assert physical_name("acme", "test_gw0") == "test_gw0_acme"


def test_keywords_are_those_of_the_server(raw: Any) -> None:
    """A keyword that PostgreSQL does not take for a schema's name unquoted is refused, and no other word is."""
    keywords = [word for (word,) in raw.execute("SELECT word FROM pg_get_keywords()").fetchall()]
    assert len(keywords) > 400
    for word in keywords:
        with raw.transaction(force_rollback=True):
            try:
                raw.execute(f"CREATE SCHEMA {word}")
                usable = True
            except Exception:  # noqa: BLE001
                usable = False
        assert accepts(word) <= usable, f"{word} is accepted and cannot be written unquoted"
        if raw.execute("SELECT catcode IN ('R', 'T') FROM pg_get_keywords() WHERE word = %s", [word]).fetchone()[0]:
            assert not accepts(word), f"{word} is reserved and accepted"
        else:
            assert accepts(word), f"{word} is no reserved word and refused"


def test_the_marker_is_no_name_that_a_model_would_have() -> None:
    """Its name fits into PostgreSQL's limit and needs no quoting."""
    assert MARKER_TABLE.isidentifier()
    assert len(MARKER_TABLE) <= POSTGRES_LIMIT
