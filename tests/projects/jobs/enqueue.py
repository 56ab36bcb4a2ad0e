"""Stores jobs of each tenant in the database, and one that lies."""

from __future__ import annotations

import django
from django.core.management import call_command

django.setup()
call_command("migrate", "django_tasks_database", verbosity=0)

from example_project.customers.models import Tenant  # noqa: E402
from pg_tenants import tenant_context  # noqa: E402
from pg_tenants.contrib.jobs import KEY  # noqa: E402
from tests.projects.jobs import django_jobs as jobs  # noqa: E402

for tenant in Tenant.objects.filter(schema_name__in=["acme", "globex"]):
    with tenant_context(tenant):
        jobs.write.enqueue(title="stored")
        jobs.send_another.enqueue(title="sent")
    jobs.write.enqueue(title="lie", **{KEY: f"other {tenant.pk}"})
print("enqueued", flush=True)
