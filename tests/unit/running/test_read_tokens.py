"""What starts read before they train: counted in the record, in the identity of who reads it and of nobody else."""

from __future__ import annotations

import json

import campaigns
import pytest
from campaigns import TOY

from harness.data import tasks
from harness.errors import InputError
from harness.scoring.bench import Bench

STUDY = TOY | {
    "methods": {"lora": {}, "corda": {"text": "toy_text", "text_tokens": 300}, "eva": {}},
    "training": {"examples": 16, "batch": 8}, "scoring": {"items": 4, "curve": [8]}, "probes": [],
}  # fmt: skip


@pytest.fixture
def file(tmp_path, in_shared_cache):
    return campaigns.write_study(tmp_path, STUDY)


def test_tokens_that_a_start_reads_count_as_the_trials(file, tmp_path, monkeypatch):
    read, original = [], Bench.text

    def text(self, task, seed):
        read.append((task, seed))
        return original(self, task, seed)

    monkeypatch.setattr(Bench, "text", text)
    campaigns.run(campaigns.load(file, tmp_path / "out"))
    read_back = (json.loads(path.read_text()) for path in (tmp_path / "out" / "trials").glob("*.json"))
    found = {record["spec"]["method"]: record for record in read_back}
    assert {record["status"] for record in found.values()} == {"ok"}
    assert [task for task, _ in read] == ["toy_text"], "once, before the first task"
    plain = found["lora"]["costs"]["train_tokens"]
    more = found["corda"]["costs"]["train_tokens"] - plain
    assert 300 <= more < 350
    assert found["corda"]["curves"][0]["tokens"][0] == more, "they are spent before the first example"
    assert found["corda"]["curves"][1]["tokens"] == found["lora"]["curves"][1]["tokens"]
    assert found["eva"]["costs"]["train_tokens"] > plain


def test_only_who_reads_a_text_depends_on_it(file, tmp_path):
    plan = campaigns.load(file, tmp_path / "out").plan
    digests = {trial.spec.method: set(trial.spec.task_digests) for trial in plan.trials}
    streams = {"toy_recall", "toy_digits"}
    assert digests == {"lora": streams, "eva": streams, "corda": streams | {"toy_text"}}
    corda = next(trial for trial in plan.trials if trial.spec.method == "corda")
    assert corda.spec.task_digests["toy_text"] == tasks.prepare_task("toy_text").digest


def test_a_text_that_is_none_names_the_arm(tmp_path, in_shared_cache):
    for text, says in (("toy_recall", "is not made of running text"), ("toy_texts", "unknown task 'toy_texts'")):
        file = campaigns.write_study(tmp_path, STUDY | {"methods": {"corda": {"text": text}}})
        with pytest.raises(InputError, match=says) as error:
            campaigns.load(file, tmp_path / "out")
        assert says.startswith("unknown") or str(error.value.where).endswith("mine.yaml:methods.corda")
