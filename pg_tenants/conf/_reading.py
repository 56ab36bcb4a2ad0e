"""Reading a dictionary of settings; what is wrong with it is collected, with what to do."""

from __future__ import annotations

import difflib
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from django.conf import settings

__all__ = ["Reader", "nearest", "shown"]


def nearest(word: str, known: Iterable[str]) -> str:
    """Return a hint that names the known word nearest to ``word``."""
    names = list(known)
    folded = {name.lower(): name for name in names}
    close = difflib.get_close_matches(word, names, n=1, cutoff=0.5)
    close = close or [folded[name] for name in difflib.get_close_matches(word.lower(), folded, n=1, cutoff=0.5)]
    return f"Did you mean {close[0]!r}?" if close else f"Known are {', '.join(names)}."


def shown(value: object) -> str:
    """Return a value for a message; one that holds a password, as PGSERVER in a tuple by a stray comma, is left out."""
    text = repr(value)
    return text if "password" not in text.lower() else "a value with a password in it"


class Reader:
    """Takes typed values out of a mapping and collects what is wrong."""

    def __init__(self, raw: Mapping[Any, Any], where: str, problems: list[tuple[str, str, str]]):
        self.raw, self.where, self.problems = raw, where, problems

    def refuse_unknown(self, known: tuple[str, ...]) -> None:
        """Take note of keys that nobody knows, each with the nearest that is known."""
        for key in self.raw:
            if key not in known:
                self.problems.append(("unknown", f"{self.where} has no key {key!r}.", nearest(str(key), known)))

    def wrong(self, key: str, value: object, wanted: str) -> None:
        """Take note of a value of the wrong type.

        Args:
            key: the value's key.
            value: what is there.
            wanted: what should be there, as words behind "Set it to".
        """
        message = f"{self.where}[{key!r}] is {shown(value)}, of type {type(value).__name__}."
        self.problems.append(("type", message, f"Set it to {wanted}."))

    def text(self, key: str, default: str = "") -> str:
        """Return a text; the default where there is none or something else."""
        value = self.raw.get(key, default)
        if isinstance(value, str):
            return value
        self.wrong(key, value, "a string")
        return default

    def optional_text(self, key: str) -> str | None:
        """Return a text that is not empty, or None where there is none or something else."""
        value = self.raw.get(key)
        if value is not None and (not isinstance(value, str) or not value):
            self.wrong(key, value, "a string, or leave it out")
            return None
        return value

    def folder(self, key: str) -> Path | None:
        """Return a path; a relative one begins at the project's ``BASE_DIR``."""
        value = self.raw.get(key)
        if value is None:
            return None
        if not isinstance(value, (str, os.PathLike)) or not os.fspath(value):
            self.wrong(key, value, "a path, or leave it out")
            return None
        base, path = getattr(settings, "BASE_DIR", None), Path(value)
        if not path.is_absolute() and base is None:
            message = f"{self.where}[{key!r}] is {str(path)!r}, a relative path, and the settings have no BASE_DIR."
            self.problems.append(("type", message, "Give an absolute path, or set BASE_DIR to the project's folder."))
            return None
        return Path(os.path.normpath(path if base is None else Path(base) / path))

    def texts(self, key: str) -> tuple[str, ...]:
        """Return the texts of a list; none where there is something else."""
        value = self.raw.get(key, ())
        if isinstance(value, (list, tuple, set)) and all(isinstance(item, str) for item in value):
            return tuple(value)
        self.wrong(key, value, "a list of strings")
        return ()

    def seconds(self, key: str, default: float) -> float:
        """Return a number of seconds, 0 or more; the default where there is none or something else."""
        value = self.raw.get(key, default)
        if isinstance(value, (int, float)) and not isinstance(value, bool) and 0 <= value < float("inf"):
            return value
        self.wrong(key, value, "a number of seconds, 0 or more")
        return default

    def boolean(self, key: str) -> bool:
        """Return whether the value is True."""
        value = self.raw.get(key)
        if value is not None and not isinstance(value, bool):
            self.wrong(key, value, "True or False")
        return value is True

    def count(self, key: str) -> int:
        """Return a whole number, 0 or more; 0 where there is none or something else."""
        value = self.raw.get(key, 0)
        if isinstance(value, int) and not isinstance(value, bool) and value >= 0:
            return value
        self.wrong(key, value, "a whole number, 0 or more")
        return 0

    def milliseconds(self, key: str, default: int | None = None) -> int | None:
        """Return milliseconds that fit PostgreSQL's integer, None for no limit; the default for anything else."""
        value = self.raw.get(key, default)
        if value is None:
            return None
        if isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 2**31:
            return value
        self.wrong(key, value, "a whole number of milliseconds, or None for no limit")
        return default

    def mapping(self, key: str) -> Mapping[str, Any]:
        """Return a dictionary; an empty one where there is none or something else."""
        value = self.raw.get(key) or {}
        if isinstance(value, Mapping):
            return value
        self.wrong(key, value, "a dictionary")
        return {}
