"""Synthetic trial records for the report's tests: no model, no torch, the same numbers on every machine."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from harness.store.intruders import Intruders
from harness.store.published import PublishedRow
from harness.store.records import Costs, Curve, Facts, Failure, TaskScores, TrialRecord, TrialSpec
from harness.store.reference import Reference
from harness.store.source_claims import SourceClaim

#: What a method gains on a task, what it forgets a step, its intruders (a matrix, distance) and its cost.
TRAITS = {
    "frozen": (0.0, 0.0, 0.0, 0.0, 0.0),
    "lora": (0.36, 0.055, 1.0, 0.31, 1.0),
    "stable_lora": (0.34, 0.030, 0.35, 0.21, 1.02),
    "lora_ema": (0.35, 0.035, 0.6, 0.24, 1.01),
    "self_distill": (0.33, 0.020, 0.3, 0.17, 1.9),
    "combined": (0.345, 0.012, 0.15, 0.13, 1.95),
}


def facts(method: str, **changes: Any) -> Facts:
    """Of the project's methods as their recipes have them, as far as the report's tests use them."""
    trains = method != "frozen"
    values = {
        "trains": trains, "sequential": method not in ("multitask", "single_task"),
        "control": method in ("frozen", "multitask", "single_task", "full_finetune"),
        "has_rank": method not in ("frozen", "full_finetune"),
        "between": "fresh" if method == "single_task" else "continue" if trains else None,
        "chooses_between": method in ("multitask", "single_task", "o_lora", "lora_ewc"),
        "scored": "average" if method in ("lora_ema", "combined") else "student" if trains else "base",
    }  # fmt: skip
    return Facts(**(values | changes))


@dataclass
class Folder:
    """Like ``harness.store.Readout``, but a test may change it."""

    records: list[TrialRecord]
    quarantined: list[str] = field(default_factory=list)
    expected: dict[str, int] | None = None
    published: tuple[PublishedRow, ...] = ()
    reference: Reference | None = None
    claims: tuple[SourceClaim, ...] = ()


def spec(method: str, stream: tuple[str, ...], *, order: str = "a", seed: int = 0, **changes: Any) -> TrialSpec:
    values = {
        "model": "SmolLM2-135M", "model_digest": "0123abcd", "method": method,
        "parameters": {"learning_rate": 5e-4, "rank": 16},
        "method_digest": f"digest-{method}", "order": order, "stream": stream, "probes": ("social_iqa", "plain_text"),
        "task_digests": {task: f"digest-{task}" for task in stream}, "seed": seed,
        "training": {"adapter": {"rank": 16, "alpha": 32, "target": ["q_proj", "v_proj"]}, "batch": 8, "steps": 12},
        "scoring": {"items": 200, "curve": [0, 32, 96], "split": "test"},
    }  # fmt: skip
    return TrialSpec(**(values | changes))


def trial(
    method: str, stream: tuple[str, ...], *, order: str = "a", seed: int = 0, grid: tuple[int, ...] = (0, 32, 96),
    intruders: str = "last", study: str = "quick", **changes: Any,
) -> TrialRecord:  # fmt: skip
    """One finished trial with plausible numbers: gains, forgetting, probes at base and end, curves, costs."""
    gain, loss, spikes, distance, cost = TRAITS.get(method.split("@")[0], TRAITS["lora"])
    rng = np.random.default_rng([seed, *(ord(letter) for letter in order + method)])
    shared = np.random.default_rng([seed, *(ord(letter) for letter in order)])
    base = {task: 0.25 + 0.05 * (sum(map(ord, task)) % 5) for task in stream}
    luck = {task: shared.normal(0, 0.02) for task in stream}
    matrix = np.array([[base[task] for task in stream]] * (len(stream) + 1))
    for i in range(1, len(stream) + 1):
        for j in range(i):
            peak = gain * (0.75 + 0.5 * ((j * 7) % 3) / 3) + (luck[stream[j]] if gain else 0)
            noise = rng.normal(0, 0.012) if gain else 0.0
            matrix[i, j] += peak - loss * (i - j - 1) * (1 + 0.2 * j) + noise
    matrix = np.round(np.clip(matrix, 0, 1) * 200) / 200
    stages = len(stream) + 1
    tasks = {
        task: TaskScores(
            metric="acc",
            higher_is_better=True,
            items=200,
            chance=0.25,
            score=tuple(matrix[:, j]),
            stderr=tuple(np.sqrt(matrix[:, j] * (1 - matrix[:, j]) / 199)),
        )
        for j, task in enumerate(stream)
    }
    holes = (None,) * (stages - 2)
    lost = loss * 0.4 + (rng.normal(0, 0.004) if gain else 0)
    probes = {
        "social_iqa": TaskScores(metric="acc", higher_is_better=True, items=300, chance=1 / 3,
                                 score=(0.41, *holes, 0.41 - lost), stderr=(0.028, *holes, 0.028)),
        "plain_text": TaskScores(metric="bits_per_byte", higher_is_better=False, items=50, chance=None,
                                 score=(1.02, *holes, 1.02 + lost * 1.5), stderr=(0.012, *holes, 0.012)),
    }  # fmt: skip
    curves = tuple(_curve(task, matrix, j, grid, cost if gain else 0.0) for j, task in enumerate(stream))
    taken = [_intruders(spikes * t, distance * math.sqrt(t / len(stream)), rng, bool(gain)) for t in range(1, stages)]
    if intruders == "last":
        taken[:-1] = [None] * (stages - 2)
    costs = _costs(cost, rng) if gain else Costs()
    seen = spec(method.split("@")[0], stream, order=order, seed=seed,
                **({"setting": method.split("@")[1]} if "@" in method else {}))  # fmt: skip
    record = {
        "study": study, "status": "ok", "spec": seen, "facts": facts(seen.method),
        "stack": STACK,
        "tasks": tasks, "probes": probes, "curves": curves, "intruders": tuple(taken), "costs": costs,
    }  # fmt: skip
    made = record | changes
    return TrialRecord(**({"fingerprint": made["spec"].fingerprint} | made))


STACK = {
    "digest": "5f3a", "python": "3.11.7", "torch": "2.11.0", "transformers": "5.17.0", "lm_eval": "0.4.13",
    "device": "cpu", "dtype": "float32", "threads": 2, "scoring_batch": 16,
}  # fmt: skip


def _curve(task: str, matrix: np.ndarray, j: int, grid: tuple[int, ...], cost: float) -> Curve:
    start, end = matrix[j, j], matrix[j + 1, j]
    shares = [0.0 if n == 0 else (math.log2(n / grid[1]) + 1.2) / (math.log2(grid[-1] / grid[1]) + 1.2) for n in grid]
    score = tuple(round(float(start + (end - start) * share), 4) for share in shares)
    return Curve(task=task, examples=grid, score=score, tokens=tuple(int(n * 61 * cost) for n in grid))


def _intruders(count: float, distance: float, rng: np.random.Generator, trained: bool) -> Intruders:
    noise = rng.normal(0, 0.01) if trained else 0.0
    number = round(60 * count + 200 * noise) if trained else 0
    part = {"matrices": 30, "count": max(0, number // 2), "distance": max(0.0, distance + noise),
            "energy_share": 0.02 * count,
                "delta_norm": 2.1 * distance, "relative_spectral_norm": 0.3 * distance,
                "effective_rank": 9.5 if trained else 0.0}  # fmt: skip
    whole = part | {"matrices": 60, "count": 2 * part["count"]}
    return Intruders.of(whole | {"by_epsilon": {"0.5": whole["count"]}, "by_type": {"q_proj": part, "v_proj": part}})


def _costs(cost: float, rng: np.random.Generator) -> Costs:
    return Costs(
        shared_by=3, train_seconds=41.0 * cost + rng.normal(0, 1), score_seconds=22.5, analysis_seconds=3.1,
        train_tokens=61 * 96 * 3, teacher_tokens=61 * 96 * 3 if cost > 1.5 else 0, sampled_tokens=0,
        tokens_per_second=1480 / cost + rng.normal(0, 9), peak_memory_gib=2.31 * cost**0.3, adapter_bytes=3_700_000,
        trained_parameters=921_600, state_bytes=round(11_100_000 * cost), energy_kwh=None,
    )  # fmt: skip


def failed(
    method: str, stream: tuple[str, ...], *, status: str = "diverged", seed: int = 0, order: str = "a"
) -> TrialRecord:
    """A trial without scores."""
    seen = spec(method, stream, seed=seed, order=order)
    return TrialRecord(
        fingerprint=seen.fingerprint, study="quick", status=status, spec=seen, facts=facts(seen.method), stack=STACK,
        failure=Failure(phase=f"train task 1 ({stream[0]}), step 17", message="loss is not finite",
                        traceback='Traceback (most recent call last):\n  "pack.py", line 3\nFloatingPointError: <nan>'),
    )  # fmt: skip


QUICK = ("naughty_strings", "language_id", "bbc_topics")
SIX = ("language_id", "bbc_topics", "tomi", "naughty_strings", "units", "clinc_intents")


def quick() -> Folder:
    """Like study `quick`: 5 arms x 3 seeds x 3 tasks, one order, intruders after the last task only."""
    arms = ("frozen", "lora", "stable_lora", "lora_ema", "self_distill")
    return Folder([trial(arm, QUICK, seed=seed) for arm in arms for seed in range(3)], expected=dict.fromkeys(arms, 3))


def large() -> Folder:
    """6 arms x 3 orders x 5 seeds x 6 tasks, intruders after every task."""
    orders = {"a": SIX, "b": SIX[2:] + SIX[:2], "c": SIX[4:] + SIX[:4]}
    grid = (0, 16, 32, 64, 128, 256, 512)
    records = [
        trial(arm, stream, order=order, seed=seed, grid=grid, intruders="all", study="standard")
        for arm in TRAITS for order, stream in orders.items() for seed in range(5)
    ]  # fmt: skip
    return Folder(records, expected=dict.fromkeys(TRAITS, 15))
