"""Errors that a person can act on: what is wrong, where, and what to do next.

Every error that lorabench raises on purpose is one of these.  The command line prints ``str(error)``
without a traceback and exits with ``exit_status``; anything else is a bug and shows its traceback.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class LorabenchError(Exception):
    """Something failed while running (exit status 1).

    ``where`` is ``file:key`` or another place a person can open; ``remedy`` is the next thing to do.
    """

    exit_status = 1

    def __init__(self, what: str, *, where: str | None = None, remedy: str | None = None) -> None:
        what, where, remedy = clipped(str(what)), _clipped(where), _clipped(remedy)
        self.what, self.where, self.remedy = what, where, remedy
        message = f"{where}: {what}" if where else what
        super().__init__(f"{message}\n  -> {remedy}" if remedy else message)

    def __reduce__(self):
        # Exceptions with keyword arguments do not survive pickling by default, and Ray pickles them.
        return (_rebuild, (type(self), self.what, self.where, self.remedy))


class FolderError(LorabenchError):
    """A folder can't be used any longer, whoever works in it: the disk is full, or another run has taken it."""


class InputError(LorabenchError):
    """Bad usage or bad input: a name, a file, a value (exit status 2)."""

    exit_status = 2


class SettingError(ValueError):
    """A value that settings refuse, from a validator, a method's own check or a part that meets model and text with it.

    Whoever has read the value knows its place.

    ``key`` is the setting that is wrong, for a check of them all; a validator of one setting leaves it out.
    """

    def __init__(self, what: str, *, remedy: str, key: str = "") -> None:
        super().__init__(what)
        self.remedy, self.key = remedy, key


#: Characters of one part of a message: a value from a file can have 50 MB, and a person reads a screen.
LONGEST = 2000


def clipped(text: str, longest: int = LONGEST) -> str:
    """The text, without its middle where it is longer than a person would read."""
    if len(text) <= longest:
        return text
    half = longest // 2
    return f"{text[:half]} [... {len(text) - 2 * half} characters ...] {text[-half:]}"


def _clipped(text: str | None) -> str | None:
    return None if text is None else clipped(str(text))


def _rebuild(kind: type[LorabenchError], what: str, where: str | None, remedy: str | None) -> LorabenchError:
    return kind(what, where=where, remedy=remedy)


def unknown_name(kind: str, name: object, known: Iterable[str], *, where: str | None = None) -> InputError:
    """The error for a name that is not in a registry, with the nearest name that is."""
    known = sorted(known)
    near = difflib.get_close_matches(str(name), known, n=1, cutoff=0.5)
    hint = f"did you mean '{near[0]}'? " if near else ""
    return InputError(f"unknown {kind} '{name}'", where=where, remedy=f"{hint}known: {', '.join(known) or 'none'}")
