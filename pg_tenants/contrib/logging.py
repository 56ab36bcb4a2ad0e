"""The active tenant in log records."""

from __future__ import annotations

import logging

from pg_tenants.context import active

__all__ = ["TenantFilter"]


class TenantFilter(logging.Filter):
    """Puts ``schema_name`` and ``tenant`` on every record, for ``%(tenant)s`` in a format. It drops no record.

    ``schema_name`` is the active schema; ``tenant`` the same where a tenant is active, so not for ``schema_context``.
    What there is not is ``-``. It asks no database and never fails. A record that has a value keeps it, so a filter in
    front of a queue says what one behind it, in another thread, cannot know.
    """

    def filter(self, record: logging.LogRecord) -> bool:
        """Add the two attributes."""
        here = active()
        # Django reports an answer of 4xx or 5xx after the middleware was left, with the request beside the message.
        asked = getattr(getattr(record, "request", None), "tenant", None)
        name = getattr(asked, "__dict__", {}).get("schema_name") if here is None else None
        values = {
            "schema_name": name or (here.schema_name if here is not None else "-"),
            "tenant": name or (here.schema_name if here is not None and here.tenant is not None else "-"),
        }
        for key, value in values.items():
            record.__dict__.setdefault(key, value)
        return True
