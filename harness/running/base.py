"""Row 0 of every matrix: the base model's scores, computed once a study."""

from __future__ import annotations

import time

import numpy as np

from harness.engine.batches import draw
from harness.engine.environment import peak_memory_gib, reset_peak_memory, synchronize
from harness.errors import LorabenchError
from harness.executors.interface import Report
from harness.running.gauge import Gauge
from harness.running.job import Job, set_up
from harness.scoring.bench import Bench
from harness.scoring.examples import majority
from harness.store.records import BaseRecord, BaseScore, pack_bits
from harness.store.results import write_base

#: Training examples of a task whose tokens are counted.
LENGTHS = 250


def run_base(job: Job, report: Report) -> None:
    """Score the base on every task and probe of the study and write ``base.json``."""
    report(0, "loading the model and the tasks")
    bench = set_up(job).bench
    device = bench.model.device
    reset_peak_memory(device)
    names = (*job.study.tasks, *job.study.probes)
    done, start, gauge = 0.0, time.monotonic(), Gauge(device)

    def progress(tokens: int) -> None:
        nonlocal done
        done += tokens
        report(done, "scoring the base model", gauge.count(tokens))

    (scores,) = bench.scorer.score(names, None, None, progress)
    synchronize(device)
    if scores is None:
        raise LorabenchError(
            "the base model gives log-probabilities that are not finite",
            where=str(job.model_path),
            remedy="check the weights; in bfloat16 or float16 some models need dtype: float32",
        )
    record = BaseRecord(
        key=job.base_key,
        scores={name: _base_score(bench, name, scores[name]) for name in names},
        train_tokens={name: _mean_length(bench, name, job) for name in job.study.tasks},
        score_seconds=time.monotonic() - start,
        peak_memory_gib=peak_memory_gib(device),
    )
    write_base(job.folder, record)


def _base_score(bench: Bench, name: str, score) -> BaseScore:
    task = bench.suite.tasks[name]
    return BaseScore(
        metric=task.metric,
        higher_is_better=task.higher_is_better,
        items=task.items,
        chance=task.chance,
        majority=majority(task),
        score=score.value,
        stderr=score.stderr,
        correct=None if score.correct is None else pack_bits(score.correct),
        truncated=bench.lm.truncated(task.task.instances),
        tokens=bench.scorer.tokens([name]),
    )


def _mean_length(bench: Bench, name: str, job: Job) -> float:
    """Tokens of a training example, from as many as a forecast needs: known to a few per cent.

    Drawn, as a file may be sorted by class or by length.
    """
    examples = bench.training_examples(name)
    longest = job.study.training.max_length
    drawn = draw(LENGTHS, len(examples), 0)
    return float(np.mean([min(len(example.ids), longest) for example in examples.choose(drawn)]))
