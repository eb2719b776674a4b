"""The files of a report: each is written whole or not at all, and holds text that any reader accepts."""

from __future__ import annotations

import re
from pathlib import Path

from harness.store.files import atomic_write

#: Characters that XML or a terminal does not accept as text, and lone surrogates, which UTF-8 cannot encode.
_ODD = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\ud800-\udfff]")


def readable(text: str) -> str:
    r"""The text with control characters written out, as in ``\x1b``."""
    return _ODD.sub(lambda odd: ascii(odd[0])[1:-1], text)


def write_text(path: Path, text: str) -> Path:
    """Raises LorabenchError where the disk is full or the folder closed; the file that was there before stays."""
    atomic_write(path, readable(text))
    return path
