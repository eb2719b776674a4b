"""``lorabench perf train``: the training engine alone, in tokens a second, at several pack sizes.

A step is 8 rows of 128 tokens for each trial (the shape of the design's measurements), with rank 8 on all projections
and random token ids.  Two regimes: the answer is the last 4 tokens, as in the bench's tasks, or every token counts.
"""

from __future__ import annotations

import re
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from harness.engine.batches import Example, Step, make_step
from harness.engine.method import Recipe
from harness.engine.model import PackedModel, load_model
from harness.engine.optimizer import AdamWSettings
from harness.engine.stack import LIBRARIES, device_name, host, peak_memory_gib, reset_peak_memory, synchronize
from harness.engine.trainer import RowSpec, Trainer
from harness.errors import unknown_name
from harness.store.files import write_json

ROWS, LENGTH = 8, 128
ANSWERS = {"answer": 4, "all": LENGTH - 1}
WARM_UP_STEPS, LEAST_STEPS, LEAST_SECONDS = 3, 20, 5.0

#: Shapes for seeded random weights: speed needs no real ones.
SHAPES: dict[str, dict[str, Any]] = {
    "135m": {
        "hidden_size": 576, "intermediate_size": 1536, "num_hidden_layers": 30, "num_attention_heads": 9,
        "num_key_value_heads": 3, "vocab_size": 49152, "max_position_embeddings": 2048, "tie_word_embeddings": True,
    },
    "tiny": {
        "hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 4,
        "num_key_value_heads": 2, "vocab_size": 512, "max_position_embeddings": 512, "tie_word_embeddings": True,
    },
}  # fmt: skip


def main(model_name: str, packs: list[int], out: Path) -> None:
    """Time every (pack size, regime), print a table, write ``train-<device>.json``."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    model = _model(model_name, device)
    rows = []
    print(f"{device_name(device)}, {model_name}, {model.dtype}, {ROWS} x {LENGTH} tokens a trial and step")
    for labels in ANSWERS:
        for trials in packs:
            rows.append(measure(model, trials, labels))
            row = rows[-1]
            print(f"K={trials:3}  labels={labels:6}  {row['tokens_per_second']:>12,.0f} tok/s  "
                  f"{row['step_ms']:8.1f} ms/step  {row['peak_memory_gib']:6.2f} GiB", flush=True)  # fmt: skip
    result = {
        "benchmark": "train",
        "model": model_name,
        "device": device_name(device),
        "versions": _versions(),
        "host": host(),
        "rows_per_trial": ROWS,
        "tokens_per_row": LENGTH,
        "rows": rows,
        "headline": {f"tokens_per_second_k{row['trials']}_{row['labels']}": row["tokens_per_second"] for row in rows},
    }
    name = re.sub(r"[^a-z0-9]+", "-", device_name(device).lower()).strip("-") if device.type == "cuda" else "cpu"
    write_json(out / f"train-{name}.json", result)
    print(out / f"train-{name}.json")


def measure(model: PackedModel, trials: int, labels: str) -> dict[str, Any]:
    """Median, least and most tokens a second of one pack, over single steps."""
    device = model.device
    reset_peak_memory(device)
    rows = [RowSpec(Recipe(), 5e-4, seed) for seed in range(trials)]
    trainer = Trainer(model, rows, 8, 16, AdamWSettings())
    batches = [_batch(model, trials, ANSWERS[labels], seed) for seed in range(4)]  # rotated, so that no cache flatters
    for batch in batches[:WARM_UP_STEPS]:
        trainer.step(batch, 1.0, 0.5)
    synchronize(device)
    least = LEAST_STEPS if device.type == "cuda" else 3
    times: list[float] = []
    while len(times) < least or (sum(times) < LEAST_SECONDS and len(times) < 200):
        times.append(_timed(lambda: trainer.step(batches[len(times) % 4], 1.0, 0.5), device))
    assert bool(trainer.alive.all()), "a trial diverged while it was timed"
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


def _timed(step: Callable[[], object], device: torch.device) -> float:
    start = time.perf_counter()
    step()
    synchronize(device)
    return time.perf_counter() - start


def _batch(model: PackedModel, trials: int, answer: int, seed: int) -> Step:
    generator = np.random.default_rng(seed)
    vocabulary = model.head.weight.shape[0]
    rows = [
        [Example(generator.integers(0, vocabulary, LENGTH), LENGTH - answer) for _ in range(ROWS)]
        for _ in range(trials)
    ]
    return make_step(rows, 0, model.device)


def _model(name: str, device: torch.device) -> PackedModel:
    if not name.startswith("random:"):
        from harness.data.models import resolve_model

        return load_model(resolve_model(name).path, dtype=torch.bfloat16, device=device)
    from transformers import LlamaConfig, LlamaForCausalLM

    shape = name.removeprefix("random:")
    if shape not in SHAPES:
        raise unknown_name("shape", shape, SHAPES, where="--model")
    torch.manual_seed(0)
    config = LlamaConfig(**SHAPES[shape], attn_implementation="sdpa")
    return PackedModel(LlamaForCausalLM(config).to(device=device, dtype=torch.bfloat16))


def _versions() -> dict[str, str]:
    from importlib.metadata import PackageNotFoundError, version

    found = {}
    for library in LIBRARIES:
        try:
            found[library] = version(library)
        except PackageNotFoundError:  # the engine alone needs fewer libraries than the bench
            continue
    return found
