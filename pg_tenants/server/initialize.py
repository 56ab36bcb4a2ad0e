"""Make a data folder, and write the settings and the superuser that the configuration asks for."""

from __future__ import annotations

import os
import secrets
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path

from pg_tenants.server.engines import LocalEngine, major
from pg_tenants.server.exceptions import ServerStartFailed
from pg_tenants.server.folder import Folder, write_private
from pg_tenants.server.identity import Identity
from pg_tenants.server.programs import run

__all__ = [
    "initialize",
    "new_password",
    "rendered",
    "set_superuser",
    "superuser_script",
    "take_over",
    "with_defaults",
    "without_password",
]

DEFAULTS = {
    # Making or dropping a schema of many tables in one transaction locks each of them.
    "max_locks_per_transaction": "1024",
    # Two to three times faster commits. A crash loses the last few, as a whole, and damages nothing.
    "synchronous_commit": "off",
}


def new_password() -> str:
    """Return a new random password."""
    return secrets.token_urlsafe(24)


def with_defaults(settings: Mapping[str, str]) -> dict[str, str]:
    """Return the settings and our defaults for what they leave out."""
    return {**DEFAULTS, **settings}


def rendered(settings: Mapping[str, str]) -> str:
    """Return PostgreSQL's configuration file for the settings and our defaults."""
    lines = ["# Written by pg_tenants at each start. ALTER SYSTEM and postgresql.conf are yours."]
    for key, value in with_defaults(settings).items():
        quoted = value.replace("\\", "\\\\").replace("'", "''")
        lines.append(f"{key} = '{quoted}'")
    return "\n".join(lines) + "\n"


def initialize(
    folder: Folder, engine: LocalEngine, identity: Identity, user: str, password: str, deadline: float
) -> None:
    """Make the data folder: beside its place, then moved there, so that an interrupted start leaves nothing half made.

    Raises:
        ServerStartFailed: initdb failed; its words are in the message.
    """
    work = Path(tempfile.mkdtemp(prefix="init-", dir=folder.path))
    try:
        _own(work, identity)
        write_private(work / "password", password + "\n", identity)
        said = ""
        for locale in _locales(engine.version):
            data = work / "data"
            shutil.rmtree(data, ignore_errors=True)
            done = run(
                identity,
                engine.command(
                    "initdb",
                    f"--pgdata={data}",
                    f"--username={user}",
                    f"--pwfile={work / 'password'}",
                    "--auth=scram-sha-256",
                    "--encoding=UTF8",
                    "--no-instructions",
                    # What initdb wrote is in the kernel's hands. A machine that crashes now costs an empty cluster.
                    "--no-sync",
                    *locale,
                ),
                deadline=deadline,
            )
            said = done.stdout
            if done.returncode == 0:
                _include_settings(data / "postgresql.conf")
                write_private(folder.password, password)
                data.rename(folder.data)
                return
            if "invalid locale name" not in said:
                break
        raise ServerStartFailed(
            f"PostgreSQL {engine.version} could not make its data folder in {str(folder.path)!r}. initdb says:\n"
            f"{without_password(said)}{_hint(said)}"
        )
    finally:
        shutil.rmtree(work, ignore_errors=True)


def set_superuser(
    folder: Folder, engine: LocalEngine, identity: Identity, user: str, password: str, deadline: float
) -> None:
    """Make sure that a user is there, is a superuser and has the password, while the server is stopped.

    Raises:
        ServerStartFailed: PostgreSQL refused; its words are in the message.
    """
    done = run(
        identity,
        engine.command("postgres", "--single", "-D", str(folder.data), "postgres"),
        deadline=deadline,
        stdin=superuser_script(user, password),
    )
    if done.returncode != 0 or "ERROR:" in done.stdout:
        raise ServerStartFailed(
            f"PostgreSQL could not set the password of user {user!r}. Repair what it says, or start without the data "
            f"after 'pgserver erase':\n{without_password(done.stdout)}"
        )
    write_private(folder.password, password)


def superuser_script(user: str, password: str) -> str:
    """Return the SQL that makes sure of a superuser with a password."""
    tag = f"$t{secrets.token_hex(8)}$"
    role = '"' + user.replace('"', '""') + '"'
    secret = "'" + password.replace("'", "''") + "'"
    # Single-user mode takes each line for a statement.
    return (
        f"DO {tag} BEGIN CREATE ROLE {role}; EXCEPTION WHEN duplicate_object THEN NULL; END {tag};\n"
        f"ALTER ROLE {role} SUPERUSER CREATEDB CREATEROLE REPLICATION BYPASSRLS LOGIN PASSWORD {secret};\n"
    )


def take_over(folder: Folder, identity: Identity) -> None:
    """Give the data folder to the user as whom the programs run now, if they ran as another one before."""
    if os.geteuid() == 0 and folder.data.stat().st_uid != identity.owner:
        for parent, folders, files in os.walk(folder.data):
            for name in (*folders, *files):
                os.chown(Path(parent, name), identity.owner, identity.gid or 0, follow_symlinks=False)
        os.chown(folder.data, identity.owner, identity.gid or 0)


def _own(path: Path, identity: Identity) -> None:
    if identity.uid is not None and identity.gid is not None:
        os.chown(path, identity.uid, identity.gid)


def without_password(said: str) -> str:
    """Return a program's words without the statements that set a password, which PostgreSQL repeats in errors."""
    return "\n".join(line for line in said.strip().splitlines() if "PASSWORD" not in line.upper())


def _hint(said: str) -> str:
    if "could not look up effective user ID" in said:
        return "\nGive this user a line in /etc/passwd, or let it run 'unshare --user' (util-linux)."
    return ""


def _include_settings(path: Path) -> None:
    with path.open("a", encoding="utf-8") as file:
        file.write("\ninclude = 'pg_tenants.conf'\n")


def _locales(version: str) -> tuple[tuple[str, ...], ...]:
    """Return initdb's locale options in the order of preference; systems without C.UTF-8 take the second."""
    builtin = ("--locale-provider=builtin", "--builtin-locale=C.UTF-8") if int(major(version)) >= 17 else ()
    return tuple((*builtin, f"--locale={locale}") for locale in ("C.UTF-8", "C"))
