"""Just enough of PostgreSQL's lexical rules to tell the parts of a script apart.

Source of the rules: PostgreSQL's documentation, "SQL Syntax: Lexical Structure". String constants are read with
``standard_conforming_strings`` on, its default.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator

__all__ = ["line_of", "path_text", "quote", "split", "tokens"]

_WORDS = 4
"""How many words of a statement tell what it is, where only its kind matters."""

# Between the parts of a string constant that goes on after a line's end.
_CONTINUED = rb"(?:[ \t\f\v]|--[^\n\r]*)*[\n\r](?:\s|--[^\n\r]*[\n\r])*"

# One token that may hide a semicolon, a bracket, or a word. A quoted thing that never ends runs to the end of the text.
_TOKEN = re.compile(
    rb"""
      (?P<space>   \s+ | --[^\n\r]* )
    | (?P<comment> /\* )
    | (?P<string>  [eE]'(?:[^'\\]|\\.|'')*(?:'|\Z)(?:CONTINUED'(?:[^'\\]|\\.|'')*(?:'|\Z))*
                 | (?:[uU]&|[bBxXnN])?'(?:[^']|'')*(?:'|\Z) )
    | (?P<ident>   (?:[uU]&)?"(?:[^"]|"")*(?:"|\Z) )
    | (?P<dollar>  \$(?P<tag>[A-Za-z_\x80-\xff][A-Za-z0-9_\x80-\xff]*)?\$ )
    | (?P<word>    [A-Za-z_\x80-\xff][A-Za-z0-9_$\x80-\xff]* )
    | (?P<other>   [0-9][0-9A-Za-z_$.]* | . )
    """.replace(b"CONTINUED", _CONTINUED),
    re.VERBOSE | re.DOTALL,
)
_COMMENT_EDGE = re.compile(rb"/\*|\*/")


def quote(name: str) -> str:
    """Return an identifier as SQL text."""
    return '"' + name.replace('"', '""') + '"'


def path_text(schemas: Iterable[str], separator: str = ", ") -> str:
    """Return a search path as SQL text: the schemas, and the session's temporary tables behind all of them.

    Where a path does not name ``pg_temp``, PostgreSQL looks there first: a temporary table that one tenant's statement
    has left on the session would stand before the next tenant's table of that name.
    """
    return separator.join(map(quote, (*schemas, "pg_temp")))


def line_of(text: bytes, position: int) -> int:
    """Return the number of the line, from 1, that a position in bytes is on."""
    return text.count(b"\n", 0, position) + 1


def split(text: bytes, most: int = _WORDS) -> Iterator[tuple[int, list[bytes]]]:
    """Yield each statement of a script that is not empty.

    Args:
        text: the script in an encoding that contains ASCII, such as UTF-8.
        most: how many words of a statement are wanted.

    Yields:
        where the statement begins, in bytes, and its first words outside brackets, in lower case.
    """
    start, words, depth, blocks = -1, list[bytes](), 0, _Blocks()
    for position, kind, token in tokens(text):
        if kind in ("space", "comment"):
            continue
        if token == b";" and depth == 0 and not blocks.inside:
            if start >= 0:
                yield start, words
            start, words, blocks = -1, [], _Blocks()
            continue
        if start < 0:
            start = position
        if token == b"(":
            depth += 1
        elif token == b")":
            depth = max(0, depth - 1)
        elif kind == "word" and depth == 0 and len(words) < most:
            words.append(token.lower())
        blocks.see(token.lower(), kind)
    if start >= 0:
        yield start, words


class _Blocks:
    """Follows ``BEGIN ATOMIC … END`` in the body of a function, where semicolons end no statement."""

    def __init__(self) -> None:
        self._first: list[bytes] = []
        self._depth = 0
        self._before = b""

    @property
    def inside(self) -> bool:
        """Return whether a body has begun and not ended."""
        return self._depth > 0

    def see(self, token: bytes, kind: str) -> None:
        """Take the next token, in lower case, that is neither space nor comment."""
        before, self._before = self._before, token
        if kind != "word":
            return
        if len(self._first) < _WORDS:
            self._first.append(token)
        if self._first[0] != b"create" or not {b"function", b"procedure"} & set(self._first):
            return
        # Behind AS or a point, a key word is a name.
        if before in (b"as", b"."):
            return
        if (token == b"atomic" and before == b"begin") or (token == b"case" and self._depth):
            self._depth += 1
        elif token == b"end" and self._depth:
            self._depth -= 1


def tokens(text: bytes, position: int = 0) -> Iterator[tuple[int, str, bytes]]:
    """Yield each token behind a position: where it begins, its kind (a group of the pattern), and its text."""
    while match := _TOKEN.match(text, position):
        kind, end = match.lastgroup or "", match.end()
        if kind == "tag" or match.group("dollar"):
            kind = "dollar"
            closing = text.find(match.group("dollar"), end)
            end = len(text) if closing < 0 else closing + len(match.group("dollar"))
        elif kind == "comment":
            end = _end_of_comment(text, end)
        yield position, kind, text[position:end]
        position = end


def _end_of_comment(text: bytes, position: int) -> int:
    depth = 1
    while depth:
        edge = _COMMENT_EDGE.search(text, position)
        if edge is None:
            return len(text)
        depth += 1 if edge.group() == b"/*" else -1
        position = edge.end()
    return position
