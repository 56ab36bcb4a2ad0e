"""Schemas in SQL text: ``{{tables.x}}`` and ``{{schema}}``.

A template is rendered for the schema that is active when it is sent, so one text serves all tenants. What PostgreSQL
would not read as code is left as it is: string constants, quoted identifiers, comments and dollar quotes.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from django.apps import apps

from pg_tenants.conf import nearest
from pg_tenants.context import active
from pg_tenants.exceptions import NoActiveTenant, SqlTemplateError
from pg_tenants.modules import Module, Registry, registry
from pg_tenants.names import KEYWORDS
from pg_tenants.sqltext import line_of, quote, tokens

__all__ = ["check", "homes_of_tables", "render"]

WORDS = ("tables", "schema")
"""What a template begins with."""

_NAME = r'[^\W\d][\w$]*|"(?:[^"]|"")+"'
_TEMPLATE = re.compile(rf"\s*(?P<word>[^\W\d]\w*)\s*(?:\.\s*(?P<first>{_NAME})\s*)?(?:\.\s*(?P<second>{_NAME})\s*)?")
_NEEDS_NO_QUOTES = re.compile(r"[a-z_][a-z0-9_]*")


@dataclass(frozen=True, slots=True)
class _Template:
    """One ``{{…}}``: of a table, or of a schema where there is no table; and the module, where it is named."""

    table: str | None
    module: str | None


def render(text: str, connection: Any) -> str:
    """Return SQL text with its templates replaced.

    Args:
        text: the SQL, with ``{{tables.name}}``, ``{{tables.module.name}}``, ``{{schema}}`` or ``{{schema.module}}``.
        connection: the Django connection that it is sent on. Where that is bound to one schema, this is the schema
            meant; on one that knows no schemas, tables keep their bare names.

    Raises:
        SqlTemplateError: a template names nothing that is known, or several things.
        NoActiveTenant: it names a tenant's table or schema, and no tenant that has it is active.
    """
    if "{{" not in text:
        return text
    place = _Place(connection)
    return "".join(part if isinstance(part, str) else place.text_of(part) for part in _parse(text))


def check(text: str) -> None:
    """Refuse text with a template that could not be rendered for any schema.

    Raises:
        SqlTemplateError: it has one.
    """
    modules = registry()
    for part in _parse(text):
        if isinstance(part, _Template) and part.module is not None and modules is not None:
            _module(part.module, modules)


@lru_cache(maxsize=512)
def _parse(text: str) -> tuple[str | _Template, ...]:
    """Split text into what stays and the templates between."""
    source, parts, begin, position = text.encode(), list[str | _Template](), 0, 0
    while (found := _next(source, position)) >= 0:
        end = source.find(b"}}", found)
        line = line_of(source, found)
        if end < 0:
            raise SqlTemplateError(f"A '{{{{' on line {line} has no '}}}}' behind it. Write it as {{{{tables.name}}}}.")
        parts += [source[begin:found].decode(), _read(source[found + 2 : end].decode(), line)]
        begin = position = end + 2
    return (*parts, source[begin:].decode())


def _next(source: bytes, position: int) -> int:
    """Return where the next template begins; -1 for none."""
    before = -2
    for where, _, token in tokens(source, position):
        if token == b"{":
            if before == where - 1:
                return before
            before = where
    return -1


def _read(inner: str, line: int) -> _Template:
    match = _TEMPLATE.fullmatch(inner)
    shown = "{{" + inner + "}}"
    usage = "Write {{tables.name}}, {{tables.module.name}}, {{schema}} or {{schema.module}}."
    if match is None:
        raise SqlTemplateError(f"{shown!r} on line {line} is no template. {usage}")
    word, first, second = match["word"], _unquoted(match["first"]), _unquoted(match["second"])
    if word not in WORDS:
        raise SqlTemplateError(f"{shown!r} on line {line} begins with {word!r}. {nearest(word, WORDS)} {usage}")
    if word == "schema" and second is None:
        return _Template(None, first)
    if word == "tables" and first is not None:
        return _Template(first, None) if second is None else _Template(second, first)
    raise SqlTemplateError(f"{shown!r} on line {line} is no template. {usage}")


def _unquoted(name: str | None) -> str | None:
    return name[1:-1].replace('""', '"') if name and name.startswith('"') else name


class _Place:
    """Where text is to be sent: what its templates mean there."""

    def __init__(self, connection: Any):
        self._connection = connection
        options = getattr(connection, "tenant_options", None)
        self._bound: str | None = None if options is None else options.schema
        self._modules = registry() if getattr(connection, "is_tenant_aware", False) else None
        target = active()
        # A schema of another database is none here.
        here = self._modules is not None and target is not None and self._modules.reaches(target, connection.alias)
        self._active = target if here else None

    def text_of(self, template: _Template) -> str:
        """Return what stands in the place of a template."""
        if template.table is None:
            return quote(self._physical(self._schema(template.module)))
        schema = self._schema_of_table(template.table, template.module)
        bare = _identifier(template.table)
        if schema is None:
            return quote(template.table) if template.table in KEYWORDS else bare
        return f"{quote(self._physical(schema))}.{bare}"

    def _physical(self, schema: str) -> str:
        mapped = getattr(self._connection, "physical_schema", None)
        return schema if mapped is None else str(mapped(schema))

    def _schema(self, module: str | None) -> str:
        if module is not None:
            return self._of_module(module)
        if self._bound is not None:
            return self._bound
        if self._modules is None:
            return "public"  # What PostgreSQL looks in where nothing else is said.
        if self._active is not None:
            return self._active.schema_name
        fixed = self._reachable(self._modules.fixed)
        schemas = list(dict.fromkeys(module.schema for module in fixed if module.schema))
        if len(schemas) == 1:
            return schemas[0]
        raise NoActiveTenant(
            "No schema is active, so what '{{schema}}' means cannot be told. Use tenant_context(tenant), or name a "
            f"fixed module as in '{{{{schema.{fixed[0].name if fixed else 'module'}}}}}'."
        )

    def _schema_of_table(self, table: str, module: str | None) -> str | None:
        if module is not None:
            return self._of_module(module)
        if self._bound is not None or self._modules is None:
            return self._bound
        homes = homes_of_tables(self._modules).get(table, ())
        if not homes:
            # No model's table, such as one that SQL files have made: it is where such statements make tables.
            return None if self._active is None else self._active.schema_name
        if self._active is not None and any(
            home in homes for home in self._reachable(self._modules.of_active(self._active))
        ):
            return self._active.schema_name
        return self._elsewhere(table, homes, self._modules)

    def _elsewhere(self, table: str, homes: tuple[Module, ...], modules: Registry) -> str:
        """Return the schema of a table that the active one does not have."""
        near = self._reachable(homes)
        if not near:
            raise self._unreachable(f"The table {table!r} is of the module {homes[0].name!r}", homes[0])
        schemas = {module.schema: module for module in near if module.schema}
        if not all(module.is_fixed for module in near):
            tenants = ", ".join(repr(module.name) for module in near if not module.is_fixed)
            shared = "".join(f", or '{{{{tables.{m.name}.{table}}}}}' for the shared table" for m in schemas.values())
            where = "no tenant is active" if self._active is None else f"{self._active.schema_name!r} is active"
            raise NoActiveTenant(
                f"The table {table!r} is each tenant's of the module {tenants}, and {where}. Use "
                f"tenant_context(tenant) with a tenant that has it{shared}."
            )
        if len(schemas) > 1:
            ways = " or ".join(f"'{{{{tables.{module.name}.{table}}}}}'" for module in schemas.values())
            raise SqlTemplateError(f"Several modules have a table {table!r}. Say which one is meant: {ways}.")
        return next(iter(schemas))

    def _of_module(self, name: str) -> str:
        if self._modules is None and self._bound is None:
            raise SqlTemplateError(
                f"The alias {self._connection.alias!r} has no modules, so {name!r} cannot be one. Leave it out."
            )
        modules = registry()
        if modules is None:
            raise SqlTemplateError(f"The project has no PG_TENANTS, so {name!r} cannot be a module. Leave it out.")
        module = _module(name, modules)
        if self._modules is not None and not self._reachable((module,)):
            raise self._unreachable(f"A template names the module {name!r}", module)
        if module.schema is not None:
            return module.schema
        here = () if self._active is None else modules.of_active(self._active)
        if self._active is None or module not in here:
            raise NoActiveTenant(f"{name!r} is a tenant module, and no tenant of it is active. Use tenant_context().")
        return self._active.schema_name

    def _unreachable(self, what: str, module: Module) -> SqlTemplateError:
        return SqlTemplateError(
            f"{what}, which lives on the alias {module.database!r} and cannot be reached from "
            f"{self._connection.alias!r}. Send the statement with using={module.database!r}."
        )

    def _reachable(self, modules: tuple[Module, ...]) -> tuple[Module, ...]:
        assert self._modules is not None
        home = self._modules.home(self._connection.alias)
        return tuple(module for module in modules if module.database == home)


def _module(name: str, modules: Registry) -> Module:
    if name not in modules.modules:
        raise SqlTemplateError(
            f"A template names the module {name!r}, and there is none. {nearest(name, modules.modules)}"
        )
    return modules.modules[name]


def _identifier(name: str) -> str:
    return name if _NEEDS_NO_QUOTES.fullmatch(name) else quote(name)


_known: tuple[Registry, dict[str, tuple[Module, ...]]] | None = None


def homes_of_tables(modules: Registry) -> dict[str, tuple[Module, ...]]:
    """Return the modules that have a model's table, by the table's name."""
    global _known
    if _known is None or _known[0] is not modules:
        apps.check_models_ready()
        found: dict[str, dict[str, Module]] = {}
        for model in apps.get_models(include_auto_created=True):
            if not model._meta.swapped:
                homes = {module.name: module for module in modules.of_app(model._meta.app_label)}
                found.setdefault(str(model._meta.db_table), {}).update(homes)
        _known = (modules, {table: tuple(homes.values()) for table, homes in found.items() if homes})
    return _known[1]
