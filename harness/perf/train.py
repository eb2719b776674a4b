"""``lorabench perf train``: the training engine alone, in tokens a second, at several pack sizes.

A step is 8 rows of 128 tokens for each trial (the shape of the design's measurements), with rank 8 on all projections
and random token ids.  Two regimes: the answer is the last 4 tokens, as in the bench's tasks, or every token counts.
"""

from __future__ import annotations

import statistics
from pathlib import Path
from typing import Any

import numpy as np

from harness.engine.batches import Batch, Example, make_batch
from harness.engine.environment import device_name, peak_memory_gib, reset_peak_memory
from harness.engine.model.packed import PackedModel
from harness.engine.optimizer import OptimizerSettings
from harness.engine.rows import Rows, RowSpec
from harness.engine.step import take_step
from harness.method.recipe import Recipe
from harness.perf.common import perf_model, save, this_device, timed

ROWS, LENGTH = 8, 128
ANSWERS = {"answer": 4, "all": LENGTH - 1}
WARM_UP_STEPS, LEAST_STEPS, LEAST_SECONDS = 3, 20, 5.0


def main(model_name: str, packs: list[int], out: Path) -> None:
    """Time every (pack size, regime), print a table, write ``train-<device>.json``."""
    device = this_device()
    model = perf_model(model_name, device)
    rows = []
    print(f"{device_name(device)}, {model_name}, {model.dtype}, {ROWS} x {LENGTH} tokens a trial and step")
    for labels in ANSWERS:
        for trials in packs:
            rows.append(measure(model, trials, labels))
            row = rows[-1]
            print(f"K={trials:3}  labels={labels:6}  {row['tokens_per_second']:>12,.0f} tok/s  "
                  f"{row['step_ms']:8.1f} ms/step  {row['peak_memory_gib']:6.2f} GiB", flush=True)  # fmt: skip
    headline = {f"tokens_per_second_k{row['trials']}_{row['labels']}": row["tokens_per_second"] for row in rows}
    shape = {"model": model_name, "rows_per_trial": ROWS, "tokens_per_row": LENGTH}
    save(out, "train", device, {**shape, "rows": rows, "headline": headline})


def measure(model: PackedModel, trials: int, labels: str) -> dict[str, Any]:
    """Median, least and most tokens a second of one pack, over single steps."""
    device = model.device
    reset_peak_memory(device)
    rows = [RowSpec(Recipe(), 5e-4, seed) for seed in range(trials)]
    engine = Rows(model, rows, 8, 16, OptimizerSettings())
    engine.begin_task(0, [()] * trials)
    batches = [_batch(model, trials, ANSWERS[labels], seed) for seed in range(4)]  # rotated, so that no cache flatters
    for batch in batches[:WARM_UP_STEPS]:
        take_step(engine, batch, 1.0, 0.5)
    least = LEAST_STEPS if device.type == "cuda" else 3
    times: list[float] = []
    while len(times) < least or (sum(times) < LEAST_SECONDS and len(times) < 200):
        times.append(timed(lambda: take_step(engine, batches[len(times) % 4], 1.0, 0.5), device))
    assert bool(engine.alive.all()), "a trial diverged while it was timed"
    tokens = trials * ROWS * LENGTH
    return {
        "trials": trials,
        "labels": labels,
        "steps": len(times),
        "tokens_per_second": tokens / statistics.median(times),
        "tokens_per_second_least": tokens / max(times),
        "tokens_per_second_most": tokens / min(times),
        "step_ms": 1000 * statistics.median(times),
        "peak_memory_gib": peak_memory_gib(device),
    }


def _batch(model: PackedModel, trials: int, answer: int, seed: int) -> Batch:
    generator = np.random.default_rng(seed)
    vocabulary = model.head.weight.shape[0]
    rows = [
        [Example(generator.integers(0, vocabulary, LENGTH), LENGTH - answer) for _ in range(ROWS)]
        for _ in range(trials)
    ]
    return make_batch(rows, 0, model.device)
