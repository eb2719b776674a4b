"""How busy a run kept the places that its packs ran in, in ``logs/lanes.json``: for whoever looks afterwards.

It is of the last run that had packs, and no result: where it can't be written, there is none.
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


def write_lanes(folder: Path, lanes: Sequence[Lane]) -> None:
    with suppress(OSError):
        lanes_path(folder).parent.mkdir(parents=True, exist_ok=True)
        write_json(lanes_path(folder), [lane.model_dump() for lane in lanes])


def read_lanes(folder: Path) -> list[Lane]:
    """Raises OSError or ValueError where no run has left them."""
    return [Lane.model_validate(lane) for lane in json.loads(lanes_path(folder).read_bytes())]
