"""Judgements that are kept by outcome against lm-eval's own of the same answers."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from harness.scoring.lm_eval_task import Prompting, ScoredTask, TaskData, make_scored_task

ITEMS, TRIALS, CHOICES = 6, 40, 3
#: Choices whose order by likelihood changes with their characters, and again with their bytes.
ROWS = [
    {"text": f"which {i}?", "choices": ["a", "naïve é" * 2, "long answer"], "label": i % CHOICES} for i in range(ITEMS)
]


def task(*metrics: str, **config: Any) -> ScoredTask:
    config = {
        "output_type": "multiple_choice", "doc_to_text": "{{text}}", "doc_to_choice": "choices",
        "doc_to_target": "label", "test_split": "test", "metadata": {"version": 1},
        "metric_list": [{"metric": metric, "aggregation": "mean", "higher_is_better": True} for metric in metrics],
        **config,
    }  # fmt: skip
    data = TaskData("which", config, {"test": ROWS}, None)
    return make_scored_task(data, data.splits, Prompting())


def answers(seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    generator = np.random.default_rng(seed)
    sizes = np.asarray([1.0, 13.0, 11.0])
    return -generator.random((TRIALS, ITEMS, CHOICES)) * sizes ** generator.random((TRIALS, 1, 1)), generator.random(
        (TRIALS, ITEMS, CHOICES)
    ) < 0.5


def judged_one_by_one(scored: ScoredTask, logprob: np.ndarray, greedy: np.ndarray) -> list[list[dict[str, Any]]]:
    return [
        [
            scored.judge(item, list(zip(logprob[trial, item].tolist(), greedy[trial, item].tolist(), strict=True)))
            for trial in range(TRIALS)
        ]
        for item in range(ITEMS)
    ]


@pytest.mark.parametrize(
    "metrics", [("acc",), ("acc", "acc_norm"), ("acc_bytes",), ("exact_match",), ("acc", "acc_norm", "exact_match")]
)
def test_they_are_lm_evals(metrics):
    scored, (logprob, greedy) = task(*metrics), answers()
    wanted = judged_one_by_one(scored, logprob, greedy)
    scored.judge_ahead(range(ITEMS), logprob, greedy)
    assert [scored.ahead[item] for item in range(ITEMS)] == wanted
    for name in metrics:
        assert len({metrics[name] for item in wanted for metrics in item}) == 2, f"{name} is right here and wrong there"


def test_an_outcome_is_judged_once(monkeypatch):
    scored, (logprob, greedy) = task("acc", "acc_norm"), answers()
    assert scored.outcomes is not None
    judge, asked = scored.outcomes._judge, []
    monkeypatch.setattr(scored.outcomes, "_judge", lambda *given: (asked.append(given[0]), judge(*given))[1])
    for seed in range(3):
        scored.judge_ahead(range(ITEMS), *answers(seed))
    assert all(2 <= asked.count(item) <= CHOICES**2 for item in range(ITEMS))
    asked.clear()
    scored.judge_ahead(range(ITEMS), logprob * 0.5, greedy)
    assert not asked


@pytest.mark.parametrize("metrics", [("brier_score",), ("likelihood",), ("acc", "brier_score")])
def test_what_depends_on_likelihoods_is_judged_always(metrics):
    scored, (logprob, greedy) = task(*metrics), answers()
    for scale in (1.0, 0.5):
        wanted = judged_one_by_one(scored, scale * logprob, greedy)
        scored.judge_ahead(range(ITEMS), scale * logprob, greedy)
        assert str([scored.ahead[item] for item in range(ITEMS)]) == str(wanted)


def test_what_is_not_finite_is_not_judged():
    scored, (logprob, greedy) = task("acc"), answers()
    logprob[3, 2, 1] = np.nan
    logprob[4, 0, 0] = -np.inf
    scored.judge_ahead(range(ITEMS), logprob, greedy)
    missing = {(trial, item) for item, known in scored.ahead.items() for trial, one in enumerate(known) if one is None}
    assert missing == {(3, 2), (4, 0)}
