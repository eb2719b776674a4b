"""How text gets into a terminal: as the text that it is.

Names of studies, streams, arms, models and folders come from outside, and so do the messages of failed trials.  What a
terminal would obey in them (an escape sequence moves the cursor, sets the window's title, hides a line) is written out.
"""

from __future__ import annotations

import io
import sys
import unicodedata
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from harness.errors import clipped

#: Characters of one piece of text: a name or a message from a file can have 50 MB.
LONGEST = 10_000
#: Control characters, those that turn the direction of what follows or can't be seen, and halves of characters.
_HIDDEN = {"Cc", "Cf", "Cs", "Zl", "Zp"}
_KEPT = {"\n", "\t", "\u200c", "\u200d"}  # joiners are part of words in some scripts, and of emoji


def visible(text: object) -> str:
    """The text with what a terminal would obey written out (``\\x1b``), without the middle of a very long one."""
    text = clipped(str(text), LONGEST)
    if text.isascii() and text.isprintable():
        return text
    return "".join(
        ascii(letter)[1:-1] if unicodedata.category(letter) in _HIDDEN and letter not in _KEPT else letter
        for letter in text
    )


def say(text: object, *, err: bool = False) -> None:
    """A line to stdout, or to stderr."""
    print(visible(text), file=sys.stderr if err else sys.stdout, flush=True)


#: What Ctrl-C says of a verb that has not said anything else.
STOPPED = "stopped; finished trials are kept, run the same command to go on"
_stopped = [STOPPED]


@contextmanager
def when_stopped(words: str | Callable[[], str]) -> Iterator[None]:
    """Ctrl-C in here says these words: what is kept, and how to go on."""
    try:
        yield
    except KeyboardInterrupt:
        _stopped[0] = f"stopped; {words if isinstance(words, str) else words()}"
        raise


def stopped() -> str:
    """What there is to say of the Ctrl-C that ended this verb."""
    words, _stopped[0] = _stopped[0], STOPPED
    return words


def take_any_encoding() -> None:
    """What the terminal's encoding lacks is written out, too; an arrow is no reason for a traceback."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
