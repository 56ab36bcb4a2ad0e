"""Raw SQL that names its schemas by templates, and gives rows as dictionaries, models or values.

Every function takes SQL with Django's placeholders (``%s``) and with templates: ``{{tables.notes_note}}`` becomes
``"acme".notes_note`` while ``acme`` is active. Those whose name begins with ``a`` are asynchronous, on a pool of
asynchronous connections of their own; the tenant travels in the statement's message all the same.
"""

from __future__ import annotations

from pg_tenants.sql._async import (
    acopy_records,
    aexecute,
    aexecute_and_return_id,
    aexecutemany,
    afetch_all,
    afetch_all_as_model,
    afetch_as_model,
    afetch_one,
    afetch_val,
    afetch_value,
)
from pg_tenants.sql._blocks import atransaction
from pg_tenants.sql._pool import apool, apool_stats, close_apool
from pg_tenants.sql._sync import (
    copy_records,
    execute,
    execute_and_return_id,
    executemany,
    fetch_all,
    fetch_all_as_model,
    fetch_as_model,
    fetch_one,
    fetch_val,
    fetch_value,
    render,
)

__all__ = [
    "acopy_records",
    "aexecute",
    "aexecute_and_return_id",
    "aexecutemany",
    "afetch_all",
    "afetch_all_as_model",
    "afetch_as_model",
    "afetch_one",
    "afetch_val",
    "afetch_value",
    "apool",
    "apool_stats",
    "atransaction",
    "close_apool",
    "copy_records",
    "execute",
    "execute_and_return_id",
    "executemany",
    "fetch_all",
    "fetch_all_as_model",
    "fetch_as_model",
    "fetch_one",
    "fetch_val",
    "fetch_value",
    "render",
]
