"""Settings of processes that tests start on their own database, which ``DATABASE_URL`` names."""

from __future__ import annotations

from example_project.settings import *  # noqa: F403
from example_project.settings import PG_TENANTS as EXAMPLE_PG_TENANTS

PG_TENANTS = {
    **EXAMPLE_PG_TENANTS,
    # Users are each tenant's alone, unlike in the example, whose own modules tests/integration/test_admin.py has.
    "MODULES": {
        **EXAMPLE_PG_TENANTS["MODULES"],
        "shared": {"schema": "public", "apps": ["example_project.customers"]},
    },
}
# The admin of the example is for its own modules.
SILENCED_SYSTEM_CHECKS = ["pg_tenants.W091"]
