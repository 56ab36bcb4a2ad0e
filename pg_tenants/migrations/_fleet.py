"""Running many schemas: one after the other or several at a time, canaries first, locked ones again at the end."""

from __future__ import annotations

import time
from collections import Counter, deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from queue import SimpleQueue
from threading import Lock, Thread
from typing import NamedTuple

from django.db import connections

from pg_tenants.exceptions import MigrationFailed
from pg_tenants.migrations._events import Event, Progress
from pg_tenants.migrations._executor import ModuleExecutor
from pg_tenants.migrations._history import MARKS, History, read_histories
from pg_tenants.migrations._locks import Turns, is_worth_retrying
from pg_tenants.migrations._pieces import refuse_other_way
from pg_tenants.migrations._plan import Options, WrongOptions, planned
from pg_tenants.migrations._report import Report, SchemaResult
from pg_tenants.migrations._signals import Signals
from pg_tenants.migrations._single import migrate_target
from pg_tenants.migrations._targets import Target
from pg_tenants.migrations._tracks import OWED, AddedOperations, HistoryMoved, Track, Worker
from pg_tenants.schemas import tenant_connection

__all__ = ["Fleet"]

ROUNDS = 3
"""How often schemas with a locked table are tried again, when all others are done."""

PAUSES = (0.5, 1.0, 2.0)
"""Seconds before each of these rounds."""

_MOVES = 5
"""How often a schema's history may change under a run, by other runs, before the schema is given up."""


class _Crashed(NamedTuple):
    """What a thread ended with, instead of going on with the next schema."""

    error: BaseException


_Key = tuple[frozenset[str], History]


class Fleet:
    """One run.

    Args:
        options: what to do in each schema.
        using: the database alias.
        report: is filled.
        progress: told what happens, in the thread that called.
    """

    def __init__(self, options: Options, using: str, report: Report, progress: Progress | None):
        self._options, self._using, self._report = options, using, report
        self._progress = progress or (lambda event: None)
        self._tracks: dict[_Key, Track | Exception] = {}
        self._sizes: Counter[_Key] = Counter()
        self._making_tracks = Lock()

    def run(self, targets: Sequence[Target], *, jobs: int = 1, canary: int = 0) -> None:
        """Migrate schemas, or plan to.

        Args:
            targets: the schemas.
            jobs: how many at the same time.
            canary: how many to migrate before all others; if one of those fails, the others are held back.
        """
        chosen = [each for each in targets if each.problem or self._options.app_label in (None, *each.apps)]
        histories = read_histories([each.schema for each in chosen if not each.problem], using=self._using)
        for target in chosen:
            if (history := histories.get(target.schema)) is not None:
                self._sizes[_key(target, history)] += 1
        self._progress(Event(kind="run", total=len(chosen)))
        try:
            self._run_all(chosen, histories, jobs, canary)
        finally:
            for track in self._tracks.values():
                if isinstance(track, Track):
                    track.end()
            self._tracks.clear()

    def _run_all(self, chosen: Sequence[Target], histories: dict[str, History | None], jobs: int, canary: int) -> None:
        first, rest = (chosen[:canary], chosen[canary:]) if canary else ([], chosen)
        if first and not self._options.plan:
            self._run_until_done(first, histories, 1)
            self._check(first)
            if self._report.failed:
                self._report.stopped_by = "canary"
                self._report.held_back = [target.schema for target in rest]
                return
        elif first:
            rest = chosen
        self._run_until_done(rest, histories, jobs)

    def _check(self, canaries: Sequence[Target]) -> None:
        """See that nothing is left to do in the canaries."""
        histories = read_histories([target.schema for target in canaries], using=self._using)
        results = {result.schema: result for result in self._report.results}
        for target in canaries:
            result, history = results[target.schema], histories[target.schema]
            if result.error is not None or history is None or self._goes_by_itself:
                continue
            track = self._track(target, history)
            if track.has_work or OWED in history:
                result.error = MigrationFailed(
                    f"The canary {target.schema!r} still lacks migrations after its run: {', '.join(track.names)}. "
                    "Look at what its migrations do to django_migrations."
                )

    # -- threads ------------------------------------------------------------------------------------------------------

    def _run_until_done(self, targets: Sequence[Target], histories: dict[str, History | None], jobs: int) -> None:
        results = {target.schema: SchemaResult(target.schema, target.module_names) for target in targets}
        self._report.results.extend(results.values())
        todo = list(targets)
        for pause in (*PAUSES[:ROUNDS], None):
            again: list[Target] = []
            self._run_once(todo, histories, results, jobs, None if pause is None else again)
            if not again:
                return
            assert pause is not None
            time.sleep(pause)
            todo = again
            histories = read_histories([target.schema for target in todo], using=self._using)

    def _run_once(
        self,
        targets: Sequence[Target],
        histories: dict[str, History | None],
        results: dict[str, SchemaResult],
        jobs: int,
        again: list[Target] | None,
    ) -> None:
        """Run each schema once.

        Args:
            targets: the schemas.
            histories: what they have recorded.
            results: filled by schema.
            jobs: how many at the same time.
            again: is given the schemas that somebody else's lock was in the way of; None to let them fail.
        """

        def finish(worker: Worker, target: Target) -> None:
            result = results[target.schema]
            started = time.monotonic()
            error = self._try(worker, target, histories.get(target.schema), result)
            result.seconds += time.monotonic() - started
            if error is not None and again is not None and is_worth_retrying(error):
                again.append(target)
                worker.tell(Event(kind="retry", target=target, detail=str(error).strip()))
                return
            result.error = error
            worker.tell(_ended(target, result))

        connection = tenant_connection(self._using)
        is_alone = jobs < 2 or len(targets) < 2 or connection.in_atomic_block or self._options.plan
        if is_alone:
            with self._worker(self._progress) as worker:
                for target in targets:
                    finish(worker, target)
        else:
            self._run_threads(targets, finish, min(jobs, len(targets)))

    def _run_threads(self, targets: Sequence[Target], finish: Callable[[Worker, Target], None], jobs: int) -> None:
        todo, told = deque(targets), SimpleQueue[Event | _Crashed | None]()

        def work() -> None:
            try:
                with self._worker(told.put) as worker:
                    while todo:
                        try:
                            target = todo.popleft()
                        except IndexError:
                            break
                        finish(worker, target)
            except BaseException as exc:  # noqa: BLE001  # the calling thread's to handle
                todo.clear()
                told.put(_Crashed(exc))
            finally:
                connections.close_all()
                told.put(None)

        threads = [Thread(target=work, name=f"pg_tenants-migrate-{number}") for number in range(jobs)]
        for thread in threads:
            thread.start()
        error: BaseException | None = None
        try:
            left = jobs
            while left:
                item = told.get()
                if item is None:
                    left -= 1
                elif isinstance(item, _Crashed):
                    error = error or item.error
                else:
                    self._progress(item)
        finally:
            # Interrupted, or a listener failed: each thread ends with the schema that it is at.
            todo.clear()
            for thread in threads:
                thread.join()
        if error is not None:
            raise error

    @contextmanager
    def _worker(self, tell: Callable[[Event], None]) -> Iterator[Worker]:
        connection = tenant_connection(self._using)
        turns = Turns(connection)
        try:
            yield Worker(connection, turns, tell)
        finally:
            turns.close()

    # -- one schema ---------------------------------------------------------------------------------------------------

    def _try(self, worker: Worker, target: Target, history: History | None, result: SchemaResult) -> Exception | None:
        try:
            if target.problem:
                raise target.problem
            self._bring(worker, target, history, result.applied)
        except WrongOptions:
            raise
        except Exception as exc:  # noqa: BLE001  # whatever a migration raises is this schema's result
            if not worker.connection.in_atomic_block:
                # The next schema is not to fail because the server was restarted in this one.
                worker.connection.close_if_unusable_or_obsolete()
            return exc
        return None

    @property
    def _goes_by_itself(self) -> bool:
        """Whether each schema is looked at by itself, as the options depend on more than what it has recorded."""
        options = self._options
        return options.run_syncdb or (not options.plan and (options.fake or options.fake_initial))

    def _bring(self, worker: Worker, target: Target, history: History | None, done: list[str]) -> None:
        for _ in range(_MOVES):
            if history is None or self._goes_by_itself:
                self._bring_alone(worker, target, done)
                return
            track = self._track(target, history)
            if self._options.plan:
                done.extend(track.names)
                return
            is_owed = OWED in history
            if not track.has_work and not is_owed:
                return
            refuse_other_way(target.schema, history, backwards=track.is_backwards)
            try:
                track.run(worker, target, done, is_owed=is_owed)
            except AddedOperations:
                self._bring_alone(worker, target, done)
            except HistoryMoved:
                history = read_histories([target.schema], using=self._using)[target.schema]
                continue
            return
        raise MigrationFailed(
            f"What the schema {target.schema!r} has recorded changed {_MOVES} times while it was migrated: other runs "
            "are at work. Run the command again when they have ended."
        )

    def _bring_alone(self, worker: Worker, target: Target, done: list[str]) -> None:
        if self._options.plan:
            done.extend(migrate_target(target, self._options, using=self._using))
            return
        with worker.turns.of(target.schema):
            done.extend(migrate_target(target, self._options, using=self._using, progress=worker.tell))

    def _track(self, target: Target, history: History) -> Track:
        """Return the track of schemas with these apps and this history, which is made once."""
        key = _key(target, history)
        with self._making_tracks:
            if key not in self._tracks:
                try:
                    self._tracks[key] = self._new_track(key)
                except WrongOptions:
                    raise
                except Exception as exc:  # noqa: BLE001  # that of each schema with this history
                    self._tracks[key] = exc
        found = self._tracks[key]
        if isinstance(found, Exception):
            raise found
        return found

    def _new_track(self, key: _Key) -> Track:
        options = self._options
        executor = ModuleExecutor(tenant_connection(self._using), key[0], history=key[1])
        _, plan = planned(executor, options)
        signals = Signals(
            plan,
            self._using,
            verbosity=options.verbosity,
            interactive=options.interactive,
            stdout=options.stdout,
        )
        return Track(executor, plan, key[1], self._sizes[key], signals)


def _key(target: Target, history: History) -> _Key:
    return target.apps, frozenset(row for row in history if row[0] != MARKS)


def _ended(target: Target, result: SchemaResult) -> Event:
    if result.error is not None:
        return Event(kind="failed", target=target, detail=str(result.error).strip(), seconds=result.seconds)
    return Event(kind="done", target=target, migrations=tuple(result.applied), seconds=result.seconds)
