"""Making the test database: one for all workers, in which each has its own schemas.

``TenantTestCreation`` takes the place of Django's ``DatabaseCreation`` on the connections of a test run, so Django's
own ``setup_databases()`` does the rest: aliases of one database, mirrors, ``--parallel``, serialized contents.

A worker's schemas are made anew at its start, and nothing has to be taken away at its end: what a killed run has left
is what an ordinary one leaves.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import TYPE_CHECKING, Any

from django.apps import apps
from django.conf import settings
from django.core.management import call_command
from django.db import OperationalError, connections
from django.db.backends.postgresql.creation import DatabaseCreation
from django.test.utils import override_settings
from psycopg import pq

from pg_tenants import lookups, schemas
from pg_tenants.backends.base import TenantDatabaseWrapperMixin
from pg_tenants.context import ActiveContext
from pg_tenants.exceptions import DatabaseBusy
from pg_tenants.migrations import Target, fixed_targets, required_registry
from pg_tenants.modules import Module
from pg_tenants.names import physical_name
from pg_tenants.test import _build, _own_database
from pg_tenants.test._digest import mark, marks
from pg_tenants.test._lock import Claim, application_name, claim, drop_schemas, literal, lock_key, schemas_of
from pg_tenants.test._workers import end_with_parent

__all__ = ["MASTER", "TenantTestCreation", "creation_of", "install", "ready_name", "worker_prefix"]

MASTER = "master"
WAIT = 10.0
"""How long a run waits for another one that uses its schemas, in seconds."""


def worker_prefix(worker: str) -> str:
    """Return what a worker's schemas begin with.

    Args:
        worker: ``gw0`` for one of pytest-xdist, ``1`` for one of Django's ``--parallel``, ``master`` for the only one.
    """
    return f"test_{worker}"


def ready_name(module: Module) -> str:
    """Return the schema of the tenant that a test gets if it names none: ``tenant``, or with several tenant modules
    ``tenant_<module>``.
    """
    return "tenant" if len(required_registry().tenant) == 1 else f"tenant_{module.name}"


def install(worker: str = MASTER, **options: Any) -> list[str]:
    """Put our creation in the place of Django's on each connection that has our backend; return their aliases.

    Args:
        worker: the worker that this process is.
        options: those of ``TenantTestCreation``.
    """
    found = []
    for alias in connections:
        connection = connections[alias]
        if isinstance(connection, TenantDatabaseWrapperMixin):
            connection.creation = TenantTestCreation(connection, worker, **options)
            found.append(alias)
    return found


def creation_of(alias: str) -> TenantTestCreation | None:
    """Return what made the test database of an alias, or None outside of tests."""
    creation = connections[alias].creation
    return creation if isinstance(creation, TenantTestCreation) else None


if TYPE_CHECKING:
    _Base = Any
else:
    _Base = DatabaseCreation


class TenantTestCreation(_Base):  # type: ignore[misc]
    """Makes a worker's schemas in the one test database.

    Args:
        connection: the connection.
        worker: the worker that this process is.
        wait: how long to wait for another run that uses the schemas, in seconds.
        recreate: make the test database anew; a name of the run, so that one of its workers does so; "" for not.
        own_database: give the worker a database of its own, with schemas under their real names.

    Attributes:
        prefix: what the worker's schemas begin with.
        ready: names of tenants' schemas that are made and empty but for what migrations write, by module.
        migration_modules: the setting ``MIGRATION_MODULES`` of the run, which a test may override for itself.
    """

    def __init__(
        self,
        connection: Any,
        worker: str = MASTER,
        *,
        wait: float = WAIT,
        recreate: str = "",
        own_database: bool = False,
    ):
        super().__init__(connection)
        self._own, self._base = own_database, ""
        self._modules_before: Any = None
        self.migration_modules: Any = None
        self.prefix = worker_prefix(worker)
        self.ready: dict[str, str] = {}
        self.claim: Claim | None = None
        self._wait, self._recreate = wait, recreate

    # -- what Django's runners call -----------------------------------------------------------------------------------

    def create_test_db(
        self, verbosity: int = 1, autoclobber: bool = False, serialize: bool | None = None, keepdb: bool = False
    ) -> str:
        """Make the database if it is missing, and the worker's schemas in it; return the database's name."""
        name = self.test_name
        if verbosity >= 1:
            where = f"{self.connection.alias!r}" + (f" ({name!r})" if verbosity >= 2 else "")
            self.log(f"Making the schemas {self.prefix!r} in the test database for alias {where}...")
        self._make_database(name)
        self._enter(name, verbosity)
        if serialize:
            self.connection._test_serialized_contents = self.serialize_db_to_string()
        self.connection.ensure_connection()
        return str(self.connection.settings_dict["NAME"])

    def destroy_test_db(
        self,
        old_database_name: str | None = None,
        verbosity: int = 1,
        keepdb: bool = False,
        suffix: str | None = None,
    ) -> None:
        """Drop what tests have left. The database stays, with its templates and the worker's schemas."""
        if suffix is not None:
            if self._has_own():
                _own_database.drop(self, f"{self._base}_{suffix}")
            return
        self.connection.close()
        if self.claim is not None:
            if self.claim.users == 1:
                self._leave()
            self.claim.release()
            self.claim = None
        if self._modules_before is not None:
            settings.MIGRATION_MODULES, self._modules_before = self._modules_before, None
        if old_database_name is not None:
            settings.DATABASES[self.connection.alias]["NAME"] = old_database_name
            self._change(old_database_name, "")

    def clone_test_db(self, suffix: str, verbosity: int = 1, autoclobber: bool = False, keepdb: bool = False) -> None:
        """Do nothing: a worker of ``--parallel`` makes its schemas itself, when it starts."""

    def get_test_db_clone_settings(self, suffix: str) -> dict[str, Any]:
        """Return the settings of a worker: the same database, another prefix."""
        return self._settings(self._base, "" if self._has_own() else worker_prefix(suffix))

    def setup_worker_connection(self, _worker_id: int) -> None:
        """Become a worker of ``--parallel``: claim and make its schemas."""
        end_with_parent()
        self.claim = None  # The parent's, if this process was forked.
        self.prefix = worker_prefix(str(_worker_id))
        self.ready.clear()
        mirror = self._is_mirror()
        self._base = self._base or self._base_of(str(self.connection.settings_dict["NAME"]))
        super().setup_worker_connection(_worker_id)
        if mirror:
            self._take_claim()
            if self._has_own():
                self._change(self._own_name(), "")
        else:
            self._enter(self._base, 0)

    def test_db_signature(self) -> tuple[Any, ...]:
        """Return what tells test databases apart; an alias that is bound to a schema has tables of its own."""
        return (*super().test_db_signature(), self.connection.tenant_options.schema)

    def _is_mirror(self) -> bool:
        """Return whether an alias before this one leads to the same tables."""
        if self.connection.settings_dict["TEST"]["MIRROR"]:
            return True
        mine, others = self._place(), [alias for alias in connections if creation_of(alias)]
        return any(
            creation._place() == mine
            for alias in others[: others.index(self.connection.alias)]
            if (creation := creation_of(alias))
        )

    def _place(self) -> tuple[Any, ...]:
        where = self.connection.settings_dict
        return where["HOST"], where["PORT"], where["NAME"], self.connection.tenant_options.schema

    def set_as_test_mirror(self, primary_settings_dict: dict[str, Any]) -> None:
        """Lead the connection to the database and the schemas of another alias."""
        tenants = primary_settings_dict["OPTIONS"].get("tenants") or {}
        self._change(primary_settings_dict["NAME"], tenants.get("worker", ""))

    # -- the database -------------------------------------------------------------------------------------------------

    @property
    def test_name(self) -> str:
        """The test database's name."""
        return str(self._get_test_db_name())

    @contextmanager
    def maintenance(self) -> Iterator[Any]:
        """Give a cursor for statements about databases; such processes take turns."""
        with self._nodb_cursor() as cursor:
            # Copies of one template cannot be made at once.
            cursor.execute(f"SELECT pg_catalog.pg_advisory_lock({lock_key('')})")
            yield cursor

    def lead_to(self, name: str) -> str:
        """Lead the connection to a database, without a worker's prefix, and return the one before."""
        before = str(self.connection.settings_dict["NAME"])
        self._change(name, "")
        return before

    def exists(self, cursor: Any, name: str) -> bool:
        """Return whether the server has a database."""
        return bool(self._database_exists(cursor, name))

    def drop_database(self, cursor: Any, name: str) -> None:
        """Drop a database.

        Raises:
            DatabaseBusy: a session uses it.
        """
        self.connection.close()
        self.connection.close_pool()
        try:
            cursor.execute(f"DROP DATABASE {self.connection.ops.quote_name(name)}")
        except OperationalError as exc:
            raise DatabaseBusy(
                f"The test database {name!r} cannot be dropped: {exc}. Wait for the test run or the session that uses "
                "it, or end it."
            ) from exc

    def _make_database(self, name: str) -> None:
        quoted = self.connection.ops.quote_name(name)
        mark = f"pg_tenants: made anew for the run {self._recreate}"
        with self.maintenance() as cursor:
            there = self.exists(cursor, name)
            if there and self._recreate and self.comment(cursor, name) != mark:
                self.drop_database(cursor, name)
                there = False
            if not there:
                cursor.execute(f"CREATE DATABASE {quoted} {self.sql_table_creation_suffix()}")
                if self._recreate:
                    cursor.execute(f"COMMENT ON DATABASE {quoted} IS {literal(mark)}")

    def make_early(self) -> None:
        """Make the database with its templates, if it is missing, before a worker asks for it."""
        name = self.test_name
        if not _build.has_templates(self.connection) or not self._migrates() or self._is_mirror():
            return
        with self.maintenance() as cursor:
            if self.exists(cursor, name):
                return
        self._make_database(name)
        self.lead_to(name)
        _build.make_templates(self.connection, self.fixed)

    def comment(self, cursor: Any, name: str) -> str | None:
        """Return a database's comment."""
        cursor.execute(
            "SELECT pg_catalog.shobj_description(oid, 'pg_database') FROM pg_catalog.pg_database WHERE datname = %s",
            [name],
        )
        row = cursor.fetchone()
        return None if row is None else row[0]

    def _enter(self, name: str, verbosity: int) -> None:
        """Lead the connection to the worker's schemas, or to its database, and make them."""
        self._base = name
        self._leave_migrations_out()
        self.migration_modules = settings.MIGRATION_MODULES
        self._change(name, "" if self._has_own() else self.prefix)
        self._take_claim()
        if self._has_own():
            self._change(_own_database.clone(self, name, self._worker()), "")
        else:
            self._make_schemas(verbosity)
        settings.DATABASES[self.connection.alias]["NAME"] = self.connection.settings_dict["NAME"]

    def _leave_migrations_out(self) -> None:
        """Have tables made of the models, if ``TEST["MIGRATE"]`` is False: for the whole run, as tests make tenants."""
        if not self.connection.is_tenant_aware or self._migrates() or self._modules_before is not None:
            return
        before, alias = settings.MIGRATION_MODULES, self.connection.alias
        own = {label for module in required_registry() if module.database == alias for label in module.apps}
        self._modules_before = before
        settings.MIGRATION_MODULES = {**before, **dict.fromkeys(own)}

    def _migrates(self) -> bool:
        """Return whether migrations make the tables; also where all of the project's are switched off already."""
        is_switched_off = not isinstance(settings.MIGRATION_MODULES, dict)
        return is_switched_off or self.connection.settings_dict["TEST"]["MIGRATE"] is not False

    def _leave(self) -> None:
        if self._has_own():
            self.connection.close_pool()
            _own_database.drop(self, self._own_name())
        else:
            self.drop_made_by_test(keep_ready=True)

    def _has_own(self) -> bool:
        return self._own and _build.has_templates(self.connection)

    def _worker(self) -> str:
        return self.prefix.removeprefix("test_")

    def _own_name(self) -> str:
        return f"{self._base}_{self._worker()}"

    def _base_of(self, name: str) -> str:
        """Return the test database from what a process that began from nothing was told: the parent's database."""
        return name.removesuffix(f"_{MASTER}") if self._has_own() else name

    def _change(self, name: str, prefix: str) -> None:
        """Lead the connection, and those that other threads make, to a database and to a worker's schemas."""
        self.connection.close()
        self.connection.close_pool()
        self.connection.settings_dict.update(self._settings(name, prefix))

    def _settings(self, name: str, prefix: str) -> dict[str, Any]:
        before = self.connection.settings_dict
        options = dict(before["OPTIONS"])
        options["tenants"] = {**(options.get("tenants") or {}), "worker": prefix}
        if str(options.get("application_name", "pg_tenants: ")).startswith("pg_tenants: "):
            options["application_name"] = application_name(prefix)
        if not prefix:
            options.pop("application_name", None)
        return {**before, "NAME": name, "OPTIONS": options}

    def _take_claim(self) -> None:
        self.claim = claim(self.connection, self.prefix, self._wait)

    # -- the schemas --------------------------------------------------------------------------------------------------

    def _make_schemas(self, verbosity: int) -> None:
        assert self.claim is not None
        if _build.has_templates(self.connection):
            _build.make_templates(self.connection, self.fixed)
        if self.claim.users == 1:
            self._drop_stale()
        with self._of_bound_alias():
            _build.make_schemas(self.connection, self.fixed, verbosity)
        call_command("createcachetable", database=self.connection.alias)
        self.mark(self.fixed)

    def _of_bound_alias(self) -> AbstractContextManager[Any]:
        """Leave the migrations of all apps out meanwhile, as Django does, for an alias that has one schema."""
        if self.connection.is_tenant_aware or self._migrates():
            return nullcontext()
        return override_settings(MIGRATION_MODULES={config.label: None for config in apps.get_app_configs()})

    def _drop_stale(self) -> None:
        """Drop what an earlier run has left, but for schemas that are as they would be made now."""
        assert self.claim is not None
        names = self.own_schemas()
        self.ready.clear()
        there = marks(self.claim.execute, names) if names else {}
        kept = [self._is_kept(target, there) for target in self.fixed]
        if there and all(kept):
            # Tenants' tables refer to those of fixed modules, so they go with them.
            for module in required_registry().tenant:
                target = Target(ready_name(module), (module,))
                if module.database == self.connection.alias and self._is_kept(target, there):
                    self.ready[module.name] = target.schema
            self.drop_made_by_test(keep_ready=True)
        else:
            drop_schemas(self.claim.execute, names)

    def _is_kept(self, target: Target, there: dict[str, str]) -> bool:
        made_by = there.get(physical_name(target.schema, self.prefix))
        return bool(made_by) and made_by == _build.identity(self.connection, target)

    def mark(self, targets: list[Target]) -> None:
        """Note on schemas what made them, and what they have, for the next run."""
        assert self.claim is not None
        if self._has_own():
            return
        made_by = {
            physical_name(target.schema, self.prefix): found
            for target in targets
            if (found := _build.identity(self.connection, target))
        }
        if made_by:
            mark(self.claim.execute, made_by)

    @property
    def fixed(self) -> list[Target]:
        """Return the fixed modules' schemas of this alias."""
        return fixed_targets(self.connection.alias) if self.connection.is_tenant_aware else []

    @property
    def lasting(self) -> list[str]:
        """Return the schemas of this alias that are no tenant's: the fixed modules', or the one that it is bound to."""
        bound = self.connection.tenant_options.schema
        return [*(target.schema for target in self.fixed), *([bound] if bound else [])]

    def own_schemas(self) -> list[str]:
        """Return the names, in the database, of the worker's schemas."""
        assert self.claim is not None
        return schemas_of(self.claim.execute, self.prefix)

    def drop_made_by_test(self, *, keep_ready: bool = False) -> None:
        """Drop the schemas that a test has made and committed: the tenants' and others, but not the fixed modules'.

        Args:
            keep_ready: the ready schemas stay; a test that commits may have written to them.
        """
        assert self.claim is not None
        sharing = [other for alias in connections if (other := creation_of(alias)) and other.claim is self.claim]
        logical = [name for creation in sharing for name in creation.lasting]
        if keep_ready:
            logical += self.ready.values()
        else:
            self.ready.clear()
        if self._has_own():
            names = [name for name in schemas.list(using=self.connection.alias) if name not in logical]
            with self.connection.without_prefix() as execute:
                drop_schemas(execute, names)
        else:
            kept = {physical_name(name, self.prefix) for name in logical}
            drop_schemas(self.claim.execute, [name for name in self.own_schemas() if name not in kept])
        lookups.forget()

    def recover(self) -> None:
        """Give up a connection that a test has lost, or left in a transaction of its own: the next one begins anew."""
        connection = self.connection
        if connection.connection is None or connection.in_atomic_block:
            return
        is_idle = connection.connection.pgconn.transaction_status == pq.TransactionStatus.IDLE
        if not is_idle or (connection.errors_occurred and not connection.is_usable()):
            connection.close()

    # -- serialized contents ------------------------------------------------------------------------------------------

    def serialize_db_to_string(self) -> str:
        """Return the rows of the fixed modules' tables as JSON: what Django's own method says, by schema."""
        if not self.connection.is_tenant_aware:
            return str(super().serialize_db_to_string())
        found = {}
        for target in self.fixed:
            with ActiveContext(target.active):
                found[target.schema] = super().serialize_db_to_string()
        return json.dumps(found)

    def deserialize_db_from_string(self, data: str) -> None:
        """Load what ``serialize_db_to_string()`` returned."""
        if not self.connection.is_tenant_aware:
            super().deserialize_db_from_string(data)
            return
        for target in self.fixed:
            with ActiveContext(target.active):
                super().deserialize_db_from_string(json.loads(data)[target.schema])
