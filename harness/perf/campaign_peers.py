"""What the trials of a study take without this project: one process of HF's Trainer a trial, lm-eval's HF model in a
fresh process a checkpoint, and two SVDs a matrix of it.

Each is measured on a part, on the study's own examples, items and matrices and on an adapter that the study has
trained, and multiplied by how often it occurs.  Scores within a task, for curves, are left out of the peers' way.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch

from harness.data.tasks import prepare_task, read_split
from harness.engine.adapters.files import export_peft, find_adapter
from harness.engine.batches import draw
from harness.engine.model.load import load_model
from harness.perf.common import timed
from harness.perf.hflm import in_a_fresh_process
from harness.perf.peers import PeerError, peers
from harness.scoring.bench import make_bench
from harness.scoring.lm_eval_task import TaskData
from harness.scoring.suite import chosen_rows
from harness.store.results import read_trials
from harness.study import forecast
from harness.study.config import Study

#: Seconds that HF's Trainer is timed for, and rows that lm-eval's HF model reads at once.
TRAIN_SECONDS = {"cuda": 10.0, "cpu": 2.0}
BATCH_SIZE = {"cuda": 64, "cpu": 8}


def peers_way(study: Study, model: Path, results: Path, device: torch.device, folder: Path) -> dict[str, Any]:
    """What was measured, how often each occurs, and the seconds that this makes."""
    records = read_trials(results).records
    (stream,) = study.streams.values()
    stages = len(stream)
    probed = sum(forecast.scores_probes(study, stage, stages) for stage in range(stages))
    taken = sum(forecast.takes_intruders(study, stage, stages) for stage in range(stages))
    source, place = find_adapter(results, records[0].fingerprint)
    export_peft(source, place, folder / "adapter")
    hflm = {"pretrained": str(model), "peft": str(folder / "adapter"), "dtype": study.dtype, "device": device.type,
            "batch_size": BATCH_SIZE[device.type], "max_length": study.scoring.max_length}  # fmt: skip
    measured: dict[str, float] = {
        "batch_size": BATCH_SIZE[device.type],
        **_training(study, stream[0], model, device, folder),
        "checkpoint_seconds": in_a_fresh_process(_tasks(study, (*stream, *study.probes)), hflm, folder),
        **({"svd_seconds_of_a_checkpoint": _decompositions(study, model, device)} if taken else {}),
    }
    if probed < stages:
        measured["checkpoint_without_probes_seconds"] = in_a_fresh_process(_tasks(study, stream), hflm, folder)
    trials = len(records)
    counts = {
        "trials": trials, "steps_of_a_trial": stages * study.steps_per_task,
        "checkpoints": trials * probed + 1,  # and the base
        "checkpoints_without_probes": trials * (stages - probed), "checkpoints_with_svds": trials * taken,
    }  # fmt: skip
    seconds = {
        "train": trials * (measured["start_seconds"] + counts["steps_of_a_trial"] * measured["step_seconds"]),
        "score": counts["checkpoints"] * measured["checkpoint_seconds"]
        + counts["checkpoints_without_probes"] * measured.get("checkpoint_without_probes_seconds", 0.0),
        "analysis": counts["checkpoints_with_svds"] * measured.get("svd_seconds_of_a_checkpoint", 0.0),
    }
    seconds["all"] = sum(seconds.values())
    return {"measured": measured, "scaled_by": counts, "seconds": seconds, "left_out": "scores within a task"}


def _training(study: Study, task: str, model: Path, device: torch.device, folder: Path) -> dict[str, float]:
    """Seconds until a process is ready to train, and of a step on the first task's examples of the first seed."""
    loaded = load_model(model, dtype=getattr(torch, study.dtype), device=device, targets=study.adapter.targets)
    examples = make_bench(study, (task,), loaded, model, study.adapter.rank).training_examples(task)
    drawn = [examples[i] for i in draw(study.training.examples, len(examples), study.seeds[0])]
    rows = [(e.ids.tolist(), e.answer_start) for e in (d.truncated(study.training.max_length) for d in drawn)]
    asked = {
        "config": None, "path": str(model), "device": device.type, "threads": torch.get_num_threads(),
        "batch": study.training.batch, "dtype": study.dtype, "kinds": {task: rows},
        "lora": {"r": study.adapter.rank, "lora_alpha": study.adapter.alpha,
                 "target_modules": list(study.adapter.targets)},
    }  # fmt: skip
    with peers(1, asked, {task: 1.0}, folder) as group:
        group.start()
        if group.failures:
            raise PeerError(group.failures[0])
        start = group.processes[0].start_seconds
        found = group.train(1, task, TRAIN_SECONDS[device.type], torch.get_num_threads())
    return {"start_seconds": start, "step_seconds": 1 / found["tokens_per_second"], "steps": found["steps"]}


def _tasks(study: Study, names: Sequence[str]) -> list[TaskData]:
    """The rows that the study scores, as lm-eval takes them."""
    found = []
    for name in names:
        prepared = prepare_task(name)
        splits = {split: read_split(prepared, split) for split in prepared.files}
        data = TaskData(name, prepared.config, splits, prepared.task.chance, prepared.shuffled)
        rows = chosen_rows(data, study.scoring.split, study.items(name))
        shots = study.fewshot(name)
        config = {**prepared.config, **({} if shots is None else {"num_fewshot": shots})}
        found.append(TaskData(name, config, rows, data.chance, data.shuffled))
    return found


def _decompositions(study: Study, model: Path, device: torch.device) -> float:
    """Seconds of two full SVDs in float32 of every adapted matrix, from one matrix of each shape."""
    loaded = load_model(model, dtype=getattr(torch, study.dtype), device=device, targets=study.adapter.targets)
    weights = {tuple(weight.shape): weight.float() for _, weight in loaded.weights()}
    counts = Counter(tuple(weight.shape) for _, weight in loaded.weights())
    seconds = 0.0
    for shape, weight in weights.items():
        tries = [timed(partial(torch.linalg.svd, weight, full_matrices=False), device) for _ in range(3)]
        seconds += 2 * counts[shape] * min(tries)
    return seconds
