"""``pre_migrate`` and ``post_migrate``, whose work schemas with the same plan share.

Django's own receivers ask some seventy statements of each database, to add the content types and permissions of all
models. What they would add follows from the models alone, so two statements add what a schema lacks. All other
receivers are called for each schema.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from django.apps import AppConfig
from django.apps import apps as installed
from django.core.management.sql import emit_post_migrate_signal, emit_pre_migrate_signal
from django.db import router
from django.db.migrations.operations import RenameModel
from django.db.models.signals import post_migrate, pre_migrate
from psycopg import sql

from pg_tenants.backends.prefix import quote
from pg_tenants.migrations._states import Plan

__all__ = ["Signals"]

Receiver = Callable[..., Any]
Listening = list[tuple[AppConfig, Receiver]]

_CONTENT_TYPES = "django.contrib.contenttypes.management.create_contenttypes"
_PERMISSIONS = "django.contrib.auth.management.create_permissions"
_RENAMED_PERMISSIONS = "django.contrib.auth.management.rename_permissions_after_model_rename"
_INJECTION = "django.contrib.contenttypes.management.inject_rename_contenttypes_operations"
_OWN = "pg_tenants."
_OF_THE_PROCESS = {
    "wagtail.signal_handlers.disconnect_reference_index_signal_handlers",
    "wagtail.signal_handlers.connect_reference_index_signal_handlers",
}
"""Receivers of libraries that change this process and no database, so that once in a run is enough: they connect and
disconnect other signals, hundreds of them for each app."""
_FIELDS = {"contenttypes.ContentType": {"id", "app_label", "model"}, "auth.Permission": {"id", "name", "codename"}}


@dataclass(frozen=True)
class _How:
    """How the signals of a plan are sent.

    Attributes:
        script: adds the content types and permissions; None where Django's receivers have to be called for that.
        before: receivers of ``pre_migrate`` to call for each schema; None to have Django send the signal.
        after: those of ``post_migrate``.
        is_shared: nobody but Django and this package listens, so that a schema is done when its script is.
        last: receivers of ``post_migrate`` to call when all schemas are done.
    """

    script: str | None
    before: Listening | None
    after: Listening | None
    is_shared: bool
    last: Listening


class Signals:
    """Sends the signals of one plan.

    Args:
        plan: what is run.
        using: the database alias.
        verbosity: Django's; from 2 on it says what it adds, so nothing is shared.
        interactive: whether receivers may ask.
        stdout: where receivers write.
    """

    def __init__(self, plan: Plan, using: str, *, verbosity: int, interactive: bool, stdout: Any):
        self._plan, self._using, self._verbosity, self._interactive = plan, using, verbosity, interactive
        self._stdout = stdout
        self._how: _How | None = None

    def learn(self, after: Callable[[], Any]) -> None:
        """Find out who listens; the schema that is active stands for all of the plan.

        Args:
            after: returns the models after the plan was run.
        """
        if self._how is not None:
            return
        first, then = _listening(pre_migrate), _listening(post_migrate)
        if self._verbosity >= 2 or first is None or then is None:
            self._how = _How(None, None, None, is_shared=False, last=[])
            return
        # The first schema's signal has called those.
        first = [each for each in first if _path(each[1]) not in _OF_THE_PROCESS]
        script = self._script_of(then, after)
        if script is None:
            self._how = _How(None, first, None, is_shared=False, last=[])
            return
        done = {_CONTENT_TYPES, _PERMISSIONS, _RENAMED_PERMISSIONS} | _OF_THE_PROCESS
        rest = [each for each in then if _path(each[1]) not in done]
        is_shared = all(_path(receiver).startswith(_OWN) for _, receiver in rest)
        last = [each for each in then if _path(each[1]) in _OF_THE_PROCESS]
        self._how = _How(script, first, rest, is_shared, last)

    @property
    def script(self) -> str:
        """Return SQL that goes into the transaction of a schema's last migration."""
        assert self._how is not None
        return self._how.script or ""

    @property
    def calls_djangos(self) -> bool:
        """Whether Django's own receivers are called for each schema, which two runs cannot do at the same time."""
        assert self._how is not None
        return self._how.script is None

    @property
    def is_shared(self) -> bool:
        """Whether the script is all that has to be done in a schema."""
        assert self._how is not None
        return self._how.is_shared

    def send_before(self, plan: Plan, apps: Any) -> None:
        """Send ``pre_migrate`` for the schema that is active; receivers may change the operations of the plan."""
        receivers = None if self._how is None else self._how.before
        if receivers is None:
            more = {"stdout": self._stdout or sys.stdout, "plan": plan, "apps": apps}
            emit_pre_migrate_signal(self._verbosity, self._interactive, self._using, **more)
            return
        self._call(pre_migrate, receivers, plan, apps)

    def send_after(self, apps: Any) -> None:
        """Send ``post_migrate`` for the schema that is active, to all whose work the script does not do."""
        receivers = None if self._how is None else self._how.after
        if receivers is None:
            more = {"stdout": self._stdout or sys.stdout, "plan": self._plan, "apps": apps}
            emit_post_migrate_signal(self._verbosity, self._interactive, self._using, **more)
            return
        self._call(post_migrate, receivers, self._plan, apps)

    def end(self, apps: Callable[[], Any]) -> None:
        """Call the receivers that were waiting for the last schema."""
        if self._how is not None and self._how.last:
            self._call(post_migrate, self._how.last, self._plan, apps())

    def _call(self, signal: Any, receivers: Listening, plan: Plan, apps: Any) -> None:
        for config, receiver in receivers:
            receiver(
                signal=signal,
                sender=config,
                app_config=config,
                verbosity=self._verbosity,
                interactive=self._interactive,
                using=self._using,
                stdout=self._stdout or sys.stdout,
                plan=plan,
                apps=apps,
            )

    # -- what Django's receivers would add ----------------------------------------------------------------------------

    def _script_of(self, listening: Listening, after: Callable[[], Any]) -> str | None:
        paths = {_path(receiver) for _, receiver in listening}
        if _RENAMED_PERMISSIONS in paths and self._renames_models():
            return None
        if not {_CONTENT_TYPES, _PERMISSIONS} & paths:
            return ""
        apps = after()
        types = self._model(apps, "contenttypes", "ContentType")
        permissions = self._model(apps, "auth", "Permission") if _PERMISSIONS in paths else None
        if types is None:
            return "" if permissions is None else None
        for model in filter(None, (types, permissions)):
            wanted = _FIELDS[model._meta.label]
            if not wanted <= {field.name for field in model._meta.local_concrete_fields}:
                return None
            if len(model._meta.local_concrete_fields) != len(wanted) + (model is permissions):
                return None
        models = list(_models(apps))
        script = _insert_types(types, models)
        return script if permissions is None else script + _insert_permissions(types, permissions, models)

    def _model(self, apps: Any, label: str, name: str) -> Any:
        """Return a model if its table is in the schema that is active."""
        try:
            model = apps.get_model(label, name)
        except LookupError:
            return None
        return model if router.allow_migrate_model(self._using, model) else None

    def _renames_models(self) -> bool:
        return any(isinstance(each, RenameModel) for migration, _ in self._plan for each in migration.operations)


def _listening(signal: Any) -> Listening | None:
    """Return the receivers of each app, in the order of calling; None where some are coroutines."""
    found: Listening = []
    for config in installed.get_app_configs():
        if config.models_module is None:
            continue
        receivers, coroutines = signal._live_receivers(config)
        if coroutines:
            return None
        found.extend((config, receiver) for receiver in receivers)
    return found


def _path(receiver: Receiver) -> str:
    return f"{getattr(receiver, '__module__', '')}.{getattr(receiver, '__qualname__', '')}"


def _models(apps: Any) -> Iterator[Any]:
    for config in installed.get_app_configs():
        if config.models_module is not None and config.label in apps.app_configs:
            yield from apps.get_app_config(config.label).get_models()


def _insert_types(types: Any, models: list[Any]) -> str:
    rows = _values((number, model._meta.app_label, model._meta.model_name) for number, model in enumerate(models))
    if not rows:
        return ""
    table = quote(types._meta.db_table)
    return (
        f"INSERT INTO {table} (app_label, model) SELECT v.app_label, v.model "  # noqa: S608  # quoted and literals
        f"FROM (VALUES {rows}) v (number, app_label, model) "
        f"WHERE NOT EXISTS (SELECT FROM {table} t WHERE t.app_label = v.app_label AND t.model = v.model) "
        "ORDER BY v.number;\n"
    )


def _insert_permissions(types: Any, permissions: Any, models: list[Any]) -> str:
    # Imported late: the app need not be installed.
    from django.contrib.auth import management  # noqa: PLC0415

    of_model: Any = management._get_all_permissions  # type: ignore[attr-defined]

    wanted = [
        (model._meta.app_label, model._meta.model_name, codename, str(name))
        for model in models
        for codename, name in of_model(model._meta)
    ]
    rows = _values((number, *row) for number, row in enumerate(wanted))
    if not rows:
        return ""
    table = quote(permissions._meta.db_table)
    return (
        f"INSERT INTO {table} (name, content_type_id, codename) SELECT v.name, t.id, v.codename "  # noqa: S608
        f"FROM (VALUES {rows}) v (number, app_label, model, codename, name) "
        f"JOIN {quote(types._meta.db_table)} t ON t.app_label = v.app_label AND t.model = v.model "
        f"WHERE NOT EXISTS (SELECT FROM {table} p WHERE p.content_type_id = t.id AND p.codename = v.codename) "
        "ORDER BY v.number;\n"
    )


def _values(rows: Iterator[tuple[Any, ...]]) -> str:
    return ", ".join("(" + ", ".join(sql.Literal(value).as_string() for value in row) + ")" for row in rows)
