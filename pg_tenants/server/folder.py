"""The server's folder: where it is, what it holds, and who may read it."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
import stat
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path

import platformdirs

from pg_tenants.server.config import ServerConfig
from pg_tenants.server.exceptions import DataFolderError
from pg_tenants.server.identity import Identity

__all__ = ["Folder", "State", "locate", "private_temp", "write_private"]

# Where the programs run as another user, that one must get through our folders, and may not list them.
_PASSABLE = 0o711
_LOG_LIMIT = 10_000_000
# What macOS has for a socket's path; Linux has a little more.
_SOCKET_PATH = 104


@dataclass(frozen=True, slots=True)
class State:
    """What the folder remembers of the last start.

    Args:
        engine: the engine's name.
        version: PostgreSQL's version.
        user: the superuser.
        databases: the databases that were made, each with the extensions that were installed in it.
        settings: the settings that it was started with, as text.
        image: the image of a container.
        instance: which run of which container was seen to take connections.
    """

    engine: str
    version: str
    user: str
    databases: Mapping[str, tuple[str, ...]] = field(default_factory=lambda: {"postgres": ()})
    settings: str = ""
    image: str = ""
    instance: str = ""

    def lacks(self, database: str, extensions: Iterable[str]) -> bool:
        """Tell whether the database, or one of its extensions, is still to be made."""
        return database not in self.databases or not set(extensions) <= set(self.databases[database])


@dataclass(frozen=True, slots=True)
class Folder:
    """The files of one server."""

    path: Path

    @property
    def data(self) -> Path:
        """PostgreSQL's data folder."""
        return self.path / "data"

    @property
    def settings(self) -> Path:
        """The settings that the configuration asks for, included by postgresql.conf."""
        return self.data / "pg_tenants.conf"

    @property
    def log(self) -> Path:
        """The log."""
        return self.path / "server.log"

    @property
    def password(self) -> Path:
        """The superuser's password."""
        return self.path / "password"

    @property
    def lock(self) -> Path:
        """The lock that starting and stopping take."""
        return self.path / "lock"

    @property
    def state(self) -> Path:
        """What is remembered of the last start."""
        return self.path / "state.json"

    @property
    def upgrade(self) -> Path:
        """Where a new major version's server is made."""
        return self.path / "upgrade"

    @property
    def upgrade_done(self) -> Path:
        """What says that the new version's data is complete."""
        return self.upgrade / "done"

    def finish_upgrade(self) -> None:
        """Put the data of a finished upgrade in its place and the old aside; go on where a killed process stopped."""
        if not self.upgrade_done.exists():
            return
        new = Folder(self.upgrade)
        if new.data.exists():
            if self.data.exists():
                aside = self.path / f"data-{self.major}"
                if aside.exists():
                    shutil.rmtree(aside)
                self.data.replace(aside)
            new.data.replace(self.data)
        for source, target in ((new.password, self.password), (new.state, self.state)):
            if source.exists():
                source.replace(target)
        shutil.rmtree(self.upgrade)

    def old_data(self) -> Iterator[Path]:
        """Yield the data folders that upgrades have put aside."""
        yield from self.path.glob("data-*")

    @property
    def major(self) -> str:
        """The major version of the data folder, "" if there is none."""
        return _read(self.data / "PG_VERSION").strip()

    def read_password(self) -> str:
        """Return the password, "" if there is none yet."""
        return _read(self.password)

    def read_state(self) -> State | None:
        """Return what is remembered of the last start."""
        try:
            values = json.loads(_read(self.state))
            made = {name: tuple(extensions) for name, extensions in values["databases"].items()}
            return State(**{**values, "databases": made})
        except (AttributeError, KeyError, TypeError, ValueError):
            return None

    def write_state(self, state: State) -> None:
        """Remember a start."""
        write_private(self.state, json.dumps(asdict(state)) + "\n")

    def prepare(self, identity: Identity) -> None:
        """Make the folder if it is missing, and check that it can be ours.

        Raises:
            DataFolderError: it cannot be made, is another's, or is a data folder of PostgreSQL itself.
        """
        try:
            if _temp_path() in self.path.parents:
                private_temp(identity)
            _make(self.path, identity)
            owner = self.path.stat().st_uid
        except OSError as exc:
            raise DataFolderError(
                f"The server's folder {str(self.path)!r} cannot be made: {exc.strerror or exc}. Make it possible, or "
                "choose another folder by the key 'data'."
            ) from exc
        if owner != os.geteuid():
            raise DataFolderError(
                f"The server's folder {str(self.path)!r} belongs to user {owner}, and this process runs as user "
                f"{os.geteuid()}. Run as its owner, or choose another folder by the key 'data'."
            )
        if identity.uid is not None and self.path.stat().st_mode & _PASSABLE != _PASSABLE:
            self.path.chmod(_PASSABLE)
        if (self.path / "PG_VERSION").exists():
            raise DataFolderError(
                f"The server's folder {str(self.path)!r} is a data folder of PostgreSQL itself, and the server keeps "
                "its own below its folder. Choose another folder by the key 'data'."
            )
        if not self.major and self.data.exists() and any(self.data.iterdir()):
            raise DataFolderError(
                f"The folder {str(self.data)!r} has files in it that are not PostgreSQL's. Move them away, or choose "
                "another folder by the key 'data'."
            )
        if not identity.may_reach(self.path):
            raise DataFolderError(
                f"PostgreSQL does not run as root, and user {identity.uid}, as whom it runs instead, cannot reach "
                f"{str(self.path)!r}. Choose a folder below one that everybody may enter by the key 'data'."
            )

    def open_log(self) -> int:
        """Open the log for adding to it and return the handle; put a large old one aside."""
        with contextlib.suppress(FileNotFoundError):
            if self.log.stat().st_size > _LOG_LIMIT:
                self.log.replace(self.log.with_name("server.log.1"))
        return os.open(self.log, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)

    @property
    def socket_folder(self) -> Path:
        """The folder of the private socket: below ours, or a short one where the path would be too long."""
        usual = self.path / "socket"
        if len(os.fsencode(usual / ".s.PGSQL.65535")) < _SOCKET_PATH:
            return usual
        return _temp_path() / hashlib.sha256(os.fsencode(self.path)).hexdigest()[:16]

    def make_socket_folder(self, identity: Identity) -> Path:
        """Make the folder of the private socket, which only the server's user enters, and return it."""
        path = self.socket_folder
        if path.parent != self.path:
            private_temp(identity)
        with contextlib.suppress(FileExistsError):
            path.mkdir(mode=0o700)
        if identity.uid is not None and identity.gid is not None:
            os.chown(path, identity.uid, identity.gid)
        return path

    def leftovers(self) -> Iterator[Path]:
        """Yield the half-made data folders of first starts that were interrupted."""
        yield from self.path.glob("init-*")

    def remove(self) -> None:
        """Remove the server's files, and the folder if nothing else is in it."""
        for folder in (self.data, self.socket_folder, self.upgrade, *self.old_data(), *self.leftovers()):
            if folder.exists():
                shutil.rmtree(folder)
        names = ("state.json", "password", "server.log", "server.log.1", "lock.queue", "lock")
        for file in map(self.path.joinpath, names):
            file.unlink(missing_ok=True)
        with contextlib.suppress(OSError):
            self.path.rmdir()


def locate(config: ServerConfig, identity: Identity) -> Folder:
    """Return the folder of a server, without making it."""
    if config.data is not None:
        return Folder(config.data)
    usual = platformdirs.user_data_path("pg_tenants") / "servers" / config.name
    if _can_make(usual) and identity.may_reach(usual):
        return Folder(usual)
    return Folder(_temp_path() / "servers" / config.name)


def private_temp(identity: Identity) -> Path:
    """Return a folder of our own among the temporary files, made if it is missing.

    Raises:
        DataFolderError: somebody else was there first.
    """
    path = _temp_path()
    with contextlib.suppress(FileExistsError):
        path.mkdir(mode=_mode(identity))
    entry = path.lstat()
    if not stat.S_ISDIR(entry.st_mode) or entry.st_uid != os.geteuid() or entry.st_mode & 0o022:
        raise DataFolderError(
            f"{str(path)!r} is not a folder of user {os.geteuid()} that only this user writes to. Remove it, or choose "
            "a folder by the key 'data'."
        )
    if entry.st_mode & _mode(identity) != _mode(identity):
        path.chmod(_mode(identity))
    return path


def write_private(path: Path, text: str, identity: Identity | None = None) -> None:
    """Write a file that only its owner reads, so that readers see the old one or the new one.

    Args:
        path: the file.
        text: the content.
        identity: who is to own it, if not this process's user.
    """
    new = path.with_name(f".{path.name}.{os.getpid()}")
    new.unlink(missing_ok=True)
    handle = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    with os.fdopen(handle, "w", encoding="utf-8") as file:
        file.write(text)
    if identity is not None and identity.uid is not None and identity.gid is not None:
        os.chown(new, identity.uid, identity.gid)
    new.replace(path)


def _temp_path() -> Path:
    return Path(tempfile.gettempdir()) / f"pg_tenants-{os.geteuid()}"


def _mode(identity: Identity) -> int:
    return 0o700 if identity.uid is None else _PASSABLE


def _make(path: Path, identity: Identity) -> None:
    """Make a folder and those above it that are missing, without touching those that are there."""
    if path.is_dir():
        return
    _make(path.parent, identity)
    with contextlib.suppress(FileExistsError):
        path.mkdir(mode=_mode(identity))
        if identity.uid is not None:
            path.chmod(_mode(identity))  # whatever the umask took away


def _can_make(path: Path) -> bool:
    for parent in (path, *path.parents):
        if parent.exists():
            return parent.is_dir() and os.access(parent, os.W_OK | os.X_OK)
    return False


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (FileNotFoundError, NotADirectoryError):
        return ""
    except PermissionError as exc:
        raise DataFolderError(f"{path} may not be read by user {os.geteuid()}. Run as the server's owner.") from exc
