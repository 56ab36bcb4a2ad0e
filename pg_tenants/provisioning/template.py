"""Templates: the script that builds a fresh schema of a module at its newest state.

A template belongs to the modules of a ``Target`` and is kept in the database, in ``public.pg_tenants_templates``, under
the fingerprint of all that decides how the schema looks. So one that is found is never stale.

- ``load(target)`` returns the ``Script`` that is kept, ``Refused`` where there can be none, or None.
- ``build(target)`` makes and keeps it, whether one is there or not, and returns it or ``Refused``.
- ``script.replay(target)`` runs it in a schema that ``schemas.create`` has just made.
- ``define(target, …)`` makes what ``--verify`` compares with.
- ``fill(target)`` does that, or migrates where there is no script, and tells the receivers of the migrate signals.

Targets may be tenants' schemas or fixed modules'. A test worker's prefix is not part of a script, so workers share it.
"""

from __future__ import annotations

import logging
import secrets
import uuid
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from django.apps import apps
from django.db import DEFAULT_DB_ALIAS, DatabaseError, OperationalError, transaction

from pg_tenants import schemas
from pg_tenants.backends.prefix import quote
from pg_tenants.catalog import differences
from pg_tenants.context import ActiveContext, no_schema
from pg_tenants.migrations import Options, Target, migrate_target, required_registry
from pg_tenants.modules import Module
from pg_tenants.provisioning import content, receivers, store
from pg_tenants.provisioning.fingerprint import code_of_migrations, fingerprint, hash_of_modules
from pg_tenants.provisioning.recorder import Recorder, Tripwire

__all__ = ["Refused", "Script", "build", "define", "fill", "fill_from", "load", "refresh"]

logger = logging.getLogger("pg_tenants")

_SHOWN = 5
_warned: set[tuple[str, str]] = set()


@dataclass(frozen=True, slots=True)
class Script:
    """What builds a fresh schema.

    Attributes:
        key: the modules that it is of.
        definitions: SQL that makes tables and all else that is defined, with names of the schema itself unqualified.
        rows: SQL that writes rows and sets sequences.
        migrations: ``app.name`` of the migrations that the schema then has recorded.
        locks: how many locks one transaction takes to make the schema.
        version: differs between scripts that make different schemas.
    """

    key: str
    definitions: str
    rows: str
    migrations: tuple[str, ...]
    locks: int
    version: str = ""

    def replay(self, target: Target, *, using: str = DEFAULT_DB_ALIAS) -> None:
        """Build everything in the empty schema of a target, in one message.

        Raises:
            DatabaseError: a statement failed; nothing of it stays.
        """
        self.run(target, f"{self.definitions}\n;\n{self.rows}", using=using)

    def run(self, target: Target, text: str, *, using: str) -> None:
        """Run a part of the script in the schema of a target."""
        connection = schemas.tenant_connection(using)
        for name in required_registry().fixed_schemas:
            text = text.replace(f"{_placeholder(name)}.", f"{quote(connection.physical_schema(name))}.")
        text = content.with_fresh_uuids(text)
        with ActiveContext(target.active), transaction.atomic(using=using), connection.without_prefix() as execute:
            prefix = connection.statement_prefix()
            assert prefix is not None
            execute(prefix.simple.decode() + text + prefix.check.decode())


@dataclass(frozen=True, slots=True)
class Refused:
    """Why there is no template: the schemas of these modules are migrated one by one."""

    key: str
    reason: str


def load(target: Target, *, using: str = DEFAULT_DB_ALIAS) -> Script | Refused | None:
    """Return the template of a target's modules as they are now, or why there is none; None if it is still to be made.

    Args:
        target: a schema of these modules; which one makes no difference.
        using: the database alias.
    """
    for row in store.rows(_key(target), fingerprint(target, using=using), using=using):
        if hash_of_modules(row.code) == row.code_hash:
            if row.reason:
                return Refused(row.module, row.reason)
            return _script(row)
    return None


def refresh(*, using: str = DEFAULT_DB_ALIAS, tell: Callable[[str], None] | None = None) -> list[Script | Refused]:
    """Make the templates of the tenant modules on an alias that are missing or stale, and return them.

    Args:
        using: the database alias.
        tell: is called with the name of each module before its template is made.

    Raises:
        DatabaseError: the server has failed; what was made before is kept.
        SchemaNotPermitted: the templates' table cannot be made.
    """
    made = []
    for module in required_registry().tenant:
        if module.database != using:
            continue
        target = Target("", (module,))
        if load(target, using=using) is not None:
            continue
        if tell:
            tell(module.name)
        with no_schema(), transaction.atomic(using=using):
            store.lock(using=using)
            # Another run may have made it while this one waited.
            made.append(load(target, using=using) or build(target, using=using))
    return made


# -- make -------------------------------------------------------------------------------------------------------------


def build(target: Target, *, using: str = DEFAULT_DB_ALIAS, once: bool = False) -> Script | Refused:
    """Make the template of a target's modules, keep it, and return it.

    The migrations are run twice, in schemas that are rolled back, and the script is run once. It is kept if all three
    are equal, and else why they are not. Where the migrations fail, nothing is kept.

    Args:
        target: a schema of these modules; it is not touched, and need not be there.
        using: the database alias.
        once: for a database of tests, where fixed modules' tables need not be there yet: they are made beside, and
            rolled back, too. The migrations are run once alone: what a data migration makes up is then the same in
            each schema.

    Raises:
        DatabaseError: the server has failed; nothing is kept.
        SchemaNotPermitted: the templates' table, or a schema, cannot be made.
    """
    with no_schema(), transaction.atomic(using=using):
        store.lock(using=using)
        mark, code = fingerprint(target, using=using), code_of_migrations(target)
        try:
            made: Script | Refused = _Builder(target, using, once=once).build()
        except _Failed as exc:
            # What is wrong may be put right without a change of the migrations.
            return Refused(_key(target), str(exc))
        except _Unfit as exc:
            made = Refused(_key(target), str(exc))
        row = store.Row(module=made.key, fingerprint=mark, code=code, code_hash=hash_of_modules(code))
        if isinstance(made, Refused):
            row.reason = made.reason
        else:
            row.definitions, row.rows, row.locks = made.definitions, made.rows, made.locks
            row.migrations = list(made.migrations)
        store.save(row, using=using)
    return made if isinstance(made, Refused) else _script(row)


def _script(row: store.Row) -> Script:
    version = f"{row.fingerprint}:{row.code_hash}"
    return Script(row.module, row.definitions, row.rows, tuple(row.migrations), row.locks, version)


class _Unfit(Exception):
    """There can be no template; the text says why."""


class _Failed(_Unfit):
    """The migrations cannot be run as things are."""


class _Builder:
    def __init__(self, target: Target, using: str, *, once: bool):
        self.modules = target.modules
        self.once = once
        self.key = _key(target)
        self.is_fixed = any(module.is_fixed for module in target.modules)
        self.is_apart = self.is_fixed or once
        self.schema = target.schema
        self.using = using
        self.connection = schemas.tenant_connection(using)

    def build(self) -> Script:
        """Run the migrations, and return a script that does the same.

        Raises:
            _Failed: the migrations cannot be run as things are.
            _Unfit: no script does what they do.
        """
        with self._scratch() as target:
            first, recorder, migrations = self._recorded(target)
            if self.once:
                return self._script(target, first, recorder, migrations)
        with self._scratch() as target:
            second, _, migrations = self._recorded(target)
            wanted, differing = content.merged(first, second, _random_columns(self.modules))
            if differing:
                raise _Unfit(f"two runs of the migrations left different values in {_listed(differing)}")
            # What the first run did must make what the second one made.
            return self._script(target, wanted, recorder, migrations)

    @contextmanager
    def _scratch(self) -> Iterator[Target]:
        """Make a schema that is rolled back at the end."""
        name = f"template_{secrets.token_hex(8)}"
        with transaction.atomic(using=self.using), self._apart(name):
            target = Target(self.schema if self.is_fixed else name, self.modules)
            for schema in dict.fromkeys((*self._needed(), target.schema)):
                schemas.create(schema, using=self.using)
            yield target
            transaction.set_rollback(True, using=self.using)

    def _needed(self) -> list[str]:
        """Return the fixed modules' schemas that have to be there beside the one that is built."""
        fixed = [module for module in required_registry().fixed if module.database == self.using]
        return [module.schema for module in fixed if module.schema] if self.is_apart else []

    @contextmanager
    def _apart(self, name: str) -> Iterator[None]:
        """Have fixed modules' schemas, which have one name each, built beside those that are there."""
        if not self.is_apart:
            yield
            return
        with self.connection.as_worker(name):
            yield

    def _recorded(self, target: Target) -> tuple[content.Content, Recorder, tuple[str, ...]]:
        physical = self.connection.physical_schema(target.schema)
        recorder = Recorder(self.connection, physical)
        running = Target(target.schema, target.modules, None if self.is_fixed else Tripwire(recorder))
        for other in self._before(target):
            migrate_target(other, Options(verbosity=0, run_syncdb=True), using=self.using)
        try:
            with recorder.recording(), receivers.djangos_only():
                migrations = migrate_target(running, Options(verbosity=0, run_syncdb=True), using=self.using)
        except Exception as exc:
            if recorder.refusals:
                raise _Unfit("; ".join(recorder.refusals[:_SHOWN])) from exc
            raise _Failed(f"the migrations fail in a schema without a tenant: {type(exc).__name__}: {exc}") from exc
        if recorder.refusals:
            raise _Unfit("; ".join(recorder.refusals[:_SHOWN]))
        with self._reading() as execute:
            found = content.read(execute, physical)
        return found, recorder, tuple(name for name in migrations if not name.startswith("("))

    def _before(self, target: Target) -> list[Target]:
        """Return the fixed modules' schemas that are migrated before this one, in their order."""
        needed = self._needed()
        names = list(dict.fromkeys(needed[: needed.index(target.schema)] if self.is_fixed else needed))
        return [Target(name, required_registry().of_schema(name, self.using)) for name in names]

    @contextmanager
    def _reading(self) -> Iterator[Callable[[str], Any]]:
        with transaction.atomic(using=self.using), self.connection.without_prefix() as execute:
            yield execute
            # Takes the settings of the transaction back.
            transaction.set_rollback(True, using=self.using)

    def _script(self, made: Target, wanted: content.Content, recorder: Recorder, migrations: tuple[str, ...]) -> Script:
        """Write the script, and run it beside the schema that it is to equal."""
        definitions = self._portable("\n;\n".join(recorder.statements))
        name = f"template_{secrets.token_hex(8)}"
        copy = Target(f"{made.schema}_copy", made.modules) if self.is_fixed else Target(name, made.modules)
        schemas.create(copy.schema, using=self.using)
        before = self._locks()
        physical, model = (self.connection.physical_schema(target.schema) for target in (copy, made))
        try:
            Script(self.key, definitions, "", (), 0).replay(copy, using=self.using)
            with self._reading() as execute:
                tables = content.read(execute, physical).tables
            filled = [table for table, found in tables.items() if found.rows and not found.is_view]
            rows = "\n;\n".join(content.statements(wanted, filled))
            script = Script(self.key, definitions, rows, migrations, 0)
            script.run(copy, rows, using=self.using)
        except OperationalError as exc:
            raise _Failed(f"the recorded statements cannot be run now: {str(exc).strip()}") from exc
        except DatabaseError as exc:
            raise _Unfit(f"the recorded statements fail: {str(exc).strip()}") from exc
        locks = self._locks() - before
        found = [str(difference) for difference in differences(model, physical, using=self.using)]
        with self._reading() as execute:
            found += content.same(wanted, content.read(execute, physical))
        if found:
            raise _Unfit(
                f"the recorded statements make another schema than the migrations; they differ in {_listed(found)}"
            )
        return Script(self.key, definitions, rows, migrations, locks)

    def _portable(self, text: str) -> str:
        for name in required_registry().fixed_schemas:
            text = text.replace(f"{quote(self.connection.physical_schema(name))}.", f"{_placeholder(name)}.")
        return text

    def _locks(self) -> int:
        with self.connection.without_prefix() as execute:
            query = "SELECT count(*) FROM pg_catalog.pg_locks WHERE pid = pg_catalog.pg_backend_pid()"
            return int(execute(query).fetchone()[0])


def _placeholder(schema: str) -> str:
    return f'"{{pg_tenants:schema:{schema}}}"'


def _random_columns(modules: Iterable[Module]) -> set[tuple[str, str | None]]:
    """Return the tables and columns of fields whose default is a random UUID: theirs is another one in each row."""
    labels = {label for module in modules for label in module.apps}
    return {
        (str(model._meta.db_table), field.column)
        for label in labels
        for model in apps.get_app_config(label).get_models(include_auto_created=True)
        for field in model._meta.local_concrete_fields
        if field.default is uuid.uuid4
    }


def _key(target: Target) -> str:
    return ",".join(module.name for module in target.modules)


def _listed(names: Sequence[str]) -> str:
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return ", ".join(names[:_SHOWN]) + more


# -- use --------------------------------------------------------------------------------------------------------------


def fill(target: Target, *, using: str = DEFAULT_DB_ALIAS) -> None:
    """Bring a schema that has just been made to the newest state: by the template, or by the migrations.

    Raises:
        Exception: whatever a migration or a receiver of a migrate signal raises.
    """
    fill_from(load(target, using=using), target, using=using)


def define(target: Target, using: str, migrations: frozenset[str]) -> bool:
    """Make in an empty schema, without rows, what migrations make, if the template is of these.

    Args:
        target: the schema.
        using: the database alias.
        migrations: all that are to be in it, as ``app.name``.

    Returns:
        whether it was made; if not, the schema is still empty.
    """
    found = load(target, using=using)
    if not isinstance(found, Script) or set(found.migrations) != migrations:
        return False
    try:
        found.run(target, found.definitions, using=using)
    except OperationalError:
        raise
    except DatabaseError:
        return False
    return True


def fill_from(found: Script | Refused | None, target: Target, *, using: str, defined: bool = False) -> None:
    """Do as ``fill`` by a template that was looked for already.

    Args:
        found: what ``load`` has returned.
        target: the schema, which is empty.
        using: the database alias.
        defined: the script's definitions are there already, so that its rows alone are to be written.

    Raises:
        Exception: whatever a migration or a receiver of a migrate signal raises.
    """
    if isinstance(found, Script):
        receivers.tell_before(target, found.migrations, using=using)
        try:
            if defined:
                found.run(target, found.rows, using=using)
            else:
                found.replay(target, using=using)
        except OperationalError:
            raise
        except DatabaseError as exc:
            if defined:
                raise
            found = Refused(found.key, f"its script failed: {str(exc).strip()}")
        else:
            receivers.tell_after(target, found.migrations, using=using)
            return
    _warn_once(_key(target), found)
    migrate_target(target, Options(verbosity=0, run_syncdb=True), using=using)


def _warn_once(key: str, found: Refused | None) -> None:
    if found is None:
        reason, remedy = "is missing or stale", "Run migrate_schemas, which makes it."
    else:
        reason, remedy = f"cannot be used: {found.reason}", "See the explanation of provisioning in the documentation."
    if (key, reason) not in _warned:
        _warned.add((key, reason))
        logger.warning(
            "The template of the module %r %s. Its schemas are made by running all migrations, which takes longer. %s",
            key,
            reason,
            remedy,
        )
