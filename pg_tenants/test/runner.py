"""Django's test runner, with a worker's own schemas: ``TEST_RUNNER = "pg_tenants.test.TenantDiscoverRunner"``."""

from __future__ import annotations

import os
from argparse import ArgumentParser
from typing import Any

from django.test.runner import DiscoverRunner, ParallelTestSuite

from pg_tenants.test import _spawned, server
from pg_tenants.test.creation import WAIT, install
from pg_tenants.test.tenants import allow_domains

__all__ = ["TenantDiscoverRunner", "TenantParallelTestSuite"]


class TenantParallelTestSuite(ParallelTestSuite):
    """Django's, whose workers make schemas of their own."""

    process_setup = _spawned.prepare  # type: ignore[assignment]
    process_setup_args = (WAIT,)


class TenantDiscoverRunner(DiscoverRunner):
    """Django's runner, with one test database for all workers.

    The process itself has the schemas ``test_master``…, the workers of ``--parallel`` have ``test_1``…, ``test_2``….

    Args:
        wait: how long to wait for another run that uses the schemas, in seconds.
        args, kwargs: those of Django's runner.
    """

    parallel_test_suite = TenantParallelTestSuite

    def __init__(self, *args: Any, wait: float = WAIT, **kwargs: Any):
        super().__init__(*args, **kwargs)
        self.wait = wait
        self._server: server.TestServer | None = None

    @classmethod
    def add_arguments(cls, parser: ArgumentParser) -> None:
        """Add Django's options and ours."""
        super().add_arguments(parser)
        parser.add_argument(
            "--wait",
            type=float,
            default=float(os.environ.get("TEST_DB_WAIT") or WAIT),
            metavar="SECONDS",
            help="Wait so long for another test run that uses the same schemas.",
        )

    def setup_databases(self, **kwargs: Any) -> Any:
        """Find the server, or start the development server; then make the schemas."""
        allow_domains()
        self._server = server.find()
        install(wait=self.wait)
        return super().setup_databases(**kwargs)

    def teardown_databases(self, old_config: Any, **kwargs: Any) -> None:
        """Drop the schemas, unless they are to be kept, and stop the server if this run has started it."""
        super().teardown_databases(old_config, **kwargs)
        if self._server is not None:
            self._server.stop()
