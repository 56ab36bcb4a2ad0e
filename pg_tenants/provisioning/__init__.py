"""Making and removing tenants' schemas."""

from __future__ import annotations

from pg_tenants.provisioning.run import (
    ACTIVE,
    FAILED,
    PROVISIONING,
    SUSPENDED,
    after_delete,
    before_delete,
    before_raw_save,
    complete,
    complete_raw,
    create,
    owns_row,
    refuse_changes,
    resume,
    suspend,
)

__all__ = [
    "ACTIVE",
    "FAILED",
    "PROVISIONING",
    "SUSPENDED",
    "after_delete",
    "before_delete",
    "before_raw_save",
    "complete",
    "complete_raw",
    "create",
    "owns_row",
    "refuse_changes",
    "resume",
    "suspend",
]
