"""What the named fields of ``pg_tenants.conf.database()`` mean in an entry of ``DATABASES``."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from pg_tenants.exceptions import ConfigurationError

__all__ = ["TENANT_FIELDS", "PasswordFile", "apply_fields", "forget_password", "password_of"]

TENANT_FIELDS = (
    "schema",
    "pooler",
    "readonly",
    "create_db",
    "extensions",
    "retry",
    "statement_timeout_ms",
    "lock_timeout_ms",
    "idle_in_transaction_session_timeout_ms",
    "migrations",
)
"""Fields that go into ``OPTIONS["tenants"]`` as they are."""

_POOL_FIELDS = ("pool_size", "max_overflow", "min_connections", "max_connections", "pool_timeout", "pool_recycle")
_POOL_DEFAULTS = {"pool_size": 5, "max_overflow": 10, "pool_timeout": 30, "pool_recycle": 3600}
_FROM_ENVIRONMENT = {"pool_size": "DB_POOL_SIZE", "max_overflow": "DB_MAX_OVERFLOW"}
_TLS_FIELDS = {
    "ssl_mode": "sslmode",
    "ssl_ca_file": "sslrootcert",
    "ssl_cert_file": "sslcert",
    "ssl_key_file": "sslkey",
}
_TLS_MODES = ("disable", "allow", "prefer", "require", "verify-ca", "verify-full")
_RETRY_FIELDS = {
    "retry_attempts": "attempts",
    "retry_delay": "delay",
    "retry_backoff": "backoff",
    "retry_max_delay": "max_delay",
}


class PasswordFile:
    """A password that is read from a file whenever a connection is made, so it may change without a restart.

    Args:
        path: the file; a line end at its end does not count.
    """

    def __init__(self, path: str | os.PathLike[str]):
        self.path = Path(path)

    def __call__(self) -> str:
        """Return the password of this moment.

        Raises:
            ConfigurationError: the file cannot be read, or is empty.
        """
        reason, text = None, ""
        try:
            text = self.path.read_text(encoding="utf-8").rstrip("\r\n")
        except (OSError, UnicodeDecodeError) as exc:
            reason = exc.strerror if isinstance(exc, OSError) else "it is not UTF-8"
        # Outside of except: a codec's error holds what it could not read, which is the password.
        if reason is not None:
            raise ConfigurationError(
                f"The password file {str(self.path)!r} cannot be read: {reason}. Correct password_file, or the file's "
                "permissions."
            )
        if not text:
            raise ConfigurationError(f"The password file {str(self.path)!r} is empty. Write the password into it.")
        return text

    def __repr__(self) -> str:
        """Return where the password is, not what it is."""
        return f"PasswordFile({str(self.path)!r})"

    def __eq__(self, other: object) -> bool:
        """Return whether the other is of the same file."""
        return isinstance(other, PasswordFile) and other.path == self.path

    def __hash__(self) -> int:
        """Return the path's hash."""
        return hash(self.path)


def password_of(value: object, alias: str) -> str:
    """Return the password to connect with now.

    Args:
        value: ``PASSWORD``: a text, or a callable that returns one.
        alias: the database alias, for messages.

    Raises:
        ConfigurationError: the callable returns something else.
    """
    found = value() if callable(value) else value
    if isinstance(found, str):
        return found
    raise ConfigurationError(
        f"The callable in DATABASES[{alias!r}]['PASSWORD'] returned an object of type {type(found).__name__}. Have "
        "it return the password as a string."
    )


def forget_password(exc: BaseException) -> None:
    """Take the password out of what psycopg keeps with an error of connecting: all parameters, in ``exc.pgconn``."""
    kept = getattr(getattr(exc, "pgconn", None), "__dict__", {})
    if isinstance(kept.get("info"), list):
        kept["password"] = b""
        kept["info"] = [
            option._replace(val=None) if b"password" in option.keyword else option for option in kept["info"]
        ]


def apply_fields(entry: dict[str, Any], fields: Mapping[str, Any]) -> dict[str, Any]:
    """Return an entry of ``DATABASES`` with named fields in their places; what is no field goes into ``OPTIONS``.

    Raises:
        ConfigurationError: fields contradict each other, or have values that they cannot have.
    """
    left = dict(fields)
    entry = {**entry, "OPTIONS": dict(entry.get("OPTIONS", {}))}
    options = entry["OPTIONS"]
    _apply_password(entry, left)
    if (checks := left.pop("pool_pre_ping", None)) is not None:
        entry["CONN_HEALTH_CHECKS"] = _boolean("pool_pre_ping", checks)
    options.update(_tls(left))
    tenants = {**options.pop("tenants", {}), **(left.pop("tenants", None) or {})}
    tenants.update({name: value for name in TENANT_FIELDS if (value := left.pop(name, None)) is not None})
    if retry := {key: value for name, key in _RETRY_FIELDS.items() if (value := left.pop(name, None)) is not None}:
        tenants["retry"] = {**(tenants.get("retry") or {}), **retry}
    if (pool := _pool(left)) is not None:
        options["pool"] = pool
    options.update(left)
    if tenants:
        options["tenants"] = tenants
    return entry


def _apply_password(entry: dict[str, Any], left: dict[str, Any]) -> None:
    given: dict[str, str | Callable[[], str] | None] = {
        name: left.pop(name, None) for name in ("password", "password_file")
    }
    password, file = given["password"], given["password_file"]
    if password and file:
        raise ConfigurationError("Both password and password_file are given. Give one of them.")
    if file:
        entry["PASSWORD"] = PasswordFile(str(file))
    elif password:
        entry["PASSWORD"] = password


def _tls(left: dict[str, Any]) -> dict[str, str]:
    enabled = left.pop("ssl_enabled", None)
    found = {key: str(value) for name, key in _TLS_FIELDS.items() if (value := left.pop(name, None)) is not None}
    if enabled is not None and not _boolean("ssl_enabled", enabled):
        if found:
            raise ConfigurationError(
                f"ssl_enabled is False, and {', '.join(sorted(found))} would need TLS. Set ssl_enabled=True, or leave "
                "the others out."
            )
        return {"sslmode": "disable"}
    mode = found.get("sslmode")
    if mode is not None and mode not in _TLS_MODES:
        raise ConfigurationError(
            f"ssl_mode is {mode!r}, which libpq does not know. Use one of {', '.join(_TLS_MODES)}."
        )
    if enabled or found:
        found.setdefault("sslmode", "verify-full")
    return found


def _pool(left: dict[str, Any]) -> dict[str, Any] | None:
    """Return psycopg_pool's options by the documents' names; None where there is nothing to say."""
    given = {name: value for name in _POOL_FIELDS if (value := left.pop(name, None)) is not None}
    for name, variable in _FROM_ENVIRONMENT.items():
        if name not in given and (text := os.environ.get(variable)):
            given[name] = _whole(variable, text)
    if not given:
        return None
    if left.get("pool") is False:
        raise ConfigurationError(f"pool is False, and {', '.join(sorted(given))} would need a pool. Leave one out.")
    sizes = {name: _whole(name, value) for name, value in given.items() if name in _POOL_FIELDS[:4]}
    both = {"pool_size", "max_overflow"} & set(sizes), {"min_connections", "max_connections"} & set(sizes)
    if both[0] and both[1]:
        raise ConfigurationError(
            f"{', '.join(sorted(both[0]))} and {', '.join(sorted(both[1]))} say the same in two ways. Give pool_size "
            "with max_overflow, or min_connections with max_connections."
        )
    if both[1]:
        smallest = sizes.get("min_connections", min(5, sizes.get("max_connections", 5)))
        largest = sizes.get("max_connections", max(smallest, 15))
    else:
        smallest = sizes.get("pool_size", _POOL_DEFAULTS["pool_size"])
        largest = smallest + sizes.get("max_overflow", _POOL_DEFAULTS["max_overflow"])
    if largest < max(1, smallest):
        raise ConfigurationError(
            f"The pool would have at least {smallest} and at most {largest} connections. Raise max_connections, to 1 "
            "or more."
        )
    own = left.pop("pool", None)
    return {
        "min_size": smallest,
        "max_size": largest,
        "timeout": _seconds("pool_timeout", given.get("pool_timeout", _POOL_DEFAULTS["pool_timeout"])),
        "max_lifetime": _seconds("pool_recycle", given.get("pool_recycle", _POOL_DEFAULTS["pool_recycle"])),
        **(own if isinstance(own, Mapping) else {}),
    }


def _boolean(name: str, value: object) -> bool:
    if isinstance(value, bool):
        return value
    raise ConfigurationError(f"{name} is {value!r}, of type {type(value).__name__}. Set it to True or False.")


def _whole(name: str, value: object) -> int:
    try:
        number = int(value) if isinstance(value, str) else value
    except ValueError:
        number = None
    if isinstance(number, int) and not isinstance(number, bool) and number >= 0:
        return number
    raise ConfigurationError(f"{name} is {value!r}. Set it to a whole number, 0 or more.")


def _seconds(name: str, value: object) -> float:
    if isinstance(value, (int, float)) and not isinstance(value, bool) and 0 < value < float("inf"):
        return value
    raise ConfigurationError(f"{name} is {value!r}. Set it to a number of seconds, more than 0.")
