"""``lorabench perf score`` on a tiny model: agreement first, then every contender at every number of adapters."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest

from harness.errors import LorabenchError
from harness.perf import score
from harness.perf.hflm import in_a_fresh_process
from harness.scoring.lm_eval_task import TaskData


def row(contender: str, dtype: str, seconds: float, **more: float) -> dict:
    return {"contender": contender, "dtype": dtype, "seconds_per_checkpoint": seconds, **more}


def test_ratios_are_those_of_the_most_adapters():
    rows = [
        row("engine", "bfloat16", 2.0, trials=1, tokens_per_second=100.0),
        row("engine", "bfloat16", 0.5, trials=15, tokens_per_second=400.0),
        row("hflm kept alive", "bfloat16", 6.0), row("hflm in a fresh process", "bfloat16", 20.0),
    ]  # fmt: skip
    assert score._headline(rows, "gpu_135m") == {
        "gpu_135m_vs_hflm_alive": 12.0, "gpu_135m_vs_hflm_fresh": 40.0,
        "score_tokens_per_second_k1": 100.0, "score_tokens_per_second_k15": 400.0,
    }  # fmt: skip


@pytest.mark.slow
def test_every_arm_is_timed_in_both_dtypes(tmp_path, in_shared_cache, monkeypatch):
    monkeypatch.setattr(score, "BATCH_SIZES", {"cpu": (8,)})
    monkeypatch.setattr(score, "use_threads", lambda threads: None)
    score.main("tiny-random-llama", replace(score.SMALL, trials=(1, 3), changed_items=40), tmp_path)
    (file,) = tmp_path.glob("score-*.json")
    found = json.loads(file.read_text())
    assert found["agreement"]["float32"]["worst_of_allowed"] <= 1
    contenders = [(row["contender"], row.get("trials")) for row in found["rows"] if row["dtype"] == "float32"]
    assert contenders == [("engine", 1), ("engine", 3), ("hflm kept alive", None), ("hflm in a fresh process", None)]
    assert {"cpu_vs_hflm", "score_tokens_per_second_k1", "score_tokens_per_second_k3"} <= set(found["headline"])
    assert all(row["tokens_per_second"] > 0 for row in found["rows"] if row["contender"] == "engine")


def test_nothing_is_timed_where_log_probabilities_differ(tmp_path, in_shared_cache, monkeypatch):
    monkeypatch.setattr(score, "use_threads", lambda threads: None)
    real = score.Contest.answers
    monkeypatch.setattr(score.Contest, "answers", lambda self, scorer: real(self, scorer) + np.float64(1e-2))
    with pytest.raises(LorabenchError, match=r"log-probabilities differ by .* times what is allowed"):
        score.main("tiny-random-llama", score.SMALL, tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_process_of_lm_eval_that_fails_is_no_time(tmp_path):
    with pytest.raises(LorabenchError, match=r"(?s)lm-eval failed: .*TypeError"):
        in_a_fresh_process(
            [TaskData("without_a_prompt", {"output_type": "multiple_choice"}, {"test": [{"text": "a"}]}, None)],
            {"pretrained": str(tmp_path)}, tmp_path,
        )  # fmt: skip
