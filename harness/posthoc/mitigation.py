"""Mitigation of intruder dimensions (arXiv 2410.21228, section 6): is it they that make a trial forget?

The intruders of trained adapters are scaled (:mod:`harness.posthoc.variants`), and the variants are scored by the
engine that scored the trial, beside the control that shrinks all of dW by one factor to the same Frobenius norm.

Of each trial the rows are ``trained``, which has the scores of its record, ``rescored``, which has those of the same
adapter among the variants, and ``mitigated`` and ``control`` for each part kept.  In bfloat16 the last bits depend on
how many rows a pass has, so an item may fall otherwise than in the record; all passes here have one size, and a
variant's scores depend on nothing that is asked beside it.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch

from harness.analysis import continual
from harness.data import paths
from harness.engine.adapters.files import StoredAdapter, find_adapter, read_adapter
from harness.engine.environment import use_threads
from harness.engine.model.load import load_model
from harness.engine.spectra import Spectra
from harness.errors import InputError
from harness.executors.interface import Watcher
from harness.posthoc.variants import Directions, Kind, Variant, Variants, Which
from harness.scoring.bench import make_bench
from harness.store.records import TrialRecord
from harness.store.results import read_trials
from harness.study import forecast
from harness.study.config import Study

COLUMNS = (
    "trial", "arm", "order", "seed", "which", "kind", "keep", "matrices", "directions", "intruder_count",
    "intruder_distance", "delta_norm", "shrunk_by", "average_accuracy", "last_task_accuracy", "forgetting",
    "general_delta",
)  # fmt: skip
#: What is scored for every part kept, and what once: the adapter as it is.
COMPARED: tuple[Kind, ...] = ("mitigated", "control")
UNCHANGED: tuple[Kind, float] = ("rescored", 1.0)
#: Rows of every scoring pass.
TOGETHER = 8
#: Of a sum in another order; less than any item.
ROUNDING = 1e-9


def results_folder(folder: Path, which: Which, trial: TrialRecord | None) -> Path:
    """Where in a study's results the mitigation of all its trials goes, or that of one."""
    return folder / "mitigation" / (which if trial is None else f"{which}-{trial.fingerprint[:12]}")


def differ_from_records(rows: Iterable[Mapping[str, Any]]) -> int:
    """Trials whose adapter as trained has another score here than in its record."""
    trained: dict[str, Mapping[str, Any]] = {row["trial"]: row for row in rows if row["kind"] == "trained"}
    return sum(
        any(abs(row[name] - recorded) > ROUNDING for name, recorded in trained[row["trial"]].items()
            if name.startswith("score_") and name in row)
        for row in rows if row["kind"] == "rescored"
    )  # fmt: skip


def find_trials(folder: Path, planned: Collection[str], beginning: str | None) -> list[TrialRecord]:
    """The finished, trained trials of a results folder that are ``planned``, or the one that begins so (fingerprints).

    Raises InputError where no trial matches, several begin so, or the one that does has no adapter.
    """
    records = read_trials(folder).records
    if beginning is None:
        trials = [trial for trial in records if trial.fingerprint in planned and not _why_not(trial)]
        if not trials:
            raise InputError(
                "no trained trial of this study is finished",
                where=str(folder),
                remedy="run the study first: lorabench run STUDY",
            )
        return trials
    trials = [trial for trial in records if trial.fingerprint.startswith(beginning)]
    if len(trials) != 1:
        raise InputError(
            f"{len(trials)} trials begin with '{beginning}'",
            where=str(folder / "trials"),
            remedy="give more of the fingerprint, and its study with --study",
        )
    if reason := _why_not(trials[0]):
        raise InputError(reason, where=trials[0].fingerprint, remedy="choose a finished trial of an arm that trains")
    if trials[0].fingerprint not in planned:
        raise InputError(
            "this trial is of another version of the study",
            where=trials[0].fingerprint,
            remedy="run the study again, or undo what has changed in it: lorabench plan says what that is",
        )
    return trials


def _why_not(trial: TrialRecord) -> str:
    """Why a trial has no adapter to mitigate; empty where it may have one."""
    if not trial.facts.trains:
        return f"'{trial.spec.arm}' trains nothing, so there is no adapter and no intruder dimension"
    return "" if trial.status == "ok" else f"this trial of '{trial.spec.arm}' did not finish: {trial.status}"


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
                    remedy="choose a trial of a method without magnitudes",
                )
            adapters.append((trial, stored))
        except InputError as error:
            refused.append(error)
    if not adapters:
        raise refused[0]
    return adapters, [str(error) for error in refused]


@dataclass(frozen=True)
class _Case:
    """A trial with intruders, and what is asked of it."""

    trial: TrialRecord
    stored: StoredAdapter
    directions: Directions

    @property
    def names(self) -> tuple[str, ...]:
        """The tasks and probes that are scored."""
        return tuple(sorted((*self.trial.spec.stream, *self.trial.spec.probes)))

    @property
    def alike(self) -> tuple[tuple[str, ...], int]:
        """Variants with the same of it may share a pass."""
        return self.names, self.stored.rank


class _Asked(NamedTuple):
    """One variant of a case's adapter."""

    case: _Case
    kind: Kind
    keep: float


def mitigate(
    study: Study,
    model: Path,
    adapters: Sequence[tuple[TrialRecord, StoredAdapter]],
    which: Which,
    keeps: Sequence[float],
    device: str,
    watcher: Watcher,
) -> list[dict[str, Any]]:
    """Rows (``COLUMNS``, then every score) of all variants of the trials that have intruders; empty where none has.

    ``model`` is the folder of the study's base model.
    """
    watcher.progress("base", 0, "loading the model and the tasks")
    return _Run(study, model, adapters, which, device, watcher).rows(adapters, keeps)


class _Run:
    """One base model with room for every adapter, and what is asked of variants of them."""

    def __init__(
        self,
        study: Study,
        path: Path,
        adapters: Sequence[tuple[TrialRecord, StoredAdapter]],
        which: Which,
        device: str,
        watcher: Watcher,
    ) -> None:
        use_threads(study.threads)
        self.watcher, self.done = watcher, 0.0
        dtype = getattr(torch, study.dtype)
        targets = sorted({target for _, stored in adapters for target in stored.targets})
        model = load_model(path, dtype=dtype, device=torch.device(device), targets=targets)
        self.spectra = Spectra(model, paths.cache_dir() / "spectra", lambda text: self._advance(0, text))
        self.which: Which = which
        self.variants = Variants(model, self.spectra, which)
        self.bench = make_bench(study, (*study.tasks, *study.probes), model, path, adapters[0][1].rank)

    def rows(
        self, adapters: Sequence[tuple[TrialRecord, StoredAdapter]], keeps: Sequence[float]
    ) -> list[dict[str, Any]]:
        """The rows of all trials that have intruders, in their order."""
        cases = [_Case(*pair, found) for pair in adapters if (found := self.variants.chosen(pair[1]))]
        kinds = [UNCHANGED, *((kind, keep) for keep in keeps for kind in COMPARED)]
        asked = [_Asked(case, kind, keep) for case in cases for kind, keep in kinds]
        groups = {case.alike: [entry for entry in asked if entry.case.alike == case.alike] for case in cases}
        passes = [group[at : at + TOGETHER] for group in groups.values() for at in range(0, len(group), TOGETHER)]
        tokens = {names: self.bench.scorer.tokens(names) for names, _ in groups}
        scoring = sum(TOGETHER * tokens[part[0].case.names] for part in passes)
        self.watcher.total(scoring + forecast.INTRUDER_UNITS * len(asked))
        rows: dict[int, list[dict[str, Any]]] = {id(case): [] for case in cases}
        for part in passes:
            for (case, *_), row in zip(part, self._pass(part), strict=True):
                own = rows[id(case)]
                own += [*([] if own else [_as_recorded(case, row)]), row]
        return [row for case in cases for row in rows[id(case)]]

    def _pass(self, part: Sequence[_Asked]) -> Iterator[dict[str, Any]]:
        """The rows of at most ``TOGETHER`` variants; what is missing to that is a repetition, which is not kept."""
        case = part[0].case
        layout = self.variants.layout(case.stored.rank)
        what = f"{case.trial.spec.arm}, order {case.trial.spec.order}, seed {case.trial.spec.seed}"
        made = [self.variants.make(case.stored, case.directions, kind, keep) for case, kind, keep in part]
        values = torch.stack([variant.values for variant in made])
        ones = torch.ones(TOGETHER, device=values.device)
        filled = torch.cat([values, values[:1].expand(TOGETHER - len(made), -1)])
        scores = self.bench.scorer.score(case.names, filled, ones, lambda tokens: self._advance(tokens, what), layout)
        modules = [case.stored.modules for case, *_ in part]
        intruders = self.spectra.intruders(layout, values, ones[: len(made)], modules)
        self._advance(forecast.INTRUDER_UNITS * len(made), what)
        for (case, *_), variant, score, counted in zip(part, made, scores, intruders, strict=False):
            plain = None if score is None else {name: each.value for name, each in score.items()}
            yield _row(case, self.which, variant, plain, counted or {})

    def _advance(self, units: float, what: str) -> None:
        self.done += units
        self.watcher.progress("mitigation", self.done, what)


def _row(
    case: _Case, which: Which, variant: Variant, scores: Mapping[str, float] | None, intruders: Mapping[str, Any]
) -> dict[str, Any]:
    spec = case.trial.spec
    touched = 0 if variant.kind == "rescored" else len(case.directions)
    row = {
        "trial": case.trial.fingerprint[:12], "arm": spec.arm, "order": spec.order, "seed": spec.seed, "which": which,
        "kind": variant.kind, "keep": variant.keep, "matrices": touched,
        "directions": sum(len(right) for _, right in case.directions.values()) if touched else 0,
        "intruder_count": intruders.get("count"), "intruder_distance": intruders.get("distance"),
        "delta_norm": intruders.get("delta_norm"), "shrunk_by": variant.shrunk_by,
    }  # fmt: skip
    # Without scores: a log-probability was not finite.
    return row if scores is None else row | _measured(case.trial, scores)


def _as_recorded(case: _Case, rescored: Mapping[str, Any]) -> dict[str, Any]:
    """The row of the adapter as trained: its weights as they were measured here, its scores as they were recorded."""
    scores = {name: each.score[-1] for name, each in (case.trial.tasks | case.trial.probes).items()}
    known = {name: score for name, score in scores.items() if score is not None}
    return {key: rescored[key] for key in COLUMNS[: COLUMNS.index("average_accuracy")]} | {
        "kind": "trained", **_measured(case.trial, known)
    }  # fmt: skip


def _measured(trial: TrialRecord, scores: Mapping[str, float]) -> dict[str, float | None]:
    """Every score, and the metrics of a trial that ends with these scores; a metric without a meaning is left out."""
    row: dict[str, float | None] = {f"score_{name}": score for name, score in scores.items()}
    stream = trial.spec.stream
    if all(trial.tasks[task].higher_is_better for task in stream):
        last = [scores[task] for task in stream]
        matrix = [*trial.matrix()[:-1], last]
        row["average_accuracy"] = continual.average_accuracy(matrix)
        if trial.facts.sequential:
            row |= {"last_task_accuracy": last[-1], "forgetting": continual.forgetting(matrix)}
    shares = {name: probe.score[0] for name, probe in trial.probes.items() if probe.higher_is_better}
    return row | {"general_delta": continual.general_delta([(base, scores[name]) for name, base in shares.items()])}
