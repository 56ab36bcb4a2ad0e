"""Follows a page of the documentation as a reader does: makes its files, types its commands, compares what they print.

The convention, which docs/contributing.md describes: a block with a caption (or, where plain Markdown is wanted, with
the file's name as a comment in its first line) is a file's content, or is added to the file where the caption says "at
the end". In a block of type ``console``, what follows ``$`` is run, and the lines below it are its output, ``...``
standing for anything. The class ``fails`` marks commands that end with an error, ``background`` those that go on.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

__all__ = [
    "CHECKOUT",
    "Block",
    "Command",
    "Reader",
    "blocks",
    "environment",
    "erased_server",
    "free_port",
    "matches",
    "reachable_folder",
]

CHECKOUT = Path(__file__).resolve().parent.parent.parent

_BLOCK = re.compile(r"^```(?P<info>\S[^\n]*)\n(?P<body>.*?)^```$", re.MULTILINE | re.DOTALL)
_OPTION = re.compile(r":(\w+): (.*)")
_NAME = re.compile(r"# (?P<name>[\w/]+\.\w+)(?P<rest>.*)")
_READY_WITHIN = 60.0


@dataclass(frozen=True, slots=True)
class Command:
    """A command and the output that the page shows below it; "" where it shows none."""

    text: str
    output: str


@dataclass(frozen=True, slots=True)
class Block:
    """A block of code.

    Attributes:
        language: what it is written in.
        text: its content.
        file: the file that it is, or is added to; "" if it is none.
        appended: whether it is added to the file's end.
        kinds: its classes.
    """

    language: str
    text: str
    file: str = ""
    appended: bool = False
    kinds: frozenset[str] = frozenset()

    @property
    def commands(self) -> list[Command]:
        """Return the commands of a block of type ``console``."""
        found: list[Command] = []
        for part in re.split(r"^\$ ", self.text, flags=re.MULTILINE)[1:]:
            command, _, output = part.partition("\n")
            found.append(Command(command, output.rstrip("\n")))
        return found


def blocks(text: str) -> list[Block]:
    """Return the blocks of code of a page in Markdown, in order."""
    return [_block(match["info"], match["body"]) for match in _BLOCK.finditer(text)]


def _block(info: str, body: str) -> Block:
    directive, _, argument = info.partition(" ")
    options: dict[str, str] = {}
    if directive == "{code-block}":
        while option := _OPTION.match(body):
            options[option[1]] = option[2].strip()
            body = body[option.end() :].removeprefix("\n")
        body = body.lstrip("\n")
    named = None if "caption" in options else _NAME.match(body)
    caption = options.get("caption", "") or (named[0].removeprefix("# ") if named else "")
    file, _, rest = caption.partition(", ")
    if rest not in ("", "at the end"):
        raise ValueError(f"The caption {caption!r} is neither a file nor a file ', at the end'.")
    return Block(
        language=argument if directive == "{code-block}" else directive,
        text=body,
        file=file,
        appended=bool(rest),
        kinds=frozenset(options.get("class", "").split()),
    )


def matches(wanted: str, got: str) -> bool:
    """Return whether output is as shown, ``...`` standing for anything and space at the ends of lines for nothing."""
    lines = [re.escape(line.rstrip()).replace(r"\.\.\.", ".*") for line in wanted.strip("\n").splitlines()]
    pattern = "\n".join(lines).replace("\n.*\n", "\n(?:.*\n)?")
    pattern = re.sub(r"^\.\*\n", "(?:.*\n)?", pattern)
    pattern = re.sub(r"\n\.\*$", "(?:\n.*)?", pattern)
    shown = "\n".join(line.rstrip() for line in got.strip("\n").splitlines())
    return re.fullmatch(pattern, shown, re.DOTALL) is not None


@dataclass(slots=True)
class Reader:
    """Does in a folder what pages say. Everything that it started ends with the context.

    Attributes:
        folder: where it works.
        environ: the environment of the commands.
        change: what is done to a command and its output before they are used, such as another port.
    """

    folder: Path
    environ: dict[str, str]
    change: Callable[[str], str] = str
    port: int | None = None
    _running: list[subprocess.Popen[bytes]] = field(default_factory=list)

    def __enter__(self) -> Reader:
        return self

    def __exit__(self, *exc_info: object) -> None:
        while self._running:
            _end(self._running.pop())

    def follow(self, page: list[Block]) -> None:
        """Do what the blocks say, in order."""
        for block in page:
            if block.file:
                self.write(block)
            elif block.language == "console":
                for command in block.commands:
                    self.run(command, block.kinds)

    def write(self, block: Block) -> None:
        """Make the file of a block, or add the block to its end."""
        file = self.folder / block.file
        assert file.parent.is_dir(), f"The page writes {block.file} before there is its folder."
        if block.appended:
            assert file.is_file(), f"The page adds to {block.file} before there is such a file."
        file.write_text(file.read_text() + "\n" + block.text if block.appended else block.text)

    def run(self, command: Command, kinds: frozenset[str] = frozenset()) -> None:
        """Run a command and compare its output."""
        text, wanted = self.change(command.text), self.change(command.output)
        if "background" in kinds:
            self._start(text, wanted)
            return
        variable = re.fullmatch(r"export (\w+)=(\S+)", text)
        if variable:
            self.environ[variable[1]] = variable[2]
            return
        done = subprocess.run(
            ["bash", "-c", text],
            cwd=self.folder,
            env=self.environ,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=180,
            check=False,
        )
        assert (done.returncode != 0) == ("fails" in kinds), f"$ {text}\nstatus {done.returncode}\n{done.stdout}"
        if wanted:
            assert matches(wanted, done.stdout), f"$ {text}\nprinted\n{done.stdout}\ninstead of\n{wanted}"

    def _start(self, text: str, wanted: str) -> None:
        log = self.folder / f"background-{len(self._running)}.log"
        with log.open("wb") as output:
            process = subprocess.Popen(
                ["bash", "-c", f"exec {text}"],
                cwd=self.folder,
                env=self.environ,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        self._running.append(process)
        deadline = time.monotonic() + _READY_WITHIN
        while not (matches(wanted, log.read_text()) and self._answers()):
            shown = f"$ {text}\nprinted\n{log.read_text()}\ninstead of\n{wanted}"
            assert process.poll() is None, f"{shown}\nand ended with status {process.returncode}"
            assert time.monotonic() < deadline, f"{shown}\nwithin {_READY_WITHIN} s"
            time.sleep(0.1)

    def _answers(self) -> bool:
        if self.port is None:
            return True
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", self.port), timeout=1):
            return True
        return False


def _end(process: subprocess.Popen[bytes]) -> None:
    """End a process and its children, which are a group of their own."""
    for number in (signal.SIGINT, signal.SIGKILL):
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, number)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(timeout=10)


def environment(**more: str) -> dict[str, str]:
    """Return this process's environment for a project of its own, with the programs of this interpreter first."""
    left_out = ("PGSERVER_", "DJANGO_", "PYTEST_", "COV_")
    names = ("DATABASE_URL", "SECRET_KEY", "DEBUG", "ALLOWED_HOSTS", "PYTHONPATH", "PYTHONHOME", "VIRTUAL_ENV")
    kept = {k: v for k, v in os.environ.items() if not k.startswith(left_out) and k not in names}
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", os.defpath)])
    return {**kept, "PATH": path, "PYTHONUNBUFFERED": "1", "LC_ALL": "C.UTF-8", **more}


def free_port() -> int:
    """Return a TCP port of 127.0.0.1 that was free just now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextlib.contextmanager
def reachable_folder() -> Iterator[Path]:
    """Give a temporary folder that every user may enter: PostgreSQL may run as another one than the tests do."""
    folder = Path(tempfile.mkdtemp(prefix="pg_tenants-acceptance-"))
    folder.chmod(0o711)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@contextlib.contextmanager
def erased_server(folder: Path, environ: Mapping[str, str]) -> Iterator[None]:
    """Stop and remove the development server of a project's folder at the end, whatever happened."""
    try:
        yield
    finally:
        # Not by the project's own command: its settings may be half written.
        subprocess.run(
            [sys.executable, "-m", "pg_tenants.server", "erase", "--yes"],
            cwd=folder,
            env=dict(environ),
            capture_output=True,
            timeout=120,
            check=False,
        )
