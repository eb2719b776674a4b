"""``lorabench perf train``: the training engine alone, in tokens a second, at several pack sizes.

Rank 8 on all projections, random token ids, and three kinds of steps, of 8 rows a trial: the lengths of the bench's own
tasks (24 to 58 tokens, 41 on average) with an answer of 3; full rows of 128 tokens with one of 4; the same where every
token counts.  Tokens are those that are not padding.
"""

from __future__ import annotations

import statistics
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from harness.engine.batches import Batch, Example, make_batch
from harness.engine.environment import device_name, fused_kernels, peak_memory_gib, reset_peak_memory
from harness.engine.model.packed import PackedModel
from harness.engine.optimizer import OptimizerSettings
from harness.engine.rows import Rows, RowSpec
from harness.engine.step import take_step
from harness.method.recipe import Recipe
from harness.perf.common import perf_model, save, this_device, timed

ROWS = 8


class Kind(NamedTuple):
    shortest: int
    longest: int
    answer: int


KINDS = {"bench": Kind(24, 58, 3), "answer": Kind(128, 128, 4), "all": Kind(128, 128, 127)}
#: Enough to see every shape as often as it takes to capture it (:mod:`harness.engine.trunk`).
WARM_UP_STEPS, LEAST_STEPS, LEAST_SECONDS = 12, 20, 5.0


def main(model_name: str, packs: list[int], out: Path) -> None:
    """Time every (pack size, kind of steps), print a table, write ``train-<device>.json``."""
    device = this_device()
    model = perf_model(model_name, device)
    rows = []
    print(f"{device_name(device)}, {model_name}, {model.dtype}, {ROWS} rows a trial and step")
    for kind in KINDS:
        for trials in packs:
            rows.append(measure(model, trials, kind))
            row = rows[-1]
            print(f"K={trials:3}  {kind:6}  {row['tokens_per_second']:>12,.0f} tok/s  "
                  f"{row['step_ms']:8.1f} ms/step  {row['peak_memory_gib']:6.2f} GiB", flush=True)  # fmt: skip
    headline = {f"tokens_per_second_k{row['trials']}_{row['kind']}": row["tokens_per_second"] for row in rows}
    shape = {
        "model": model_name,
        "rows_per_trial": ROWS,
        "kinds": {name: kind._asdict() for name, kind in KINDS.items()},
        "fused_kernels": model.why_plain or fused_kernels(),
    }
    save(out, "train", device, {**shape, "rows": rows, "headline": headline})


def measure(model: PackedModel, trials: int, kind: str) -> dict[str, Any]:
    """Median, least and most tokens a second of one pack, over single steps."""
    device = model.device
    reset_peak_memory(device)
    rows = [RowSpec(Recipe(), 5e-4, seed) for seed in range(trials)]
    engine = Rows(model, rows, 8, 16, OptimizerSettings())
    engine.begin_task(0, [()] * trials)
    batches = [_batch(model, trials, KINDS[kind], seed) for seed in range(4)]  # rotated, so that no cache flatters
    for step in range(WARM_UP_STEPS):
        take_step(engine, batches[step % 4], 1.0, 0.5)
    least = LEAST_STEPS if device.type == "cuda" else 3
    times: list[float] = []
    while len(times) < least or (sum(times) < LEAST_SECONDS and len(times) < 200):
        times.append(timed(lambda: take_step(engine, batches[len(times) % 4], 1.0, 0.5), device))
    assert bool(engine.alive.all()), "a trial diverged while it was timed"
    assert not engine.trunk.failed, engine.trunk.failed
    tokens = statistics.mean(batch.real_tokens for batch in batches)
    return {
        "trials": trials,
        "kind": kind,
        "steps": len(times),
        "tokens_per_second": tokens / statistics.median(times),
        "tokens_per_second_least": tokens / max(times),
        "tokens_per_second_most": tokens / min(times),
        "step_ms": 1000 * statistics.median(times),
        "peak_memory_gib": peak_memory_gib(device),
    }


def _batch(model: PackedModel, trials: int, kind: Kind, seed: int) -> Batch:
    generator = np.random.default_rng(seed)
    lengths = generator.integers(kind.shortest, kind.longest + 1, (trials, ROWS)).tolist()
    rows = [
        [Example(generator.integers(0, model.vocabulary, length), length - kind.answer) for length in row]
        for row in lengths
    ]
    return make_batch(rows, 0, model.device)
