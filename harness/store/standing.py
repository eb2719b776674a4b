"""How far a run is, as it says in ``running/standing.json`` while it is at work: for whoever looks from outside.

The run renews the file every second or two and removes it when it ends.  It is no result: it is written without fsync,
and a disk that is full costs the view and not the run.  Whether it is true says the folder's claim: of a run that was
killed the file is left, and its claim is dead.
"""

from __future__ import annotations

import contextlib
import os
import secrets
from pathlib import Path

from pydantic import ConfigDict, ValidationError

from harness.store.claims import at_work
from harness.store.values import Frozen


class _Read(Frozen):
    model_config = ConfigDict(extra="ignore")  # a newer version may say more


class JobStanding(_Read):
    """A job at work; None is what it can't tell (yet)."""

    name: str
    number: int | None = None  #: of the plan's packs, from 1; None for the base model
    trials: int = 0
    what: str
    share: float | None = None  #: of the work that is expected of the job, 0 to 1
    position: int | None = None  #: of the stream, from 1
    positions: int | None = None
    step: int | None = None  #: of the task at this position, from 1
    steps: int | None = None
    tokens_per_second: float | None = None  #: that were trained on, or scored, lately
    memory_gib: float | None = None  #: the most since the pack began: of a GPU, or of the process
    seconds_left: float | None = None


class Standing(_Read):
    """A run, with its jobs at work in the order in which they began."""

    study: str
    device: str = ""  #: ``cpu`` or ``cuda``
    packs: int = 0  #: of the plan
    done: int = 0  #: of these, earlier runs' included
    failed: int = 0  #: that failed in this run, halves included
    what: str = ""  #: while no pack is at work
    share: float | None = None  #: of this run's work, 0 to 1; None before that is known
    seconds_spent: float = 0.0
    seconds_left: float | None = None
    jobs: tuple[JobStanding, ...] = ()


def standing_path(folder: Path) -> Path:
    return folder / "running" / "standing.json"


def write_standing(folder: Path, standing: Standing) -> None:
    """Replace what is there, if it can be."""
    path = standing_path(folder)
    new = path.with_name(f".{path.name}.{os.getpid()}.{secrets.token_hex(4)}.tmp")  # as sweeps know them
    try:
        new.write_text(standing.model_dump_json(indent=1))
        new.replace(path)
    except OSError:
        with contextlib.suppress(OSError):
            new.unlink(missing_ok=True)


def read_standing(folder: Path) -> Standing | None:
    """How far the run in this folder is; None where none is at work, or it has not said yet."""
    if at_work(folder) is None:
        return None
    with contextlib.suppress(OSError, ValidationError):
        return Standing.model_validate_json(standing_path(folder).read_bytes())
    return None


def remove_standing(folder: Path) -> None:
    with contextlib.suppress(OSError):
        standing_path(folder).unlink(missing_ok=True)
