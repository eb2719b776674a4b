"""What is pickled for another machine, opened there: a run brings its own code along, and not what that imports."""

from __future__ import annotations

import pickle
import socket
import traceback
from pathlib import Path
from typing import Any

from harness.errors import InputError
from harness.executors.ray import messages, settings


def opened(content: bytes) -> Any:
    """What was pickled.  Raises InputError where this machine lacks a module of it, or has another version of one."""
    try:
        return pickle.loads(content)
    except (ImportError, AttributeError) as error:  # the second: a module is there, and what is sought in it is not
        what = f"has another version of what this run's methods import ({type(error).__name__}: {error})"
        if isinstance(error, ModuleNotFoundError) and error.name:
            what = f"lacks the module '{error.name}', which this run's methods import"
        raise InputError(
            f"the node {socket.gethostname()} of the Ray cluster {what}{_place(error)}",
            where=settings.WHERE,
            remedy="install it there, of the version that the run has, into the Python that Ray runs with (a run "
            f"brings lorabench, its tasks and --plugins along, and nothing else), then {messages.AGAIN}",
        ) from error


def _place(error: BaseException) -> str:
    """Which line of which file asked for it; empty where that was no file's but the pickle itself."""
    files = [frame for frame in traceback.extract_tb(error.__traceback__)[1:] if Path(frame.filename).suffix == ".py"]
    return f" ({Path(files[-1].filename).name}, line {files[-1].lineno})" if files else ""
