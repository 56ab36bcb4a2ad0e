"""Stamps of columns that a newer minor release of PostgreSQL writes are left out of text for another server."""

from __future__ import annotations

import pytest

from pg_tenants.dumptext import without_stamps

ALTER = b"ALTER TABLE ONLY public.kept ALTER COLUMN x SET "


@pytest.mark.parametrize(
    ("text", "left"),
    [
        (ALTER + b"(pg_attver=22164392);\n", b""),
        (ALTER + b"(pg_attver=1, n_distinct=5);\n", ALTER + b"(n_distinct=5);\n"),
        (ALTER + b"(n_distinct=5, pg_attver=1);\n\n--\n-- more\n", ALTER + b"(n_distinct=5);\n\n--\n-- more\n"),
        (b"ALTER FOREIGN TABLE ONLY a.b ALTER COLUMN c SET (pg_attver=1);\n", b""),
        (b"INSERT INTO t VALUES ('(pg_attver=1);');\n", b"INSERT INTO t VALUES ('(pg_attver=1);');\n"),
        (b"CREATE TABLE a (x int);\n", b"CREATE TABLE a (x int);\n"),
    ],
)
def test_stamps(text: bytes, left: bytes) -> None:
    """Other options, other statements and what follows stay as they are."""
    assert without_stamps(text) == left
