"""Mitigation of intruder dimensions (arXiv 2410.21228, section 6): is it they that make a trial forget?

For each matrix with an intruder, the first one (sigma u v^T of W0 + dW, by singular value) is scaled by the part kept:
W0 + dW + (keep - 1) sigma u v^T.  That is a low-rank adapter of one more rank, and is scored by the engine that scored
the trial, beside the control that shrinks all of dW by one factor to the same Frobenius norm.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from harness.analysis import continual
from harness.analysis.intruders import EPSILON
from harness.data import paths
from harness.engine.adapters.files import StoredAdapter, find_adapter, read_adapter
from harness.engine.environment import use_threads
from harness.engine.model.load import load_model
from harness.engine.spectra import Spectra
from harness.errors import InputError
from harness.executors.interface import Watcher
from harness.scoring.bench import make_bench
from harness.scoring.scorer import Score
from harness.store.records import TrialRecord
from harness.store.results import read_trials
from harness.study import forecast
from harness.study.config import Study

COLUMNS = (
    "trial", "arm", "order", "seed", "kind", "keep", "matrices", "intruder_count", "intruder_distance", "delta_norm",
    "shrunk_by", "average_accuracy", "last_task_accuracy", "forgetting", "general_delta",
)  # fmt: skip
#: Adapters scored side by side.
TOGETHER = 8


@dataclass(frozen=True)
class Variant:
    """One adapter [P] to be scored: as trained, mitigated, or its control."""

    kind: str  #: ``trained``, ``mitigated`` or ``control``
    keep: float
    values: Tensor
    matrices: int = 0  #: with an intruder that was scaled
    shrunk_by: float = 1.0


def find_trials(folder: Path, planned: Collection[str], beginning: str | None) -> list[TrialRecord]:
    """The finished, trained trials of a results folder that are ``planned``, or the one that begins so (fingerprints).

    Raises InputError where no trial matches, or several begin so.
    """
    trials = [
        trial
        for trial in read_trials(folder).records
        if trial.status == "ok" and trial.costs.trained_parameters and trial.fingerprint in planned
    ]
    if beginning is not None:
        trials = [trial for trial in trials if trial.fingerprint.startswith(beginning)]
        if len(trials) != 1:
            raise InputError(
                f"{len(trials)} finished, trained trials begin with '{beginning}'",
                where=str(folder / "trials"),
                remedy="give more of the fingerprint, and its study with --study",
            )
    if not trials:
        raise InputError("no trained trial of this study is finished", where=str(folder), remedy="run the study first")
    return trials


def read_adapters(
    folder: Path, trials: Sequence[TrialRecord]
) -> tuple[list[tuple[TrialRecord, StoredAdapter]], list[str]]:
    """The trials that have an adapter to mitigate, with it; and why the others lack one.

    Raises InputError where no trial has one.
    """
    adapters, refused = [], []
    for trial in trials:
        try:
            stored = read_adapter(*find_adapter(folder, trial.fingerprint))
            if stored.has_magnitudes:
                raise InputError(
                    f"the adapter of trial {trial.fingerprint} scales rows of the base: no change of low rank",
                    where=str(folder / "adapters"),
                    remedy="choose a method other than dora",
                )
            adapters.append((trial, stored))
        except InputError as error:
            refused.append(error)
    if not adapters:
        raise refused[0]
    return adapters, [str(error) for error in refused]


def mitigate(
    study: Study,
    model: Path,
    adapters: Sequence[tuple[TrialRecord, StoredAdapter]],
    keeps: Sequence[float],
    device: str,
    watcher: Watcher,
) -> list[dict]:
    """Rows (``COLUMNS``, then every score) of all variants of the trials that have intruders; empty where none has.

    ``model`` is the folder of the study's base model.
    """
    watcher.progress("base", 0, "loading the model and the tasks")
    run = _Run(study, model, [stored for _, stored in adapters], device, watcher)
    work = [(trial, stored, variants) for trial, stored in adapters if (variants := run.variants(stored, keeps))]
    watcher.total(sum(run.units(trial) * len(variants) for trial, _, variants in work))
    return [row for trial, stored, variants in work for row in run.rows(trial, stored, variants)]


class _Run:
    """One base model with room for every adapter, and what is asked of variants of them."""

    def __init__(
        self, study: Study, path: Path, adapters: Sequence[StoredAdapter], device: str, watcher: Watcher
    ) -> None:
        use_threads(study.threads)
        self.watcher, self.done = watcher, 0.0
        dtype = getattr(torch, study.dtype)
        targets = sorted({target for stored in adapters for target in stored.targets})
        self.model = load_model(path, dtype=dtype, device=torch.device(device), targets=targets)
        rank = max(stored.rank for stored in adapters)
        self.layout = self.model.layout(rank + 1)  # room for one direction more
        self.bench = make_bench(study, (*study.tasks, *study.probes), self.model, path, self.layout.rank)
        self.spectra = Spectra(self.model, paths.cache_dir() / "spectra", lambda text: self._advance(0, text))

    def variants(self, stored: StoredAdapter, keeps: Sequence[float]) -> list[Variant]:
        """As trained, then mitigated and control for each part kept; empty where there is no intruder."""
        trained = self._laid_out(stored)
        scaled = self._first_intruders(trained)
        if not scaled:
            return []
        variants = [Variant("trained", 1.0, trained)]
        for keep in keeps:
            values = trained.clone()
            for slot, (a, b) in zip(self.layout.slots, self.layout.split(values[None]), strict=True):
                if slot.module in scaled:
                    left, right = scaled[slot.module]
                    a[0, -1], b[0, :, -1] = right, (keep - 1) * left
            factor = self._norm(values) / self._norm(trained)
            control = trained.clone()
            control[self.layout.a_size :] *= factor
            variants.append(Variant("mitigated", keep, values, len(scaled)))
            variants.append(Variant("control", keep, control, len(scaled), factor))
        return variants

    def _laid_out(self, stored: StoredAdapter) -> Tensor:
        """The adapter [P] in this layout, its scaling in B; directions and matrices that it lacks are zero."""
        values, rank, modules = torch.zeros(1, self.layout.size), stored.rank, stored.modules
        for slot, (a, b) in zip(self.layout.slots, self.layout.split(values), strict=True):
            if slot.module in modules:
                a[0, :rank] = stored.tensors[f"{slot.module}.lora_A"]
                b[0, :, :rank] = stored.tensors[f"{slot.module}.lora_B"] * stored.scaling
        return values[0].to(self.model.device)

    def _first_intruders(self, values: Tensor) -> dict[str, tuple[Tensor, Tensor]]:
        """Module -> (sigma u [m], v [n]) of the first intruder of every matrix that has one."""
        measured = self.spectra.measure(self.layout, values[None], torch.ones(1, device=values.device))
        directions = {}
        for i, (slot, (a, b)) in enumerate(zip(self.layout.slots, self.layout.split(values[None]), strict=True)):
            if measured.count()[i, 0]:
                first = int((measured.best[i, 0] < EPSILON).argmax())
                weight = self.spectra.of(slot).weights()[0] + b[0].double() @ a[0].double()
                u, sigmas, vh = torch.linalg.svd(weight, full_matrices=False)
                directions[slot.module] = ((sigmas[first] * u[:, first]).float(), vh[first].float())
        return directions

    def _norm(self, values: Tensor) -> float:
        """||dW||_F over all matrices."""
        pairs = self.layout.split(values[None].double())
        squares = sum((((b.mT @ b) * (a @ a.mT)).sum() for a, b in pairs), start=torch.zeros((), dtype=torch.float64))
        return float(squares.clamp(min=0).sqrt())

    # -- scores -------------------------------------------------------------------------------------------------------

    def units(self, trial: TrialRecord) -> float:
        return self.bench.scorer.tokens(self._names(trial)) + forecast.INTRUDER_UNITS

    def _names(self, trial: TrialRecord) -> list[str]:
        return sorted((*trial.spec.stream, *trial.spec.probes))

    def rows(self, trial: TrialRecord, stored: StoredAdapter, variants: Sequence[Variant]) -> list[dict]:
        """The rows of the variants of one trial's adapter, all scored alike."""
        rows, what = [], f"{trial.spec.arm}, order {trial.spec.order}, seed {trial.spec.seed}"
        for start in range(0, len(variants), TOGETHER):
            part = variants[start : start + TOGETHER]
            values = torch.stack([variant.values for variant in part])
            ones = torch.ones(len(part), device=values.device)
            scores = self.bench.scorer.score(self._names(trial), values, ones, lambda n: self._advance(n, what))
            intruders = self.spectra.intruders(self.layout, values, ones, [stored.modules] * len(part))
            self._advance(forecast.INTRUDER_UNITS * len(part), what)
            for variant, score, counted in zip(part, scores, intruders, strict=True):
                rows.append(_row(trial, variant, score, counted or {}))
        return rows

    def _advance(self, units: float, what: str) -> None:
        self.done += units
        self.watcher.progress("mitigation", self.done, what)


def _row(trial: TrialRecord, variant: Variant, scores: Mapping[str, Score] | None, intruders: Mapping) -> dict:
    spec = trial.spec
    row = {
        "trial": trial.fingerprint[:12], "arm": spec.arm, "order": spec.order, "seed": spec.seed, "kind": variant.kind,
        "keep": variant.keep, "matrices": variant.matrices, "intruder_count": intruders.get("count"),
        "intruder_distance": intruders.get("distance"), "delta_norm": intruders.get("delta_norm"),
        "shrunk_by": variant.shrunk_by,
    }  # fmt: skip
    if scores is None:
        return row  # a log-probability was not finite
    row |= {f"score_{name}": scores[name].value for name in (*spec.stream, *spec.probes)}
    if all(trial.tasks[task].higher_is_better for task in spec.stream):
        last = [scores[task].value for task in spec.stream]
        matrix = [*trial.matrix()[:-1], last]
        row |= {"average_accuracy": continual.average_accuracy(matrix), "last_task_accuracy": last[-1],
                "forgetting": continual.forgetting(matrix)}  # fmt: skip
    probes = [(probe.score[0], scores[name].value) for name, probe in trial.probes.items() if probe.higher_is_better]
    return row | {"general_delta": continual.general_delta(probes)}
