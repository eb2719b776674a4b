"""Rows of a pack: what the study says, or the table of memory by model size and device class.

Decided from the study, the model and the class of device alone, never from what happens to be free.  ``kind`` is a
class of device here, as :func:`device_class` names it.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from harness.errors import InputError
from harness.reading import parse_json, read_yaml
from harness.study.config import AdapterSettings, Study

TABLE = Path(__file__).with_name("memory.yaml")
#: The rank that the table was measured at; its rows have room for factors of that size.
TABLE_RANK = 8
#: Bytes of a GPU that CUDA, its libraries and captured graphs take in every process.
CONTEXT = 1e9
#: fp32 copies of a row's factors: themselves, gradient, two moments, what a step makes of them, an average.  Measured
#: from the peaks of rank 8 and 64, twelve rows on a CPU: 6.6, and 7.9 with an average.
FACTOR_COPIES = 8
#: The same of what each earlier task has left under them: held, joined, stacked to be scored, cast.  Likewise: 4.5 with
#: two below, 4.8 with four.
FROZEN_COPIES = 5
#: The same of every average beyond the first.
AVERAGE_COPIES = 1.3


@dataclass(frozen=True)
class Decomposed:
    """What it takes to decompose the matrices that an adapter adapts, or what they read; nothing where not known.

    Matrices of one block that are equally wide count as readers of one input.  That is so of q, k, v, gate and up; o
    may be as wide and reads another, a twentieth of all there is to decompose.
    """

    widest: int = 0  #: inputs of the widest matrix
    layers: int = 1
    moments: int = 0  #: numbers of the second moments of what each matrix reads
    inputs: float = 0.0  #: n^3 of every input, over the model's numbers
    matrices: float = 0.0  #: m n min(m, n) of every matrix [m, n], likewise


@dataclass(frozen=True)
class Shares:
    """What an adapter's numbers are of the model's; nothing where that is not known."""

    factors: float = 0.0  #: of its factors
    matrices: float = 1.0  #: of the matrices that it adapts: what a dense change of them all would have
    decomposed: Decomposed = Decomposed()

    def times(self, ranks: float) -> Shares:
        """Those with factors of so many times the rank."""
        return replace(self, factors=self.factors * ranks)


#: Of an adapter of which nothing is known.
UNKNOWN = Shares()


def pack_size(study: Study, model: Path, kind: str) -> int:
    """The most rows that one pack of this study has on this class of device."""
    if study.pack != "auto":
        return study.pack
    rows = read_yaml(TABLE)
    size = parameters(model)
    return next((int(row[kind]) for row in rows if size <= row["parameters"]), 1)


def factor_copies(share: float, rank: int, below: int, averages: int = 0, spare: int = TABLE_RANK) -> float:
    """fp32 copies of the model that a row's factors take beyond those of a ``spare`` rank: the table has room for one.

    ``share`` is that of one adapter's factors (``shares_of``), ``rank`` its rank, 0 of dense changes; ``below`` as many
    adapters stay frozen under it at the end, and ``averages`` of its factors are kept.
    """
    if not rank:
        return 0.0
    more = AVERAGE_COPIES * max(0, averages - 1)
    return share * (max(0, 1 - spare / rank) * FACTOR_COPIES + FROZEN_COPIES * below + more)


def adapted(model: Path, targets: tuple[str, ...]) -> dict[str, tuple[int, int]]:
    """Name in the model -> shape [m, n] of the matrices of these types."""
    named = ((name.removesuffix(".weight"), shape) for name, shape in _shapes(model) if name.endswith(".weight"))
    return {name: (s[0], s[1]) for name, s in named if name.rpartition(".")[2] in targets and len(s) == 2}


def shares_of(model: Path) -> Callable[[AdapterSettings], Shares]:
    """The shares of an adapter in the model of this folder (a function of its rank and targets)."""
    shapes = dict(_shapes(model))
    whole = sum(map(math.prod, shapes.values()))

    def shares(adapter: AdapterSettings) -> Shares:
        kinds = {f"{target}.weight" for target in adapter.targets}
        adapted = {name: shape for name, shape in shapes.items() if ".".join(name.split(".")[-2:]) in kinds}
        if not whole or not adapted:
            return UNKNOWN
        numbers, sizes = sum(map(math.prod, adapted.values())), sum(map(sum, adapted.values()))
        return Shares(adapter.rank * sizes / whole, numbers / whole, _decomposed(adapted, whole))

    return shares


def _decomposed(shapes: Mapping[str, Sequence[int]], whole: int) -> Decomposed:
    """``shapes`` are those of the adapted matrices by name, ``whole`` the model's numbers."""
    blocks = {(name.rsplit(".", 2)[0], shape[1]) for name, shape in shapes.items()}
    return Decomposed(
        widest=max(n for _, n in shapes.values()),
        layers=len({next((part for part in name.split(".") if part.isdigit()), "-") for name in shapes}),
        moments=sum(n**2 for _, n in shapes.values()),
        inputs=sum(n**3 for _, n in blocks) / whole,
        matrices=sum(m * n * min(m, n) for m, n in shapes.values()) / whole,
    )


def dense_rows(study: Study, model: Path, kind: str) -> Callable[[float], int]:
    """How many rows fit that hold so many fp32 copies of the model beside the factors (a function of their number).

    Three fifths of a device's memory are for them, 8 GB on a CPU: activations and the base want the rest.  One at
    least: whether that one fits is for :mod:`harness.study.fits`.
    """
    memory = 8e9 if kind == "cpu" else 1e9 * int(kind.removeprefix("gpu-"))
    size = parameters(model)
    most = pack_size(study, model, kind)
    if study.pack != "auto":
        return lambda copies: most
    return lambda copies: max(1, min(most, int(0.6 * memory / (4 * size * copies)))) if copies else most


def card_share(study: Study, model: Path, kind: str, rows: int, copies: float) -> float:
    """The share of a GPU's memory that a pack needs, by the same table: hundredths, rounded up.

    ``rows`` hold ``copies`` of the model each (see :func:`dense_rows`).  As many as the plan gives a card take all of
    it; the base's weights and CUDA's own memory are there once, however few they are.
    """
    memory, size = 1e9 * int(kind.removeprefix("gpu-")), parameters(model)
    by_table = study.model_copy(update={"pack": "auto"})
    most = dense_rows(by_table, model, kind)(copies)
    fixed = min(1.0, (size * (2 if study.dtype == "bfloat16" else 4) + CONTEXT) / memory)
    return min(1.0, math.ceil(100 * (fixed + (1 - fixed) * rows / most)) / 100)


def device_class(gpu_gigabytes: float | None) -> str:
    """``cpu`` where that is None, or ``gpu-N`` for the largest N of the table that a GPU's memory reaches."""
    if gpu_gigabytes is None:
        return "cpu"
    return next((f"gpu-{n}" for n in (70, 40, 16, 8) if gpu_gigabytes >= n), "gpu-8")


def parameters(model: Path) -> int:
    """Numbers in a model's safetensors files."""
    return sum(math.prod(shape) for _, shape in _shapes(model))


def _shapes(model: Path) -> Iterator[tuple[str, list[int]]]:
    """(name, shape) of every tensor, read from the headers.  Raises InputError, which names the file."""
    for path in model.glob("*.safetensors"):
        header = _header(path)
        for name, entry in header.items():
            if name != "__metadata__":
                yield name, _shape(entry, path, name)


def _header(path: Path) -> dict[str, Any]:
    remedy = "fetch or convert the model again"
    try:
        with path.open("rb") as file:
            (length,) = struct.unpack("<Q", file.read(8))
            if length > path.stat().st_size:
                raise ValueError("its header is longer than the file")
            text = file.read(length).decode()
    except OSError as error:
        raise InputError(f"can't be read: {error.strerror}", where=str(path), remedy=remedy) from error
    except (struct.error, ValueError) as error:
        raise InputError(f"not a file of safetensors: {error}", where=str(path), remedy=remedy) from error
    header = parse_json(text, where=str(path), remedy=remedy)
    if not isinstance(header, dict):
        raise InputError("not a file of safetensors: its header is no mapping", where=str(path), remedy=remedy)
    return header


def _shape(entry: Any, path: Path, name: str) -> list[int]:
    shape = entry.get("shape") if isinstance(entry, dict) else None
    if not isinstance(shape, list) or not all(type(size) is int and size >= 0 for size in shape):
        raise InputError(
            f"the tensor '{name}' has no shape", where=str(path), remedy="fetch or convert the model again"
        )
    return shape
