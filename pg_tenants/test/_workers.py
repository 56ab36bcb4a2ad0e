"""Workers that are killed, and workers whose run is killed.

Python's pool of processes puts another worker in the place of one that was killed, and waits for ever for what that one
had begun. Workers that have been forked do not notice that the process is gone that they work for, and would hold
their schemas until somebody ends them.
"""

from __future__ import annotations

import _thread
import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Callable
from typing import Any

from pg_tenants.exceptions import WorkerDied

__all__ = ["WatchedResult", "end_with_parent", "end_with_parent_process", "init_worker", "plan"]

_PAUSE = 0.5
_STUCK_AFTER = 5.0
"""How long a pool may take to end after a worker has died, in seconds. It waits for ever if that worker was just being
given tests."""


class WatchedResult:
    """A test result that tells Django's ``ParallelTestSuite`` to stop when one of its workers has died.

    Django asks ten times in a second.

    Attributes:
        error: what has happened to a worker; None as long as all are well.
        got_stuck: whether this process had to be interrupted, as the pool did not end.

    Args:
        result: the result that everything else is for.
    """

    error: WorkerDied | None
    got_stuck: bool

    def __init__(self, result: Any):
        own = {"_result": result, "_workers": set(), "_timer": None, "error": None, "got_stuck": False}
        vars(self).update(own)

    def __getattr__(self, name: str) -> Any:
        """Return what the result has."""
        return getattr(self._result, name)

    def __setattr__(self, name: str, value: Any) -> None:
        """Set it on the result."""
        setattr(self._result, name, value)

    @property
    def shouldStop(self) -> bool:  # noqa: N802  # as unittest has it
        """Return whether no more tests are to be run."""
        if self._result.shouldStop or self.error is not None:
            return True
        self._workers.update(child for child in multiprocessing.active_children() if _is_worker(child))
        for worker in self._workers:
            if worker.exitcode:
                self._tell(worker)
                return True
        return False

    def close(self) -> None:
        """End workers that an interrupted pool has left."""
        if self._timer is not None:
            self._timer.cancel()
        if self.got_stuck:
            for worker in filter(_is_worker, multiprocessing.active_children()):
                worker.kill()

    def _tell(self, worker: Any) -> None:
        how = f"was ended by {signal.Signals(-worker.exitcode).name}" if worker.exitcode < 0 else "has failed to start"
        where = "" if worker.exitcode < 0 else " Its own message is above."
        vars(self)["error"] = WorkerDied(
            f"The worker {worker.name!r} of --parallel (process {worker.pid}) {how}.{where} The tests that it had, and "
            "those that nobody had yet, have no result. Run the tests again; if the machine is short of memory, with "
            "fewer workers."
        )
        self._interrupt_later()

    def _interrupt_later(self) -> None:
        timer = threading.Timer(_STUCK_AFTER, self._interrupt)
        timer.daemon = True
        vars(self)["_timer"] = timer
        timer.start()

    def _interrupt(self) -> None:
        # More than once: the pool waits in several places.
        vars(self)["got_stuck"] = True
        self._interrupt_later()
        os.kill(os.getpid(), signal.SIGINT)


_planned: int | None = None


def plan(workers: int) -> None:
    """Say how many workers the pool that is made next begins with."""
    global _planned
    _planned = workers


def init_worker(counter: Any, *args: Any, **kwargs: Any) -> None:
    """Make a worker of ``--parallel`` of this process, as Django does; one in the place of a killed one gets no tests.

    The pool forks such a one in a thread of its own, which has none of the connections that were made ready. The run is
    about to end: it has to wait until then.
    """
    # Test runs under pytest do without it.
    from django.test.runner import ParallelTestSuite  # noqa: PLC0415

    if _planned is not None and multiprocessing.get_start_method() == "fork" and counter.value >= _planned:
        end_with_parent()
        while True:
            time.sleep(60)
    ParallelTestSuite.init_worker(counter, *args, **kwargs)


def _is_worker(child: Any) -> bool:
    return "PoolWorker" in child.name


_watched: set[int] = set()


def end_with_parent() -> None:
    """Have this process, a worker of ``--parallel``, end at once when the one that has started it does."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        _in_thread(parent.join)


def end_with_parent_process() -> None:
    """Have this process, a worker of pytest-xdist, end at once when the one that has started it does.

    By itself it ends when its test does, or some fifteen seconds later.
    """
    parent = os.getppid()

    def wait() -> None:
        while os.getppid() == parent:
            time.sleep(_PAUSE)

    _in_thread(wait)


def _in_thread(wait: Callable[[], None]) -> None:
    def run() -> None:
        wait()
        os._exit(1)

    if os.getpid() not in _watched:
        _watched.add(os.getpid())
        # Not one of ``threading``'s, which tests may count, or wait for.
        _thread.start_new_thread(run, ())
