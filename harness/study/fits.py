"""Whether what a plan trains fits its device at all, even one row at a time; refused before anything is loaded.

What is counted is certain: the base's weights, and what a row holds from step to step.  What passes through a step
(activations) comes on top.  So what is refused can't run, and what is not may still run out of memory: then its record
says so (``oom``).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from harness.errors import InputError
from harness.study.arms import key_of
from harness.study.config import AdapterSettings, Study
from harness.study.memory import CONTEXT, Shares, parameters, shares_of
from harness.study.plan import Pack, Row, copies_of, trained_rank
from harness.study.stack import Device

#: Bytes of one of the base's numbers, by dtype.
WIDTHS = {"bfloat16": 2, "float32": 4}


@dataclass(frozen=True)
class Needs:
    """What a model and rows on it need of a device's memory, in bytes."""

    numbers: int  #: of the model
    gpu: bool
    shares: Callable[[AdapterSettings], Shares]

    def base(self, dtype: str) -> float:
        """What is there once, however many rows there are."""
        return self.numbers * WIDTHS[dtype] + (CONTEXT if self.gpu else 0)

    def row(self, row: Row, adapter: AdapterSettings) -> float:
        """What a row with this adapter, its own or another, holds at least."""
        rank = trained_rank(row.trials[0], adapter)
        shares = self.shares(adapter).times(rank / adapter.rank)
        return 4 * self.numbers * copies_of(row, shares, rank, spare=0)


def check_fits(study: Study, packs: Sequence[Pack], model: Path, device: Device, where: str) -> None:
    """Raise InputError, as ``file:key``, for what has no place on the device: an arm, or so many rows as a pack has.

    A device whose memory is not known takes everything.
    """
    memory = _known(device)
    if memory is None:
        return
    needs = Needs(parameters(model), device.kind == "cuda", shares_of(model))
    of_device = f"the {_gb(memory)} of {device.name}"
    base = needs.base(study.dtype)
    if base > memory:
        raise InputError(
            f"the model alone needs {_gb(base)} in {study.dtype}, {_gb(base - memory)} more than {of_device}",
            where=f"{where}:model",
            remedy=f"what fits: {', '.join(_other_bases(study, needs, memory))}",
        )
    for pack in packs:
        row = max(pack.rows, key=lambda row: needs.row(row, pack.adapter))
        each, arm = needs.row(row, pack.adapter), row.trials[0].spec.arm
        room = int((memory - base) / each) if each else len(pack.rows)
        if room < 1:
            raise InputError(
                f"one trial of '{arm}' needs at least {_gb(base + each)}: {_gb(base)} for the model, {_gb(each)} for "
                f"what it trains; that is {_gb(base + each - memory)} more than {of_device}",
                where=f"{where}:methods.{key_of(study, arm)}",
                remedy=f"what fits: {', '.join(_others(study, needs, row, pack.adapter, memory))}",
            )
        if room < len(pack.rows):
            whole = base + len(pack.rows) * each
            raise InputError(
                f"{len(pack.rows)} rows of '{arm}' in one pack need at least {_gb(whole)}, "
                f"{_gb(whole - memory)} more than {of_device}",
                where=f"{where}:pack",
                remedy=f"set pack: {room}, or pack: auto, by which every arm has packs of its own size",
            )


def _known(device: Device) -> float | None:
    """Bytes of the device; None where it is not there, so that its memory is a guess."""
    gigabytes = device.main_gigabytes if device.kind == "cpu" else device.gigabytes
    return 1e9 * gigabytes if gigabytes and device.name else None


def _gb(size: float) -> str:
    return f"{size / 1e9:.1f} GB" if size >= 1e9 else f"{max(1, size / 1e6):.0f} MB"


def _other_bases(study: Study, needs: Needs, memory: float) -> Iterator[str]:
    smaller = needs.base("bfloat16")
    if study.dtype == "float32" and smaller <= memory:
        yield f"dtype: bfloat16 ({_gb(smaller)})"
    yield f"a device with {_gb(needs.base(study.dtype))}"
    most = (memory - needs.base(study.dtype)) / WIDTHS[study.dtype] + needs.numbers
    yield f"a model of at most {most / 1e6:,.0f}M parameters"


def _others(study: Study, needs: Needs, row: Row, adapter: AdapterSettings, memory: float) -> Iterator[str]:
    """Changes of one thing each, with which one such row would fit; what would not is left out."""
    base = needs.base(study.dtype)
    targets = _fewer_targets(needs, row, adapter, memory - base)
    if targets:
        need = base + needs.row(row, adapter.model_copy(update={"targets": targets}))
        yield f"adapter.targets: [{', '.join(targets)}] ({_gb(need)})"
    rank = _smaller_rank(needs, row, adapter, memory - base)
    if rank:
        need = base + needs.row(row, adapter.model_copy(update={"rank": rank}))
        yield f"adapter.rank: {rank} ({_gb(need)})"
    own = needs.row(row, adapter)
    if study.dtype == "float32" and needs.base("bfloat16") + own <= memory:
        yield f"dtype: bfloat16 ({_gb(needs.base('bfloat16') + own)})"
    yield f"a device with more than {_gb(base + own)}"
    fixed = base - needs.numbers * WIDTHS[study.dtype]
    most = needs.numbers * (memory - fixed) / (base + own - fixed)
    if most >= 1e6:
        yield f"a model of some {most / 1e6:,.0f}M parameters"


def _fewer_targets(needs: Needs, row: Row, adapter: AdapterSettings, room: float) -> tuple[str, ...]:
    """The targets that are left when the largest are taken away until it fits; empty where none would be."""

    def of(targets: tuple[str, ...]) -> AdapterSettings:
        return adapter.model_copy(update={"targets": targets})

    left = adapter.targets
    while left and needs.row(row, of(left)) > room:
        largest = max(left, key=lambda target: needs.shares(of((target,))).matrices)
        left = tuple(target for target in left if target != largest)
    return left


def _smaller_rank(needs: Needs, row: Row, adapter: AdapterSettings, room: float) -> int | None:
    """The largest rank below the adapter's that fits; None where there is none, or rank means nothing to the arm."""
    if not trained_rank(row.trials[0], adapter):
        return None
    fits = (
        rank for rank in range(adapter.rank - 1, 0, -1)
        if needs.row(row, adapter.model_copy(update={"rank": rank})) <= room
    )  # fmt: skip
    return next(fits, None)
