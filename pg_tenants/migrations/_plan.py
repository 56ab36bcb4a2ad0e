"""What is asked for, and what that means for a schema."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, TextIO

from django.apps import apps as installed
from django.db.migrations.loader import AmbiguityError

from pg_tenants.conf import nearest
from pg_tenants.exceptions import ConfigurationError, MigrationFailed
from pg_tenants.migrations._back import plan_back
from pg_tenants.migrations._executor import Key, ModuleExecutor, ModuleLoader
from pg_tenants.migrations._states import Plan
from pg_tenants.migrations._targets import required_registry

__all__ = ["DEFAULTS", "Options", "WrongOptions", "names_of", "planned", "refuse_conflicts", "refuse_unknown_app"]


@dataclass(frozen=True, slots=True)
class Options:
    """What to do in each schema; the fields mean what the options of Django's ``migrate`` mean.

    Attributes:
        jobs: how many tenants' schemas are migrated at the same time, each on a connection of its own.
        canary: how many of the tenants are migrated before the others; if one of them fails, the others are left alone.
        back: how many of the last migrations to unapply, instead of applying any.
    """

    app_label: str | None = None
    migration_name: str | None = None
    fake: bool = False
    fake_initial: bool = False
    plan: bool = False
    run_syncdb: bool = False
    verbosity: int = 1
    interactive: bool = False
    stdout: TextIO | None = None
    jobs: int = 1
    canary: int = 0
    back: int = 0


DEFAULTS = Options()


class WrongOptions(ConfigurationError):
    """The migration asked for does not exist: no schema's fault, so nothing is gone on with."""


def planned(executor: ModuleExecutor, options: Options) -> tuple[list[Any], Plan]:
    """Return the targets for Django's executor, and the plan that leads there."""
    executor.loader.check_consistent_history(executor.connection)
    if options.back:
        return [], plan_back(executor, options.back, options.app_label)
    goals = _goals(executor, options)
    return goals, executor.migration_plan(goals)


def names_of(plan: Plan) -> list[str]:
    """Return the migrations as ``app.name``; backwards ones begin with ``-``."""
    return [("-" if backwards else "") + f"{m.app_label}.{m.name}" for m, backwards in plan]


def refuse_conflicts(loader: ModuleLoader) -> None:
    """Refuse apps with several newest migrations.

    Raises:
        MigrationFailed: there is such an app.
    """
    conflicts = loader.detect_conflicts()
    if conflicts:
        names = "; ".join(f"{', '.join(names)} in {app}" for app, names in sorted(conflicts.items()))
        raise MigrationFailed(
            f"Conflicting migrations: there are several leaf nodes in the migration graph ({names}). Run "
            "'python manage.py makemigrations --merge'."
        )


def refuse_unknown_app(loader: ModuleLoader, options: Options) -> None:
    """Refuse an app that is not there, or has nothing to migrate.

    Raises:
        ConfigurationError: the options name such an app.
    """
    label = options.app_label
    files = {module.sql_label for module in required_registry() if module.sql_migrations}
    if label is None or label in files:
        return
    if label not in installed.app_configs:
        known = [*(config.label for config in installed.get_app_configs()), *files]
        raise ConfigurationError(f"No installed app has the label {label!r}. {nearest(label, known)}")
    if not required_registry().of_app(label):
        raise ConfigurationError(
            f"The app {label!r} is in no module, so no schema has its tables. Add it to a module of "
            "PG_TENANTS['MODULES']."
        )
    if label not in loader.migrated_apps and not options.run_syncdb:
        raise ConfigurationError(f"The app {label!r} has no migrations. Run 'python manage.py makemigrations {label}'.")


def _goals(executor: ModuleExecutor, options: Options) -> list[Any]:
    """Return the targets of Django's executor."""
    label, name = options.app_label, options.migration_name
    if label is None:
        return executor.own_targets()
    if name is None:
        return [key for key in executor.loader.graph.leaf_nodes() if key[0] == label]
    if name == "zero":
        return [(label, None)]
    try:
        migration = executor.loader.get_migration_by_prefix(label, name)
    except AmbiguityError as exc:
        raise WrongOptions(f"More than one migration of {label!r} begins with {name!r}. Give more of it.") from exc
    except KeyError as exc:
        raise WrongOptions(
            f"The app {label!r} has no migration that begins with {name!r}. See 'manage.py showmigrations {label}'."
        ) from exc
    key: Key = (label, migration.name)
    if key not in executor.loader.graph.nodes and key in executor.loader.replacements:
        key = executor.loader.replacements[key].replaces[-1]
    return [key]
