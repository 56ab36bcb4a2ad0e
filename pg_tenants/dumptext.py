"""What text of pg_dump may have in it that the server which reads it does not know."""

from __future__ import annotations

import re

__all__ = ["without_stamps"]

# PostgreSQL 15.20 (of November 2026, as seen) keeps a stamp in pg_attribute.attoptions of each column. A pg_dump that
# is older writes it down as an option, and a server that is older refuses it.
_OPTIONS = re.compile(rb"(?P<head>ALTER (?:[A-Z]+ )*TABLE [^\n]* ALTER COLUMN [^\n]* SET )[(](?P<options>[^()\n]*)[)];")
_STAMP = b"pg_attver="


def without_stamps(statement: bytes) -> bytes:
    """Return a statement of pg_dump's without the stamps of columns; empty where it has nothing else."""
    match = _OPTIONS.match(statement) if _STAMP in statement else None
    if match is None:
        return statement
    options = [each.strip() for each in match["options"].split(b",")]
    kept = b", ".join(each for each in options if not each.startswith(_STAMP))
    rest = statement[match.end() :]
    return match["head"] + b"(" + kept + b");" + rest if kept else rest.lstrip()
