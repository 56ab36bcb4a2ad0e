"""Which databases a run is about, where none is named: those that modules live on."""

from __future__ import annotations

from collections.abc import Iterable
from fnmatch import fnmatchcase

from pg_tenants.migrations._targets import every_target, required_registry

__all__ = ["Choice", "choices"]

Choice = dict[str, list[str]]
"""The arguments ``names``, ``modules`` and ``exclude`` of ``apply`` and its kin."""


def choices(
    *,
    names: Iterable[str] = (),
    modules: Iterable[str] = (),
    exclude: Iterable[str] = (),
    app_label: str | None = None,
) -> dict[str, Choice]:
    """Return the aliases that a choice is about, in the order to migrate them, with each one's part of the choice.

    What is nowhere is given to one of them, which refuses it: a schema to the last, where the tenants are.

    Args:
        names: schemas; none means all.
        modules: modules; none means all.
        exclude: patterns of schemas to leave alone.
        app_label: the app, or ``sql:`` and the module, whose migrations are asked for.

    Raises:
        DatabaseError: schemas are named, and a database cannot be asked which it has.
    """
    names, of_modules, patterns = list(names), list(modules), list(exclude)
    found = required_registry()
    aliases = list(found.databases)
    concerned = [
        alias
        for alias in aliases
        if any(
            module.database == alias
            and (not of_modules or module.name in of_modules)
            and (app_label is None or app_label in module.labels)
            for module in found
        )
    ]
    if names or patterns:
        schemas = {alias: [target.schema for target in every_target(alias)] for alias in aliases}
        wanted, left_out = _spread(names, schemas), _spread(patterns, schemas)
    else:
        wanted, left_out = {}, {}
    if wanted:
        concerned = [alias for alias in wanted if alias in concerned] or list(wanted)
    return {
        alias: {"names": wanted.get(alias, []), "modules": of_modules, "exclude": left_out.get(alias, [])}
        for alias in concerned or aliases[:1]
    }


def _spread(patterns: list[str], schemas: dict[str, list[str]]) -> dict[str, list[str]]:
    """Return the patterns by the aliases that have a schema which matches, in the aliases' order."""
    found: dict[str, list[str]] = {alias: [] for alias in schemas}
    for pattern in patterns:
        homes = [alias for alias, names in schemas.items() if any(fnmatchcase(name, pattern) for name in names)]
        for alias in homes or list(schemas)[-1:]:
            found[alias].append(pattern)
    return {alias: given for alias, given in found.items() if given}
