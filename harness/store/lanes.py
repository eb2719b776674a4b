"""How busy a run kept the places that its packs ran in, in ``logs/lanes.json``: for whoever looks afterwards.

It is of the last run that had packs, and there is none where that was stopped, or a worker died or stood still: then
there are packs of which nobody knows how long they were in a lane.  It is no result: where it can't be written, there
is none either.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from harness.store.files import write_json
from harness.store.values import Frozen


class Lane(Frozen):
    """Seconds of one lane from its first pack to the end of the run's last pack, in any lane."""

    place: str  #: a machine, or a GPU of it
    packs: int
    seconds: float
    between: float  #: without a pack, while there was another to come
    loading: float  #: a pack loaded what it needs: a process, the model, the tasks
    after: float  #: without a pack, with none to come


def lanes_path(folder: Path) -> Path:
    return folder / "logs" / "lanes.json"


def remove_lanes(folder: Path) -> None:
    with suppress(OSError):
        lanes_path(folder).unlink(missing_ok=True)


def write_lanes(folder: Path, lanes: Sequence[Lane]) -> None:
    with suppress(OSError):
        lanes_path(folder).parent.mkdir(parents=True, exist_ok=True)
        write_json(lanes_path(folder), [lane.model_dump() for lane in lanes])


def read_lanes(folder: Path) -> list[Lane]:
    """Raises OSError or ValueError where the last run has left none."""
    return [Lane.model_validate(lane) for lane in json.loads(lanes_path(folder).read_bytes())]
