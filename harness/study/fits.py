"""Whether what a plan trains fits its device at all, even one row at a time; refused before anything is loaded.

What is counted is certain: the base's weights, and what a row holds from step to step.  What passes through a step
(activations) comes on top.  So what is refused can't run, and what is not may still run out of memory: then its record
says so (``oom``).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from harness.errors import InputError
from harness.study.arms import key_of
from harness.study.config import AdapterSettings, Study
from harness.study.memory import CONTEXT, Shares, adapted, parameters, shares_of
from harness.study.plan import Pack, Row, copies_of, trained_rank
from harness.study.stack import Device

#: Bytes of one of the base's numbers, by dtype.
WIDTHS = {"bfloat16": 2, "float32": 4}


@dataclass(frozen=True)
class Room:
    """A device's memory in bytes, and what a model and rows on it take of that."""

    memory: float
    device: Device
    numbers: int  #: of the model
    dtype: str
    shares: Callable[[AdapterSettings], Shares]

    @property
    def fixed(self) -> float:
        """What is there once, whatever the model: CUDA's own."""
        return CONTEXT if self.device.kind == "cuda" else 0.0

    @property
    def base(self) -> float:
        """What is there once, however many rows there are."""
        return self.fixed + self.numbers * WIDTHS[self.dtype]

    @property
    def left(self) -> float:
        """For rows."""
        return self.memory - self.base

    def row(self, row: Row, adapter: AdapterSettings) -> float:
        """What a row with this adapter, its own or another, holds at least."""
        rank = trained_rank(row.trials[0], adapter)
        shares = self.shares(adapter).times(rank / adapter.rank)
        return 4 * self.numbers * copies_of(row, shares, rank, spare=0)

    def largest(self, pack: Pack) -> tuple[Row, float]:
        """The row of a pack that holds most, and what it holds."""
        sizes = [(self.row(row, pack.adapter), row) for row in pack.rows]
        size, row = max(sizes, key=lambda entry: entry[0])
        return row, size

    def rows(self, pack: Pack) -> int:
        """How many rows of this pack there is room for."""
        _, each = self.largest(pack)
        return int(self.left / each) if each else len(pack.rows)

    def over(self, size: float) -> str:
        return f"{_gb(size - self.memory)} more than the {_gb(self.memory)} of {self.device.name}"


def check_fits(study: Study, packs: Sequence[Pack], model: Path, device: Device, where: str) -> None:
    """Raise InputError, as ``file:key``, for what has no place on the device: an arm, or so many rows as a pack has.

    A device whose memory is not known takes everything.
    """
    memory = _known(device)
    if memory is None:
        return
    room = Room(memory, device, parameters(model), study.dtype, shares_of(model))
    if room.left < 0:
        raise InputError(
            f"the model alone needs {_gb(room.base)} in {study.dtype}, {room.over(room.base)}",
            where=f"{where}:model",
            remedy=f"what fits: {', '.join(_other_bases(room))}",
        )
    worst = min(packs, key=room.rows, default=None)  # what helps it helps all
    if worst is not None and room.rows(worst) < 1:
        raise _no_room(room, worst, f"{where}:methods.{key_of(study, worst.trials[0].spec.arm)}")
    if worst is not None and (large := [pack for pack in packs if room.rows(pack) < len(pack.rows)]):
        raise _too_many(room, min(large, key=room.rows), f"{where}:pack")


def check_ranks(study: Study, packs: Sequence[Pack], model: Path, where: str) -> None:
    """Raise InputError, as ``file:key``, for a rank that is larger than what its arm's parts find in a matrix."""
    seen: set[tuple[str, AdapterSettings]] = set()
    for trial in (trial for pack in packs for trial in pack.trials):
        adapter, parts = trial.adapter, (trial.recipe.adapter, *trial.recipe.updates)
        if (trial.spec.arm, adapter) in seen:
            continue
        seen.add((trial.spec.arm, adapter))
        found = ((name, part.room(shape)) for name, shape in adapted(model, adapter.targets).items() for part in parts)
        rooms = [(room, name) for name, room in found if room is not None]
        least, name = min(rooms, key=lambda entry: entry[0], default=(adapter.rank, ""))
        if adapter.rank > least:
            raise InputError(
                f"rank {adapter.rank} is larger than the {least} directions of {name}",
                where=f"{where}:methods.{key_of(study, trial.spec.arm)}.adapter.rank",
                remedy=f"set a rank of at most {least}, or leave {name.rpartition('.')[2]} out of adapter.targets",
            )


def _known(device: Device) -> float | None:
    """Bytes of the device; None where nobody has seen it, so that its memory is a guess."""
    gigabytes = device.main_gigabytes if device.kind == "cpu" else device.gigabytes
    return 1e9 * gigabytes if gigabytes and not device.assumed else None


def _gb(size: float) -> str:
    return f"{size / 1e9:.1f} GB" if size >= 1e9 else f"{max(1, size / 1e6):.0f} MB"


def _other_bases(room: Room) -> Iterator[str]:
    smaller = replace(room, dtype="bfloat16")
    if room.dtype == "float32" and smaller.left >= 0:
        yield f"dtype: bfloat16 ({_gb(smaller.base)})"
    yield f"a device with {_gb(room.base)}"
    if room.memory > room.fixed:
        yield f"a model of at most {(room.memory - room.fixed) / WIDTHS[room.dtype] / 1e6:,.0f}M parameters"


def _no_room(room: Room, pack: Pack, where: str) -> InputError:
    row, each = room.largest(pack)
    return InputError(
        f"one trial of '{row.trials[0].spec.arm}' needs at least {_gb(room.base + each)}: {_gb(room.base)} for the "
        f"model, {_gb(each)} for what it trains; that is {room.over(room.base + each)}",
        where=where,
        remedy=f"what fits: {', '.join(_others(room, row, pack.adapter))}",
    )


def _too_many(room: Room, pack: Pack, where: str) -> InputError:
    row, each = room.largest(pack)
    whole = room.base + len(pack.rows) * each
    return InputError(
        f"{len(pack.rows)} rows of '{row.trials[0].spec.arm}' in one pack need at least {_gb(whole)}, "
        f"{room.over(whole)}",
        where=where,
        remedy=f"set pack: {room.rows(pack)}, or pack: auto, by which every arm has packs of its own size",
    )


def _others(room: Room, row: Row, adapter: AdapterSettings) -> Iterator[str]:
    """Changes of one thing each, with which one such row would fit; what would not is left out."""

    def of(changed: AdapterSettings) -> str:
        return _gb(room.base + room.row(row, changed))

    own = room.row(row, adapter)
    if targets := _fewer_targets(room, row, adapter):
        yield f"adapter.targets: [{', '.join(targets)}] ({of(adapter.model_copy(update={'targets': targets}))})"
    if rank := _smaller_rank(room, row, adapter):
        yield f"adapter.rank: {rank} ({of(adapter.model_copy(update={'rank': rank}))})"
    smaller = replace(room, dtype="bfloat16")
    if room.dtype == "float32" and own <= smaller.left:
        yield f"dtype: bfloat16 ({_gb(smaller.base + own)})"
    yield f"a device with more than {_gb(room.base + own)}"
    most = room.numbers * (room.memory - room.fixed) / (room.base + own - room.fixed)
    if most >= 1e6:
        yield f"a model of some {most / 1e6:,.0f}M parameters"


def _fewer_targets(room: Room, row: Row, adapter: AdapterSettings) -> tuple[str, ...]:
    """The targets that are left when the largest are taken away until it fits; empty where none would be."""

    def of(targets: tuple[str, ...]) -> AdapterSettings:
        return adapter.model_copy(update={"targets": targets})

    left = adapter.targets
    while left and room.row(row, of(left)) > room.left:
        largest = max(left, key=lambda target: room.shares(of((target,))).matrices)
        left = tuple(target for target in left if target != largest)
    return left


def _smaller_rank(room: Room, row: Row, adapter: AdapterSettings) -> int | None:
    """The largest rank below the adapter's that fits; None where there is none, or rank means nothing to the arm."""
    if not trained_rank(row.trials[0], adapter):
        return None
    ranks = range(adapter.rank - 1, 0, -1)
    return next((r for r in ranks if room.row(row, adapter.model_copy(update={"rank": r})) <= room.left), None)
