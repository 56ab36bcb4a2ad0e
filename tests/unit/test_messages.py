"""Every message of the package: it names the value, says the cause, and tells what to do.

The sources are read, so a message is held to this the day it is written, whether or not a test provokes it.
"""

from __future__ import annotations

import ast
import builtins
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import pytest

from pg_tenants import exceptions
from pg_tenants.server import exceptions as server_exceptions

ROOT = Path(__file__).parents[2]
PACKAGE = ROOT / "pg_tenants"
FAMILY = {*exceptions.__all__, *server_exceptions.__all__}
VALUE = "\0"
"""Stands for an interpolated value in a message's text."""

VERBS = frozenset(
    """add allow apply ask await begin bring call choose close connect correct create declare delete drop end enter
    free give grant have install kill leave let look make mark migrate move name open pass put query raise read remove
    rename repair replace restore run save see select send set silence start stop take try type update upgrade use wait
    write""".split()
)
"""What a sentence that tells what to do begins with."""

TELLS = frozenset("nearest _nearest hint _hint remedy _shortened usage ways way other _with_templates _theirs".split())
"""Names of values that are a remedy themselves."""

NOTHING_TO_NAME = (
    "settings.PG_TENANTS is missing.",
    "'retry' of a database alias needs tenacity",
    "A statement whose parameters the server binds",
    "CALL and DO cannot be sent in a pipeline",
    "A script of several statements was sent in a transaction that has failed.",
    "The database URL cannot be read",  # It may hold a password.
    "The database URL says more than pgserver:///name can.",  # So may this one.
    "TEMPLATES has the loader of pg_tenants inside another one",
    "Both password and password_file are given.",
    "PrimaryDomainMiddleware needs request.tenant.",
    "SessionResolver needs request.session.",
    "bulk_create() would make tenants without schemas.",
    "_raw_delete() would leave the tenants' schemas without rows.",
    "update(status=…) would change tenants unnoticed.",
    "execute_and_return_id takes one INSERT.",
    "A container is reached by a TCP port",
    "Nothing was removed: what was typed is not the server's name.",
    "The metrics of pg_tenants are registered already.",
    "pg_tenants.contrib.tasks needs django.tasks",
    # Checks of what is there or not.
    "PG_TENANTS['MODULES'] has no tenant module.",
    "The router of pg_tenants is missing.",
    "SessionMiddleware comes before TenantMiddleware",
    "SessionResolver needs sessions",
    "TenantCsrfMiddleware comes after Django's CsrfViewMiddleware",
    "PG_TENANTS['ROLES'] is False",
    "PG_TENANTS['AUTO_MIGRATE'] is on, and DEBUG is off.",
)
"""How the messages begin that have no value to show: what is wrong is that something is missing, or is there."""

BUILTINS = {
    "pg_tenants/__init__.py": {"AttributeError"},  # An attribute that a module has not.
    "pg_tenants/test/__init__.py": {"AttributeError"},
    "pg_tenants/provisioning/recorder.py": {"AttributeError"},
    "pg_tenants/across.py": {"TypeError", "ExceptionGroup"},  # Arguments of a wrong type; all errors of all tenants.
    "pg_tenants/context.py": {"TypeError"},
    "pg_tenants/sql/_rows.py": {"TypeError"},
    "pg_tenants/backends/cursor.py": {"ValueError"},  # In psycopg's words, in place of its own.
    "pg_tenants/contrib/storage.py": {"ValueError"},  # As Django's storages do.
    "pg_tenants/names.py": {"ValueError"},  # Callers make it an error of the setting, the field or the request.
    "pg_tenants/server/config.py": {"ValueError"},  # load() makes it a ServerConfigError with the key.
    "pg_tenants/middleware.py": {"NotImplementedError"},  # To be written by subclasses.
    "pg_tenants/resolvers.py": {"NotImplementedError"},
}
"""Python's own errors that are right where they are."""


@dataclass(frozen=True)
class Message:
    """A message in the source: its text with ``VALUE`` for each value, the sources of these, and its remedy."""

    where: str
    text: str
    values: tuple[str, ...]
    hint: str | None = None

    def __str__(self) -> str:
        return f"{self.where}: {self.text.replace(VALUE, '{}')!r}" + (f" / {self.hint!r}" if self.hint else "")


@cache
def sources() -> list[tuple[str, ast.Module]]:
    return [(str(path.relative_to(ROOT)), ast.parse(path.read_text())) for path in sorted(PACKAGE.rglob("*.py"))]


def called(node: ast.expr) -> str:
    return node.id if isinstance(node, ast.Name) else node.attr if isinstance(node, ast.Attribute) else ""


def read(node: ast.expr, known: dict[str, ast.expr]) -> tuple[str, tuple[str, ...]]:
    """Return the text of an expression with a mark for each value, and the values' sources."""
    match node:
        case ast.Constant(value=str(text)):
            return text, ()
        case ast.JoinedStr(values=parts):
            pairs = [read(part, known) for part in parts]
        case ast.BinOp(left=left, op=ast.Add(), right=right):
            pairs = [read(left, known), read(right, known)]
        case ast.IfExp(body=body):
            return read(body, known)
        case ast.FormattedValue(value=value):
            return VALUE, (ast.unparse(value),)
        case ast.Name(id=name) if name in known:
            return read(known[name], {key: value for key, value in known.items() if key != name})
        case _:
            return VALUE, (ast.unparse(node),)
    return "".join(text for text, _ in pairs), tuple(value for _, values in pairs for value in values)


def told(node: ast.expr, known: dict[str, ast.expr]) -> str:
    """Return the text of a remedy, in which values stand by their sources."""
    text, values = read(node, known)
    first, *parts = text.split(VALUE)
    return first + "".join(f"<{value}>{part}" for value, part in zip(values, parts, strict=True))


def calls(tree: ast.AST) -> Iterator[tuple[ast.Call, dict[str, ast.expr]]]:
    """Yield each call with what the names in its function were set to, where that is text."""
    outside = texts(tree.body) if isinstance(tree, ast.Module) else {}
    functions = (node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef))
    for function in [tree, *functions]:
        body = [node for statement in function.body for node in own(statement)]  # type: ignore[attr-defined]
        known = {**outside, **texts(body)}
        for node in body:
            if isinstance(node, ast.Call):
                yield node, known


def texts(nodes: Iterable[ast.AST]) -> dict[str, ast.expr]:
    """Return what names are set to, where that is text."""
    return {
        target.id: node.value
        for node in nodes
        if isinstance(node, ast.Assign) and isinstance(node.value, ast.JoinedStr | ast.BinOp | ast.Constant)
        for target in node.targets
        if isinstance(target, ast.Name)
    }


def own(node: ast.AST) -> Iterator[ast.AST]:
    """Yield the nodes of a statement, without those of functions in it."""
    if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
        return
    yield node
    for child in ast.iter_child_nodes(node):
        yield from own(child)


@cache
def errors() -> list[Message]:
    """Return the messages of the family, and those that become a part of one, with their remedies."""
    found = []
    for file, tree in sources():
        for call, known in calls(tree):
            name, arguments = called(call.func), call.args
            where = f"{file}:{call.lineno} {name}"
            if name in FAMILY and arguments:
                found.append(Message(where, *read(arguments[0], known)))
            elif name == "SqlProblem" and len(arguments) > 2:
                found.append(Message(where, *read(arguments[1], known), hint=told(arguments[2], known)))
            elif name == "_Refused" and len(arguments) > 1:
                text, values = read(arguments[0], known)
                # It comes behind the name of the file.
                found.append(Message(where, VALUE + text, ("path", *values), hint=told(arguments[1], known)))
            elif ast.unparse(call.func).endswith("problems.append") and isinstance(arguments[0], ast.Tuple):
                _, message, hint = arguments[0].elts
                found.append(Message(where, *read(message, known), hint=told(hint, known)))
    return found


@cache
def flags() -> list[Message]:
    """Return the messages of the system checks."""
    found = []
    for file, tree in sources():
        for call, known in calls(tree) if file.startswith("pg_tenants/checks/") else ():
            words = {keyword.arg: keyword.value for keyword in call.keywords}
            if "id" in words and call.args:
                hint = told(words["hint"], known) if "hint" in words else ""
                found.append(Message(f"{file}:{call.lineno} check", *read(call.args[0], known), hint=hint))
    return found


def tells_what_to_do(message: Message) -> bool:
    """Return whether a sentence, or a part behind ``;`` or ``or``, begins with what to do; or a value tells it."""
    values = message.values if message.hint is None else tuple(re.findall("<(.*?)>", message.hint))
    if any(TELLS & set(re.findall(r"\w+", value)) for value in values):
        return True
    text = message.text if message.hint is None else message.hint
    parts = re.split(r"(?:[.;:?)]|,? or)\s+", text)
    # A hint may begin with it; in a message, what is wrong comes first.
    firsts = [re.findall(r"[a-z]+", part.lower())[:1] for part in (parts if message.hint is not None else parts[1:])]
    return any(first and first[0] in VERBS for first in firsts) or " is made by " in text


def is_passed_on(message: Message) -> bool:
    """Return whether it is the whole of another message, which is held to this where it is made."""
    return not re.sub(r"[\0\s.:]", "", message.text)


def test_enough_is_read() -> None:
    """The family and the checks are found where they are."""
    assert len(errors()) > 250
    assert len(flags()) > 60


def test_messages_name_a_value() -> None:
    """Or there is nothing to name, which is said above."""
    every = [*errors(), *flags()]
    assert [str(m) for m in every if VALUE not in m.text and not m.text.startswith(NOTHING_TO_NAME)] == []
    assert [begin for begin in NOTHING_TO_NAME if not any(m.text.startswith(begin) for m in every)] == []


def test_messages_are_sentences() -> None:
    """They end in a full stop, or in what PostgreSQL, a program or a list has to say."""
    every = [*errors(), *flags()]
    assert [str(m) for m in every if not re.search(r"[.?\0]\Z", m.text)] == []
    assert [str(m) for m in every if m.hint is not None and not re.search(r"[.?>]\Z", m.hint.strip())] == []


def test_errors_tell_what_to_do() -> None:
    """By a verb that a sentence begins with, or by a value that is a remedy."""
    assert [str(m) for m in errors() if not tells_what_to_do(m) and not is_passed_on(m)] == []


def test_checks_tell_what_to_do() -> None:
    """In their hint."""
    assert [str(message) for message in flags() if not tells_what_to_do(message)] == []


def test_no_message_shows_a_secret() -> None:
    """A value whose name says password, or that may hold one, is masked or left out."""
    suspect = re.compile(r"password|passwd|secret|dsn|conninfo|\burl\b|\bparams\b|settings_dict\b(?!\[)", re.IGNORECASE)
    assert [
        f"{message} shows {value}"
        for message in [*errors(), *flags()]
        for value in message.values
        if suspect.search(value) and not value.startswith("without_password(")
    ] == []


def test_no_error_of_pythons_where_the_family_belongs() -> None:
    """Each that is raised all the same is listed above, with its reason."""
    found: dict[str, set[str]] = {}
    for file, tree in sources():
        for node in ast.walk(tree):
            if isinstance(node, ast.Raise) and node.exc is not None:
                name = called(node.exc.func if isinstance(node.exc, ast.Call) else node.exc)
                error = getattr(builtins, name, None)
                if isinstance(error, type) and issubclass(error, BaseException):
                    found.setdefault(file, set()).add(name)
    assert found == BUILTINS


@pytest.mark.parametrize("name", sorted(FAMILY - {"PgTenantsError", "ServerError"}))
def test_each_kind_is_raised(name: str) -> None:
    """And is of the family."""
    module = exceptions if hasattr(exceptions, name) else server_exceptions
    assert issubclass(getattr(module, name), exceptions.PgTenantsError)
    assert any(called(call.func) == name for _, tree in sources() for call, _ in calls(tree))
