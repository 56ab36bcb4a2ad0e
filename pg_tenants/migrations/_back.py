"""The last migrations of a schema, to be unapplied."""

from __future__ import annotations

from django.db.migrations.migration import Migration

from pg_tenants.migrations._executor import ModuleExecutor

__all__ = ["plan_back"]


def plan_back(executor: ModuleExecutor, count: int, app_label: str | None) -> list[tuple[Migration, bool]]:
    """Return a plan that unapplies the last migrations that a schema has recorded, the newest first.

    The order is that of the migrations' graph, in which an empty schema would get them. What depends on one of them is
    unapplied as well.

    Args:
        executor: of the schema.
        count: how many.
        app_label: the app whose last ones are meant; None for the module's.
    """
    graph, recorded = executor.loader.graph, set(executor.loader.recorded)
    order = [(m.app_label, m.name) for m, _ in executor.migration_plan(graph.leaf_nodes(), clean_start=True)]
    applied = [key for key in order if key in recorded and app_label in (None, key[0])]
    plan = []
    for key in reversed(applied[-count:]):
        for node in graph.backwards_plan(key):
            if node in recorded:
                recorded.remove(node)
                plan.append((graph.nodes[node], True))
    return plan
