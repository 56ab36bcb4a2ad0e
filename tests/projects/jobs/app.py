"""The Celery application; ``TESTS_REDIS`` is the URL of its broker."""

from __future__ import annotations

import os

from celery import Celery

app = Celery("jobs", task_cls="pg_tenants.contrib.celery:TenantTask")
app.conf.update(
    broker_url=os.environ.get("TESTS_REDIS", ""),
    result_backend=os.environ.get("TESTS_REDIS", ""),
    broker_connection_retry_on_startup=True,
    worker_hijack_root_logger=False,
    include=["tests.projects.jobs.tasks"],
    beat_schedule={
        "everybody": {
            "task": "pg_tenants.for_each_tenant",
            "schedule": 1.0,
            "args": ["tests.projects.jobs.tasks.write"],
            "kwargs": {"title": "periodic"},
        }
    },
)
