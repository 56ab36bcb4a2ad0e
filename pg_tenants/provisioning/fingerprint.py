"""What a template is made of, as a hash: the same hash means the same schema.

Files are read by their content, and kept in the process until their size or time changes.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import importlib.util
import sys
from collections.abc import Iterable, Iterator
from functools import cache
from pathlib import Path
from types import CodeType, FunctionType, ModuleType
from typing import Any
from weakref import ReferenceType

import django
from django.apps import AppConfig, apps
from django.db.migrations.loader import MigrationLoader
from django.db.migrations.operations import RunPython, SeparateDatabaseAndState
from django.db.models import Model
from django.db.models.signals import post_migrate
from django.utils.translation import override

from pg_tenants import conf
from pg_tenants.migrations import ModuleLoader, Target, required_registry
from pg_tenants.modules import Module
from pg_tenants.schemas import tenant_connection

__all__ = ["DJANGOS_RECEIVERS", "code_of_migrations", "fingerprint", "hash_of_modules", "receiver_of"]

_FORM = 1
"""Raised when templates are made in another way, so that those that are stored are made anew."""

DJANGOS_RECEIVERS = frozenset(f"django.contrib.{app}.management" for app in ("auth", "contenttypes", "sites"))
"""Modules of Django whose receivers of migrate signals write rows that are the same in each new schema."""


def fingerprint(target: Target, *, using: str) -> str:
    """Return the hash of all that decides how a fresh schema of a target looks.

    These are the migrations of its modules' apps and of the fixed modules' apps, which foreign keys may lead to; the
    models of its apps, of which permissions and content types are made; extensions, the placement of modules, and the
    versions of Django, pg_tenants and the server.
    """
    modules, connection = required_registry(), tenant_connection(using)
    own = _configs(target.apps)
    fixed = [module for module in modules.fixed if module.database == using]
    near = _configs({label for module in fixed for label in module.apps} - target.apps)
    parts: list[object] = [
        _FORM,
        _own_version(),
        django.VERSION,
        connection.pg_version // 10000,
        modules.extensions_schema,
        [_placement(module) for module in (*target.modules, *fixed)],
        [conf.django_setting(name) for name in ("AUTH_USER_MODEL", "DEFAULT_AUTO_FIELD")],
        conf.django_setting("SITE_ID") if apps.is_installed("django.contrib.sites") else None,
        sorted(_djangos_receivers()),
        [_migrations(config, connection) for config in (*own, *near)],
        [_models(config) for config in own],
    ]
    return hashlib.sha256(repr(parts).encode()).hexdigest()


def _configs(labels: Iterable[str]) -> list[AppConfig]:
    return [apps.get_app_config(label) for label in sorted(labels) if label in apps.app_configs]


def _placement(module: Module) -> object:
    folder: Path | None = getattr(module, "sql_migrations", None)
    files = hash_of_files(sorted(Path(folder).glob("*.sql"))) if folder else ""
    return module.name, module.schema, sorted(module.apps), sorted(module.extensions), files


@cache
def _own_version() -> str:
    try:
        return importlib.metadata.version("pg_tenants")
    except importlib.metadata.PackageNotFoundError:
        return ""


def receiver_of(entry: tuple[Any, ...]) -> Any:
    """Return the function of an entry in a signal's list of receivers; None where it is gone."""
    found = entry[1]
    return found() if isinstance(found, ReferenceType) else found


def _djangos_receivers() -> Iterator[str]:
    for entry in post_migrate.receivers:
        function = receiver_of(entry)
        if getattr(function, "__module__", "") in DJANGOS_RECEIVERS:
            yield f"{function.__module__}.{function.__qualname__}"


def _migrations(config: AppConfig, connection: Any) -> object:
    folder = _migrations_folder(config.label)
    if folder is None:
        # Without migrations the tables are those of the models as they are written.
        return config.label, _tables(config, connection)
    return config.label, hash_of_files(sorted(folder.rglob("*.py")))


@cache
def _find_folder(name: str) -> Path | None:
    try:
        spec = importlib.util.find_spec(name)
    except ModuleNotFoundError:
        return None
    places = list(spec.submodule_search_locations or ()) if spec else []
    return Path(places[0]) if places else None


def _migrations_folder(label: str) -> Path | None:
    name, _ = MigrationLoader.migrations_module(label)
    return None if name is None else _find_folder(name)


def _tables(config: AppConfig, connection: Any) -> object:
    """Return the code of an app's models, of what they inherit and of their fields, and the columns that follow.

    What a column's type takes from elsewhere, such as a length from a constant in another file, is in the columns.
    """
    models = list(config.get_models(include_auto_created=True))
    fields = [field for model in models for field in model._meta.local_concrete_fields]
    classes = {cls for made in (*models, *map(type, fields)) for cls in made.__mro__}
    columns = [
        (field.model.__name__, field.column, field.db_type(connection), field.null, field.unique) for field in fields
    ]
    return hash_of_modules(_not_djangos(cls.__module__ for cls in classes)), columns


def _models(config: AppConfig) -> object:
    # Names may be translated lazily; permissions keep them untranslated.
    with override(None):
        return [_model(model) for model in config.get_models(include_swapped=True)]


def _model(model: type[Model]) -> object:
    meta = model._meta
    return (
        model.__name__,
        str(meta.db_table),
        meta.managed,
        meta.proxy,
        str(meta.swapped),
        str(meta.verbose_name),
        list(meta.default_permissions),
        [(codename, str(name)) for codename, name in meta.permissions],
    )


# -- code that migrations run -----------------------------------------------------------------------------------------


def code_of_migrations(target: Target) -> list[str]:
    """Return the names of the modules outside the migrations whose functions its migrations' Python code runs.

    Looked at are the functions of ``RunPython`` and, in the same file, those that they name. Django's own modules and
    those of Python are left out: versions stand for them.
    """
    found: set[str] = set()
    for (label, _), migration in ModuleLoader(None, ()).disk_migrations.items():
        if label in target.apps:
            for operation in _flat(migration.operations):
                if isinstance(operation, RunPython):
                    found |= _modules_of(operation.code, set())
    return sorted(_not_djangos(found))


def _not_djangos(names: Iterable[str]) -> set[str]:
    """Return the modules that are neither Django's nor Python's, whose versions stand for them."""
    return {name for name in names if name.partition(".")[0] not in {"django", *sys.stdlib_module_names}}


def _flat(operations: Iterable[Any]) -> Iterator[Any]:
    for operation in operations:
        if isinstance(operation, SeparateDatabaseAndState):
            yield from _flat(operation.database_operations)
        else:
            yield operation


def _modules_of(function: Any, seen: set[Any]) -> set[str]:
    code = getattr(function, "__code__", None)
    if code is None or function in seen:
        return {function.__module__} if isinstance(getattr(function, "__module__", None), str) else set()
    seen.add(function)
    found = {function.__module__}
    for name in _names(code):
        value = function.__globals__.get(name)
        if isinstance(value, ModuleType):
            found.add(value.__name__)
        elif isinstance(value, FunctionType) and value.__module__ == function.__module__:
            found |= _modules_of(value, seen)
        elif isinstance(getattr(value, "__module__", None), str):
            found.add(value.__module__)
    return found


def _names(code: CodeType) -> Iterator[str]:
    yield from code.co_names
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield from _names(constant)


# -- files ------------------------------------------------------------------------------------------------------------

_hashes: dict[Path, tuple[int, int, str]] = {}


def hash_of_modules(names: Iterable[str]) -> str:
    """Return the hash of the files of Python modules."""
    return hash_of_files(_files_of_modules(names))


def _files_of_modules(names: Iterable[str]) -> list[Path]:
    return [path for name in sorted(names) if (path := _file_of(name)) is not None]


@cache
def _file_of(name: str) -> Path | None:
    try:
        spec = importlib.util.find_spec(name)
    except (ImportError, ValueError):
        return None
    return Path(spec.origin) if spec and spec.origin and spec.has_location else None


def hash_of_files(paths: Iterable[Path]) -> str:
    """Return the hash of files' names and contents, in the order given."""
    whole = hashlib.sha256()
    for path in paths:
        whole.update(f"{path.name} {_hash_of(path)}\n".encode())
    return whole.hexdigest()


def _hash_of(path: Path) -> str:
    stat = path.stat()
    known = _hashes.get(path)
    if known is None or known[:2] != (stat.st_mtime_ns, stat.st_size):
        known = (stat.st_mtime_ns, stat.st_size, hashlib.sha256(path.read_bytes()).hexdigest())
        _hashes[path] = known
    return known[2]
