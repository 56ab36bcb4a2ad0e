"""A test runner that records each test's outcome, in the process that ran it.

Django's parallel runner sends outcomes from its workers to the parent as pickles, and gives up where an exception
cannot be pickled. Here each process appends lines of JSON to a file of its own, in the folder that the environment
variable ``DJANGO_SUITE_RESULTS`` names, and what goes to the parent is plain text. So nothing is lost when a worker
dies or the run is ended. A line is ``[test id, outcome, detail]``; a test may have several, of which the worst counts.
"""

from __future__ import annotations

import json
import os
import traceback
import unittest
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

from django.test.runner import DiscoverRunner, ParallelTestSuite, RemoteTestResult, RemoteTestRunner

__all__ = ["RESULTS_VARIABLE", "RecordingRunner"]

RESULTS_VARIABLE = "DJANGO_SUITE_RESULTS"

if TYPE_CHECKING:
    _Base = unittest.TestResult
else:
    _Base = object

_file: tuple[int, TextIO] | None = None


def _write(test: Any, outcome: str, detail: str = "") -> None:
    global _file
    if _file is None or _file[0] != os.getpid():  # A forked worker has inherited its parent's file.
        path = Path(os.environ[RESULTS_VARIABLE]) / f"{os.getpid()}.jsonl"
        _file = (os.getpid(), path.open("a", encoding="utf-8", errors="backslashreplace"))
    # A subtest counts for the test that it is in.
    line = [getattr(test, "test_case", test).id(), outcome, detail]
    _file[1].write(json.dumps(line) + "\n")
    _file[1].flush()


def _text(err: Any) -> str:
    return "".join(traceback.format_exception(*err))


class _Recording(_Base):
    """Writes down what a result class is told."""

    def startTest(self, test: unittest.TestCase) -> None:
        _write(test, "unfinished")
        super().startTest(test)

    def addSuccess(self, test: unittest.TestCase) -> None:
        _write(test, "pass")
        super().addSuccess(test)

    def addSkip(self, test: unittest.TestCase, reason: str) -> None:
        _write(test, "skip", reason)
        super().addSkip(test, reason)

    def addExpectedFailure(self, test: unittest.TestCase, err: Any) -> None:
        _write(test, "expected failure")
        super().addExpectedFailure(test, err)

    def addUnexpectedSuccess(self, test: unittest.TestCase) -> None:
        _write(test, "unexpected success")
        super().addUnexpectedSuccess(test)

    def addFailure(self, test: unittest.TestCase, err: Any) -> None:
        _write(test, "fail", _text(err))
        super().addFailure(test, err)

    def addError(self, test: unittest.TestCase, err: Any) -> None:
        _write(test, "error", _text(err))
        super().addError(test, err)

    def addSubTest(self, test: unittest.TestCase, subtest: unittest.TestCase, err: Any) -> None:
        if err is not None:
            outcome = "fail" if issubclass(err[0], test.failureException) else "error"
            _write(test, outcome, f"{subtest}\n{_text(err)}")
        super().addSubTest(test, subtest, err)


class _TextResult(_Recording, unittest.TextTestResult):
    """Records in the parent; what workers report there was recorded by them and is recorded once more."""


class _Failure(AssertionError):
    """Stands for an exception on its way to the parent, as text."""


class _Error(Exception):
    """Stands for an exception on its way to the parent, as text."""


class _PicklableResult(RemoteTestResult):
    """Sends text to the parent in place of exceptions and subtests."""

    def addFailure(self, test: unittest.TestCase, err: Any) -> None:
        super().addFailure(test, (_Failure, _Failure(_text(err)), None))

    def addError(self, test: unittest.TestCase, err: Any) -> None:
        super().addError(test, (_Error, _Error(_text(err)), None))

    def addExpectedFailure(self, test: unittest.TestCase, err: Any) -> None:
        super().addExpectedFailure(test, (_Failure, _Failure(_text(err)), None))

    def addSubTest(self, test: unittest.TestCase, subtest: unittest.TestCase, err: Any) -> None:
        if err is None:
            return
        told = f"{subtest}\n{_text(err)}"
        if issubclass(err[0], test.failureException):
            super().addFailure(test, (_Failure, _Failure(told), None))
        else:
            super().addError(test, (_Error, _Error(told), None))


class _WorkerResult(_Recording, _PicklableResult):
    """Records in a worker."""


class _WorkerRunner(RemoteTestRunner):
    resultclass = _WorkerResult


class _Suite(ParallelTestSuite):
    runner_class = _WorkerRunner


class RecordingRunner(DiscoverRunner):
    """Django's runner, with outcomes recorded."""

    parallel_test_suite = _Suite

    def get_resultclass(self) -> type[unittest.TextTestResult]:
        """Return the class that records what runs in this process."""
        return _TextResult
