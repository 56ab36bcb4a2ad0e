"""What a long run over many schemas shows: a bar on a terminal, plain lines in logs, JSON for machines."""

from __future__ import annotations

import json
import os
import time
from typing import Any

from django.core.management.base import BaseCommand, OutputWrapper
from django.core.management.color import no_style

from pg_tenants.migrations import Event

__all__ = ["Lines", "Machine", "Silent", "Watch", "honour_no_color", "lead_to_one_place", "watch"]

HEARTBEAT = 10.0
"""Seconds without a line after which a log is told how far a run is."""

SHOWN = 5
"""How many of a schema's migrations its line names."""


def watch(command: BaseCommand, *, verbosity: int, machine: bool, faked: bool = False) -> Watch:
    """Return what shows a run, as the options and the terminal want it."""
    if machine:
        return Machine(None if lead_to_one_place(command.stdout, command.stderr) else command.stderr)
    if not verbosity:
        return Silent()
    if verbosity == 1 and _is_terminal(command.stderr) and (bar := _new_bar(command.stderr)) is not None:
        return Bar(command, bar)
    return Lines(command, verbosity, faked=faked)


def honour_no_color(command: BaseCommand, *, force_color: bool) -> None:
    """Leave colours out where the environment has ``NO_COLOR``, which Django does not look at."""
    if os.environ.get("NO_COLOR") and not force_color:
        command.style = no_style()
        command.stderr.style_func = None


def lead_to_one_place(one: OutputWrapper, other: OutputWrapper) -> bool:
    """Return whether two streams are one, or write to the same file, pipe or terminal."""
    first: Any = one._out
    second: Any = other._out
    if first is second:
        return True
    try:
        return os.path.sameopenfile(first.fileno(), second.fileno())
    except (AttributeError, OSError, ValueError):
        return False


class Watch:
    """Counts what a run tells.

    Attributes:
        total: how many schemas it has to look at, as far as it has said.
        done, changed, failed: how many of them have ended, been migrated, failed.
        running: the schemas that have begun and not ended.
        ended: what was told of each that has ended, for JSON.
    """

    def __init__(self) -> None:
        self.total = self.done = self.changed = self.failed = 0
        self.running: dict[str, None] = {}
        self.ended: list[dict[str, Any]] = []
        self.started = time.monotonic()

    def __call__(self, event: Event) -> None:
        """Take in what has happened, and show it."""
        if event.target is None:
            self.total += event.total
        elif event.kind in ("done", "failed"):
            self.done += 1
            self.changed += event.kind == "done" and bool(event.migrations)
            self.failed += event.kind == "failed"
            self.running.pop(event.target.schema, None)
            self.ended.append(event.as_dict())
        else:
            self.running[event.target.schema] = None
        self.show(event)

    def show(self, event: Event) -> None:
        """Show an event."""

    def note(self, text: str) -> None:
        """Show a warning."""

    def close(self) -> None:
        """End the showing, whatever has happened."""

    @property
    def far(self) -> str:
        """How far the run is, for people."""
        failed = f", {self.failed} failed" if self.failed else ""
        return f"{self.done} of {self.total} schemas{failed}"


class Silent(Watch):
    """Shows nothing."""


class Machine(Watch):
    """Shows each event as a line of JSON.

    Args:
        stream: where; None for nowhere.
    """

    def __init__(self, stream: OutputWrapper | None):
        super().__init__()
        self._stream = stream

    def show(self, event: Event) -> None:
        """Write the event."""
        self._write(event.as_dict())

    def note(self, text: str) -> None:
        """Write the warning."""
        self._write({"event": "warning", "detail": text})

    def _write(self, found: dict[str, Any]) -> None:
        if self._stream is not None:
            # Past the colours that Django gives to what goes to stderr.
            self._stream.write(json.dumps(found), lambda text: text)
            self._stream.flush()


class Lines(Watch):
    """Shows a line for each schema that has changed, and now and then how far the run is.

    Args:
        command: writes the lines.
        verbosity: 1, or more to see each migration and the schemas where nothing was to be done.
        faked: migrations are recorded without being run.
    """

    def __init__(self, command: BaseCommand, verbosity: int, *, faked: bool = False):
        super().__init__()
        self._command, self._verbosity = command, verbosity
        self._all_faked = faked
        self._faked: set[tuple[str, str]] = set()
        self._said = time.monotonic()

    def show(self, event: Event) -> None:
        """Write what is worth a line."""
        if event.target is None:
            return
        name, style = event.target.schema, self._command.style
        if event.kind == "migration" and event.detail.endswith("(faked)"):
            self._faked.update((name, migration) for migration in event.migrations)
        if event.kind == "failed":
            self._complain(style.ERROR(f"  {name}: failed: {event.detail}"))
        elif event.kind == "retry":
            self._complain(style.WARNING(f"  {name}: is tried again: {event.detail}"))
        elif event.kind == "done" and event.migrations and self._verbosity == 1:
            self._say(f"  {name}: {self._what(name, event.migrations)} ({event.seconds:.2f} s)")
        elif self._verbosity > 1:
            self._show_all(event, name)
        if time.monotonic() - self._said > HEARTBEAT:
            self._say(f"  {self.far}, {self._left()}")

    def note(self, text: str) -> None:
        """Write the warning to stderr."""
        self._complain(self._command.style.WARNING(text))

    def _show_all(self, event: Event, name: str) -> None:
        if event.kind == "migration":
            self._say(f"  {name}: {event.detail}")
        elif event.kind == "done" and not event.migrations:
            self._say(f"  {name}: up to date")
        elif event.kind == "done":
            self._say(f"  {name}: done in {event.seconds:.2f} s")
        elif event.kind == "start" and self._verbosity > 2:
            self._say(f"  {name}: begins")

    def _what(self, schema: str, migrations: tuple[str, ...]) -> str:
        parts = []
        for verb, backwards in (("Applied", False), ("Unapplied", True)):
            of_verb = [entry for entry in migrations if entry.startswith("-") is backwards]
            named = [
                entry.removeprefix("-") + (" (faked)" if self._all_faked or (schema, entry) in self._faked else "")
                for entry in of_verb[:SHOWN]
            ]
            more = f" and {len(of_verb) - SHOWN} more" if len(of_verb) > SHOWN else ""
            if named:
                parts.append(f"{verb} {', '.join(named)}{more}")
        return "; ".join(parts)

    def _left(self) -> str:
        seconds = (time.monotonic() - self.started) / max(1, self.done) * (self.total - self.done)
        return f"about {seconds:.0f} s left"

    def _say(self, text: str) -> None:
        self._said = time.monotonic()
        self._command.stdout.write(text)
        self._command.stdout.flush()

    def _complain(self, text: str) -> None:
        self._said = time.monotonic()
        self._command.stderr.write(text, lambda styled: styled)


class Bar(Lines):
    """Shows a bar, and lines above it for what has failed."""

    def __init__(self, command: BaseCommand, bar: Any):
        super().__init__(command, 1)
        self._bar = bar

    def show(self, event: Event) -> None:
        """Move the bar."""
        if event.target is None:
            self._bar.total = self.total
            self._bar.refresh()
        elif event.kind in ("failed", "retry"):
            super().show(event)
        self._bar.set_postfix_str(self._postfix(event), refresh=False)
        self._bar.update(self.done - self._bar.n)

    def close(self) -> None:
        """Take the bar away."""
        self._bar.close()

    def _postfix(self, event: Event) -> str:
        failed = f"{self.failed} failed" if self.failed else ""
        now = f"{event.target.schema}" if event.target is not None else ""
        return ", ".join(filter(None, (failed, now)))

    def _say(self, text: str) -> None:
        self._bar.clear()
        super()._say(text)

    def _complain(self, text: str) -> None:
        self._bar.clear()
        super()._complain(text)


def _is_terminal(stream: OutputWrapper) -> bool:
    return stream.isatty() and os.environ.get("TERM") != "dumb"


def _new_bar(stream: OutputWrapper) -> Any:
    """Return a bar that appears where a run takes more than a moment; None without tqdm, which is an extra."""
    try:
        from tqdm import tqdm  # noqa: PLC0415
    except ImportError:
        return None

    class Plain(tqdm):  # type: ignore[type-arg, misc, unused-ignore]
        # Its thread that watches for bars that stand still would be one more in a process that may fork.
        monitor_interval = 0

    out: Any = stream._out
    return Plain(total=0, unit="schema", desc="Migrating", file=out, dynamic_ncols=True, leave=False, delay=0.5)
