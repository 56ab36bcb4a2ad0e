"""What SQL text says of schemas, as far as its tokens tell: tables that it names, and statements that concern schemas.

It is no parser. Where the words do not settle what a name is, it is passed over, so that nothing is reported which may
be right. Names in string constants and comments are no names; dollar quotes are read where they are the body of a
function, a procedure or a ``DO``, which is code.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal

from pg_tenants.sqltext import tokens

__all__ = ["Name", "Statement", "read"]

_TARGETS = frozenset({"into", "update", "join", "references", "truncate", "copy", "table", "view", "sequence", "using"})
"""Words that a table's name comes behind, in the statements where they are looked at."""
_FILLERS = frozenset({"only", "if", "not", "exists", "table", "lateral", "concurrently", "recursive"})
"""Words that may stand between such a word and the name."""
_LISTS = frozenset({"from", "truncate", "table", "view", "sequence"})
"""Of these, the ones behind which commas go on with the next table."""
_ENDS = frozenset(
    "where set on group order having limit offset union intersect except returning values select window for fetch as "
    "add alter drop rename owner cascade restrict restart continue in mode nowait".split()
)
"""Words that end a list of tables."""
_READING = frozenset({"select", "delete"})
"""Words whose FROM names tables; that of ``extract(… FROM …)`` and ``IS DISTINCT FROM`` does not."""
_DEFINES = frozenset({"create", "alter", "drop", "comment", "grant", "revoke"})


@dataclass(frozen=True, slots=True)
class Name:
    """A table as a statement names it.

    Attributes:
        schema: the schema in front of it; None for a bare name.
        table: its name, folded as PostgreSQL does.
        line: where it is, from 1.
        in_body: it is in the body of a function, in which templates are not rendered.
    """

    schema: str | None
    table: str
    line: int
    in_body: bool = False


@dataclass(frozen=True, slots=True)
class Statement:
    """A statement that concerns schemas.

    Attributes:
        kind: ``"path"`` where it sets the search_path, ``"schema"`` where it makes, changes or drops a schema,
            ``"extension"`` where it does so with an extension.
        words: its first words.
        line: where it is, from 1.
    """

    kind: Literal["schema", "extension", "path"]
    words: str
    line: int


@dataclass(frozen=True, slots=True)
class _Token:
    kind: str
    text: str
    line: int

    @property
    def word(self) -> str:
        """Return a key word as it is compared; empty for what can be none."""
        return self.text.lower() if self.kind == "word" else ""

    @property
    def name(self) -> str | None:
        """Return the identifier, or None for what is none."""
        if self.kind == "ident":
            return self.text[1:-1].replace('""', '"') if self.text.startswith('"') else None
        return self.text.lower() if self.kind == "word" else None


def read(text: str) -> Iterator[Statement | Name]:
    """Yield the tables that SQL text names, and the statements in it that concern schemas.

    Args:
        text: the SQL; templates in it count as nothing.
    """
    yield from _read(text, 1, in_body=False)


def _read(text: str, line: int, *, in_body: bool) -> Iterator[Statement | Name]:
    statement, cases = list[_Token](), 0
    for token in _visible(text, line):
        cases = max(0, cases + (token.word == "case") - (token.word == "end"))
        # In a body, these words begin a statement as well as a semicolon does.
        if token.text == ";" or (in_body and not cases and token.word in ("begin", "then", "else", "loop")):
            yield from _statement(statement, in_body=in_body)
            statement = []
        else:
            statement.append(token)
    yield from _statement(statement, in_body=in_body)


def _visible(text: str, line: int) -> Iterator[_Token]:
    """Yield the tokens that are neither space nor comment; a template is one of the kind ``template``."""
    source, counted, at = text.encode(), 0, line
    end_of_template = -1
    for position, kind, token in tokens(source):
        if position < end_of_template or kind in ("space", "comment"):
            continue
        at += source.count(b"\n", counted, position)
        counted = position
        if token == b"{" and source.startswith(b"{{", position):
            end = source.find(b"}}", position)
            end_of_template = len(source) if end < 0 else end + 2
            yield _Token("template", "", at)
        else:
            yield _Token(kind, token.decode(errors="replace"), at)


def _statement(statement: list[_Token], *, in_body: bool) -> Iterator[Statement | Name]:
    if not statement:
        return
    if kind := _kind(statement):
        yield Statement(kind, " ".join(token.text for token in statement[:3]), statement[0].line)
    if not in_body:
        yield from _bodies(statement)
    yield from _names(statement, in_body=in_body)


def _kind(statement: list[_Token]) -> Literal["schema", "extension", "path"] | None:
    words = [token.word for token in statement[:6]]
    if words[0] in ("create", "drop", "alter") and words[1:2] in (["schema"], ["extension"]):
        return "schema" if words[1] == "schema" else "extension"
    if words[0] == "set":
        named = [word for word in words[1:3] if word not in ("local", "session")][:1]
        if named in (["search_path"], ["schema"]):
            return "path"
    if words[:2] in (["alter", "role"], ["alter", "user"], ["alter", "database"]):
        found = [token.word for token in statement]
        if "set" in found and found[found.index("set") + 1 :][:1] == ["search_path"]:
            return "path"
    for call, bracket, argument in zip(statement, statement[1:], statement[2:], strict=False):
        if call.word == "set_config" and bracket.text == "(" and argument.text.lower() == "'search_path'":
            return "path"
    return None


def _bodies(statement: list[_Token]) -> Iterator[Statement | Name]:
    """Read the dollar quotes that are code: in SQL, in PL/pgSQL, or in a language that is not named."""
    words = [token.word for token in statement]
    routine = words[0] == "create" and not {"function", "procedure"}.isdisjoint(words[1:5])
    if words[0] != "do" and not routine:
        return
    named = (after.text.strip("'\"").lower() for before, after in pairwise(statement) if before.word == "language")
    language = next(named, "plpgsql")
    if language not in ("sql", "plpgsql"):
        return
    for before, token in zip([_Token("", "", 0), *statement], statement, strict=False):
        if token.kind == "dollar" and (words[0] == "do" or before.word == "as"):
            fence = token.text.index("$", 1) + 1
            yield from _read(token.text[fence:-fence], token.line, in_body=True)


def _names(statement: list[_Token], *, in_body: bool) -> Iterator[Name]:
    parts_of_query = _common_tables(statement)
    for position, function_possible in _places(statement):
        found = _name_at(statement, position, in_body=in_body)
        if found is None:
            continue
        name, behind = found
        is_function = function_possible and behind < len(statement) and statement[behind].text == "("
        if not is_function and (name.schema or name.table not in parts_of_query):
            yield name


def _common_tables(statement: list[_Token]) -> set[str | None]:
    """Return the names that WITH gives to parts of the statement."""
    words = [token.word for token in statement]
    if "with" not in words:
        return set()
    return {before.name for before, word in zip(statement, words[1:], strict=False) if word == "as"} | {
        statement[position - 1].name for position, token in enumerate(statement) if token.text == "(" and position
    }


def _name_at(statement: list[_Token], position: int, *, in_body: bool) -> tuple[Name, int] | None:
    """Return the name of one or two parts that begins at a position, and the position behind it."""
    first = statement[position]
    if first.name is None:
        return None
    parts, behind = [first.name], position + 1
    while behind + 1 < len(statement) and statement[behind].text == "." and statement[behind + 1].name is not None:
        parts.append(str(statement[behind + 1].name))
        behind += 2
    if len(parts) > 2 or (behind < len(statement) and statement[behind].text == "."):
        return None
    schema = parts[0] if len(parts) > 1 else None
    return Name(schema, parts[-1], first.line, in_body), behind


def _places(statement: list[_Token]) -> Iterator[tuple[int, bool]]:
    """Yield the positions where a table is named, and whether it could be a function's name as well."""
    first = statement[0].word
    defines, rights = first in _DEFINES, first in ("grant", "revoke")
    reads: list[bool] = [False]
    listed: list[str] = [""]
    joined = False
    for position, token in enumerate(statement):
        word, before = token.word, statement[position - 1] if position else None
        if token.text == "(":
            reads.append(False)
            listed.append("")
        elif token.text == ")" and len(reads) > 1:
            reads.pop()
            listed.pop()
        elif token.text == "," and listed[-1]:
            yield from _behind(statement, position, listed[-1])
        elif before is not None and before.text == ".":
            continue
        elif word in _READING:
            reads[-1], listed[-1] = True, ""
        elif word == "from":
            if reads[-1] and not rights and (before is None or before.word != "distinct"):
                listed[-1] = word
                yield from _behind(statement, position, word)
        elif word == "on":
            if defines and not joined:
                yield from _behind(statement, position, word)
            listed[-1] = ""
        elif word in _TARGETS and _is_target(word, statement, position):
            joined = joined or word == "join"
            reads[-1] = reads[-1] or word == "update"
            if word in _LISTS and not (before is not None and before.word == "truncate"):
                listed[-1] = word
            yield from _behind(statement, position, word)
        elif word in _ENDS:
            listed[-1] = ""


def _is_target(word: str, statement: list[_Token], position: int) -> bool:
    first = statement[0].word
    before = statement[position - 1].word if position else ""
    if word == "using":
        # Elsewhere it names columns, operators or methods.
        return first in ("delete", "merge")
    if word == "into":
        # That of SELECT, in a body, names variables.
        return before in ("insert", "merge")
    if word == "update":
        # FOR UPDATE, ON UPDATE and the events of triggers name no table.
        return before not in ("for", "on", "or", "before", "after", "of", "key", "no", ",") and first != "grant"
    if word == "copy":
        return position == 0
    if word in ("table", "view", "sequence"):
        return first in (*_DEFINES, "lock", "truncate", "refresh")
    if word == "truncate":
        return position == 0
    return True


def _behind(statement: list[_Token], position: int, word: str) -> Iterator[tuple[int, bool]]:
    behind = position + 1
    while behind < len(statement) and statement[behind].word in _FILLERS:
        behind += 1
    if behind < len(statement):
        yield behind, word in ("from", "join", "using", "on")
