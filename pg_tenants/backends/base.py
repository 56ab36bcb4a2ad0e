"""What our database wrappers add to Django's: the prefix, the pooler, the bound callbacks."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Any
from weakref import WeakSet

import psycopg
from django.apps import apps
from django.core.signals import setting_changed
from django.db import DEFAULT_DB_ALIAS, connections
from django.db.backends.base.base import NO_DB_ALIAS
from django.dispatch import receiver
from django.utils.functional import cached_property

from pg_tenants import conf
from pg_tenants.access import wanted
from pg_tenants.backends.connecting import attempt, connecting_class, connection_hint, watch
from pg_tenants.backends.cursor import BACKEND_PID
from pg_tenants.backends.errors import TenantCursorWrapper, TenantErrorWrapper
from pg_tenants.backends.kinds import attach
from pg_tenants.backends.prefix import EMPTY, Prefix, build_prefix, quote, take_role, with_settings
from pg_tenants.backends.schema import SchemaWatcher
from pg_tenants.context import ActiveSchema, active, bind, current
from pg_tenants.databases import forget_password, password_of
from pg_tenants.exceptions import ConfigurationError
from pg_tenants.modules import registry
from pg_tenants.names import MARKER_TABLE, physical_name, role_name
from pg_tenants.observations import store

if TYPE_CHECKING:
    from django.db.backends.postgresql.base import DatabaseWrapper

    _Base = DatabaseWrapper
else:
    _Base = object

__all__ = ["DATABASE", "TenantDatabaseWrapperMixin", "tenant_connection"]

_PREFIXES_KEPT = 1024
DATABASE = "SELECT oid FROM pg_catalog.pg_database WHERE datname = pg_catalog.current_database()"
"""Asks for the oid of the database, by which tenants' roles are named."""

_ACTIVE, _EXTENSIONS = "active", "extensions"
READONLY = (("transaction_read_only", "on"),)
_wrappers: WeakSet[TenantDatabaseWrapperMixin] = WeakSet()


class TenantDatabaseWrapperMixin(_Base):
    """Makes every statement of a connection carry its tenant."""

    def __init__(self, settings_dict: dict[str, Any], alias: str = DEFAULT_DB_ALIAS):
        # Who asks for the connection first may know it by an alias that carries a tenant.
        super().__init__(settings_dict, str(alias))
        self._options: tuple[object, conf.AliasOptions] | None = None
        self.prefixes: dict[Hashable, Prefix] = {}
        self._narrowed: str | None = None
        self._pooled: tuple[object, bool] | None = None
        self.qualifies_own_tables = False
        self.limits: tuple[tuple[str, str], ...] = ()
        self.readonly_by_default = False
        self.slow_after: float | None = None
        self.bound_to: str | None = None
        self.schema_watchers: list[SchemaWatcher] = []
        self.waits_for_nobody = False
        """Whether a schema is made that nobody else can see yet, so that indexes need not be made concurrently."""
        self.remakes_indexes = False
        """Whether an index of the name of one that is made concurrently is what a killed session has left."""
        self.database_oid: int | None = None
        """Which database the connection leads to, where tenants' roles are used: they are named by it."""
        _wrappers.add(self)

    @property
    def tenant_options(self) -> conf.AliasOptions:
        """Return the alias's ``OPTIONS["tenants"]``, parsed."""
        raw = self.settings_dict["OPTIONS"].get("tenants")
        if self._options is None or self._options[0] is not raw:
            self._options = (raw, conf.alias_options(raw, self.alias))
            self.prefixes.clear()
        return self._options[1]

    @property
    def is_tenant_aware(self) -> bool:
        """Whether the active schema decides where this alias's statements run."""
        return self.alias != NO_DB_ALIAS and self.tenant_options.schema is None and conf.get() is not None

    # -- the path -----------------------------------------------------------------------------------------------------

    def statement_prefix(self) -> Prefix | None:
        """Return what goes before a statement sent now; None where the alias has no schema to choose.

        It is kept in ``prefixes`` by the key of the context's entry, where cursors look first.

        Raises:
            ConfigurationError: ``PG_TENANTS["ROLES"]`` was switched on after the connection was made.
        """
        if self.alias == NO_DB_ALIAS:
            return None
        entry = current.get()
        options = self.tenant_options
        if options.schema is not None:
            schema: str | None = options.schema
        elif conf.get() is None:
            return EMPTY if options.timeouts.settings or self.is_readonly else None
        else:
            if entry is not None and not self._reaches(entry.active):
                # Never kept by the entry's key: which database a schema is in may change with its tenant's module.
                entry = None
            schema = None if entry is None else entry.schema_name
        proved = None if schema is None or self._narrowed == _EXTENSIONS else self.physical_schema(schema)
        key = None if entry is None else entry.key
        prefix = self.prefixes.get(key)
        if prefix is None:
            if len(self.prefixes) > _PREFIXES_KEPT:
                self.prefixes.clear()
            role = self._role(proved) if self.uses_roles else None
            identity = None if entry is None or entry.active is None or options.schema else entry.active.identity
            prefix = build_prefix(self.search_path(schema), proved, role, self.own_role, identity)
            self.prefixes[key] = prefix
        return prefix

    def _reaches(self, target: ActiveSchema | None) -> bool:
        modules = registry()
        return target is None or modules is None or modules.reaches(target, self.alias)

    @property
    def schema_here(self) -> str | None:
        """The active schema, if it is one of this alias's database; the fixed modules alone are seen if not."""
        target = active()
        return target.schema_name if target is not None and self._reaches(target) else None

    @property
    def own_role(self) -> str:
        """Return the role that Django takes on by ``OPTIONS["assume_role"]``; empty for that of the login."""
        return self.settings_dict["OPTIONS"].get("assume_role") or ""

    @property
    def uses_roles(self) -> bool:
        """Whether statements of a tenant take on its role; those of an alias that is bound to a schema do not."""
        config = conf.get()
        return config is not None and config.roles and self.tenant_options.schema is None

    def _role(self, schema: str | None) -> str:
        """Return the role of a tenant's schema; empty for a fixed module's, for none, and for who asks as the owner."""
        target, modules = active(), registry()
        assert modules is not None
        if schema is None or target is None or target.as_owner or target.schema_name in modules.fixed_schemas:
            return ""
        if self.database_oid is None:
            raise ConfigurationError(
                f"PG_TENANTS['ROLES'] was switched on while DATABASES[{self.alias!r}] was connected, so the tenants' "
                "roles are not known to it. Close the connection: connections.close_all()."
            )
        return role_name(self.database_oid, schema)

    def search_path(self, schema: str | None) -> list[str]:
        """Return the schemas, by their names in the database, that statements look in while ``schema`` is active."""
        modules = registry()
        extensions = "public" if modules is None else modules.extensions_schema
        if self._narrowed == _EXTENSIONS:
            return [extensions, *self.tenant_options.path]
        if modules is None or self.tenant_options.schema is not None:
            own: tuple[str, ...] = (schema,) if schema else ()
        else:
            own = modules.search_path(schema, self.alias)
        if self._narrowed == _ACTIVE:
            return [self.physical_schema(name) for name in (own[:1] if schema else own)]
        # Extensions are once per database, so their schemas are the same for all test workers.
        return list(dict.fromkeys([*map(self.physical_schema, own), extensions, *self.tenant_options.path]))

    def physical_schema(self, schema: str) -> str:
        """Return what a schema is called in this alias's database."""
        return physical_name(schema, self.tenant_options.worker)

    def active_schema_only(self) -> AbstractContextManager[None]:
        """Narrow the path to the active schema, so that introspection takes no other schema's table for its own."""
        return self._narrow(_ACTIVE)

    @property
    def is_introspecting(self) -> bool:
        """Whether what is sent now is one of Django's questions about the active schema's catalog."""
        return self._narrowed == _ACTIVE

    def extensions_schema_only(self) -> AbstractContextManager[None]:
        """Narrow the path to the extensions' schema, so that what CREATE EXTENSION makes goes there."""
        return self._narrow(_EXTENSIONS)

    @contextmanager
    def as_worker(self, worker: str) -> Iterator[None]:
        """Have other schemas in the place of all that are there, as a test worker of this prefix has."""
        before = self.tenant_options
        raw = self.settings_dict["OPTIONS"].get("tenants")
        self._options, self.prefixes = (raw, replace(before, worker=worker)), {}
        try:
            yield
        finally:
            self._options, self.prefixes = (raw, before), {}

    @contextmanager
    def _narrow(self, to: str) -> Iterator[None]:
        before, self._narrowed, self.prefixes = self._narrowed, to, {}
        try:
            yield
        finally:
            self._narrowed, self.prefixes = before, {}

    @cached_property
    def wrap_database_errors(self) -> TenantErrorWrapper:
        """Return what translates psycopg's errors."""
        return TenantErrorWrapper(self)

    # -- what else statements carry -----------------------------------------------------------------------------------

    @property
    def is_readonly(self) -> bool:
        """Whether statements that are sent now are refused where they write."""
        here = wanted(self.alias)
        return self.tenant_options.readonly if here is None else here

    def guarded(self, prefix: Prefix) -> Prefix:
        """Return the prefix, which refuses writes where that is wanted now."""
        return with_settings(prefix, READONLY) if self.is_readonly else prefix

    def observe(self, seconds: float, query: Any, error: BaseException | None) -> None:
        """Take note of what a statement took, for the schema that is active."""
        entry = current.get()
        schema = self.bound_to or (None if entry is None else entry.schema_name)
        store.record(self.alias, schema, seconds, self.slow_after or 0.0, query, error)

    # -- Django's hooks -----------------------------------------------------------------------------------------------

    def get_connection_params(self) -> dict[str, Any]:
        """Return Django's parameters, those of the development server filled in where the alias names it.

        The development server is started if it does not run.

        Raises:
            ConfigurationError: the libraries of the development server are not installed.
            ServerError: it cannot be started.
        """
        options = self.tenant_options
        params: dict[str, Any] = super().get_connection_params()
        params.pop("tenants", None)
        if "password" in params:
            params["password"] = password_of(params["password"], self.alias)
        if options.pgserver:
            try:
                # An extra's libraries, which a project without the development server need not have.
                from pg_tenants.server import Server, ServerConfig  # noqa: PLC0415
            except ImportError as exc:
                raise ConfigurationError(
                    f"DATABASES[{self.alias!r}] is the development server, and its libraries are missing ({exc}). Run "
                    "pip install 'pg_tenants[server]', or name another server."
                ) from exc
            server = Server(ServerConfig.load(conf.pgserver()))
            server.up()
            params.update(server.connection_params())
        return params

    @property
    def pool(self) -> Any:
        """Return Django's pool; where the password may change, its connections ask for it each."""
        pool = super().pool
        password = self.settings_dict["PASSWORD"]
        if pool is not None and callable(password):
            pool.connection_class = connecting_class(password, self.alias)
        return pool

    def get_new_connection(self, conn_params: dict[str, Any]) -> Any:
        """Connect, and say what to do where that fails."""
        connect = super().get_new_connection
        try:
            connection: Any = attempt(lambda: connect(conn_params), self.tenant_options.retry)
        except psycopg.OperationalError as exc:
            if self.slow_after is not None:
                store.connection_failed(self.alias)
            forget_password(exc)
            hint = connection_hint(exc, self.settings_dict, self.alias)
            failed = type(exc)(f"{exc}\n{hint}")
            vars(failed)["connection_hint"] = hint
            raise failed.with_traceback(exc.__traceback__) from exc.__cause__
        watch(connection)
        return connection

    def read_options(self) -> None:
        """Take what statements carry besides their path from the OPTIONS of this moment."""
        self.prefixes.clear()
        options = self.tenant_options
        self.slow_after, self.bound_to = _slow_after(), options.schema
        self.limits, self.readonly_by_default = options.timeouts.settings, options.readonly

    def connect(self) -> None:
        """Connect, by the OPTIONS of this moment.

        Receivers of ``connection_created`` see the extensions' schema alone, whatever is active.

        Raises:
            ConfigurationError: the settings have PG_TENANTS, and INSTALLED_APPS has no pg_tenants. Django's ``migrate``
                would then record migrations whose tables are made nowhere.
        """
        if apps.ready and self.is_tenant_aware and not apps.is_installed("pg_tenants"):
            raise ConfigurationError(
                f"DATABASES[{self.alias!r}] is for PG_TENANTS, and INSTALLED_APPS has no 'pg_tenants', so its commands "
                "and checks are missing. Nothing was run. Add 'pg_tenants' to INSTALLED_APPS."
            )
        self.read_options()
        self.database_oid = None
        with self.extensions_schema_only():
            super().connect()
            if self.uses_roles:
                self._learn_database()

    def _learn_database(self) -> None:
        """Ask each connection once, also where a pool hands it out again, which database it leads to."""
        connection: Any = self.connection
        if getattr(connection, "tenant_database", None) is None:
            with self.without_prefix() as execute:
                connection.tenant_database = execute(DATABASE).fetchone()[0]
        self.database_oid = connection.tenant_database

    def create_cursor(self, name: str | None = None) -> Any:
        """Return Django's cursor, made to ask for the prefix whenever it sends a statement."""
        return attach(super().create_cursor(name), self)

    def make_cursor(self, cursor: Any) -> TenantCursorWrapper:
        """Return what Django's code works with."""
        return TenantCursorWrapper(cursor, self)

    def told_of_pooler(self) -> bool | None:
        """Return what ``OPTIONS["tenants"]["pooler"]`` says; None for nothing."""
        return self.tenant_options.pooler

    def chunked_cursor(self) -> Any:
        """Return a server-side cursor, or a plain one where a pooler may give it to somebody else's transaction."""
        if self.get_autocommit() and self.statement_prefix() is not None and self.is_pooled():
            return self.cursor()
        return super().chunked_cursor()

    def on_commit(self, func: Callable[[], object], robust: bool = False) -> None:
        """Register a callback, bound to the tenant that is active now."""
        if callable(func) and self.is_tenant_aware:
            func = bind(func)
        super().on_commit(func, robust)

    def prepare_database(self) -> None:
        """Make the schema that the alias is bound to; then what Django's own backend prepares."""
        schema = self.tenant_options.schema
        if schema is not None:
            name = self.physical_schema(schema)
            with self.without_prefix() as execute:
                # IF NOT EXISTS alone asks for CREATE on the database all the same, which the schema's owner may lack.
                literal = psycopg.sql.Literal(quote(name)).as_string()
                if execute(f"SELECT pg_catalog.to_regnamespace({literal})").fetchone() == (None,):
                    execute(f"CREATE SCHEMA IF NOT EXISTS {quote(name)}")
                execute(f"CREATE TABLE IF NOT EXISTS {quote(name)}.{MARKER_TABLE} ()")
        with self.extensions_schema_only():
            super().prepare_database()

    # -- what the prefix cannot do ------------------------------------------------------------------------------------

    @contextmanager
    def without_prefix(self) -> Iterator[Callable[[str], Any]]:
        """Give a function that sends a statement with nothing before it: names in it have to be qualified."""
        self.ensure_connection()
        assert self.connection is not None
        with self.wrap_database_errors, self.connection.cursor() as cursor:
            if self.in_atomic_block and self.uses_roles:
                # A statement of a tenant's, earlier in the transaction, may have taken a role on.
                cursor.execute(take_role(self.own_role))
            yield cursor.execute

    def is_pooled(self) -> bool:
        """Return whether the connection seems to lead through a pooler; ``OPTIONS["tenants"]["pooler"]`` overrides."""
        if (told := self.tenant_options.pooler) is not None:
            return told
        self.ensure_connection()
        connection: Any = self.connection
        if self._pooled is None or self._pooled[0] is not connection:
            with self.wrap_database_errors, connection.cursor() as cursor:
                pid = cursor.execute(BACKEND_PID).fetchone()[0]
            self._pooled = (connection, pid != connection.pgconn.backend_pid)
        return self._pooled[1]


def tenant_connection(using: str = DEFAULT_DB_ALIAS) -> TenantDatabaseWrapperMixin:
    """Return the connection of an alias that has our backend.

    Raises:
        ConfigurationError: the alias has another ENGINE.
    """
    connection = connections[using]
    if not isinstance(connection, TenantDatabaseWrapperMixin):
        raise ConfigurationError(
            f"DATABASES[{using!r}] has the ENGINE {connection.settings_dict['ENGINE']!r}, which knows no tenants. "
            f"Set it to {conf.ENGINE!r}."
        )
    return connection


@receiver(setting_changed)
def _forget_prefixes(setting: str, **kwargs: Any) -> None:
    if setting in ("PG_TENANTS", "INSTALLED_APPS"):
        for wrapper in list(_wrappers):
            wrapper.prefixes.clear()
            wrapper.slow_after = _slow_after()


def _slow_after() -> float | None:
    config = conf.get()
    return None if config is None or config.monitoring is None else config.monitoring.slow_query_threshold_ms / 1000
