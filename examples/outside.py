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

Methods: `lora`, `stable_lora`, `lora_ema`, and on given answers `self_distill` and `combined`.  A record of a base in
float32 has to agree within :class:`Limits`: status 1 where one does not.  One in bfloat16 is of a training of its own,
whose numbers are shown beside ours and decide nothing.
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
from outside_training import Trained, begin, load_base
from torch import Tensor

from harness.data.models import resolve_model
from harness.engine.adapters.files import adapter_path, export_peft, find_adapter
from harness.errors import InputError, LorabenchError
from harness.store import TrialRecord, read_trials
from harness.store.choice import Choice
from harness.store.records import TaskScores, unpack_bits


@dataclass(frozen=True)
class Limits:
    """How far a record in float32 may be from what is trained here.  TBD numbers."""

    loss: float = 1e-3  #: of the loss of any step, over 1 + loss
    factors: float = 1e-2  #: distance of any matrix's A or B over its Frobenius norm, where the adapter was kept
    items: float = 1.0  #: that a score may be worth more or less
    tie: float = 1e-2  #: nats between the two likeliest answers of an item that is right in one of both alone


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
    """One task after one stage (0: the base): the record's score beside lm-eval's.

    ``differ`` items are right in one of both alone, and ``ties`` of them are close; both are None where the record does
    not say which items were right.
    """

    stage: int
    task: str
    record: float
    outside: float
    items: int
    differ: int | None = None
    ties: int | None = None

    def agrees(self, limits: Limits) -> bool:
        close = abs(self.record - self.outside) * self.items <= limits.items + 1e-6
        return close and self.differ == self.ties


def compared(stage: int, task: str, scores: TaskScores, found: Scored, limits: Limits) -> Row:
    """The record's scores of a task after ``stage`` tasks beside what lm-eval has found."""
    score, bits = scores.score[stage], scores.correct[stage] if scores.correct else None
    assert score is not None, "a finished trial has all scores of its stream"
    if len(found.items) != scores.items:
        raise LorabenchError(f"lm-eval scores {len(found.items)} items, and the record {scores.items}", where=task)
    if bits is None:
        return Row(stage, task, score, found.value, scores.items)
    differ = unpack_bits(bits, scores.items) != found.items.astype(bool)
    ties = differ & (found.gaps < limits.tie) if found.gaps is not None else np.zeros_like(differ)
    return Row(stage, task, score, found.value, scores.items, int(differ.sum()), int(ties.sum()))


@dataclass
class Report:
    """What was found of one trial, and what of it does not agree."""

    trial: Trial
    limits: Limits
    rows: list[Row] = field(default_factory=list)
    exported: list[Row] = field(default_factory=list)  #: of the engine's own adapter: what differs here is scoring
    losses: list[tuple[str, np.ndarray, np.ndarray]] = field(default_factory=list)  #: task, the record's, ours
    distances: list[tuple[str, float, float]] = field(default_factory=list)  #: task, of A and of B

    @property
    def faults(self) -> list[str]:
        limits, found = self.limits, []
        for what, rows in (("trained here", self.rows), ("of the engine's adapter", self.exported)):
            apart = [row for row in rows if not row.agrees(limits)]
            found += [f"scores {what} differ: {row.task} after {row.stage} tasks" for row in apart]
        found += [f"losses differ: {task}" for task, *both in self.losses if _apart(*both).max() > limits.loss]
        found += [f"factors differ: after {task}" for task, *both in self.distances if max(both) > limits.factors]
        return found

    def say(self, write: Callable[[str], None]) -> None:
        spec = self.trial.record.spec
        write(f"\n{self.trial.name}: {spec.training['dtype']}, {len(self.trial.stream)} of {len(spec.stream)} tasks")
        line = "{:<30}{:<20}{:>8}{:>9}{:>7}{:>8}{:>6}".format
        write(line("after", "task", "record", "outside", "items", "differ", "ties"))
        for rows, mark in ((self.rows, ""), (self.exported, " (export)")):
            for row in rows:
                after = spec.stream[row.stage - 1] + mark if row.stage else "nothing"
                marks = ["-" if value is None else value for value in (row.differ, row.ties)]
                write(line(after, row.task, f"{row.record:.4f}", f"{row.outside:.4f}", row.items, *marks))
        said = [row for row in self.rows if row.differ is not None]
        write(f"items right in one alone: {sum(row.differ or 0 for row in said)} of {sum(row.items for row in said)}; "
              f"scores {max(abs(row.record - row.outside) for row in self.rows):.4f} apart at most")  # fmt: skip
        for task, record, outside in self.losses:
            gap = _apart(record, outside)
            both = f"mean {record.mean():.5f} ({outside.mean():.5f} outside), last {record[-1]:.5f} ({outside[-1]:.5f})"
            write(f"losses of {task}: {both}; at most {gap.max():.1e} (1 + loss) apart, at step {gap.argmax() + 1}")
        for task, a, b in self.distances:
            write(f"factors after {task}: A {a:.1e}, B {b:.1e} of their norms apart at most")
        undecided = "nothing is decided: the record is of a training in bfloat16, and this one is in float32"
        write("; ".join(self.faults) or "agrees" if self.trial.exact else undecided)


def _apart(record: np.ndarray, outside: np.ndarray) -> np.ndarray:
    """How far losses are apart, over 1 + loss."""
    return np.abs(record - outside) / (1 + np.abs(outside))


# -- the work ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Place:
    """Where a trial is checked: its results, the base model, a device, and how many requests lm-eval asks at once."""

    results: Path
    base: Path
    device: torch.device
    batch: int


def check(trial: Trial, place: Place, limits: Limits) -> Report:
    """Train a trial's first tasks outside the engine, score it after each, and compare with its record."""
    base = load_base(place.base, place.device)
    trained = begin(trial.method, trial.budget, base, trial.adapter.rank, trial.adapter.alpha, trial.start(base))
    lm = hf_model(trained.model, place.base, trial, place.batch)
    data, report = Data(trial, lm), Report(trial, limits)
    for stage, task in enumerate(("", *trial.stream)):
        if stage:
            losses = trained.train(data.texts(stage - 1), partial(trial.setting, position=stage - 1))
            report.losses.append((task, trial.record.train_loss[stage - 1].array, np.array(losses)))
        with trained.wearing(trained.result):
            report.rows += _rows(stage, trial, data.score(lm), limits)
        with tempfile.TemporaryDirectory() as folder:
            if stage and (kept := _exported(trial, stage, place, Path(folder))):
                report.distances.append((task, *distances(trained, kept)))
                report.exported += _rows(stage, trial, _scored_export(Path(folder), trial, place, data), limits)
    return report


def _rows(stage: int, trial: Trial, found: Mapping[str, Scored], limits: Limits) -> list[Row]:
    return [compared(stage, name, trial.record.tasks[name], each, limits) for name, each in found.items()]


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


def distances(trained: Trained, kept: Mapping[str, Tensor]) -> tuple[float, float]:
    """How far A, and B, of a matrix are at most from what the engine has kept, over the norm of that."""
    worst = {"A": 0.0, "B": 0.0}
    names = [(x, f"base_model.model.{module}.lora_{x}.weight") for module in trained.pairs for x in "AB"]
    for (x, name), ours in zip(names, trained.result, strict=True):
        theirs = kept[name].to(ours.device)
        worst[x] = max(worst[x], float((ours - theirs).norm() / theirs.norm()))
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
