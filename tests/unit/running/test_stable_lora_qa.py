"""The study of Stable-LoRA's own table, on copies of its data sets with made-up rows, and a tiny model."""

from __future__ import annotations

import itertools
import json

import campaigns
import hub_copies
import pytest
import yaml
from folders import records

from harness.data import paths
from harness.data.tasks.lm_eval import index as lm_eval_index

ARC = ("allenai/ai2_arc", {"ARC-Easy": 40, "ARC-Challenge": 24})


def _arc(i: int, kind: str) -> dict:
    return {"id": f"q{i}", "question": f"What is {kind} number {i}?", "answerKey": "ABCD"[i % 4],
            "choices": {"text": [f"answer {i}", "water", "stone", "air"], "label": list("ABCD")}}  # fmt: skip


def _openbook(i: int) -> dict:
    return {"id": f"o{i}", "question_stem": f"Stone {i} falls", "answerKey": "ABCD"[i % 4],
            "choices": {"text": ["up", "down", f"{i} times", "never"], "label": list("ABCD")}}  # fmt: skip


def _siqa(i: int) -> dict:
    return {"context": f"Ann gave Eve {i} coins. ", "question": "How does Eve feel?", "answerA": f"sad {i}",
            "answerB": "glad", "answerC": "nothing", "label": str(1 + i // 3 % 3)}  # fmt: skip


@pytest.fixture
def copies(tmp_path, monkeypatch):
    root = tmp_path / "mirror"
    monkeypatch.setenv("LORABENCH_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("LORABENCH_DATASETS", str(root))
    lm_eval_index.write_index(("arc", "hellaswag", "openbookqa"))
    hub_copies.copy_of(root, "hellaswag")
    number = itertools.count()
    configs = []
    for config, rows in ARC[1].items():
        sizes = {"train": rows, "validation": 8, "test": 8}
        splits = {split: [_arc(next(number), config) for _ in range(size)] for split, size in sizes.items()}
        folder = hub_copies.copy(root, ARC[0], config, splits)
        (front,) = json.loads((folder / "README.md").read_text().split("---")[1])["configs"]
        configs.append(front)
    (folder / "README.md").write_text(f"---\n{json.dumps({'configs': configs})}\n---\n")
    sizes = {"train": 32, "validation": 8, "test": 8}
    splits = {split: [_openbook(next(number)) for _ in range(size)] for split, size in sizes.items()}
    hub_copies.copy(root, "allenai/openbookqa", "main", splits)
    hub_copies.copy(root, "lighteval/siqa", "default", {"train": [_siqa(i) for i in range(33_000)]})
    return root


@pytest.mark.slow
def test_it_runs_one_task_at_a_time(copies, tmp_path):
    study = yaml.safe_load((paths.studies_dir() / "stable_lora_qa.yaml").read_text())
    kept = ("frozen", "lora", "stable_lora")
    small = study | campaigns.TOY | {
        "streams": study["streams"], "methods": {arm: study["methods"][arm] for arm in kept},
        "training": study["training"] | {"examples": 32}, "scoring": {"items": 4, "intruders_after": "never"},
    }  # fmt: skip
    campaign = campaigns.load(campaigns.write_study(tmp_path, small), tmp_path / "out")
    rows = {trial.spec.order: trial.stage_examples for trial in campaign.plan.trials if trial.spec.method == "lora"}
    assert rows == {"hellaswag": (16,), "siqa": (32,), "openbookqa": (32,), "arc_easy": (32,), "arc_challenge": (24,)}
    assert len(campaign.published) == 11
    campaigns.run(campaign)
    found = records(tmp_path / "out").values()
    assert {record["status"] for record in found} == {"ok"}
    assert len(found) == 5 * 6, "frozen, lora and four shrinks"
    assert {record["spec"]["training"]["adapter"]["rank"] for record in found} == {8}
