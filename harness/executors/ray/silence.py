"""Standard error without the words of Ray's C++, and what is said where Ray or a hanging driver ends the process."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
from typing import Any

from harness.errors import LorabenchError


class NativeStderr:
    """Descriptor 2, which Ray's C++ writes to.  Hidden, it goes nowhere, and what Python writes still arrives."""

    def __init__(self) -> None:
        self._before: tuple[int, Any] | None = None

    def hide(self) -> None:
        if self._before is not None:
            return
        kept = os.dup(2)
        self._before = kept, sys.stderr
        if sys.stderr is sys.__stderr__:  # else somebody has taken it, as pytest does
            sys.stderr = open(kept, "w", buffering=1, closefd=False, encoding="utf-8", errors="replace")  # noqa: SIM115
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, 2)
        os.close(nowhere)

    def show(self) -> None:
        if self._before is not None:
            kept, sys.stderr = self._before
            os.dup2(kept, 2)
            os.close(kept)
            self._before = None


native_stderr = NativeStderr()


class Spokesman:
    """A process that says an error if this one ends before it is dismissed.

    Ray's C++ ends a driver whose raylet dies while they are introduced, at once and with no word or hook of Python's.
    """

    def __init__(self, error: LorabenchError) -> None:
        words = ["/bin/sh", "-c", 'read -r dismissed || printf "%s\\n" "$0" >&2', f"error: {error}"]
        self._process = subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL)

    def dismiss(self) -> None:
        self._process.communicate(b"dismissed\n")


def last_words(error: LorabenchError) -> None:
    """End the process from a thread that is not the one which hangs."""
    if sys.stdout.isatty():
        sys.stdout.write("\x1b[?25h\n")  # a progress bar had hidden the cursor
    print(f"error: {error}", file=sys.stderr)
    leave(error.exit_status)


def leave(status: int) -> None:
    """End at once: what is left of Ray in this process would wait, or crash."""
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, ValueError):
            stream.flush()
    os._exit(status)
