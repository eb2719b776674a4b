"""How busy a run kept the places that its packs ran in, in ``logs/slots.json``: for whoever looks afterwards.

It is of the last run that had packs, and no result: where it can't be written, there is none.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from harness.store.files import write_json
from harness.store.values import Frozen


class Slot(Frozen):
    """Seconds of one slot from its first pack to the end of the run's last pack, in any slot."""

    place: str  #: a machine, or a GPU of it
    packs: int
    seconds: float
    between: float  #: without a pack, while there was another to come
    loading: float  #: a pack loaded what it needs: a process, the model, the tasks
    after: float  #: without a pack, with none to come


def slots_path(folder: Path) -> Path:
    return folder / "logs" / "slots.json"


def write_slots(folder: Path, slots: Sequence[Slot]) -> None:
    with suppress(OSError):
        slots_path(folder).parent.mkdir(parents=True, exist_ok=True)
        write_json(slots_path(folder), [slot.model_dump() for slot in slots])


def read_slots(folder: Path) -> list[Slot]:
    """Raises OSError or ValueError where no run has left them."""
    return [Slot.model_validate(slot) for slot in json.loads(slots_path(folder).read_bytes())]
