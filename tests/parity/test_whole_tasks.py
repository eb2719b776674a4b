"""Whole tasks against lm-eval from end to end: eight of its own formats, and every task that needs no hub."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import datasets
import hub_copies
import numpy as np
import pytest
import torch
from lm_eval.evaluator import evaluate
from lm_eval.tasks import TaskManager
from lm_eval.tasks._yaml_loader import load_yaml

from harness.data import paths, tasks
from harness.data.models import resolve_model
from harness.data.tasks.lm_eval import index as lm_eval_index
from harness.data.tasks.lm_eval import yaml_files
from harness.scoring.lm import PackedLM
from harness.scoring.lm_eval_task import FEWSHOT_SEED, TaskData
from harness.scoring.scorer import Scorer
from harness.scoring.suite import Suite

#: lm-eval's task -> what is particular about its format.
FORMATS = {
    "hellaswag": "long answers, documents made by process_docs",
    "boolq": "yes or no",
    "mmlu_anatomy": "letters",
    "winogrande": "cloze at a blank: the contexts differ, the continuation is one",
    "wikitext": "rolling perplexity with results of its own",
    "gsm8k": "generation behind examples, with filters of regular expressions",
    "lambada_openai": "the log-likelihood of one word",
    "arc_easy": "answers from a template",
}
LENGTH = 480


def prepared_data(name: str, items: int | None = None) -> TaskData:
    prepared = tasks.prepare_task(name)
    splits = {split: tasks.read_split(prepared, split) for split in prepared.files}
    if items is not None:
        splits = {"test": splits["test"][:items]}
    return TaskData(name, prepared.config, splits, prepared.task.chance, prepared.shuffled)


def reference(lm: Any, config: Mapping[str, Any], name: str) -> tuple[dict, list[dict]]:
    """lm-eval's result and samples (of the first filter, in order) for a configuration of its own."""
    task = TaskManager(include_defaults=False).load([{**config, "task": name}])["tasks"][name]
    task.set_fewshot_seed(FEWSHOT_SEED)
    results = evaluate(lm=lm, task_dict={"tasks": {name: task}}, bootstrap_iters=0, log_samples=True)
    assert results is not None
    samples = results["samples"][name]
    first = [sample for sample in samples if sample["filter"] == samples[0]["filter"]]
    return results["results"][name], sorted(first, key=lambda sample: sample["doc_id"])


def agree(suite: Suite, lm: PackedLM, found: Any, theirs: tuple[dict, list[dict]], name: str, trial: int) -> None:
    """Same log-probabilities, same texts, same predictions, same score."""
    results, samples = theirs
    scored = suite.tasks[name]
    answers: dict[int, list] = {}
    for instance in scored.task.instances:
        answers.setdefault(instance.doc_id, []).append(lm.answered(instance, trial))
    assert len(samples) == scored.items
    for sample in samples:
        for mine, (other,) in zip(answers[sample["doc_id"]], sample["resps"], strict=True):
            if isinstance(mine, str):
                assert mine == other
                continue
            (a, flag), (b, reference_flag) = ((x, None) if isinstance(x, float) else x for x in (mine, other))
            assert abs(a - b) <= 1e-4 * max(1.0, abs(b) / 100), (name, sample["doc_id"], a, b)
            assert flag == reference_flag
    key = next(key for key in results if key.partition(",")[0] == scored.metric)
    assert found[name].value == pytest.approx(results[key], rel=1e-5, abs=1e-9)
    if found[name].correct is not None:
        assert found[name].correct == tuple(bool(sample[scored.metric]) for sample in samples)


@pytest.fixture(scope="module")
def mirror(tmp_path_factory):
    """Made-up copies of the data sets, in a cache of their own."""
    root = tmp_path_factory.mktemp("hub")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LORABENCH_CACHE", str(root / "cache"))
        patch.setenv("LORABENCH_DATASETS", str(root / "mirror"))
        patch.setattr(paths, "lock_file", lambda: root / "lock.json")
        lm_eval_index.write_index(hub_copies.FOLDERS)
        for name in FORMATS:
            hub_copies.copy_of(root / "mirror", name)
        yield root / "mirror"


@pytest.mark.parametrize("name", FORMATS)
def test_lm_evals_own_tasks(world, hflm, llama, mirror, name):
    """The reference reads lm-eval's YAML and the data set by itself; nothing of ours prepares it."""
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(llama)
    entry = lm_eval_index.index()[name]
    config = load_yaml(Path(yaml_files.tasks_root()) / entry["yaml"], resolve_func=True, recursive=True)
    config["dataset_path"] = str(mirror / config["dataset_path"])
    suite = Suite([prepared_data(name)], split="test", items={})
    lm = PackedLM(world.model, tokenizer, max_length=LENGTH, batch_tokens=4096)
    found = Scorer(world.model, suite, lm, world.layout).score([name], world.values, world.scaling)
    for trial in (0, 2):
        theirs = reference(hflm(tokenizer, trial, max_length=LENGTH), config, name)
        agree(suite, lm, found[trial], theirs, name, trial)


def _own_tasks() -> list[str]:
    """The project's tasks whose data come from the package index or from code."""
    found = [tasks.load_task(name) for name in tasks.task_names()]
    return [task.name for task in found if task.hub is None]


def _reference_of(lm: Any, data: TaskData) -> tuple[dict, list[dict]]:
    rows = datasets.Dataset.from_list([json.loads(json.dumps(row)) for row in data.splits["test"]])
    hidden = ("training_split", "validation_split")
    config = {key: value for key, value in data.config.items() if key not in hidden}
    return reference(lm, {**config, "custom_dataset": lambda **_: {"test": rows}}, data.name)


@pytest.mark.parametrize("name", _own_tasks())
def test_every_task_of_the_project(world, hflm, llama, name):
    from transformers import AutoTokenizer

    tokenizer, data = AutoTokenizer.from_pretrained(llama), prepared_data(name, items=12)
    suite = Suite([data], split="test", items={})
    lm = PackedLM(world.model, tokenizer, max_length=LENGTH, batch_tokens=4096)
    found = Scorer(world.model, suite, lm, world.layout).score([name], world.values, world.scaling)
    agree(suite, lm, found[1], _reference_of(hflm(tokenizer, 1, max_length=LENGTH), data), name, 1)


@pytest.mark.slow
def test_every_task_with_the_real_model(other_world, tmp_path):
    """SmolLM2-135M in float32, with adapters: its tokenizer merges where a byte tokenizer has nothing to merge."""
    from transformers import AutoTokenizer

    path = resolve_model("smollm2-135m-instruct").path
    real = other_world(path, tmp_path, 0.01)  # larger ones leave nothing of the model, and noise grows with it
    tokenizer = AutoTokenizer.from_pretrained(path)
    data = [prepared_data(name, items=4) for name in _own_tasks() if not name.startswith("toy_")]
    suite = Suite(data, split="test", items={})
    lm = PackedLM(real.model, tokenizer, max_length=1024, batch_tokens=4096)
    names = [task.name for task in data]
    found = Scorer(real.model, suite, lm, real.layout).score(names, real.values[:1], real.scaling[:1])
    theirs = real.hf(tokenizer, 0, max_length=1024, batch_size=8)
    for task in data:
        agree(suite, lm, found[0], _reference_of(theirs, task), task.name, 0)
    assert torch.isfinite(real.values).all()
    assert len({np.round(score.value, 3) for score in found[0].values()}) > 3
