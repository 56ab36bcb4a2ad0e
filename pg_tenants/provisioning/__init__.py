"""Making and removing tenants' schemas."""

from __future__ import annotations

from pg_tenants.provisioning.run import ACTIVE, PROVISIONING, deprovision, provision

__all__ = ["ACTIVE", "PROVISIONING", "deprovision", "provision"]
