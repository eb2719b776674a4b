"""``lorabench perf intruders``: intruder dimensions of whole checkpoints, against the procedure of the paper's code.

The reference (reeceshuttle/intruder-dimensions) takes two full SVDs in float32 for each matrix and checkpoint, base and
tuned; the stronger one keeps the base's.  All see the same matrices and updates in the same run.  Agreement comes
first: where a count differs from the reference's, a full SVD in fp64 says who is right, and it must be the engine.  On
a CPU the reference runs with one thread or all of them, whichever is faster for it here.  Dense changes of the model's
matrices are timed by themselves (:mod:`.dense_intruders`).
"""

from __future__ import annotations

import json
import statistics
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from harness.analysis.intruders import EPSILON, TOP_K, Measured
from harness.engine.adapters.layout import Layout, Slot
from harness.engine.environment import device_name, synchronize, use_threads
from harness.engine.spectra import Spectra
from harness.errors import LorabenchError, unknown_name
from harness.perf.common import SHAPES, save, this_device, timed
from harness.perf.dense_intruders import dense_row

#: ||dW||_2 of the updates in units of ||W0||_2, in turn over matrices and trials: no intruder to six and more.
SIZES = (0.6, 1.2, 0.1, 0.3)
LARGE, LARGE_MATRICES = 2048, 2


@dataclass(frozen=True)
class Settings:
    """Adapters side by side, their ranks, and how often each contender is timed."""

    trials: int
    ranks: tuple[int, ...]
    repeats: int


@dataclass(frozen=True)
class Matrices:
    """Base matrices by slot: as much of a model as its decompositions need."""

    slot_weights: tuple[tuple[Slot, Tensor], ...]

    @property
    def slots(self) -> tuple[Slot, ...]:
        return tuple(slot for slot, _ in self.slot_weights)

    @property
    def device(self) -> torch.device:
        return self.slot_weights[0][1].device

    def weights(self) -> Iterator[tuple[Slot, Tensor]]:
        return iter(self.slot_weights)


def main(model_name: str, settings: Settings, out: Path) -> None:
    """Check the agreement, time all contenders, print a table, write ``intruders-<device>.json``."""
    device = this_device()
    use_threads(2 if device.type == "cpu" else 8)
    print(f"{device_name(device)}, {model_name}, {settings.trials} adapters", flush=True)
    size = "135m" if "135m" in model_name.lower() else model_name.removeprefix("random:")
    groups = {size: _model_matrices(model_name, device), f"n{LARGE}": _large(device)}
    contests = [Contest(name, base) for name, base in groups.items()]
    rows = [row for contest in contests for row in contest.rows(settings)]
    dense = contests[0].dense_row(settings)
    where = "cpu" if device.type == "cpu" else "gpu"
    headline: dict[str, float] = {"dense_intruders_seconds": dense["seconds_per_checkpoint"]}
    for name in groups:
        group_rows = [row for row in rows if row["matrices"] == name]
        # The least over the ranks; one checkpoint of the engine is a share of a batch of them
        headline[f"{where}_{name}_vs_reference"] = min(row["times_faster"]["reference"] for row in group_rows)
        headline[f"{where}_{name}_vs_cached_base"] = min(row["times_faster"]["cached base"] for row in group_rows)
    save(out, "intruders", device, {"model": model_name, "trials": settings.trials, "sizes": SIZES, "rows": rows,
                                    "dense": dense, "headline": headline})  # fmt: skip
    print(json.dumps(headline))


def _model_matrices(name: str, device: torch.device) -> Matrices:
    """A model's projections, or made-up ones of ``random:<shape>``."""
    if not name.startswith("random:"):
        from harness.data.models import resolve_model
        from harness.engine.model.load import load_model

        model = load_model(resolve_model(name).path, dtype=torch.bfloat16, device=device)
        return Matrices(tuple((slot, weight.detach()) for slot, weight in model.weights()))
    if (shape := name.removeprefix("random:")) not in SHAPES:
        raise unknown_name("shape", shape, SHAPES, where="--model")
    config = SHAPES[shape]
    d, inner = config["hidden_size"], config["intermediate_size"]
    kv = d // config["num_attention_heads"] * config["num_key_value_heads"]
    shapes = {"q": (d, d), "k": (kv, d), "v": (kv, d), "o": (d, d), "gate": (inner, d), "up": (inner, d),
              "down": (d, inner)}  # fmt: skip
    slots = [
        Slot(f"layers.{layer}.{kind}_proj", *size)
        for layer in range(config["num_hidden_layers"])
        for kind, size in shapes.items()
    ]
    return _made_up(slots, device)


def _large(device: torch.device) -> Matrices:
    return _made_up([Slot(f"layers.{i}.large", LARGE, LARGE) for i in range(LARGE_MATRICES)], device)


def _made_up(slots: list[Slot], device: torch.device) -> Matrices:
    """Noise, and 64 directions that stand out of it by a power law, as those of trained matrices do."""
    slot_weights = []
    for seed, slot in enumerate(slots):
        m, n, generator = slot.out_features, slot.in_features, torch.Generator().manual_seed(seed)
        left, right, noise = (torch.randn(size, generator=generator) for size in ((m, 64), (64, n), (m, n)))
        edge = (m**0.5 + n**0.5) / (m * n) ** 0.5  # the largest singular value of the noise, in these units
        scale = 6 * edge / (1 + torch.arange(64)) ** 0.5
        slot_weights.append((slot, (left * scale @ right + noise).bfloat16().to(device)))
    return Matrices(tuple(slot_weights))


class Contest:
    """Three ways to the same counts, on one set of base matrices."""

    def __init__(self, name: str, base: Matrices) -> None:
        self.name, self.base = name, base
        with tempfile.TemporaryDirectory() as folder:
            spectra: list[Spectra] = []
            self.setup_seconds = timed(lambda: spectra.append(Spectra(base, Path(folder))), base.device)
        self.spectra = spectra[0]

    @cached_property
    def _base_vectors(self) -> list[Tensor]:
        return [torch.linalg.svd(weight.float(), full_matrices=False)[0] for _, weight in self.base.weights()]

    def rows(self, settings: Settings) -> Iterator[dict[str, Any]]:
        for rank in settings.ranks:
            row = self._row(rank, settings)
            times = "  ".join(f"{name} {value:.0f}x" for name, value in row["times_faster"].items())
            seconds = row["seconds_per_checkpoint"]["engine"]
            print(f"{self.name:8} rank {rank:3}  {seconds:9.4f} s a checkpoint;  {times}", flush=True)
            yield row

    def dense_row(self, settings: Settings) -> dict[str, Any]:
        weights = [weight for _, weight in self.base.weights()]
        row = {"matrices": self.name, **dense_row(self.spectra, weights, settings.trials, settings.repeats)}
        print(f"{self.name:8} dense     {row['seconds_per_checkpoint']:9.4f} s a checkpoint", flush=True)
        return row

    def _row(self, rank: int, settings: Settings) -> dict[str, Any]:
        layout, device = Layout(self.base.slots, rank), self.base.device
        values = self._updates(layout, settings.trials)
        scaling = torch.ones(settings.trials, device=device)
        measured = self.spectra.measure(layout, values, scaling)  # a warm-up too
        agreement = self._agreement(layout, values, measured)
        seconds: dict[str, list[float]] = {"engine": [], "reference": [], "cached base": []}
        for repeat in range(settings.repeats):  # in turns, so that a slow spell of the machine hits all
            elapsed = timed(lambda: self.spectra.intruders(layout, values, scaling), device)
            seconds["engine"].append(elapsed / settings.trials)
            tuned = self._tuned(layout, values, repeat % settings.trials)
            for name, vectors in (("reference", None), ("cached base", self._base_vectors)):
                with self._its_threads():
                    seconds[name].append(timed(partial(self._counts, tuned, vectors), device))
        median = {name: statistics.median(times) for name, times in seconds.items()}
        return {
            "matrices": self.name,
            "number": len(self.base.slots),
            "rank": rank,
            "seconds_per_checkpoint": median,
            "times_faster": {name: median[name] / median["engine"] for name in ("reference", "cached base")},
            "seconds": seconds,
            "base_svd_seconds": self.setup_seconds,
            "reference_threads": self._best_threads,
            **agreement,
        }

    def _updates(self, layout: Layout, trials: int) -> Tensor:
        """Adapters [K, P] with ||B A||_2 = ``SIZES`` of ||W0||_2 in turn, and singular values over one decade."""
        generator = torch.Generator().manual_seed(layout.rank)
        values = torch.randn(trials, layout.size, generator=generator)
        decay = torch.logspace(0, -1, layout.rank)
        for i, (slot, (a, b)) in enumerate(zip(layout.slots, layout.split(values), strict=True)):
            b *= decay
            core = torch.linalg.qr(b).R @ torch.linalg.qr(a.mT).R.mT
            top = float(self.spectra.of(slot).d[0, 0])
            wanted = torch.tensor([SIZES[(i + k) % len(SIZES)] * top for k in range(trials)])
            b *= (wanted / torch.linalg.matrix_norm(core, 2))[:, None, None]
        return values.to(self.base.device)

    # -- the reference ----------------------------------------------------------------------------------------------

    @cached_property
    def _best_threads(self) -> int:
        """Of one thread and all: what makes the reference's SVDs faster, over one matrix of each shape."""
        shapes = {tuple(weight.shape): weight.float() for _, weight in self.base.weights()}
        seconds, before = {}, torch.get_num_threads()
        for threads in {1, before} if self.base.device.type == "cpu" else {before}:
            torch.set_num_threads(threads)
            tries = [
                timed(partial(torch.linalg.svd, w, full_matrices=False), self.base.device)
                for w in shapes.values()
                for _ in range(3)
            ]
            seconds[threads] = sum(min(tries[i : i + 3]) for i in range(0, len(tries), 3))
        torch.set_num_threads(before)
        return min(seconds, key=lambda threads: seconds[threads])

    @contextmanager
    def _its_threads(self) -> Iterator[None]:
        before = torch.get_num_threads()
        torch.set_num_threads(self._best_threads)
        try:
            yield
        finally:
            torch.set_num_threads(before)

    def _tuned(self, layout: Layout, values: Tensor, trial: int) -> list[Tensor]:
        pairs = layout.split(values)
        return [
            weight.float() + b[trial] @ a[trial] for (_, weight), (a, b) in zip(self.base.weights(), pairs, strict=True)
        ]

    def _counts(self, tuned: list[Tensor], base_vectors: list[Tensor] | None) -> list[int]:
        """One checkpoint's counts by full SVDs in float32; without the base's vectors those are computed too."""
        counts = []
        for i, ((_, weight), tuned_weight) in enumerate(zip(self.base.weights(), tuned, strict=True)):
            u0 = base_vectors[i] if base_vectors else torch.linalg.svd(weight.float(), full_matrices=False)[0]
            u = torch.linalg.svd(tuned_weight, full_matrices=False)[0][:, :TOP_K]
            counts.append(int(((u.mT @ u0).abs().amax(1) < EPSILON).sum()))
        synchronize(self.base.device)
        return counts

    def _agreement(self, layout: Layout, values: Tensor, measured: Measured) -> dict[str, Any]:
        """Counts of the first checkpoint against the reference's; raises where fp64 takes the reference's side."""
        theirs, ours = self._counts(self._tuned(layout, values, 0), self._base_vectors), measured.count()[:, 0]
        differ, pairs = [i for i, count in enumerate(theirs) if count != ours[i]], layout.split(values)
        for i in differ:
            weight, (a, b) = self.base.slot_weights[i][1].double(), pairs[i]
            tuned = weight + b[0].double() @ a[0].double()
            u0, u = (torch.linalg.svd(w, full_matrices=False)[0] for w in (weight, tuned))
            exact = int(((u[:, :TOP_K].mT @ u0).abs().amax(1) < EPSILON).sum())
            if exact != ours[i]:
                where = self.base.slots[i].module
                raise LorabenchError(f"{ours[i]} intruders, and {exact} by a full SVD in fp64", where=where)
        low, high = measured.bounds()
        return {
            "intruders": int(ours.sum()),
            "counts_compared": len(theirs),
            "reference_wrong": len(differ),
            "fallbacks": int((measured.solved != 0).sum()),
            "undecided": int((low < high).sum()),
        }
