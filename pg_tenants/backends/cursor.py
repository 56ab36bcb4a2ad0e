"""Psycopg cursors that put the tenant in front of each statement, in the same message.

``_execute_send`` is where psycopg has the final bytes of a statement of any kind, so the prefix is joined there and
its results are dropped where results are set. These methods are private to psycopg; tests hold them on the oldest and
the newest version that we support.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Hashable, Iterable, Iterator
from dataclasses import replace
from time import perf_counter
from typing import TYPE_CHECKING, Any, NoReturn, Protocol, cast

from psycopg import _compat, pq
from psycopg import errors as e
from psycopg._capabilities import capabilities
from psycopg._pipeline import BasePipeline  # type: ignore[attr-defined]
from psycopg._queries import PostgresClientQuery, PostgresQuery
from psycopg.generators import execute, fetch, send

from pg_tenants.access import chosen
from pg_tenants.backends.errors import error_of_prefix, mark_if_of_schema, note_of_table, with_own_position
from pg_tenants.backends.prefix import PLAIN, Prefix, Sending, classify, moving, with_settings
from pg_tenants.context import bind, current
from pg_tenants.exceptions import UnsafeStatement

if TYPE_CHECKING:
    from psycopg._cursor_base import BaseCursor
    from psycopg.abc import Params, PQGen, Query
    from psycopg.pq.abc import PGresult

    _Base = BaseCursor[Any, Any]
else:
    _Base = object

__all__ = ["BACKEND_PID", "UNKNOWN_PATH", "Source", "TenantCursorMixin"]

COMMAND_OK, FATAL_ERROR = pq.ExecStatus.COMMAND_OK, pq.ExecStatus.FATAL_ERROR
IDLE, INERROR = pq.TransactionStatus.IDLE, pq.TransactionStatus.INERROR
INTRANS = pq.TransactionStatus.INTRANS
BACKEND_PID = b"SELECT pg_catalog.pg_backend_pid()"
"""Poolers such as PgBouncer make up the process id that they tell the client, so a different answer shows one."""

# As a number: bytes looks for one several times faster than for bytes.
SEMICOLON = ord(";")

_FORGETS = re.compile(rb"(?:DROP|ALTER|ROLLBACK|DISCARD ALL|DEALLOCATE ALL)\b")
MAY_COMMIT = re.compile(rb"(?:\s|--[^\n\r]*|/\*.*?\*/)*(?:CALL|DO)\b", re.IGNORECASE | re.DOTALL)
KEEPS_PATH = re.compile(rb"\s*(?:SAVEPOINT|RELEASE)\b", re.IGNORECASE)
"""What is sent bare and leaves the path of the transaction as it was."""
UNKNOWN_PATH = object()
"""The path of a transaction after its savepoint was rolled back to: it is that of the savepoint."""

# Template strings came with psycopg 3.3; isinstance() of an empty tuple is False.
_TEMPLATE: Any = getattr(_compat, "Template", ())


class Source(Protocol):
    """What a cursor asks when it sends a statement: our database wrapper."""

    prefixes: dict[Hashable, Prefix]
    """The prefixes made so far, by the key of the context's entry."""

    def statement_prefix(self) -> Prefix | None:
        """Return what goes before a statement sent now; None for nothing."""

    limits: tuple[tuple[str, str], ...]
    """Settings that hold for each transaction, and are sent at its beginning."""

    slow_after: float | None
    """From how many seconds on a statement is slow; None where nobody monitors."""

    def observe(self, seconds: float, query: Query, error: BaseException | None) -> None:
        """Take note of what a statement took."""

    readonly_by_default: bool
    """Writes are refused unless somebody has asked for them."""

    def told_of_pooler(self) -> bool | None:
        """Return whether the connection leads through a pooler, None where nobody has said."""

    def guarded(self, prefix: Prefix) -> Prefix:
        """Return a prefix that refuses writes, where that is wanted here; else the same."""


class TenantCursorMixin(_Base):
    """Mixed in front of a psycopg cursor class by ``kinds.attach``.

    Its attributes are the class's until something is different: that is what most cursors never change.
    """

    tenant_source: Source
    _merges = True
    """Parameters are merged into the text by the client."""
    _sent: Prefix | None = None
    """The prefix in the message that was sent last."""
    _queued: bytes | None = None
    """Which prefix executemany() has put into the pipeline."""
    _prefixed = False
    """The prefix is taken care of already."""
    _unchecked = False
    """The statement cannot have a check behind it."""

    def _prefix_for(self, query: bytes) -> Prefix | None:
        """Return what goes before a statement that is sent now, and remember it for the rest of the transaction."""
        entry = current.get()
        prefix = self.tenant_source.prefixes.get(None if entry is None else entry.key)
        if prefix is None:
            prefix = self.tenant_source.statement_prefix()
            if prefix is None:
                return None
        conn: Any = self._conn
        status = self._pgconn.transaction_status
        checked = True
        if status == INERROR or SEMICOLON in query or not query.startswith(PLAIN):
            sending = classify(query, status == INERROR)
            if sending is Sending.BARE:
                if not KEEPS_PATH.match(query):
                    conn.tenant_path = UNKNOWN_PATH
                return None
            checked = sending is Sending.CHECKED
        before = conn.tenant_path
        source = self.tenant_source
        if before is not prefix:
            conn.tenant_path = prefix
            if before is not None:
                prefix = moving(prefix)
            # A transaction has them from its first statement on; going back to a savepoint may have lost them.
            if source.limits and (before is None or before is UNKNOWN_PATH):
                prefix = with_settings(prefix, source.limits)
        if source.readonly_by_default or chosen.get() is not None:
            prefix = source.guarded(prefix)
        return prefix if checked else replace(prefix, check=b"")

    def _start_query(self, query: Query | None = None) -> PQGen[None]:
        self._sent = self._queued = None
        if self._pgconn.transaction_status == IDLE:
            cast(Any, self._conn).tenant_path = None
        return super()._start_query(query)

    def _execute_send(self, query: PostgresQuery, *, force_extended: bool = False, binary: bool | None = None) -> None:
        prefix = None if self._prefixed else self._prefix_for(query.query)
        if prefix is None:
            if isinstance(query, PostgresClientQuery) and not self._merges:
                query.params = None  # They are in the text; DECLARE in a transaction that has failed comes here.
            super()._execute_send(query, force_extended=force_extended, binary=binary)
            return
        if self._wants_binary(binary) or (query.params and not isinstance(query, PostgresClientQuery)):
            # Not reached by psycopg's own ways: those go through _maybe_prepare_gen, or merge their parameters.
            raise UnsafeStatement(
                "A statement whose parameters the server binds needs a pipeline to carry its tenant. Send it by "
                "execute(), or merge its parameters on the client (a ClientCursor)."
            )
        if self._unchecked and prefix.check:
            prefix = replace(prefix, check=b"")
        self._query, self._sent = query, prefix
        self._pgconn.send_query(prefix.simple + query.query + prefix.check)

    def _merged(self, query: Query, params: Params | None) -> PostgresClientQuery:
        merged = PostgresClientQuery(self._tx)
        merged.convert(query, params)
        return merged

    def _wants_binary(self, binary: bool | None) -> bool:
        return self.format == pq.Format.BINARY if binary is None else binary

    # -- what the server says -----------------------------------------------------------------------------------------

    def _set_results(self, results: list[PGresult]) -> None:
        if self._conn._prepared._names:
            self._forget_prepared(results)
        super()._set_results(self._own(results))

    def _forget_prepared(self, results: list[PGresult]) -> None:
        # Psycopg forgets its prepared statements after some of these, but looks only at statements that it has not
        # counted yet.
        if any(_FORGETS.match(result.command_status or b"") for result in results):
            self._conn._prepared.clear()

    def _own(self, results: list[PGresult]) -> list[PGresult]:
        """Return the results of the user's statements among those of a message."""
        sent = self._sent
        return results if sent is None else results[sent.results : len(results) - bool(sent.check)]

    def _raise_for_result(self, result: PGresult) -> NoReturn:
        if result.status != FATAL_ERROR or self._sent is None:
            super()._raise_for_result(result)
        raise self._error_from(result, self._sent)

    def _check_results(self, results: list[PGresult]) -> None:
        sent = self._sent
        if sent is not None and len(results) <= sent.results and results and results[-1].status == FATAL_ERROR:
            raise error_of_prefix(results[-1], sent, self._encoding, self._own_text())
        super()._check_results(results)

    def _error_from(self, result: PGresult, sent: Prefix) -> e.Error:
        exc = e.error_from_result(result, encoding=self._encoding)
        if isinstance(exc, e.UndefinedTable) and (note := note_of_table(exc, sent)) is not None:
            exc.add_note(note)
        mark_if_of_schema(exc, sent)
        return with_own_position(exc, result, sent, self._own_text())

    def _own_text(self) -> str:
        return self._query.query.decode(self._encoding, "replace") if self._query else ""

    # -- the ways of sending ------------------------------------------------------------------------------------------

    def _execute_gen(
        self, query: Query, params: Params | None = None, *, prepare: bool | None = None, binary: bool | None = None
    ) -> PQGen[None]:
        """Psycopg's own; a statement that goes in one message takes a shorter way, without what prepares statements."""
        conn: Any = self._conn
        # Time is taken here and not around execute(): a call more for each statement would cost twice as much.
        started = None if self.tenant_source.slow_after is None else perf_counter()
        try:
            if not self._merges or binary or self.format or conn._pipeline is not None:
                yield from super()._execute_gen(query, params, prepare=prepare, binary=binary)
            else:
                yield from self._start_query(query)
                pgq = self._convert_query(query, params)
                prefix = self._prefix_for(pgq.query)
                yield from super()._maybe_prepare_gen(pgq) if prefix is None else self._message_gen(pgq, prefix)
                self._last_query = query
        except BaseException as exc:
            if started is not None:
                self.tenant_source.observe(perf_counter() - started, query, exc)
            raise
        if started is not None:
            self.tenant_source.observe(perf_counter() - started, query, None)

    def _message_gen(self, pgq: PostgresQuery, prefix: Prefix) -> PQGen[None]:
        """Send a statement in one message with its prefix and its check."""
        self._query, self._sent = pgq, prefix
        self._pgconn.send_query(prefix.simple + pgq.query + prefix.check)
        results = yield from execute(self._pgconn)
        # Whatever fails is the last result; behind a statement that went well, that is the check's.
        if not prefix.check or not results or results[-1].status != COMMAND_OK:
            try:
                self._check_results(results)
            except (e.ActiveSqlTransaction, e.InvalidTransactionTermination) as exc:
                if not self._may_go_alone():
                    raise
                yield from self._alone_gen(pgq, prefix, exc)
                return
        if self._conn._prepared._names:
            self._forget_prepared(results)
        super()._set_results(results[prefix.results : -1 if prefix.check else None])

    def _maybe_prepare_gen(
        self, pgq: PostgresQuery, *, prepare: bool | None = None, binary: bool | None = None
    ) -> PQGen[None]:
        if self._conn._pipeline is None:
            return super()._maybe_prepare_gen(pgq, prepare=prepare, binary=binary)
        return self._queue_gen(pgq, self._prefix_for(pgq.query), prepare, binary)

    def _may_go_alone(self) -> bool:
        """Whether a statement that was refused in company may be sent again by itself: nothing has happened yet."""
        return self._conn.autocommit and self._pgconn.transaction_status == IDLE

    def _queue_gen(
        self, pgq: PostgresQuery, prefix: Prefix | None, prepare: bool | None, binary: bool | None
    ) -> PQGen[None]:
        """Put a statement into the pipeline that is open, behind its prefix."""
        if prefix is not None and MAY_COMMIT.match(pgq.query) and self._conn.autocommit:
            raise UnsafeStatement(
                "CALL and DO cannot be sent in a pipeline, which executemany() uses: a procedure that commits would "
                "run its rest without the tenant. Send each by execute(), or inside transaction.atomic()."
            )
        # The rows of executemany() follow each other in one transaction, so the first one's prefix serves all.
        if prefix is not None and (self._execmany_returning is None or self._queued != prefix.suffix):
            self._queued = prefix.suffix
            self._queue_parts(prefix, prefix.pipeline)
        may_prepare = prepare is not False and self._conn._prepared.prepare_threshold is not None
        if prefix is not None and may_prepare and not pgq.query.endswith(prefix.suffix):
            # A plan holds for one search path alone, and psycopg knows plans by their text.
            pgq.query += prefix.suffix
        self._prefixed = True
        try:
            yield from super()._maybe_prepare_gen(pgq, prepare=prepare, binary=binary)
        finally:
            self._prefixed = False
        if prefix is not None and self._execmany_returning is None:
            self._queue_parts(prefix, prefix.pipeline_check)

    def _queue_parts(self, prefix: Prefix, parts: tuple[bytes, ...]) -> None:
        pipeline: Any = self._conn._pipeline
        for part in parts:
            pipeline.command_queue.append(functools.partial(self._pgconn.send_query_params, part, None))
            pipeline.result_queue.append((_PrefixResult(self, prefix), None))

    def _executemany_gen_pipeline(self, query: Query, params_seq: Iterable[Params], returning: bool) -> PQGen[None]:
        # One statement has one tenant, also where the rows come from a generator that enters another's context.
        yield from super()._executemany_gen_pipeline(query, bind(_each)(params_seq), returning)
        # What went into the pipeline was one statement in one transaction, so one check is enough.
        if self._queued is not None and (prefix := self.tenant_source.statement_prefix()) is not None:
            self._queue_parts(prefix, prefix.pipeline_check)

    def _send_prepare(self, name: bytes, query: PostgresQuery) -> None:
        super()._send_prepare(name, query)
        if (pipeline := cast(Any, self._conn._pipeline)) is not None:
            pipeline.result_queue[-1] = (_PrepareResult(self, self._conn._prepared.key(query)), None)

    def _pipeline_gen(
        self, pgq: PostgresQuery, prefix: Prefix, prepare: bool | None, binary: bool | None
    ) -> PQGen[None]:
        """Send a statement whose parameters the server binds, or a prepared one, in a pipeline of its own."""
        try:
            yield from self._own_pipeline_gen(pgq, prefix, prepare, binary)
        except (e.ActiveSqlTransaction, e.InvalidTransactionTermination) as exc:
            if not self._may_go_alone():
                raise
            yield from self._alone_gen(pgq, prefix, exc, binary)

    def _own_pipeline_gen(
        self, pgq: PostgresQuery, prefix: Prefix, prepare: bool | None, binary: bool | None
    ) -> PQGen[None]:
        conn: Any = self._conn
        pipeline = conn._pipeline = BasePipeline(conn)
        failure: BaseException | None = None
        try:
            yield from pipeline._enter_gen()
            try:
                yield from self._queue_gen(pgq, prefix, prepare, binary)
            finally:
                yield from pipeline._exit_gen()
        except BaseException as exc:
            failure = exc
            raise
        finally:
            pipeline._exit(failure)
            conn._pipeline = None

    def _alone_gen(
        self, pgq: PostgresQuery, prefix: Prefix, refused: e.Error, binary: bool | None = None
    ) -> PQGen[None]:
        """Send a statement that PostgreSQL refuses in company: path on the session, the statement, path off."""
        if (yield from self._pooled_gen()):
            raise UnsafeStatement(
                f"PostgreSQL runs this statement by itself only ({refused.diag.message_primary}), and behind a "
                "connection pooler it would run without its tenant. Use an alias that is connected directly, or set "
                "OPTIONS['tenants']['pooler'] = False if there is no pooler."
            ) from refused
        try:
            yield from self._session_gen(prefix.enter, prefix)
            self._prefixed = True
            self._sent = None
            self._reset()
            yield from super()._maybe_prepare_gen(pgq, prepare=False, binary=binary)
        finally:
            self._prefixed = False
            if self._pgconn.transaction_status == IDLE:
                yield from self._session_gen(prefix.leave, prefix)

    def _pooled_gen(self) -> PQGen[bool]:
        told = self.tenant_source.told_of_pooler()
        if told is not None:
            return told
        self._pgconn.send_query(BACKEND_PID)
        (result,) = yield from execute(self._pgconn)
        pid = result.get_value(0, 0)
        return pid is None or int(pid) != self._pgconn.backend_pid

    def _session_gen(self, command: bytes, prefix: Prefix) -> PQGen[None]:
        self._pgconn.send_query(command)
        for result in (yield from execute(self._pgconn)):
            if result.status == FATAL_ERROR:
                raise error_of_prefix(result, prefix, self._encoding)

    def _start_copy_gen(self, statement: Query, params: Params | None = None) -> PQGen[None]:
        if self._conn._pipeline:
            raise e.NotSupportedError("COPY cannot be used in pipeline mode")
        yield from self._start_query()
        if params or isinstance(statement, _TEMPLATE):
            statement = self._merged(statement, params).query
        self._unchecked = True
        try:
            self._execute_send(self._convert_query(statement), binary=False)
        finally:
            self._unchecked = False
        results = yield from execute(self._pgconn)
        failed = next((result for result in results if result.status == FATAL_ERROR), None)
        if failed is not None:
            self._check_results(results)
        own = self._own(results)
        if len(own) != 1:
            raise e.ProgrammingError("COPY cannot be mixed with other operations")
        self._check_copy_result(own[0])
        self._set_results(results)

    def _stream_send_gen(
        self, query: Query, params: Params | None = None, *, binary: bool | None = None, size: int
    ) -> PQGen[None]:
        yield from self._start_query(query)
        merged = self._merged(query, params)
        # Its rows are handed out before a check behind it could fail, and so are those of COPY.
        prefix = self._prefix_for(merged.query)
        if prefix is None:
            yield from super()._stream_send_gen(query, params, binary=binary, size=size)
            return
        if size < 1:
            raise ValueError("size must be >= 1")
        if size > 1:
            capabilities.has_stream_chunked(check=True)
        self._query = merged
        self._sent = prefix = replace(prefix, check=b"")
        self._pgconn.send_query(prefix.simple + merged.query)
        if size == 1:
            self._pgconn.set_single_row_mode()
        else:
            self._pgconn.set_chunked_rows_mode(size)
        self._last_query = query
        yield from send(self._pgconn)

    def _stream_fetchone_gen(self, first: bool) -> PQGen[PGresult | None]:
        if first and self._sent is not None:
            yield from self._skip_prefix_gen(self._sent)
        return (yield from super()._stream_fetchone_gen(first))

    def _skip_prefix_gen(self, sent: Prefix) -> PQGen[None]:
        for _ in range(sent.results):
            result = yield from fetch(self._pgconn)
            if result is not None and result.status == FATAL_ERROR:
                raise error_of_prefix(result, sent, self._encoding)


def _each(rows: Iterable[Params]) -> Iterator[Params]:
    yield from rows


class _PrepareResult:
    """Takes the result of a PREPARE that was sent in a pipeline, in a cursor's place.

    Psycopg counts a statement as prepared when it is queued; where the pipeline failed before, it is not.
    """

    def __init__(self, cursor: TenantCursorMixin, key: Any):
        self._cursor, self._key = cursor, key

    def _check_results(self, results: list[PGresult]) -> None:
        if any(result.status != COMMAND_OK for result in results):
            self._cursor._conn._prepared._names.pop(self._key, None)
        self._cursor._check_results(results)

    def _set_results(self, results: list[PGresult]) -> None:
        pass


class _PrefixResult:
    """Takes the results of a prefix that was sent in a pipeline, in a cursor's place."""

    def __init__(self, cursor: TenantCursorMixin, prefix: Prefix):
        self._cursor, self._prefix = cursor, prefix

    def _check_results(self, results: list[PGresult]) -> None:
        for result in results:
            if result.status == FATAL_ERROR:
                raise error_of_prefix(result, self._prefix, self._cursor._encoding)
            if result.status == pq.ExecStatus.PIPELINE_ABORTED:
                raise e.PipelineAborted("pipeline aborted")

    def _set_results(self, results: list[PGresult]) -> None:
        pass
