"""The database router: which alias a model lives on, and what is migrated where."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from django.db import connections

from pg_tenants.backends.base import TenantDatabaseWrapperMixin
from pg_tenants.context import active
from pg_tenants.instances import check, check_pair
from pg_tenants.modules import registry

if TYPE_CHECKING:
    from django.db.models import Model

__all__ = ["TenantRouter"]


DATABASE_CACHE = "django_cache"
"""What Django calls the app of its database cache, which is none: the table is made where createcachetable is run."""


class TenantRouter:
    """Places models and migrations by their modules. The tables of apps in no module are made nowhere."""

    def db_for_read(self, model: type[Model], **hints: Any) -> str | None:
        """Return the alias of the model's module; None where all modules share one.

        Raises:
            WrongTenant: what is to be read belongs to an instance that was loaded in another tenant.
        """
        if hints:
            check(hints.get("instance"), idle=True)
        return _choice(model)

    def db_for_write(self, model: type[Model], **hints: Any) -> str | None:
        """Return the alias of the model's module; None where all modules share one.

        Raises:
            WrongTenant: what is to be written belongs to an instance that was loaded in another tenant.
        """
        check(hints.get("instance"), idle=True)
        return _choice(model)

    def allow_relation(self, obj1: Model, obj2: Model, **hints: Any) -> bool | None:
        """Refuse a relation between models of modules in different databases.

        Raises:
            WrongTenant: the instances were loaded in different tenants.
        """
        check_pair(obj1, obj2)
        first, second = _home(obj1._meta.app_label), _home(obj2._meta.app_label)
        return False if first and second and first != second else None

    def allow_migrate(self, db: str, app_label: str, **hints: Any) -> bool | None:
        """Allow an app's migrations in the schemas of its modules: the active one, or without it the fixed ones."""
        modules = registry()
        connection = connections[db]
        if modules is None or not isinstance(connection, TenantDatabaseWrapperMixin) or not connection.is_tenant_aware:
            return None
        if app_label == DATABASE_CACHE:
            return None
        homes = modules.of_app(app_label)
        target = active()
        if target is None:
            return any(module.is_fixed and module.database == db for module in homes)
        return any(module in homes and module.database == db for module in modules.of_active(target))


def _choice(model: type[Model]) -> str | None:
    modules = registry()
    if modules is None or modules.is_in_one_database:
        return None
    return _home(model._meta.app_label)


def _home(app_label: str) -> str | None:
    modules = registry()
    if modules is None:
        return None
    homes = modules.of_app(app_label)
    aliases = {module.database for module in homes}
    if len(aliases) == 1:
        return aliases.pop()
    target = active()
    here = () if target is None else modules.of_active(target)
    fixed = (module for module in homes if module.is_fixed)
    return next((module.database for module in (*(m for m in here if m in homes), *fixed)), None)
