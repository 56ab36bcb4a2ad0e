"""``showmigrations``: the migrations of each fixed module's schema, or in a tenant those of its own."""

from __future__ import annotations

from typing import Any

from django.core.management.commands.showmigrations import Command as DjangoCommand
from django.db import connections

from pg_tenants import schemas
from pg_tenants.context import ActiveContext, active, no_schema
from pg_tenants.management.refusals import is_tenant_aware, targets_here
from pg_tenants.migrations import ModuleLoader, Target, sql_history

__all__ = ["Command"]


class Command(DjangoCommand):
    """Show each schema's migrations by its own record; Django's would look for all apps in one schema's."""

    def handle(self, *args: Any, **options: Any) -> None:
        """Show the migrations."""
        alias, labels = options["database"], options["app_label"]
        if not is_tenant_aware(alias):
            super().handle(*args, **options)
            return
        self.verbosity = options["verbosity"]
        validate: Any = self._validate_app_names  # type: ignore[attr-defined]
        targets = targets_here(alias)
        validate(None, [label for label in labels if not any(label in target.apps for target in targets)])
        for target in targets:
            wanted = target.apps & set(labels or target.apps)
            if not wanted:
                continue
            if active() is None:
                self.stdout.write(self.style.MIGRATE_HEADING(f"{target.schema} ({target.module_names})"))
            # A fixed module's schema that is not there yet has recorded nothing; a missing tenant's is an error.
            there = active() is not None or schemas.is_ready(target.schema, using=alias)
            with ActiveContext(target.active) if there else no_schema():
                loader = ModuleLoader(connections[alias] if there else None, target.apps)
                if options["format"] == "plan":
                    self._show_plan(loader, wanted)
                else:
                    shown = labels or loader.migrated_apps
                    files = {label for label, _ in loader.sql}
                    if apps := sorted(wanted & set(shown) - files):
                        self.show_list(connections[alias], apps)
                    for label in sorted(wanted & files):
                        self._show_files(label, loader, target if there else None, alias)

    def _show_files(self, label: str, loader: ModuleLoader, target: Target | None, alias: str) -> None:
        """Show a module's SQL files; with more verbosity, when each was run, by whom, and how long it took."""
        self.stdout.write(label, self.style.MIGRATE_LABEL)
        runs = sql_history(target.schema, using=alias) if target and self.verbosity >= 2 else []
        for key, migration in loader.sql.items():
            if key[0] != label:
                continue
            applied = key in loader.recorded
            self.stdout.write(f" [{'X' if applied else ' '}] {key[1]}")
            for run in runs:
                if (run.module, run.name) == (migration.step.module, key[1]):
                    self.stdout.write(f"     {run}")

    def _show_plan(self, loader: ModuleLoader, labels: frozenset[str]) -> None:
        graph = loader.graph
        leaves = [key for key in graph.leaf_nodes() if key[0] in labels]
        keys = dict.fromkeys(key for leaf in leaves for key in graph.forwards_plan(leaf) if key[0] in labels)
        for key in keys:
            parents = ", ".join(f"{parent.key[0]}.{parent.key[1]}" for parent in sorted(graph.node_map[key].parents))
            depends = f" ... ({parents})" if parents and self.verbosity >= 2 else ""
            self.stdout.write(f"[{'X' if key in loader.recorded else ' '}]  {key[0]}.{key[1]}{depends}")
        if not keys:
            self.stdout.write("(no migrations)", self.style.ERROR)
