"""Work across tenants: a function for each of them, or one query on all of them."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import Any

from asgiref.sync import sync_to_async
from django.core.exceptions import EmptyResultSet
from django.db.models import Manager, Model, QuerySet

from pg_tenants import conf
from pg_tenants.context import no_schema, tenant_context
from pg_tenants.exceptions import UnsafeStatement
from pg_tenants.models import TenantStatus, tenant_model
from pg_tenants.modules import Module, registry
from pg_tenants.schemas import tenant_connection

__all__ = ["Outcome", "across_tenants", "afor_each_tenant", "for_each_tenant"]

_PAGE = 500


@dataclass
class Outcome:
    """What came of ``for_each_tenant``.

    Attributes:
        done: how many tenants the function returned for.
        results: what it returned, by the tenant's schema; None is left out.
        errors: what it raised, by the tenant's schema.
    """

    done: int = 0
    results: dict[str, Any] = field(default_factory=dict)
    errors: dict[str, Exception] = field(default_factory=dict)

    def raise_errors(self) -> None:
        """Raise all errors together, if there are any.

        Raises:
            ExceptionGroup: there are; each has a note that names its tenant.
        """
        if self.errors:
            names = ", ".join(islice(self.errors, 5)) + (", …" if len(self.errors) > 5 else "")
            total = self.done + len(self.errors)
            raise ExceptionGroup(f"{len(self.errors)} of {total} tenants failed: {names}", [*self.errors.values()])

    def _returned(self, tenant: Any, result: Any) -> None:
        self.done += 1
        if result is not None:
            self.results[tenant.schema_name] = result

    def _raised(self, tenant: Any, exc: Exception) -> None:
        exc.add_note(f"While the tenant {tenant.schema_name!r} was active.")
        self.errors[tenant.schema_name] = exc


def for_each_tenant(
    function: Callable[[Any], Any], tenants: Iterable[Any] | None = None, *, stop_on_error: bool = False
) -> Outcome:
    """Call a function for each tenant, one after the other, while that tenant is active.

    Tenants are read in pages, so memory does not grow with their number.

    Args:
        function: called with the tenant.
        tenants: which ones; None for all that are active.
        stop_on_error: raise the first error, instead of collecting errors and going on.
    """
    outcome = Outcome()
    for tenant in _all_active() if tenants is None else tenants:
        try:
            with tenant_context(tenant):
                result = function(tenant)
        except Exception as exc:
            outcome._raised(tenant, exc)
            if stop_on_error:
                raise
        else:
            outcome._returned(tenant, result)
    return outcome


async def afor_each_tenant(
    function: Callable[[Any], Awaitable[Any]], tenants: Iterable[Any] | None = None, *, stop_on_error: bool = False
) -> Outcome:
    """Do the same as ``for_each_tenant`` with an asynchronous function."""
    outcome = Outcome()
    remaining = iter(_all_active() if tenants is None else tenants)
    while page := await sync_to_async(lambda: list(islice(remaining, _PAGE)))():
        for tenant in page:
            try:
                async with tenant_context(tenant):
                    result = await function(tenant)
            except Exception as exc:
                outcome._raised(tenant, exc)
                if stop_on_error:
                    raise
            else:
                outcome._returned(tenant, result)
    return outcome


def across_tenants(
    query: QuerySet[Any] | Manager[Any] | type[Model], tenants: Iterable[Any] | None = None, *, chunk: int = 100
) -> Iterator[tuple[Any, Any]]:
    """Run one query in every tenant, and return pairs of a tenant and a row.

    The statements of a chunk of tenants go to the server together, each with its own tenant, so a chunk costs one
    round trip and the memory for its rows. Filters, ordering, slices and ``values()`` hold for each tenant by itself.
    Instances belong to their tenant: saving one while another is active raises.

    Args:
        query: a queryset, a manager or a model of a tenant module.
        tenants: which ones; None for all that are active and have the model.
        chunk: how many tenants share a round trip.

    Raises:
        TypeError: ``query`` is something else.
        UnsafeStatement: the model's rows are shared by all tenants, or the query locks rows.
        SchemaDoesNotExist: a tenant's schema is not there; no rows of its chunk are returned.
    """
    queryset: Any = query._default_manager.all() if isinstance(query, type) and issubclass(query, Model) else query
    if not isinstance(queryset, QuerySet | Manager):
        raise TypeError(f"across_tenants() takes a queryset, a manager or a model, not {query!r}.")
    queryset = queryset.all()
    label = queryset.model._meta.label
    conf.require()
    modules = registry()
    assert modules is not None
    homes = tuple(module for module in modules.of_app(queryset.model._meta.app_label) if not module.is_fixed)
    if not homes:
        raise UnsafeStatement(
            f"{label} is in no tenant module, so its rows are the same for all tenants. Query it without "
            "across_tenants()."
        )
    if queryset.query.select_for_update:
        raise UnsafeStatement(
            f"The query on {label} locks rows, and across_tenants() only reads. Use for_each_tenant()."
        )
    return _rows(queryset, _all_active(homes) if tenants is None else tenants, chunk)


def _rows(queryset: Any, tenants: Iterable[Any], size: int) -> Iterator[tuple[Any, Any]]:
    remaining = iter(tenants)
    while chunk := list(islice(remaining, size)):
        for tenant, prepared in zip(chunk, _send(queryset, chunk), strict=True):
            with tenant_context(tenant):
                rows = list(prepared)
            for row in rows:
                yield tenant, row


def _send(queryset: Any, tenants: Sequence[Any]) -> list[Any]:
    """Send the query for several tenants together, and return querysets that have their rows."""
    with tenant_context(tenants[0]):
        connection: Any = tenant_connection(str(queryset.db))
    connection.ensure_connection()
    sent = []
    with connection.wrap_database_errors, connection.connection.pipeline():
        for tenant in tenants:
            with tenant_context(tenant):
                own = queryset.all()
                compiler = own.query.get_compiler(connection=connection)
                try:
                    sql, params = compiler.as_sql()
                except EmptyResultSet:
                    sent.append((own, compiler, None))
                    continue
                cursor = connection.cursor()
                cursor.execute(sql, params)
                sent.append((own, compiler, cursor))
    return [_with_rows(*each) for each in sent]


def _with_rows(own: Any, compiler: Any, cursor: Any) -> Any:
    rows: list[Any] = []
    if cursor is not None:
        with cursor:
            rows = cursor.fetchall()
    if compiler.has_extra_select:
        rows = [row[: compiler.col_count] for row in rows]
    # The queryset makes of the rows what it always does; only they are here already.
    compiler.execute_sql = lambda *args, **kwargs: [rows] if rows else []
    own.query.get_compiler = lambda *args, **kwargs: compiler
    return own if cursor is not None else ()


def _all_active(homes: tuple[Module, ...] = ()) -> Iterator[Any]:
    """Yield all active tenants in the order of their keys, those of the given modules alone."""
    modules = registry()
    last = None
    while True:
        with no_schema():
            found = tenant_model()._base_manager.filter(status=TenantStatus.ACTIVE).order_by("pk")
            page = list((found if last is None else found.filter(pk__gt=last))[:_PAGE])
        for tenant in page:
            assert modules is not None
            if not homes or modules.tenant_module(tenant.module or None, tenant.schema_name) in homes:
                yield tenant
        if len(page) < _PAGE:
            return
        last = page[-1].pk
