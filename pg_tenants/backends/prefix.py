"""What goes before a statement so that it runs in the right schema, and how a statement may be sent.

The prefix travels in the message of the statement itself. ``SET LOCAL`` ends with the statement's own transaction, so
nothing stays on the session. Locking the schema's marker table proves that the schema is there, and no DROP SCHEMA gets
by the lock. Renaming a schema, or closing it to a role, takes no lock that could be waited for: PostgreSQL would look
the statement's tables up again and find those of the next schema on the path. So the marker is locked once more behind
the statement; where the schema is not found any more, that fails and takes the statement with it.
"""

from __future__ import annotations

import enum
import hashlib
import re
import zlib
from collections.abc import Sequence
from dataclasses import dataclass, replace

from pg_tenants.exceptions import UnsafeStatement
from pg_tenants.names import MARKER_TABLE, marker_name
from pg_tenants.sqltext import path_text, quote, split

__all__ = [
    "CHANGED",
    "EMPTY",
    "PLAIN",
    "Prefix",
    "Sending",
    "advisory_key",
    "build_prefix",
    "classify",
    "moving",
    "path_text",
    "quote",
    "take_role",
    "with_settings",
]


def advisory_key(schema: str) -> int:
    """Return the key of the advisory lock that guards a schema against being dropped or renamed, as a signed int8."""
    # The upper half is this package's own number space; the lower one is the schema's.
    return (0x7067746E << 32) | zlib.crc32(schema.encode())


# Constraint triggers of users that wait for the end of the transaction look names up on the path of that moment, so
# they fire before the path moves to another schema. PostgreSQL's own, such as those of foreign keys, need no path and
# stay deferred. Which tables were written is read from this session's locks: there is no list of waiting triggers.
# In one line: an error's line number is that in the message, less one for the prefix.
_FIRE_PENDING = b" ".join(
    b"""DO $pg_tenants$
DECLARE
    waiting record;
BEGIN
    IF pg_catalog.pg_current_xact_id_if_assigned() IS NULL THEN
        RETURN;
    END IF;
    FOR waiting IN
        SELECT DISTINCT n.nspname, c.conname, t.tginitdeferred
        FROM pg_catalog.pg_locks l
        JOIN pg_catalog.pg_trigger t ON t.tgrelid = l.relation AND t.tgdeferrable AND NOT t.tgisinternal
        JOIN pg_catalog.pg_constraint c ON c.oid = t.tgconstraint
        JOIN pg_catalog.pg_namespace n ON n.oid = c.connamespace
        WHERE l.pid = pg_catalog.pg_backend_pid() AND l.locktype = 'relation' AND l.mode = 'RowExclusiveLock'
            AND l.database = (SELECT oid FROM pg_catalog.pg_database WHERE datname = pg_catalog.current_database())
    LOOP
        EXECUTE pg_catalog.format('SET CONSTRAINTS %I.%I IMMEDIATE', waiting.nspname, waiting.conname);
        IF waiting.tginitdeferred THEN
            EXECUTE pg_catalog.format('SET CONSTRAINTS %I.%I DEFERRED', waiting.nspname, waiting.conname);
        END IF;
    END LOOP;
END
$pg_tenants$""".split()
)


@dataclass(frozen=True, slots=True)
class Prefix:
    """The prefix for one search path, in the forms that the ways of sending need.

    Attributes:
        schema: the schema whose presence is proved, by its name in the database; None without an active one.
        identity: that of the tenant whose schema it has to be; None for any of this name.
        role: the role that it takes on; empty for the connection's own, None where roles are not used.
        simple: goes before the statement in a message of the simple protocol.
        results: how many results ``simple`` yields.
        check: goes behind the statement; empty without an active schema, and then yields no result, else one.
        characters: how many characters ``simple`` has, to correct error positions.
        pipeline: goes before the statement as queries of their own in the same pipeline.
        pipeline_check: goes behind the statement in the same way.
        suffix: a comment that makes prepared statements of different schemas differ.
        enter: makes the path the session's, for a statement that must be sent alone.
        leave: takes that back.
    """

    schema: str | None
    identity: str | None
    role: str | None
    simple: bytes
    results: int
    check: bytes
    characters: int
    pipeline: tuple[bytes, ...]
    pipeline_check: tuple[bytes, ...]
    suffix: bytes
    enter: bytes
    leave: bytes


_VERSION = "pg_tenants.schema_version"
CHANGED = "changed_meanwhile"
"""What the check of a pipeline calls a schema that was changed and brought back; the server finds none of that name."""


def build_prefix(
    path: Sequence[str],
    schema: str | None,
    role: str | None = None,
    own_role: str = "",
    identity: str | None = None,
) -> Prefix:
    """Return the prefix for a search path.

    Args:
        path: schemas by their names in the database, in order.
        schema: the one whose marker is locked; None for none.
        role: the role to take on; empty for the connection's own, None to leave roles alone.
        own_role: the connection's own role; empty for the one that its session began with.
        identity: that of the tenant whose schema it has to be; None for any of this name.
    """
    search_path = path_text(path)
    literal = "'" + search_path.replace("'", "''") + "'"
    # Before the marker's lock, which proves that the role may use the schema.
    assumed = kept = back = ""
    if role is not None:
        assumed, kept = f" {take_role(role or own_role)};", f" {take_role(role or own_role, local=False)};"
        back = f"{take_role(own_role, local=False)}; "
    own = MARKER_TABLE if identity is None else quote(marker_name(identity))
    marker = "" if schema is None else f"{quote(schema)}.{own}"
    lock = f" LOCK TABLE ONLY {marker} IN ACCESS SHARE MODE;" if marker else ""
    # LOCK is refused in the implicit transaction of a pipeline by PostgreSQL 15; a scan takes the same lock.
    scan = f"EXISTS (SELECT FROM ONLY {marker} WHERE false)" if marker else ""
    # The statements of a pipeline are further apart than those of a message, so a schema might be renamed or closed and
    # brought back unseen between the scans. Its row in pg_namespace has another xmin then.
    name = "'" + (schema or "").replace("'", "''") + "'"
    version = f"(SELECT xmin::text FROM pg_catalog.pg_namespace WHERE nspname = {name})"  # noqa: S608  # quoted above
    noted = f"pg_catalog.set_config('{_VERSION}', {version}, true)"
    same = f"{version} = pg_catalog.current_setting('{_VERSION}')"
    compared = f"(CASE WHEN {same} THEN 'pg_catalog' ELSE '{CHANGED}' END)::pg_catalog.regnamespace"
    proof = f", {noted}, {scan}" if marker else ""
    simple = f"SET LOCAL search_path = {search_path};{assumed}{lock}\n"
    key = advisory_key(schema or "")
    return Prefix(
        schema=schema,
        identity=identity,
        role=role,
        simple=simple.encode(),
        results=1 + bool(assumed) + bool(marker),
        # On a line of its own: the statement may end with a comment.
        check=f"\n;{lock[:-1]}".encode() if marker else b"",
        characters=len(simple),
        pipeline=(
            *(() if role is None else (_role_query(role or own_role),)),
            f"SELECT pg_catalog.set_config('search_path', {literal}, true){proof}".encode(),
        ),
        pipeline_check=(f"SELECT {scan}, {compared}".encode(),) if marker else (),
        suffix=f" /* {hashlib.sha256(search_path.encode()).hexdigest()[:20]} */".encode(),
        enter=(
            f"SELECT pg_catalog.pg_advisory_lock_shared({key}); SET search_path = {search_path};{kept}{lock}".encode()
        ),
        leave=f"RESET search_path; {back}SELECT pg_catalog.pg_advisory_unlock_shared({key})".encode(),
    )


def take_role(role: str, *, local: bool = True) -> str:
    """Return the statement that takes a role on, until the transaction ends if local; empty for that of the session."""
    return f"SET{' LOCAL' * local} " + (f"ROLE {quote(role)}" if role else '"role" = DEFAULT')


def _role_query(role: str) -> bytes:
    """Return the query that takes a role on in a pipeline.

    It is a query of its own: the server checks what the next one may do before it runs it.
    """
    value = "'" + role.replace("'", "''") + "'" if role else "NULL"
    return f"SELECT pg_catalog.set_config('role', {value}, true)".encode()


def moving(prefix: Prefix) -> Prefix:
    """Return the prefix for a transaction that comes from another path: what waits there fires first."""
    return replace(
        prefix,
        simple=_FIRE_PENDING + b"; " + prefix.simple,
        results=prefix.results + 1,
        characters=len(_FIRE_PENDING) + 2 + prefix.characters,
        pipeline=(_FIRE_PENDING, *prefix.pipeline),
    )


EMPTY = Prefix(
    schema=None,
    identity=None,
    role=None,
    simple=b"",
    results=0,
    check=b"",
    characters=0,
    pipeline=(),
    pipeline_check=(),
    suffix=b"",
    enter=b"",
    leave=b"",
)
"""For an alias without a path, whose statements carry settings alone."""


def with_settings(prefix: Prefix, settings: Sequence[tuple[str, str]]) -> Prefix:
    """Return the prefix with settings in front of it, which hold until the transaction ends.

    Args:
        prefix: the prefix.
        settings: names and values of PostgreSQL's.
    """
    settings = [(name, "'" + value.replace("'", "''") + "'") for name, value in settings]
    local = "".join(f"SET LOCAL {name} = {value}; " for name, value in settings)
    # A transaction's own access mode ends with it, so a session has another setting for that.
    lasting = [
        (name.replace("transaction_read_only", "default_transaction_read_only"), value) for name, value in settings
    ]
    session = "".join(f"SET {name} = {value}; " for name, value in lasting)
    called = ", ".join(f"pg_catalog.set_config('{name}', {value}, true)" for name, value in settings)
    reset = "; ".join(f"RESET {name}" for name, _ in lasting)
    return replace(
        prefix,
        simple=local.encode() + prefix.simple,
        results=prefix.results + len(settings),
        characters=len(local) + prefix.characters,
        pipeline=(f"SELECT {called}".encode(), *prefix.pipeline),
        enter=session.encode() + prefix.enter,
        leave=b"; ".join(filter(None, (prefix.leave, reset.encode()))),
    )


class Sending(enum.Enum):
    """How a statement may be sent.

    ``CHECKED``: between the prefix and its check. ``PREFIXED``: behind the prefix alone, as a script that ends the
    transaction. ``BARE``: by itself.
    """

    CHECKED = enum.auto()
    PREFIXED = enum.auto()
    BARE = enum.auto()


_BEGINSPLAIN = re.compile(rb"\s*(?:SELECT|INSERT|UPDATE|DELETE|WITH)\b", re.IGNORECASE)
PLAIN = (b"SELECT", b"INSERT", b"UPDATE", b"DELETE")
"""How most statements begin; one of these without a semicolon is ``CHECKED``, unless its transaction has failed."""
_CONTROL = frozenset({b"savepoint", b"release", b"rollback", b"begin", b"start", b"commit", b"end", b"abort"})
_ENDING = ([b"commit"], [b"end"], [b"abort"], [b"rollback"])
_MAY_CONTROL = re.compile(rb"\b(?:commit|end|abort|rollback|prepare)\b", re.IGNORECASE)


def classify(query: bytes, in_error: bool) -> Sending:
    """Return how a message may be sent.

    Args:
        query: the final text of the message.
        in_error: the transaction has failed, so the server takes nothing but its end.

    Raises:
        UnsafeStatement: the message is a script, part of which would run without its tenant.
    """
    if not in_error and (query[:6] in PLAIN or _BEGINSPLAIN.match(query)):
        semicolon = query.find(b";")
        if semicolon < 0 or not _MAY_CONTROL.search(query, semicolon):
            return Sending.CHECKED
    statements = list(split(query))
    if len(statements) > 1:
        ends = _refuse_unsafe_script([words for _, words in statements], in_error)
        return Sending.PREFIXED if ends else Sending.CHECKED
    if not statements or in_error:
        return Sending.BARE
    words = statements[0][1]
    first = words[0] if words else b""
    if first in _CONTROL or words[:2] == [b"prepare", b"transaction"]:
        return Sending.BARE
    return Sending.CHECKED


def _refuse_unsafe_script(statements: list[list[bytes]], in_error: bool) -> bool:
    """Refuse a script, part of which would run without its tenant; return whether it ends the transaction."""
    if in_error:
        raise UnsafeStatement(
            "A script of several statements was sent in a transaction that has failed. The statements after its "
            "ROLLBACK would run without their tenant. Send ROLLBACK by itself first."
        )
    for words in statements[:-1]:
        if _ends_transaction(words):
            raise UnsafeStatement(
                f"The script has statements after {b' '.join(words).decode(errors='replace').upper()!r}, which would "
                "run without their tenant. Send them as a message of their own, or use transaction.atomic()."
            )
    return _ends_transaction(statements[-1])


def _ends_transaction(words: list[bytes]) -> bool:
    # ROLLBACK TO counts: it takes the path back to what it was at the savepoint.
    return words[:1] in _ENDING or words[:2] == [b"prepare", b"transaction"]
