"""The reference names everything that it should."""

from __future__ import annotations

import ast
import re
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest
from django.core.management import load_command_class
from django.core.management.base import BaseCommand

from example_project.customers.management.commands.demo import Command as Demo
from pg_tenants import checks, conf, exceptions
from pg_tenants.server import exceptions as server_exceptions
from pg_tenants.server.config import KEYS as SERVER_KEYS

ROOT = Path(__file__).resolve().parent.parent.parent
REFERENCE = ROOT / "docs" / "reference"
# What every command of Django has.
DJANGOS = {flag for action in BaseCommand().create_parser("", "")._actions for flag in action.option_strings}
COMMANDS = sorted(
    path.stem for path in (ROOT / "pg_tenants" / "management" / "commands").glob("*.py") if path.stem != "__init__"
)


def page(name: str) -> str:
    return (REFERENCE / f"{name}.md").read_text()


def rows(text: str) -> set[str]:
    """Return what the first columns of a page's tables name."""
    return {name for row in re.findall(r"^\| ([^|]*) \|", text, re.MULTILINE) for name in re.findall(r"`([^` ]+)", row)}


def section(name: str, heading: str) -> str:
    """Return the part of a page below a heading."""
    found = re.search(rf"^#+ {re.escape(heading)}\n(.*?)(?=^## |\Z)", page(name), re.MULTILINE | re.DOTALL)
    assert found, f"docs/reference/{name}.md has no section {heading!r}"
    return found[1]


@pytest.mark.parametrize(
    ("heading", "keys"),
    [
        ("PG_TENANTS", conf.KEYS),
        ("MODULES", conf.MODULE_KEYS),
        ('OPTIONS["tenants"]', conf.ALIAS_KEYS),
        ("PGSERVER", SERVER_KEYS),
    ],
)
def test_settings(heading: str, keys: tuple[str, ...]) -> None:
    """Each key of a setting has a row in its section, and no row is of a key that is gone."""
    assert rows(section("settings", heading)) & set(keys) == set(keys)
    extra = {name for name in rows(section("settings", heading)) if name.isidentifier()} - set(keys)
    assert extra <= {"INSTALLED_APPS", "DATABASE_ROUTERS", "MIDDLEWARE"}


def test_checks() -> None:
    """Each check has a row, and no row is of a check that is gone."""
    ids = set(
        re.findall(
            r"pg_tenants\.[EW]\d{3}", "".join(path.read_text() for path in Path(checks.__file__).parent.glob("*.py"))
        )
    )
    assert rows(page("checks")) == ids


@pytest.mark.parametrize("name", [*COMMANDS, "demo"])
def test_commands(name: str) -> None:
    """Each command has a section, and each of its options a row; those of Django's ``migrate`` are in one place."""
    command = Demo() if name == "demo" else load_command_class("pg_tenants", name)
    parser = command.create_parser("manage.py", name)
    text = section("commands", "migrate_schemas" if name == "migrate" else name)
    assert section("commands", name)
    for action in parser._actions:
        if DJANGOS & set(action.option_strings):
            continue
        for option in action.option_strings or [action.dest]:
            assert re.search(rf"`{re.escape(option)}[` ]", text) or f"manage.py {name} {option}" in text, option


def test_pgserver_actions() -> None:
    """Each action of pgserver has a row."""
    parser = load_command_class("pg_tenants", "pgserver").create_parser("manage.py", "pgserver")
    (choices,) = [action.choices for action in parser._actions if action.dest == "action"]
    assert rows(section("commands", "pgserver")) >= set(choices or ())


def test_exceptions() -> None:
    """Each exception has a row, and no row is of one that is gone."""
    assert rows(page("exceptions")) == {*exceptions.__all__, *server_exceptions.__all__}


def test_features_have_their_tests() -> None:
    """Each row of the list of what was asked for names a test that is there."""
    named = re.findall(r"`(tests/[^:`]+)::(\w+)`", page("seed-features"))
    assert len(named) > 40
    for file, name in named:
        assert re.search(rf"^(async )?def {name}\b", (ROOT / file).read_text(), re.MULTILINE), f"{file}::{name}"


def test_dependencies() -> None:
    """Each library that the project asks for is on the page that says why, those of an extra in its rows."""
    text = (ROOT / "docs" / "explanation" / "dependencies.md").read_text()
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    base, _, extras = text.partition("\nThe others are extras")
    for extra, requirements in {"": project["dependencies"], **project["optional-dependencies"]}.items():
        named = base if not extra else "\n".join(re.findall(rf"^\| `{extra}` \|.*", extras, re.MULTILINE))
        for requirement in requirements:
            name = re.split(r"[^\w-]", requirement)[0]
            if name != "pg_tenants":
                assert re.search(rf"\b{name}\b", named, re.IGNORECASE), f"{name} of the extra {extra!r}"


@pytest.mark.parametrize("folder", ["explanation", "howto", "patterns"])
def test_indexes(folder: str) -> None:
    """Each page of a folder is in its table of contents, once."""
    text = (ROOT / "docs" / folder / "index.md").read_text()
    listed = re.findall(
        r"^[a-z][a-z-]+$", "\n".join(re.findall(r"```{toctree}\n(.*?)```", text, re.DOTALL)), re.MULTILINE
    )
    assert sorted(listed) == sorted(path.stem for path in (ROOT / "docs" / folder).glob("*.md") if path.stem != "index")


def undocumented(node: ast.AST, name: str) -> Iterator[str]:
    for part in getattr(node, "body", []):
        if not isinstance(part, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            continue
        is_setter = any(ast.unparse(decorator).endswith(".setter") for decorator in part.decorator_list)
        if not (part.name.startswith("_") or part.name in ("Meta", "Media") or is_setter or ast.get_docstring(part)):
            yield f"{name}.{part.name}"
        if isinstance(part, ast.ClassDef):
            yield from undocumented(part, f"{name}.{part.name}")


def test_docstrings() -> None:
    """Each class, function and method without a leading underscore says what it is."""
    files = sorted((ROOT / "pg_tenants").rglob("*.py"))
    assert files
    assert [found for file in files for found in undocumented(ast.parse(file.read_text()), file.stem)] == []
