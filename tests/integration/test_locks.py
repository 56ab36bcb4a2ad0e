"""A server with few locks: the error says how many to set, and with them the same work is done."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import quote

import pytest

from pg_tenants.server import Server, ServerConfig

ROOT = Path(__file__).parents[2]
FEW = {"max_locks_per_transaction": 10, "max_connections": 10, "max_worker_processes": 0, "fsync": "off"}
CHILD = """
import io, sys
import django
django.setup()
from django.core.management import call_command
from django.db import transaction
from example_project.customers.models import Tenant
from pg_tenants import schemas
from pg_tenants.exceptions import TooFewLocks

def make(count):
    with transaction.atomic():
        for number in range(count):
            Tenant.objects.create(schema_name=f"tenant_{number}", name="x")

call_command("migrate_schemas", verbosity=0, skip_checks=True)
count = int(sys.argv[1])
if count:
    make(count)
    with transaction.atomic():
        for tenant in Tenant.objects.all():
            tenant.delete()
    print("made and dropped")
else:
    try:
        make(1000)
    except TooFewLocks as exc:
        print(exc)
    assert not Tenant.objects.exists()
    for number in range(30):
        Tenant.objects.create(schema_name=f"kept_{number}", name="x")
    try:
        with transaction.atomic():
            for tenant in Tenant.objects.all():
                tenant.delete()
    except TooFewLocks as exc:
        print(exc)
    assert Tenant.objects.count() == 30
    assert schemas.exists("kept_0")
    for tenant in Tenant.objects.all():
        tenant.delete()
"""


@pytest.fixture
def folder() -> Iterator[Path]:
    base = Path(tempfile.mkdtemp(prefix="pgs-"))
    base.chmod(0o711)
    yield base / "server"
    Server(ServerConfig(data=base / "server")).down(20)
    shutil.rmtree(base)


def child(server: Server, count: int) -> str:
    params = server.connection_params()
    user, password = (quote(str(params[key]), safe="") for key in ("user", "password"))
    environ = {
        **os.environ,
        "PYTHONPATH": str(ROOT),
        "DJANGO_SETTINGS_MODULE": "tests.child_settings",
        "DATABASE_URL": f"postgresql://{user}:{password}@127.0.0.1:{params['port']}/postgres",
    }
    command = [sys.executable, "-c", CHILD, str(count)]
    done = subprocess.run(command, cwd=ROOT, env=environ, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_too_few_locks(folder: Path) -> None:
    """Nothing of a transaction that ran out of locks stays; with the number that the error names, 20 fit into one."""
    with Server(ServerConfig(data=folder, postgres_conf=FEW)) as server:
        text = child(server, 0)
    assert "The schema 'tenant_" in text
    assert "The tenant 'kept_" in text
    assert "cannot be deleted: the server has no room for the locks" in text
    (number, *_) = re.findall(r"Set max_locks_per_transaction to (\d+) \(it is 10\)", text)
    more = {**FEW, "max_locks_per_transaction": int(number)}
    with Server(ServerConfig(data=folder, postgres_conf=more)) as server:
        assert child(server, 20) == "made and dropped\n"
