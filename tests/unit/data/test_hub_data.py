"""Data sets of the hub: the lock, the mirror, and the project's tasks that read them.  There is no hub here."""

from __future__ import annotations

import json
import time
from pathlib import Path

import hub_copies
import pytest
import yaml

from harness.cli import doctor as checkup
from harness.data import models, paths, tasks
from harness.data.fetch import fetch
from harness.data.sources import hub
from harness.errors import InputError

datasets = pytest.importorskip("datasets")
huggingface_hub = pytest.importorskip("huggingface_hub")

COMMIT = "c" * 40
PREPARE = """
def rows(source):
    for split in ("train", "test"):
        for row in source.split(split):
            yield {"text": row["title"], "label": row["label"]}
"""
SOURCE = {"hub": "org/news", "config": "en", "splits": ["train", "test"]}
CONFIG = {
    "task": "news", "output_type": "multiple_choice", "training_split": "train", "validation_split": "validation",
    "test_split": "test", "doc_to_text": "{{text}}?", "doc_to_choice": ["no", "yes"], "doc_to_target": "label",
    "metric_list": [{"metric": "acc", "aggregation": "mean", "higher_is_better": True}],
    "metadata": {"version": 1, "role": "stream", "licence": "MIT", "source": SOURCE, "chance": 0.5,
                 "splits": {"train": 20, "validation": 4, "test": 10}, "split_seed": 3},
}  # fmt: skip


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch) -> Path:
    """A tasks folder with the task 'news', an empty cache, no lock, no mirror."""
    monkeypatch.setenv("LORABENCH_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("LORABENCH_DATASETS", raising=False)
    for switch in ("HF_HUB_OFFLINE", "HF_DATASETS_OFFLINE"):
        monkeypatch.delenv(switch, raising=False)
    monkeypatch.setattr(paths, "tasks_dir", lambda: tmp_path / "tasks")
    monkeypatch.setattr(paths, "lock_file", lambda: tmp_path / "lock.json")
    (tmp_path / "tasks/news").mkdir(parents=True)
    write(tmp_path / "tasks")
    return tmp_path / "tasks"


def write(folder: Path, prepare: str = PREPARE, source: object = SOURCE) -> None:
    config = CONFIG | {"metadata": CONFIG["metadata"] | {"source": source}}
    (folder / "news/news.yaml").write_text(yaml.safe_dump(config))
    (folder / "news/prepare.py").write_text(prepare)


def news(rows: int = 24) -> dict[str, list[dict]]:
    data = [{"title": f"item {number}", "label": number % 2} for number in range(rows + 10)]
    return {"train": data[:rows], "test": data[rows:]}


@pytest.fixture
def mirror(tmp_path, monkeypatch) -> Path:
    """A mirror with the data set."""
    monkeypatch.setenv("LORABENCH_DATASETS", str(tmp_path / "mirror"))
    hub_copies.copy(tmp_path / "mirror", "org/news", "en", news())
    return tmp_path / "mirror"


@pytest.fixture
def online(monkeypatch) -> list[tuple]:
    """A hub that answers; the list tells what it was asked."""
    asked: list[tuple] = []

    def dataset_info(self, repo, revision=None, timeout=None):
        assert timeout == hub.TIMEOUT
        asked.append(("info", repo, revision))
        return type("Info", (), {"sha": revision or COMMIT})()

    def load_dataset(path, name, *, revision, cache_dir):
        asked.append(("load", path, name, revision))
        return datasets.DatasetDict({split: datasets.Dataset.from_list(rows) for split, rows in news().items()})

    monkeypatch.setattr(huggingface_hub.HfApi, "dataset_info", dataset_info)
    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    return asked


def refused() -> InputError:
    with pytest.raises(InputError) as caught:
        tasks.prepare_task("news")
    assert caught.value.remedy
    assert not list(paths.cache_dir().glob("tasks/*/*"))
    return caught.value


# -- a task of the project's ------------------------------------------------------------------------------------------


def test_a_task_reads_the_splits_of_a_mirror(mirror):
    task = tasks.load_task("news")
    assert task.source == "the hub's data set org/news (en)"
    assert not tasks.task_ready("news")
    prepared = tasks.prepare_task("news")
    assert tasks.task_ready("news")
    assert prepared.shuffled
    assert prepared.config == prepared.task.config
    docs = [doc for split in tasks.SPLITS for doc in tasks.read_split(prepared, split)]
    assert sorted(doc["text"] for doc in docs) == sorted(f"item {number}" for number in range(34))


def test_a_mirror_that_has_changed_is_read_again(mirror):
    first = tasks.prepare_task("news").digest
    changed = news()
    changed["test"][0]["title"] = "another item"
    hub_copies.copy(mirror, "org/news", "en", changed)
    assert not tasks.task_ready("news")
    assert tasks.prepare_task("news").digest != first


@pytest.mark.parametrize(
    ("prepare", "source", "where", "says"),
    [
        (PREPARE.replace('"test")', '"tests")'), SOURCE, "metadata.source.splits", "did you mean 'test'"),
        (PREPARE, "words", "metadata.source", "names no data set"),
        (PREPARE, SOURCE | {"splits": ["train", "dev"]}, "metadata.source", "no rows in a split 'dev'"),
        (PREPARE, SOURCE | {"config": "fr"}, "metadata.source", "'fr' not found"),
    ],
)
def test_what_a_mirror_does_not_hold_is_named(folder, mirror, prepare, source, where, says):
    write(folder, prepare, source)
    error = refused()
    assert error.where == f"tasks/news/news.yaml:{where}"
    assert says in str(error)


def test_documents_that_are_no_plain_json_are_refused(folder, mirror):
    write(folder, PREPARE.replace('"label":', '"raw": b"0", "label":'))
    assert "raw: bytes" in refused().what


# -- the hub ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("switch", ["HF_HUB_OFFLINE", "HF_DATASETS_OFFLINE"])
def test_without_the_hub_it_says_at_once_what_to_do(monkeypatch, switch):
    monkeypatch.setenv(switch, "1")
    start = time.monotonic()
    error = refused()
    assert time.monotonic() - start < 5
    assert f"needs the data set org/news (en) of the hub: {switch} is set" in error.what
    assert "lorabench fetch" in error.remedy
    assert "hf download --repo-type dataset org/news --local-dir DIR/org/news" in error.remedy
    assert "LORABENCH_DATASETS=DIR" in error.remedy


def test_a_hub_that_does_not_answer_is_an_input_error(monkeypatch):
    def dataset_info(self, repo, **options):
        raise ConnectionError("[Errno -2] Name or service not known")

    monkeypatch.setattr(huggingface_hub.HfApi, "dataset_info", dataset_info)
    assert "of the hub: ConnectionError" in refused().what
    assert not paths.lock_file().exists()


def test_the_revision_is_resolved_once_and_locked(online, monkeypatch, tmp_path):
    hub.lock("models", "org/model", "m" * 40)
    tasks.prepare_task("news")
    wanted = {"datasets": {"org/news": COMMIT}, "models": {"org/model": "m" * 40}}
    assert json.loads(paths.lock_file().read_text()) == wanted
    monkeypatch.setenv("LORABENCH_CACHE", str(tmp_path / "another"))
    tasks.prepare_task("news")
    once = [("info", "org/news", None), ("load", "org/news", "en", COMMIT)]
    assert online == [*once, ("info", "org/news", COMMIT), once[1]]
    assert json.loads(paths.lock_file().read_text()) == wanted


def test_once_fetched_it_needs_no_hub(online, monkeypatch):
    first = tasks.prepare_task("news")
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    assert tasks.task_ready("news")
    assert tasks.prepare_task("news") == first


def test_another_locked_revision_is_another_task(online):
    tasks.prepare_task("news")
    hub.lock("datasets", "org/news", "d" * 40)
    assert not tasks.task_ready("news")


def test_a_mirror_goes_before_the_hub_and_gives_the_same_digest(online, mirror, monkeypatch):
    monkeypatch.setattr(datasets, "load_dataset", datasets.load.load_dataset)
    there = tasks.prepare_task("news").digest
    assert online == []
    assert not paths.lock_file().exists()
    monkeypatch.delenv("LORABENCH_DATASETS")
    rows = {split: datasets.Dataset.from_list(data) for split, data in news().items()}
    monkeypatch.setattr(datasets, "load_dataset", lambda *_, **__: datasets.DatasetDict(rows))
    assert tasks.prepare_task("news").digest == there


def test_the_mirror_is_used_by_fetch_and_the_doctor_only_notes(mirror, monkeypatch):
    monkeypatch.setattr(models, "model_names", list)
    (found,) = checkup._cached()
    assert (found.what, found.verdict) == ("tasks of the hub", "note")
    monkeypatch.setattr(models, "model_ready", lambda name: True)
    monkeypatch.setattr(models, "resolve_model", lambda name: models.ModelSource(name, Path(), ""))
    lines: list[str] = []
    fetch(["news"], "any", lines.append)
    assert "task news: building from the hub's data set org/news (en)" in lines
    assert "task news: ready (20 train, 4 validation, 10 test)" in lines
    assert [found.verdict for found in checkup._cached()] == ["ok"]
