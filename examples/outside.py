"""Train trials of a study again without the engine, score them with lm-eval's HF model: do their records say the same?

    python examples/outside.py results/core --tasks 2

takes the first order and seed of `lora` and `stable_lora`, or the trials that ``--trials`` names, and trains each
through the first tasks of its stream (all of them without ``--tasks``) in float32, on a GPU where there is one.

**Shared with the harness** (outside_data.py), since it says what a trial is and not how it trains: the record with its
settings, the tasks' rows, which of them are training examples and in which order, their prompts and right answers as
texts, which rows are scored, lm-eval's configuration of each task, seeds, and the numbers that A starts with.

**Not shared** (outside_training.py, which imports nothing of lorabench): the model (transformers), the adapter (PEFT),
AdamW (torch), batches, losses, teachers, the clip, the warm-up of the rate, Stable-LoRA's shrink and latch, the
average.  Tokens and scores are lm-eval's own, of its HF model.  So one trial trains at a time, in padded batches, where
the engine has trained many in one tensor.

Two programs round differently, and what training makes of that depends on the trial: after 80 steps of SmolLM2-135M two
B are 4e-5 of their norm apart at a rate of 5e-4, and 2e-3 at 2e-3.  So each trial trains here twice, the second time
(its *twin*) with the examples of every batch in reverse order, which changes rounding alone; and a record in float32
agrees as long as it is no further from ours than a few times the twin (:class:`Limits`): status 1 where it is.  One in
bfloat16 is of a training of its own, whose numbers are shown beside ours and decide nothing.

Methods: `lora`, `stable_lora`, `lora_ema`, and on given answers `self_distill` and `combined`.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, cast

os.environ.setdefault("TQDM_DISABLE", "1")  # lm-eval draws a bar for every task; tqdm asks once, when it is imported

import numpy as np
import torch
from outside_data import Data, Scored, Trial, hf_model, refuse_unknown
from outside_training import Text, Trained, begin, load_base
from torch import Tensor

from harness.data.models import resolve_model
from harness.engine.adapters.files import adapter_path, export_peft, find_adapter
from harness.errors import InputError, LorabenchError
from harness.store import TrialRecord, read_trials
from harness.store.choice import Choice
from harness.store.records import TaskScores, unpack_bits


@dataclass(frozen=True)
class Limits:
    """How far a record in float32 may be from ours: so far in any case, or ``times`` as far as the twin is by then.

    Items whose answers have no probabilities (written ones) may differ where one more than twice the twin's do.
    """

    times: float = 10.0
    loss: float = 2e-5  #: of the loss of any step, over 1 + loss; as in our tests against PEFT
    factors: float = 1e-4  #: distance of any matrix's A or B over its Frobenius norm, where the adapter was kept
    tie: float = 1e-3  #: nats between the two likeliest answers of an item that is right in one of both alone


def chosen_trials(folder: Path, fingerprints: Sequence[str], tasks: int | None) -> list[Trial]:
    """Those whose fingerprints begin so; without any, the first order and seed of `lora` and `stable_lora`."""
    records, where = read_trials(folder).records, str(folder / "trials")
    chosen = [Choice(each).one(records, where) for each in fingerprints] or [
        first for name in ("lora", "stable_lora") for first in _first(records, name)
    ]
    if not chosen:
        raise InputError("there are no trials of lora or stable_lora", where=where, remedy="name some with --trials")
    for record in chosen:
        refuse_unknown(record)
        if tasks is not None and not 0 < tasks <= len(record.spec.stream):
            what = f"a stream of {len(record.spec.stream)} tasks has no first {tasks}"
            raise InputError(what, where="--tasks", remedy="give at least one, and no more than it has")
    return [Trial(record, record.spec.stream[:tasks]) for record in chosen]


def _first(records: Sequence[TrialRecord], method: str) -> list[TrialRecord]:
    """The first trial of a method; none where it has none."""
    own = [record for record in records if record.spec.method == method]
    return sorted(own, key=lambda record: (record.spec.order, record.spec.seed, record.spec.arm))[:1]


# -- what is compared -------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Row:
    """One task after one stage (0: the base): the record's score beside lm-eval's of ours.

    ``differ`` items are right in one of both alone, and ``ties`` of them are close; ``twin`` items are right in ours or
    in its twin alone.  None: items are not right or wrong, or (``ties``) have no probabilities.
    """

    stage: int
    task: str
    record: float
    outside: float
    items: int
    differ: int | None
    ties: int | None
    twin: int | None
    twins_score: float

    @property
    def agrees(self) -> bool:
        if self.differ is None or self.twin is None:
            return (
                abs(self.record - self.outside) * self.items
                <= 1 + 2 * abs(self.twins_score - self.outside) * self.items
            )
        return self.differ <= 1 + 2 * self.twin if self.ties is None else self.differ == self.ties


def compared(stage: int, task: str, scores: TaskScores, ours: Scored, twin: Scored, limits: Limits) -> Row:
    """The record's scores of a task after ``stage`` tasks beside what lm-eval has found."""
    score, bits = scores.score[stage], scores.correct[stage] if scores.correct else None
    assert score is not None, "a finished trial has all scores of its stream"
    if len(ours.items) != scores.items:
        raise LorabenchError(f"lm-eval scores {len(ours.items)} items, and the record {scores.items}", where=task)
    row = partial(Row, stage, task, score, ours.value, scores.items, twins_score=twin.value)
    if bits is None:
        return row(None, None, None)
    right = ours.items.astype(bool)
    differ, moved = unpack_bits(bits, scores.items) != right, int((twin.items.astype(bool) != right).sum())
    if ours.gaps is None or twin.gaps is None:
        return row(int(differ.sum()), None, moved)
    close = ours.gaps < max(limits.tie, limits.times * np.abs(ours.gaps - twin.gaps).max())
    return row(int(differ.sum()), int((differ & close).sum()), moved)


@dataclass(frozen=True)
class Losses:
    """Of every step of a task [steps]: the record's, ours and the twin's."""

    task: str
    record: np.ndarray
    outside: np.ndarray
    twin: np.ndarray

    def apart(self, other: np.ndarray) -> np.ndarray:
        """How far these are from ours, over 1 + loss."""
        return np.abs(other - self.outside) / (1 + np.abs(self.outside))


@dataclass(frozen=True)
class Distances:
    """After a task, of A and of B: how far the engine's are from ours, and the twin's, as parts of their norms."""

    task: str
    engine: tuple[float, float]
    twin: tuple[float, float]


@dataclass
class Report:
    """What was found of one trial, and what of it does not agree."""

    trial: Trial
    limits: Limits
    rows: list[Row] = field(default_factory=list)
    exported: list[Row] = field(default_factory=list)  #: of the engine's own adapter: what differs here is scoring
    losses: list[Losses] = field(default_factory=list)
    distances: list[Distances] = field(default_factory=list)

    @property
    def faults(self) -> list[str]:
        limits, found = self.limits, []
        for what, rows in (("trained here", self.rows), ("of the engine's adapter", self.exported)):
            found += [f"scores {what} differ: {row.task} after {row.stage} tasks" for row in rows if not row.agrees]
        twin = 0.0  # by now
        for each in self.losses:
            reach = np.maximum(np.maximum.accumulate(each.apart(each.twin)), twin)
            beyond = each.apart(each.record) > np.maximum(limits.loss, limits.times * reach)
            found += [f"losses differ: {each.task}, from step {beyond.argmax() + 1} on"] if beyond.any() else []
            twin = float(reach[-1])
        for each in self.distances:
            pairs = zip("AB", each.engine, each.twin, strict=True)
            apart = [x for x, engine, twin in pairs if engine > max(limits.factors, limits.times * twin)]
            found += [f"factors differ: {', '.join(apart)} after {each.task}"] if apart else []
        return found

    def say(self, write: Callable[[str], None]) -> None:
        spec = self.trial.record.spec
        write(f"\n{self.trial.name}: {spec.training['dtype']}, {len(self.trial.stream)} of {len(spec.stream)} tasks")
        line = "{:<30}{:<20}{:>8}{:>9}{:>7}{:>8}{:>6}{:>6}".format
        write(line("after", "task", "record", "outside", "items", "differ", "ties", "twin"))
        for rows, mark in ((self.rows, ""), (self.exported, " (export)")):
            for row in rows:
                after = spec.stream[row.stage - 1] + mark if row.stage else "nothing"
                marks = ["-" if value is None else value for value in (row.differ, row.ties, row.twin)]
                write(line(after, row.task, f"{row.record:.4f}", f"{row.outside:.4f}", row.items, *marks))
        counted = [row for row in self.rows if row.differ is not None]
        differ, twin, items = (sum(getattr(row, name) for row in counted) for name in ("differ", "twin", "items"))
        most = max(abs(row.record - row.outside) for row in self.rows)
        write(f"items right in one alone: {differ} of {items} (twin {twin}); scores {most:.4f} apart at most")
        for each in self.losses:
            record, twin = each.apart(each.record).max(), each.apart(each.twin).max()
            means = f"mean {each.record.mean():.5f} ({each.outside.mean():.5f} outside)"
            last = f"last {each.record[-1]:.5f} ({each.outside[-1]:.5f})"
            write(
                f"losses of {each.task}: {means}, {last}; {record:.1e} apart at most, over 1 + loss (twin {twin:.1e})"
            )
        for each in self.distances:
            parts = zip("AB", each.engine, each.twin, strict=True)
            said = [f"{x} {engine:.1e} (twin {twin:.1e})" for x, engine, twin in parts]
            write(f"factors after {each.task}: {', '.join(said)} of their norms apart at most")
        undecided = "nothing is decided: the record is of a training in bfloat16, and this one is in float32"
        write("; ".join(self.faults) or "agrees" if self.trial.exact else undecided)


# -- the work ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Place:
    """Where a trial is checked: its results, the base model, a device, and how many requests lm-eval asks at once."""

    results: Path
    base: Path
    device: torch.device
    batch: int


def check(trial: Trial, place: Place, limits: Limits) -> Report:
    """Train a trial's first tasks outside the engine, twice, score it after each, and compare with its record."""
    ours, twin = _begun(trial, place), _begun(trial, place)
    lms = [hf_model(each.model, place.base, trial, place.batch) for each in (ours, twin)]
    data, report = Data(trial, lms[0]), Report(trial, limits)
    for stage, task in enumerate(("", *trial.stream)):
        if stage:
            texts, setting = data.texts(stage - 1), partial(trial.setting, position=stage - 1)
            other = [text for batch in batches(texts, trial.budget.batch) for text in reversed(batch)]
            losses = [np.array(ours.train(texts, setting)), np.array(twin.train(other, setting))]
            report.losses.append(Losses(task, trial.record.train_loss[stage - 1].array, *losses))
        with ours.wearing(ours.result), twin.wearing(twin.result):
            found = [data.score(lm) for lm in (lms if stage else lms[:1])]  # the base has no twin
        report.rows += _rows(stage, trial, found[0], found[-1], limits)
        with tempfile.TemporaryDirectory() as folder:
            if stage and (kept := _exported(trial, stage, place, Path(folder))):
                report.distances.append(Distances(task, distances(ours, kept), distances(ours, _named(twin))))
                exported = _scored_export(Path(folder), trial, place, data)
                report.exported += _rows(stage, trial, exported, exported, limits)
    return report


def batches(texts: Sequence[Text], size: int) -> list[Sequence[Text]]:
    return [texts[start : start + size] for start in range(0, len(texts), size)]


def _begun(trial: Trial, place: Place) -> Trained:
    """A trial before its first step."""
    base = load_base(place.base, place.device)
    return begin(trial.method, trial.budget, base, trial.adapter.rank, trial.adapter.alpha, trial.start(base))


def _rows(
    stage: int, trial: Trial, ours: Mapping[str, Scored], twin: Mapping[str, Scored], limits: Limits
) -> list[Row]:
    scores = trial.record.tasks
    return [compared(stage, name, scores[name], each, twin[name], limits) for name, each in ours.items()]


def _exported(trial: Trial, stage: int, place: Place, to: Path) -> dict[str, Tensor]:
    """Write the engine's adapter after so many tasks as PEFT's, and give its tensors; empty where it was not kept."""
    from safetensors.torch import load_file

    fingerprint = trial.record.fingerprint
    path, number = adapter_path(place.results, f"{fingerprint}-task{stage}"), 0
    if not path.exists():
        if stage < len(trial.record.spec.stream):
            return {}
        try:
            path, number = find_adapter(place.results, fingerprint)
        except InputError:  # `keep_adapters: none`
            return {}
    export_peft(path, number, to)
    return load_file(to / "adapter_model.safetensors")


def _scored_export(exported: Path, trial: Trial, place: Place, data: Data) -> dict[str, Scored]:
    """What lm-eval says of the engine's adapter as PEFT loads it."""
    from peft import PeftModel

    model = PeftModel.from_pretrained(cast(Any, load_base(place.base, place.device)), exported).eval()
    return data.score(hf_model(model, place.base, trial, place.batch))


def _named(trained: Trained) -> dict[str, Tensor]:
    """The factors that count as a trial's result, by their names in PEFT's files."""
    names = [f"base_model.model.{module}.lora_{x}.weight" for module in trained.pairs for x in "AB"]
    return dict(zip(names, trained.result, strict=True))


def distances(ours: Trained, others: Mapping[str, Tensor]) -> tuple[float, float]:
    """How far A, and B, of a matrix are at most from others, over the norm of those."""
    worst = {"A": 0.0, "B": 0.0}
    for name, factor in _named(ours).items():
        other, x = others[name].to(factor.device), name.removesuffix(".weight")[-1]
        worst[x] = max(worst[x], float((factor - other).norm() / other.norm()))
    return worst["A"], worst["B"]


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("results", type=Path, help="folder of a study's results")
    parser.add_argument("--trials", default="", help="fingerprints or their beginnings, comma-separated")
    parser.add_argument("--tasks", type=int, help="so many first tasks of the stream; without it all")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--threads", type=int, default=2, help="CPU threads")
    parser.add_argument("--batch", type=int, default=16, help="requests that lm-eval asks at once")
    given = parser.parse_args(arguments)
    torch.set_num_threads(given.threads)
    agree = True
    try:
        for trial in chosen_trials(given.results, [name for name in given.trials.split(",") if name], given.tasks):
            source = resolve_model(trial.record.spec.model)
            if source.digest != trial.record.spec.model_digest:
                raise InputError(f"the model '{source.name}' has changed since", where=trial.name)
            place = Place(given.results, source.path, torch.device(given.device), given.batch)
            report = check(trial, place, Limits())
            report.say(partial(print, flush=True))
            agree = agree and not (trial.exact and report.faults)
    except LorabenchError as error:
        print(error, file=sys.stderr)
        return error.exit_status
    return 0 if agree else 1


if __name__ == "__main__":
    sys.exit(main())
