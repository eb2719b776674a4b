"""A results folder that nobody trained: a study of toy tasks, and a valid record of each of its trials.

The plan is the one that ``lorabench plan`` lays out, so fingerprints and digests fit.  Scores are drawn, and the rest
of a record follows from them as the readers check it: items make scores and their errors, curves end in the matrix,
intruders of the places add up.  Sizes are those of study ``core`` on a model of thirty layers: 24 KB a record.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from harness.data import tasks
from harness.data.models import resolve_model
from harness.data.paths import tasks_dir
from harness.method.registry import method_digest, methods
from harness.store.intruders import Intruders
from harness.store.packed import Floats
from harness.store.records import Costs, Curve, TaskScores, TrialRecord, pack_bits
from harness.store.results import open_results, trial_path
from harness.study.arms import expand_arms
from harness.study.config import Study
from harness.study.load import load_study
from harness.study.plan import Inputs, Plan, PlannedTrial, build_plan
from harness.study.reference import reference_of

STREAM = tuple(f"made_{name}" for name in ("one", "two", "three", "four", "five", "six"))
PROBES = ("made_seven", "made_eight", "toy_text")
METHODS = ("lora", "stable_lora", "lora_ema", "combined")
#: So many learning rates of each method make 37 arms, as many as a study of ablations has.
RATES = 8
#: Test items of a task.
ITEMS = 400
TYPES = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
LAYERS = 30
#: Sequences of intruders are drawn so often, and shared: nothing that is timed looks at which.
DRAWN = 50
THRESHOLDS = tuple(f"0.{number}" for number in range(1, 10))


@dataclass(frozen=True)
class MadeStudy:
    """Where a study and its plug-ins lie, and its results."""

    file: Path
    plugins: Path
    results: Path


def make_study(folder: Path, records: int) -> MadeStudy:
    """Write a study of at least so many trials, with its tasks as plug-ins; LORABENCH_PLUGINS must name them."""
    made = MadeStudy(folder / "made.yaml", folder / "plugins", folder / "results")
    for name in (*STREAM, *PROBES[:2]):
        _write_task(made.plugins / "tasks" / name)
    rates = [round(0.0002 * (1 + number), 5) for number in range(RATES)] if records >= 1000 else []
    arms: dict[str, Any] = {"frozen": {}} | {name: {} for name in METHODS}
    if rates:
        arms |= {f"{name}@rate": {"learning_rate": rates} for name in METHODS}
    count = 1 + len(METHODS) * (1 + len(rates))
    orders = {f"order{1 + by // 2}": [*STREAM[by:], *STREAM[:by]] for by in (0, 2, 4)}
    study = {
        "model": "tiny-random-llama", "dtype": "float32", "device": "cpu", "probes": list(PROBES), "streams": orders,
        "seeds": list(range(-(-records // (count * len(orders))))), "methods": arms,
        "training": {"examples": 512, "batch": 8}, "scoring": {"curve": [16, 32, 64, 128, 256]},
    }  # fmt: skip
    made.file.write_text(yaml.safe_dump(study, sort_keys=False), encoding="utf-8")
    return made


def _write_task(folder: Path) -> None:
    """The toy task of digits under another name."""
    folder.mkdir(parents=True, exist_ok=True)
    source = tasks_dir() / "toy_digits"
    for name, file in (("prepare.py", "prepare.py"), ("toy_digits.yaml", f"{folder.name}.yaml")):
        text = (source / name).read_text(encoding="utf-8")
        (folder / file).write_text(text.replace("toy_digits", folder.name), encoding="utf-8")


def write_records(made: MadeStudy) -> int:
    """A record of every trial of the study, none of which is there; returns how many."""
    study = load_study(made.file)
    plan = _plan(study, str(made.file))
    # As a run opens its folder: one that finds another `study.json` makes the report anew.
    arms = expand_arms(study, methods(), str(made.file))
    open_results(made.results, study.name, plan.expected, reference=reference_of(study, arms, None, str(made.file)))
    chance = np.random.default_rng(0)
    taken = [_intruders(chance) for _ in range(DRAWN)]
    for number, trial in enumerate(plan.trials):
        record = _record(study, trial, taken[number % DRAWN], np.random.default_rng([1, number]))
        path = trial_path(made.results, trial.fingerprint)
        path.parent.mkdir(exist_ok=True)
        # As files.write_json has it, without waiting for the disk.
        path.write_text(json.dumps(record.model_dump(mode="json"), indent=1, ensure_ascii=False) + "\n")
    return len(plan.trials)


def _plan(study: Study, where: str) -> Plan:
    registry = methods()
    inputs = Inputs(
        model_digest=resolve_model(study.model).digest,
        task_digests={name: tasks.prepare_task(name).digest for name in (*study.tasks, *study.probes)},
        method_digests={name: method_digest(registry[name]) for name in ("frozen", *METHODS)},
    )
    return build_plan(study, registry, inputs, 16, where)


# -- a record ---------------------------------------------------------------------------------------------------------


def _record(
    study: Study, trial: PlannedTrial, taken: tuple[Intruders, ...], chance: np.random.Generator
) -> TrialRecord:
    spec, trains = trial.spec, trial.facts.trains
    skill = 0.15 + 0.02 * len(spec.method) if trains else 0.0
    columns = {name: _column(skill, at, len(spec.stream), chance) for at, name in enumerate(spec.stream)}
    grid = study.curve(trial.examples)
    curves = [_curve(grid, name, columns[name], at, chance, trains=trains) for at, name in enumerate(spec.stream)]
    losses = [np.abs(np.float32(2.0 / np.sqrt(1 + chance.random(study.steps_per_task)))) for _ in spec.stream]
    return TrialRecord(
        fingerprint=trial.fingerprint,
        study=study.name,
        status="ok",
        spec=spec,
        facts=trial.facts,
        stack=_STACK,
        tasks=columns,
        probes={name: _probe(name, skill, len(spec.stream), chance) for name in spec.probes},
        curves=tuple(curves),
        train_loss=tuple(map(Floats.of, losses)) if trains else (),
        intruders=taken if trains else (),
        costs=_costs(chance) if trains else Costs(trained_parameters=0, adapter_bytes=0, state_bytes=0),
        host={"machine": "made", "executor": "local"},
    )


def _column(skill: float, at: int, stages: int, chance: np.random.Generator) -> TaskScores:
    """Chance before the task is learnt, ``skill`` above it after, and a little less with every task more."""
    gains = [0.0 if stage <= at else skill * (1 - 0.05 * (stage - at - 1)) for stage in range(stages + 1)]
    right = [_items(0.4 + gain, chance) if gain or not stage else None for stage, gain in enumerate(gains)]
    rows = list(itertools.accumulate(right, lambda before, row: before if row is None else row))
    return _of_items(rows)


def _items(share: float, chance: np.random.Generator) -> np.ndarray:
    return chance.random(ITEMS) < share


def _of_items(rows: Sequence[Any]) -> TaskScores:
    means = [float(row.mean()) for row in rows]
    return TaskScores(
        metric="acc",
        higher_is_better=True,
        items=ITEMS,
        chance=0.25,
        score=tuple(means),
        stderr=tuple(float(np.sqrt(mean * (1 - mean) / (ITEMS - 1))) for mean in means),
        correct=tuple(map(pack_bits, rows)),
    )


def _probe(name: str, skill: float, stages: int, chance: np.random.Generator) -> TaskScores:
    if name != "toy_text":
        return _of_items([_items(0.5 - 0.05 * skill * stage, chance) for stage in range(stages + 1)])
    lost = [1.2 + 0.1 * skill * stage + 0.01 * chance.random() * bool(skill) for stage in range(stages + 1)]
    return TaskScores(
        metric="bits_per_byte",
        higher_is_better=False,
        items=32,
        chance=None,
        score=tuple(lost),
        stderr=(0.02,) * len(lost),
    )


def _curve(
    grid: Sequence[int], name: str, column: TaskScores, at: int, chance: np.random.Generator, *, trains: bool
) -> Curve:
    """Between both entries of the matrix, shares of the items."""
    first, last = (float(column.score[stage] or 0) for stage in (at, at + 1))
    between = np.sort(chance.integers(0, ITEMS, len(grid) - 2)) / ITEMS if trains else np.zeros(len(grid) - 2)
    score = (first, *(float(first + round((last - first) * ITEMS * x) / ITEMS) for x in between), last)
    tokens = tuple(61 * examples if trains else 0 for examples in grid)
    return Curve(task=name, examples=tuple(grid), score=score, tokens=tokens)


def _intruders(chance: np.random.Generator) -> tuple[Intruders, ...]:
    """After every task of the stream, more after each, by type and after the last by layer."""
    stages = []
    for stage in range(1, len(STREAM) + 1):
        counts = chance.poisson(2 * stage, (len(TYPES), LAYERS))
        by_type = {name: _part(LAYERS, counts[at].sum(), chance) for at, name in enumerate(TYPES)}
        by_layer = {str(at): _part(len(TYPES), counts[:, at].sum(), chance) for at in range(LAYERS)}
        whole = _part(counts.size, counts.sum(), chance)
        whole |= {"by_epsilon": {epsilon: int(counts.sum() * 2 * float(epsilon)) for epsilon in THRESHOLDS}}
        whole |= {"count_low": whole["count"], "count_high": whole["count"], "cosine_error": 4.8e-10}
        places = {"by_type": by_type, "by_layer": by_layer}
        stages.append(Intruders.of(whole | places, by_layer=stage == len(STREAM)))
    return tuple(stages)


def _part(matrices: int, count: int, chance: np.random.Generator) -> dict[str, Any]:
    values = ("distance", "energy_share", "delta_norm", "relative_spectral_norm", "effective_rank")
    return {"matrices": matrices, "count": int(count), **{name: float(chance.random()) for name in values}}


def _costs(chance: np.random.Generator) -> Costs:
    return Costs(
        shared_by=16, train_seconds=40 + float(chance.random()), score_seconds=22.5, analysis_seconds=3.1,
        train_tokens=187_392, teacher_tokens=0, prompt_tokens=0, sampled_tokens=0, tokens_per_second=120_000.0,
        peak_memory_gib=21.3, adapter_bytes=3_700_000, trained_parameters=921_600,
        state_bytes=11_100_000,
    )  # fmt: skip


_STACK: dict[str, Any] = {
    "lorabench": "made", "torch": "made", "transformers": "made", "device": "cpu", "dtype": "float32", "threads": 2,
    "batch_tokens": 16384, "deterministic": True, "digest": "0123456789abcdef",
}  # fmt: skip
