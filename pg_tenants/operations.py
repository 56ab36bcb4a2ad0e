"""Operations for Django's migrations."""

from __future__ import annotations

from typing import Any

from django.db.migrations.operations import RunSQL

from pg_tenants.sqltemplates import render

__all__ = ["TenantSQL"]


class TenantSQL(RunSQL):
    """Django's ``RunSQL`` with templates: ``TenantSQL("REFRESH MATERIALIZED VIEW {{tables.notes_totals}}")``.

    The templates, as of ``pg_tenants.sql.render``, are rendered when the migration runs, for the schema that it runs
    in. All else is as with ``RunSQL``: statements may be a list, with parameters too; without ``reverse_sql`` it cannot
    be reversed; ``state_operations``, ``hints`` and ``elidable`` mean the same.
    """

    def deconstruct(self) -> Any:
        """Return what makes it again, ``elidable`` included, which Django 5.2 leaves out."""
        name, args, kwargs = super().deconstruct()
        return name, args, {**kwargs, **({"elidable": True} if self.elidable else {})}

    def _run_sql(self, schema_editor: Any, sqls: Any) -> None:
        def rendered(sql: Any) -> Any:
            return render(sql, schema_editor.connection) if isinstance(sql, str) else sql

        if isinstance(sqls, (list, tuple)):
            # A pair of a statement and its parameters, which RunSQL itself checks.
            sqls = [
                (rendered(entry[0]), *entry[1:]) if isinstance(entry, (list, tuple)) and entry else rendered(entry)
                for entry in sqls
            ]
        else:
            sqls = rendered(sqls)
        super()._run_sql(schema_editor, sqls)  # type: ignore[misc]
