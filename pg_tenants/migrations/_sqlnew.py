"""New SQL files."""

from __future__ import annotations

from pathlib import Path

from django.utils.text import slugify

from pg_tenants.conf import nearest
from pg_tenants.exceptions import ConfigurationError
from pg_tenants.migrations._executor import Key, ModuleLoader
from pg_tenants.migrations._sqlfiles import sql_steps
from pg_tenants.migrations._targets import required_registry
from pg_tenants.modules import Module

__all__ = ["make_sql_files"]

DIGITS = 4
LONGEST = 100


def make_sql_files(module: str, name: str, *, down: bool = False) -> list[Path]:
    """Write an SQL file with the next number of a module, and return its path.

    The file says that it comes after the migrations that the module's apps have now. So in a new schema it runs where
    it ran in the old ones: behind these, and before later ones.

    Args:
        module: the module's name.
        name: what the file does; letters, digits and ``_`` of it become a part of the file's name.
        down: write the file that takes it back as well, and return both paths.

    Raises:
        ConfigurationError: there is no such module, it has no folder of SQL files, or nothing is left of the name.
        MigrationFailed: a file that is there already cannot be read.
    """
    found = _module(module)
    folder = found.sql_migrations
    if folder is None:
        raise ConfigurationError(
            f"The module {module!r} has no folder of SQL files. Set PG_TENANTS['MODULES'][{module!r}]['sql_migrations']"
            f" to one, such as '{module}/sql'."
        )
    slug = slugify(name).replace("-", "_")[:LONGEST].strip("_")
    if not slug:
        raise ConfigurationError(f"Nothing of {name!r} can be part of a file's name. Give words in plain letters.")
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as exc:
        raise ConfigurationError(
            f"The folder {folder} of the module {module!r} cannot be made: {exc}. Make it yourself, or correct "
            "'sql_migrations'."
        ) from exc
    stem = f"{max((step.number for step in sql_steps(found)), default=0) + 1:0{DIGITS}}_{slug}"
    paths = [folder / f"{stem}.sql", *([folder / f"{stem}.down.sql"] if down else [])]
    for path, text in zip(paths, (_header(found), f"-- Takes back {stem}.sql.\n\n"), strict=False):
        with path.open("x", encoding="utf-8", newline="\n") as file:
            file.write(text)
    return paths


def _module(name: str) -> Module:
    modules = required_registry().modules
    if name not in modules:
        raise ConfigurationError(f"There is no module {name!r}. {nearest(name, modules)}")
    return modules[name]


def _header(module: Module) -> str:
    lines = [f"-- pg_tenants: after={app}.{name}" for app, name in _newest(module)]
    return "".join(f"{line}\n" for line in lines) + "\n"


def _newest(module: Module) -> list[Key]:
    """Return the newest migrations of a module's apps, without those that another one of them comes after."""
    graph = ModuleLoader(None, ()).graph
    leaves = [key for key in graph.leaf_nodes() if key[0] in module.apps]
    implied = {key for leaf in leaves for key in graph.forwards_plan(leaf)[:-1]}
    return [key for key in leaves if key not in implied]
