"""The contract of a task, run over every folder of ``tasks/``.

A task whose wheel or data set is neither on this machine nor to be had is skipped with the reason.
"""

from __future__ import annotations

import functools

import pytest

from harness.data import tasks
from harness.data.sources import hub_data
from harness.data.tasks.own import rendering, splits
from harness.errors import InputError, LorabenchError

NAMES = tasks.task_names()
LONGEST_PROMPT = 1400  # characters, some 400 tokens: scoring time is proportional to it
LONGEST_OF_THE_HUB = 4000  # published benchmarks bring their own lengths
LOPSIDED = {"scl_cb", "trace_fomc"}  # of few rows, so not balanced


@functools.cache
def _prepare(name: str) -> tasks.PreparedTask | str:
    data = tasks.load_task(name).hub
    if data and not hub_data.mirror(data) and not tasks.task_ready(name):
        return f"the data set {data} has not been fetched"
    try:
        return tasks.prepare_task(name)
    except InputError:
        raise
    except LorabenchError as problem:
        return str(problem)


@pytest.fixture(params=NAMES)
def prepared(request) -> tasks.PreparedTask:
    found = _prepare(request.param)
    if isinstance(found, str):
        pytest.skip(found)
    return found


@pytest.fixture
def docs(prepared) -> dict[str, list[dict]]:
    return {split: tasks.read_split(prepared, split) for split in tasks.SPLITS}


@pytest.mark.parametrize("name", NAMES)
def test_the_yaml_is_sound(name):
    task = tasks.load_task(name)
    assert task.licence
    assert task.source
    assert (task.role == "toy") == name.startswith("toy_")
    if task.kind == "multiple_choice":
        assert task.config["metric_list"][0]["metric"] == "acc"
        assert 0 < task.chance <= 0.5
    elif task.kind == "generate_until":
        assert task.chance == 0
        wanted = task.config["generation_kwargs"]
        assert wanted["until"] == ["\n"]
        assert wanted["do_sample"] is False
        assert wanted["max_gen_toks"] <= (256 if task.hub else 32)
    else:
        assert task.chance is None
    assert (task.splits["train"] > 0) == (task.role == "stream" or (task.role == "toy" and name != "toy_text"))


def test_the_prepare_docstring_says_what_the_rows_are(prepared):
    assert (prepared.task.folder / "prepare.py").read_text().startswith('"""')


def test_splits_are_as_declared_and_disjoint(prepared, docs):
    assert {split: len(found) for split, found in docs.items()} == prepared.task.splits
    texts = [rendering.question(prepared.task, doc) for found in docs.values() for doc in found]
    assert len({" ".join(text.split()) for text in texts}) == len(texts)
    splits.check(prepared.task, docs)


@pytest.mark.parametrize("wheel", sorted({str(task.wheel) for task in map(tasks.load_task, NAMES) if task.wheel}))
def test_no_row_of_a_wheel_is_in_two_tasks(wheel):
    """Tasks of one stream must not share items, or learning one would be learning the other."""
    owner: dict[str, str] = {}
    for name in NAMES:
        if str(tasks.load_task(name).wheel) != wheel:
            continue
        found = _prepare(name)
        if isinstance(found, str):
            pytest.skip(found)
        for split in tasks.SPLITS:
            for doc in tasks.read_split(found, split):
                assert owner.setdefault(rendering.question(found.task, doc), name) == name


def test_prompts_are_short_and_end_without_space(prepared, docs):
    for found in docs.values():
        for doc in found:
            text = rendering.question(prepared.task, doc)
            assert 0 < len(text) <= (LONGEST_OF_THE_HUB if prepared.task.hub else LONGEST_PROMPT)
            assert text == text.rstrip()


def test_chance_is_what_guessing_scores(prepared, docs):
    if prepared.task.kind != "multiple_choice":
        pytest.skip("not a multiple-choice task")
    guess = sum(1 / len(rendering.choices(prepared.task, doc)) for doc in docs["test"]) / len(docs["test"])
    # Where a hub task has as many choices as the row has, its chance was estimated without the data.
    estimated = prepared.task.hub and not isinstance(prepared.task.config["doc_to_choice"], list)
    assert prepared.task.chance == pytest.approx(guess, abs=0.1 if estimated else 2e-3)


def test_no_label_answers_the_task_alone(prepared, docs):
    if prepared.task.kind != "multiple_choice" or prepared.task.name in LOPSIDED:
        pytest.skip("not a multiple-choice task, or lopsided at its source")
    labels = [rendering.target(prepared.task, doc) for doc in docs["test"]]
    assert max(labels.count(label) for label in set(labels)) / len(labels) < prepared.task.chance + 0.1


def test_generated_answers_are_single_lines(prepared, docs):
    if prepared.task.kind != "generate_until":
        pytest.skip("not a generation task")
    for doc in docs["test"]:
        answer = rendering.target(prepared.task, doc)
        assert answer == answer.strip()
        assert "\n" not in answer


@pytest.mark.parametrize("name", [name for name in NAMES if name.startswith("toy_")])
def test_the_digest_is_the_same_in_every_cache(name, tmp_path, monkeypatch):
    digests = set()
    for cache in ("one", "two"):
        monkeypatch.setenv("LORABENCH_CACHE", str(tmp_path / cache))
        digests.add(tasks.prepare_task(name).digest)
    assert len(digests) == 1
