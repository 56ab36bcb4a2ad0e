"""Django's test runner, with a worker's own schemas: ``TEST_RUNNER = "pg_tenants.test.TenantDiscoverRunner"``."""

from __future__ import annotations

import os
import sys
import unittest
from argparse import ArgumentParser
from typing import Any

from django.test.runner import DiscoverRunner, ParallelTestSuite, RemoteTestResult, RemoteTestRunner

from pg_tenants.test import _spawned, server
from pg_tenants.test._kept import keep
from pg_tenants.test._left import RestoresContext
from pg_tenants.test._workers import WatchedResult, init_worker, plan
from pg_tenants.test.creation import WAIT, install
from pg_tenants.test.tenants import allow_domains

__all__ = ["TenantDiscoverRunner", "TenantParallelTestSuite"]


class _KeepsRows:
    """Keeps the rows of a test when it tells that it has failed, before they are rolled back."""

    def addError(self, test: Any, err: Any) -> None:  # noqa: N802  # as unittest has it
        """Keep the rows of a test that ended in an error."""
        self._keep(test)
        super().addError(test, err)  # type: ignore[misc]

    def addFailure(self, test: Any, err: Any) -> None:  # noqa: N802
        """Keep the rows of a test that failed."""
        self._keep(test)
        super().addFailure(test, err)  # type: ignore[misc]

    def addSubTest(self, test: Any, subtest: Any, err: Any) -> None:  # noqa: N802
        """Keep the rows of a part that failed."""
        if err is not None:
            self._keep(subtest)
        super().addSubTest(test, subtest, err)  # type: ignore[misc]

    def _keep(self, test: Any) -> None:
        for line in keep(test.id()):
            sys.stderr.write(f"\n{test.id()}: {line}\n")


class TenantRemoteResult(RestoresContext, RemoteTestResult):
    """What a worker of ``--parallel`` notes results with."""


class KeepingRemoteResult(_KeepsRows, TenantRemoteResult):
    """It keeps the rows of failed tests, too."""


class TenantRemoteRunner(RemoteTestRunner):
    """What a worker of ``--parallel`` runs tests by."""

    resultclass = TenantRemoteResult


class KeepingRemoteRunner(RemoteTestRunner):
    """It keeps the rows of failed tests, too."""

    resultclass = KeepingRemoteResult


class TenantParallelTestSuite(ParallelTestSuite):
    """Django's, whose workers make schemas of their own, and which ends with an error when one of them is killed."""

    init_worker = init_worker
    process_setup = _spawned.prepare
    process_setup_args = (WAIT, False)
    runner_class: type[RemoteTestRunner] = TenantRemoteRunner

    def run(self, result: Any, debug: bool = False) -> Any:
        """Run the tests, and add an error to the result where a worker has died."""
        watched = WatchedResult(result)
        plan(self.processes)
        try:
            super().run(watched)
        except KeyboardInterrupt:
            if not watched.got_stuck:
                raise
        finally:
            watched.close()
        if watched.error is not None:
            error = watched.error
            result.addError(unittest.suite._ErrorHolder("--parallel"), (type(error), error, None))  # type: ignore[attr-defined]
        return result


class TenantDiscoverRunner(DiscoverRunner):
    """Django's runner, with one test database for all workers.

    The process itself has the schemas ``test_master``…, the workers of ``--parallel`` have ``test_1``…, ``test_2``….

    Args:
        wait: how long to wait for another run that uses the schemas, in seconds.
        keep_failed: copy the rows that a failed test saw to schemas that stay.
        isolation: ``schema``, or ``database`` to give each worker a database of its own.
        args, kwargs: those of Django's runner.
    """

    parallel_test_suite = TenantParallelTestSuite

    def __init__(
        self,
        *args: Any,
        wait: float = WAIT,
        keep_failed: bool = False,
        isolation: str = "schema",
        **kwargs: Any,
    ):
        super().__init__(*args, **kwargs)
        self.wait, self.keep_failed, self.isolation = wait, keep_failed, isolation
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

        parser.add_argument(
            "--isolation",
            choices=("schema", "database"),
            default=os.environ.get("TEST_DB_ISOLATION") or "schema",
            help="What a worker has of its own: schemas in the one test database, or a database that is a clone.",
        )
        parser.add_argument(
            "--keep-failed",
            action="store_true",
            help="Copy the rows that a failed test saw to schemas that stay; test_schemas lists and drops them.",
        )

    def build_suite(self, *args: Any, **kwargs: Any) -> Any:
        """Return Django's suite."""
        suite = super().build_suite(*args, **kwargs)
        if isinstance(suite, TenantParallelTestSuite):
            suite.process_setup_args = (self.wait, self.isolation == "database")
            if self.keep_failed:
                suite.runner_class = KeepingRemoteRunner
        return suite

    def get_resultclass(self) -> Any:
        """Return Django's class, made so that what a test leaves active ends with it.

        It keeps the rows of failed tests if that is asked for.
        """
        found = super().get_resultclass()
        if found is None and not (self.keep_failed or self.test_runner is unittest.TextTestRunner):
            # Another library's runner, which has results of its own, such as files of XML.
            return None
        found = found or unittest.TextTestResult
        ours = (_KeepsRows, RestoresContext) if self.keep_failed else (RestoresContext,)
        return type("TenantResult", (*ours, found), {})

    def setup_databases(self, **kwargs: Any) -> Any:
        """Find the server, or start the development server; then make the schemas."""
        allow_domains()
        self._server = server.find()
        install(wait=self.wait, own_database=self.isolation == "database")
        return super().setup_databases(**kwargs)

    def teardown_databases(self, old_config: Any, **kwargs: Any) -> None:
        """Drop the schemas, unless they are to be kept, and stop the server if this run has started it."""
        super().teardown_databases(old_config, **kwargs)
        if self._server is not None:
            self._server.stop()
