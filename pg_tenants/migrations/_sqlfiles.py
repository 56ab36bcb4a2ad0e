"""SQL files of modules: their names, their directives, and what they may not contain."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import lru_cache
from itertools import pairwise
from pathlib import Path
from typing import Literal

from pg_tenants.conf import nearest
from pg_tenants.exceptions import MigrationFailed, SqlTemplateError
from pg_tenants.modules import Module, registry
from pg_tenants.sqltemplates import check as check_templates
from pg_tenants.sqltext import line_of, split, tokens

__all__ = ["SqlFile", "SqlProblem", "SqlStep", "has_sql_files", "sql_problems", "sql_steps", "without_concurrently"]

Key = tuple[str, str]
Kind = Literal["folder", "name", "number", "content", "reference", "empty", "shared"]

DIRECTIVES = ("after", "before", "atomic", "late", "was")
SHORTEST_CHECKSUM = 12
"""Hexadecimal digits of a checksum that ``was=`` has at least."""

_NAME = re.compile(r"(?P<stem>(?P<number>[0-9]{1,9})_[A-Za-z0-9_-]+)(?P<down>\.down)?\.sql")
_DIRECTIVE = re.compile(rb"--[ \t]*pg_tenants[ \t]*:[ \t]*(?P<rest>[^\r\n]*)")
_EVERY_WORD = 1 << 20
_TRANSACTION = frozenset({"abort", "begin", "commit", "end", "rollback", "start"})


@dataclass(frozen=True, slots=True)
class SqlProblem:
    """What is wrong with a file or a folder of SQL.

    Attributes:
        kind: what the system checks tell apart.
        message: value and cause, with the file and the line.
        remedy: what to do.
    """

    kind: Kind
    message: str
    remedy: str


@dataclass(frozen=True, slots=True)
class SqlFile:
    """One file, read.

    Attributes:
        path: where it is.
        text: its SQL, with lines that end in a newline.
        checksum: SHA-256 of its text without its directives, in hexadecimal digits.
        atomic: it runs in one transaction.
        after: migrations that come before it.
        before: migrations that come after it.
        late: it may run where files of higher numbers did already.
        was: beginnings of checksums of earlier texts that count as this one.
        statements: where its statements begin, in bytes.
    """

    path: Path
    text: str
    checksum: str
    atomic: bool = True
    after: tuple[Key, ...] = ()
    before: tuple[Key, ...] = ()
    late: bool = False
    was: tuple[str, ...] = ()
    statements: tuple[int, ...] = ()

    def accepts(self, checksum: str) -> bool:
        """Return whether a checksum is that of this text, or of one that counts as this."""
        return checksum == self.checksum or checksum.startswith(self.was or "-")

    def parts(self) -> Iterator[tuple[int, str]]:
        """Yield each statement by itself, with the number of its first line."""
        source = self.text.encode()
        for begin, end in zip(self.statements, (*self.statements[1:], len(source)), strict=True):
            yield line_of(source, begin), source[begin:end].decode()


@dataclass(frozen=True, slots=True)
class SqlStep:
    """A number of a module: the file that goes forward, and the one that takes it back, if there is one."""

    module: str
    number: int
    name: str
    up: SqlFile
    down: SqlFile | None = None


@dataclass(slots=True)
class _Folder:
    steps: list[SqlStep] = field(default_factory=list)
    problems: list[SqlProblem] = field(default_factory=list)


def sql_steps(module: Module) -> list[SqlStep]:
    """Return the SQL files of a module, sorted by number.

    Raises:
        MigrationFailed: its folder is missing, or a file of it cannot be run as it is; the message names file and line.
    """
    found = _read_folder(module)
    for problem in found.problems:
        if problem.kind != "empty":
            raise MigrationFailed(f"{problem.message} {problem.remedy}")
    return found.steps


def sql_problems() -> list[SqlProblem]:
    """Return what is wrong with the folders of all modules."""
    found: list[SqlProblem] = []
    owners: dict[Path, str] = {}
    for module in registry() or ():
        if module.sql_migrations is None:
            continue
        owner = owners.setdefault(module.sql_migrations.resolve(), module.name)
        if owner != module.name:
            message = (
                f"The modules {owner!r} and {module.name!r} have one folder of SQL files, {module.sql_migrations}."
            )
            found.append(SqlProblem("shared", message, "Give each a folder of its own in 'sql_migrations'."))
            continue
        found += _read_folder(module).problems
    return found


def has_sql_files(folder: Path) -> bool:
    """Return whether a folder has a file that a module would run if it named the folder."""
    return folder.is_dir() and any(_NAME.fullmatch(path.name) for path in folder.iterdir())


def _read_folder(module: Module) -> _Folder:
    found = _Folder()
    folder = module.sql_migrations
    if folder is None:
        return found
    if not folder.is_dir():
        message = f"The module {module.name!r} has the 'sql_migrations' {str(folder)!r}, and there is no such folder."
        found.problems.append(
            SqlProblem("folder", message, f"Correct it, or run 'manage.py make_sql_migration {module.name} NAME'.")
        )
        return found
    ups, downs = _sorted_files(folder, found.problems)
    files: dict[Path, SqlFile] = {}
    for path in (*ups.values(), *downs.values()):
        read = _file(path)
        if isinstance(read, SqlFile):
            files[path] = read
        else:
            found.problems.append(read)
    for key, path in sorted(ups.items()):
        if path not in files:
            continue
        if not files[path].statements:
            found.problems.append(SqlProblem("empty", f"The file {path} has no statement.", "Write it, or remove it."))
        down = files.get(downs[key]) if key in downs else None
        found.steps.append(SqlStep(module.name, key[0], key[1], files[path], down))
    return found


_Files = dict[tuple[int, str], Path]
"""Files of one direction by number and name."""


def _sorted_files(folder: Path, found: list[SqlProblem]) -> tuple[_Files, _Files]:
    ups: _Files = {}
    downs: _Files = {}
    for path in sorted(folder.iterdir()):
        if path.suffix.lower() != ".sql" or path.name.startswith(".") or not path.is_file():
            continue
        match = _NAME.fullmatch(path.name)
        if match is None:
            message = f"The file {path} has a name that says neither its number nor what it does."
            found.append(SqlProblem("name", message, "Name it as in '0001_totals.sql', or '0001_totals.down.sql'."))
        else:
            (downs if match["down"] else ups)[int(match["number"]), match["stem"]] = path
    numbers: dict[int, Path] = {}
    for (number, _), path in sorted(ups.items()):
        if numbers.setdefault(number, path) != path:
            message = f"The files {numbers[number]} and {path.name} have the same number."
            found.append(SqlProblem("number", message, "Give the one that is applied nowhere the next free number."))
    for key, path in downs.items():
        if key not in ups:
            message = f"The file {path} takes back {key[1]}.sql, and there is none."
            found.append(SqlProblem("name", message, "Name both alike, or remove it."))
    return ups, downs


def _file(path: Path) -> SqlFile | SqlProblem:
    status = path.stat()
    return _read_file(path, status.st_mtime_ns, status.st_size)


@lru_cache(maxsize=1024)
def _read_file(path: Path, changed: int, size: int) -> SqlFile | SqlProblem:
    """Read a file, once for each state of it."""
    try:
        return _parse(path, path.read_bytes())
    except _Refused as exc:
        return SqlProblem(exc.kind, f"The file {path}{exc}", exc.remedy)


class _Refused(Exception):
    def __init__(self, what: str, remedy: str, kind: Kind = "content"):
        super().__init__(what)
        self.remedy = remedy
        self.kind: Kind = kind


def _parse(path: Path, content: bytes) -> SqlFile:
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as exc:
        where = f", line {line_of(content, exc.start)}, byte {exc.start}"
        raise _Refused(f"{where}, is not in UTF-8: {exc.reason}.", "Save it in UTF-8.") from exc
    text = text.replace("\r\n", "\n").replace("\r", "\n")
    source = text.encode()
    directives, kept = _directives(source)
    _refuse_what_is_not_sql(source)
    statements = []
    for begin, words in split(source, _EVERY_WORD):
        statements.append(begin)
        _refuse_statement([word.decode() for word in words], line_of(source, begin))
    try:
        check_templates(text)
    except SqlTemplateError as exc:
        raise _Refused(f": {exc}", "See the how-to on SQL migrations.", "reference") from exc
    checksum = hashlib.sha256(kept).hexdigest()
    return _with_directives(SqlFile(path, text, checksum, statements=tuple(statements)), directives)


def _directives(source: bytes) -> tuple[list[tuple[int, str, str]], bytes]:
    """Return the directives of a file as line, key and value; and its text without their lines."""
    found, kept, begin = list[tuple[int, str, str]](), b"", 0
    for position, kind, token in tokens(source):
        match = _DIRECTIVE.fullmatch(token) if kind == "space" else None
        if match is None:
            continue
        line = line_of(source, position)
        for entry in match["rest"].decode().split():
            key, equals, value = entry.partition("=")
            if not equals or not value or key not in DIRECTIVES:
                hint = "" if key in DIRECTIVES else f" {nearest(key, DIRECTIVES)}"
                raise _Refused(f", line {line}, has the directive {entry!r}.{hint}", "Write key=value, with no spaces.")
            found.append((line, key, value))
        kept += source[begin:position]
        # The end of the line belongs to it.
        begin = position + len(token) + 1
    return found, kept + source[begin:]


def _with_directives(file: SqlFile, directives: list[tuple[int, str, str]]) -> SqlFile:
    flags, keys = {"atomic": file.atomic, "late": file.late}, {"after": list[Key](), "before": list[Key]()}
    was = list[str]()
    for line, key, value in directives:
        if key in flags:
            if value not in ("true", "false"):
                raise _Refused(f", line {line}, has {key}={value}.", f"Write {key}=true or {key}=false.")
            flags[key] = value == "true"
            continue
        for entry in filter(None, value.split(",")):
            if key == "was":
                if not re.fullmatch(rf"[0-9a-f]{{{SHORTEST_CHECKSUM},64}}", entry):
                    raise _Refused(
                        f", line {line}, has was={entry}.",
                        f"Write {SHORTEST_CHECKSUM} or more hexadecimal digits of the earlier checksum.",
                    )
                was.append(entry)
                continue
            label, dot, name = entry.rpartition(".")
            if not dot or not label or not name:
                raise _Refused(f", line {line}, has {key}={entry}.", f"Write it as in {key}=notes.0001_initial.")
            keys[key].append((label, name))
    return SqlFile(
        file.path,
        file.text,
        file.checksum,
        atomic=flags["atomic"],
        after=tuple(keys["after"]),
        before=tuple(keys["before"]),
        late=flags["late"],
        was=tuple(was),
        statements=file.statements,
    )


def _refuse_what_is_not_sql(source: bytes) -> None:
    called = b""
    for position, kind, token in tokens(source):
        if token == b"\\":
            command = source[position:].split(None, 1)[0].decode(errors="replace")
            raise _Refused(
                f", line {line_of(source, position)}, has {command!r}, a command of psql that no server knows.",
                "Write the SQL itself; what another file has goes into a file of its own number.",
            )
        if kind == "string" and token.lower() == b"'search_path'" and called == b"set_config(":
            raise _Refused(f", line {line_of(source, position)}, sets the search_path.", _PATH_REMEDY)
        if kind == "word":
            called = token.lower()
        elif kind not in ("space", "comment"):
            called = called + token if token == b"(" else b""


_PATH_REMEDY = (
    "Leave it out: the path is that of the schema that is migrated. Name another module's table as in {{tables.name}}."
)


def _refuse_statement(words: list[str], line: int) -> None:
    """Refuse a statement that would leave its schema or its transaction, or that no file can carry."""
    first = words[0] if words else ""
    if first in _TRANSACTION or words[:2] == ["prepare", "transaction"]:
        raise _Refused(
            f", line {line}, has {' '.join(words[:2]).upper()}, which would part it from its schema.",
            "Leave it out: a file is one transaction. With '-- pg_tenants: atomic=false' each statement is its own.",
        )
    if first == "copy" and {("from", "stdin"), ("to", "stdout")} & set(pairwise(words)):
        raise _Refused(
            f", line {line}, has COPY with data of the client, of which a file has none.",
            "Write INSERT statements, or load the rows by a RunPython operation.",
        )
    named = [word for word in words[1:3] if word not in ("local", "session")][:1]
    sets = first == "set" and named in (["search_path"], ["schema"])
    if sets or (first == "reset" and named in (["search_path"], ["all"])) or first == "discard":
        raise _Refused(
            f", line {line}, has {' '.join(words[:3]).upper()}, which changes the search_path.", _PATH_REMEDY
        )


def without_concurrently(text: str) -> str:
    """Return SQL without CONCURRENTLY where it says how an index is made, dropped or made anew.

    In a transaction, and in a schema that nobody sees yet, such as a new tenant's, it is neither possible nor needed.
    """
    source, result, begin, statement = text.encode(), b"", 0, list[bytes]()
    for position, kind, token in tokens(source):
        if token == b";":
            statement = []
        elif kind == "word":
            word = token.lower()
            if word == b"concurrently" and statement[:1] != [b"refresh"]:
                result += source[begin:position]
                begin = position + len(token)
            statement.append(word)
    return (result + source[begin:]).decode()
