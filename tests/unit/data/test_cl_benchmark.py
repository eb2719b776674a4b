"""Tasks that read the files of the standard continual-learning benchmark, where a folder of it is named."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path

import benchmark_files
import pytest

from harness.data import tasks
from harness.data.sources import cl_benchmark
from harness.data.tasks import listing
from harness.data.tasks.own import rendering
from harness.errors import InputError

NAMES = [name for name in tasks.task_names() if name.startswith("scl_")]
RTE = ("NLI/RTE", ["contradiction", "entailment"])


@pytest.fixture
def root(tmp_path, monkeypatch) -> Path:
    """An empty folder that is named as the benchmark's, and an empty cache."""
    monkeypatch.setenv("LORABENCH_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("LORABENCH_CL_BENCHMARK", str(tmp_path / "clone"))
    monkeypatch.setattr(cl_benchmark, "_of_study", None)
    (tmp_path / "clone" / "CL_Benchmark").mkdir(parents=True)
    return tmp_path / "clone" / "CL_Benchmark"


def rows(prepared: tasks.PreparedTask) -> dict[str, list[dict]]:
    return {split: tasks.read_split(prepared, split) for split in tasks.SPLITS}


@pytest.mark.parametrize("name", NAMES)
def test_every_task_reads_its_files(root, name):
    files = tasks.load_task(name).files
    assert files is not None
    assert tasks.load_task(name).hub is None, "nothing is asked of the hub"
    benchmark_files.write(root, files.path, sorted(files.labels))
    prepared = tasks.prepare_task(name)
    assert prepared.task.splits == {"train": 54 if name != "scl_multirc" else 50, "validation": 6, "test": 20} | (
        {"validation": 10} if name == "scl_multirc" else {}
    )
    for docs in rows(prepared).values():
        for doc in docs:
            assert rendering.question(prepared.task, doc)
    assert prepared.source.startswith(f"CL_Benchmark/{files.path}; train.json with 60 rows; test.json with 20 rows")
    # A row and its label, through sentence and labels.json to the answer that is asked for.
    written = json.loads((root / files.path / "test.json").read_text())
    asked = {rendering.question(prepared.task, doc): doc["label"] for doc in rows(prepared)["test"]}
    assert len(asked) == 20
    for number, row in enumerate(written):
        (label,) = (label for text, label in asked.items() if f"{10_000 + number}" in text)
        assert files.labels[label] == row["label"]


@pytest.mark.parametrize(("path", "prompt"), [
    ("NLI/RTE", "It is 7.\nHypothesis: Is it 7?\nRelation:"),
    ("QQP/QQP", "Why 7?\nWhy not 7?\nDo both ask the same thing?"),
    ("BoolQA/BoolQA", "Numbers -- 7 is one.\nQuestion: is 7 a number?\nAnswer:"),
    ("WiC/WiC", 'The bank of river 7.\nA bank with 7 coins.\nDoes "bank" have the same meaning in both?'),
    ("COPA/COPA", "Man 7 fell.\nWhat was the effect?"),
    ("MultiRC/MultiRC", "Story 1.\nQuestion: Who is 7?\nAnswer: Ann 7\nIs that right?"),
    ("SC/SST-2", "a film of 7 hours .\nSentiment:"),
])  # fmt: skip
def test_prompts_are_those_of_the_hubs_rows(root, path, prompt):
    (task,) = (task for task in map(tasks.load_task, NAMES) if task.files and task.files.path == path)
    benchmark_files.write(root, path, task.files.labels)
    prepared = tasks.prepare_task(task.name)
    texts = [rendering.question(prepared.task, doc) for docs in rows(prepared).values() for doc in docs]
    assert prompt in texts


def test_no_text_is_in_two_splits_and_repeats_are_counted(root):
    folder = benchmark_files.write(root, *RTE)
    tested = json.loads((folder / "test.json").read_text())

    def repeat(train: list[dict]) -> None:
        train[1] = train[0]  # a row that stands twice
        train[3] = train[2] | {"label": train[3]["label"]}  # one text with two answers: neither can be learnt
        train[5] = tested[4] | {"sentence": tested[4]["sentence"].replace(".\n", ". \n")}  # one of the test's, spaced

    benchmark_files.change(folder, "train", repeat)
    prepared = tasks.prepare_task("scl_rte")
    assert prepared.task.splits == {"train": 51, "validation": 5, "test": 20}
    assert "4 training rows left out, whose text stands elsewhere too" in prepared.source
    texts = [
        " ".join(rendering.question(prepared.task, doc).split()) for docs in rows(prepared).values() for doc in docs
    ]
    assert len(set(texts)) == len(texts) == 76


@pytest.mark.parametrize(("train", "test", "says"), [
    (400, None, "no test.json: train.json is divided, 100 rows for the test"),
    (None, 400, "no train.json: test.json is divided, 100 rows for the test"),
])  # fmt: skip
def test_one_file_is_divided_where_the_other_is_missing(root, train, test, says):
    benchmark_files.write(root, *RTE, train=train, test=test)
    prepared = tasks.prepare_task("scl_rte")
    assert prepared.task.splits == {"train": 270, "validation": 30, "test": 100}
    assert says in prepared.source
    (row,) = listing.project_tasks("scl_rte")
    assert row["splits"] == "270/30/100"
    assert says in row["source"]


def test_a_story_stays_in_one_split(root):
    benchmark_files.write(root, "MultiRC/MultiRC", ["True", "False"], train=200, test=None)
    found = rows(tasks.prepare_task("scl_multirc"))
    stories = [{doc["paragraph"] for doc in docs} for docs in found.values()]
    assert sum(map(len, stories)) == len(set.union(*stories)) == 40
    assert len(found["test"]) == 50
    assert {len(docs) for docs in found.values()} == {135, 15, 50}


def test_rows_that_nobody_could_label_are_left_out_and_said(root):
    folder = benchmark_files.write(root, "NLI/MNLI", ["neutral", "entailment", "contradiction"])
    benchmark_files.change(folder, "test", lambda test: test[0].update(label="-"))
    prepared = tasks.prepare_task("scl_mnli")
    assert prepared.task.splits["test"] == 19
    assert "test.json with 20 rows, 1 of them left out without a label" in prepared.source


def test_other_rows_are_another_task(root, monkeypatch):
    folder = benchmark_files.write(root, *RTE)
    first = tasks.prepare_task("scl_rte")
    assert tasks.prepare_task("scl_rte").digest == first.digest
    benchmark_files.change(folder, "train", lambda train: train[0].update(sentence="sentence 1: a\nsentence 2: b"))
    stat = (folder / "train.json").stat()
    os.utime(folder / "train.json", ns=(stat.st_atime_ns, stat.st_mtime_ns + 1))
    assert tasks.prepare_task("scl_rte").digest != first.digest
    monkeypatch.delenv("LORABENCH_CL_BENCHMARK")
    assert tasks.load_task("scl_rte").hub is not None, "without the folder, the hub"


def test_the_study_names_the_folder_before_the_environment(root, tmp_path):
    benchmark_files.write(root, *RTE)
    benchmark_files.write(tmp_path / "mine", *RTE, train=100)
    cl_benchmark.use(str(tmp_path / "mine"))
    assert tasks.prepare_task("scl_rte").task.splits["train"] == 90
    cl_benchmark.use(None)
    assert tasks.prepare_task("scl_rte").task.splits["train"] == 54


def _cut(folder: Path) -> None:
    path = folder / "train.json"
    path.write_text(path.read_text()[:500])


def _alter(part: str, **values):
    return lambda folder: benchmark_files.change(folder, part, lambda rows: rows[6].update(values))


def _instead(make: Callable[[Path], object]):
    """Something else in the place of train.json."""

    def damage(folder: Path) -> None:
        (folder / "train.json").unlink()
        make(folder / "train.json")

    return damage


def _no_text_left(folder: Path) -> None:
    (folder / "train.json").write_text((folder / "test.json").read_text())


def _one_label_left(folder: Path) -> None:
    """The only training row with the second label has the text of another one, which has the first."""
    benchmark_files.change(folder, "train", lambda rows: [*rows[::2], rows[2] | {"label": rows[1]["label"]}])


def _one_label_tested(folder: Path) -> None:
    """Without test.json, and of so few rows with the second label that the quarter for the test has none."""
    (folder / "test.json").unlink()
    benchmark_files.change(folder, "train", lambda rows: [*rows[::2], rows[1]])


@pytest.mark.parametrize(("damage", "at", "says"), [
    (_cut, "train.json:1", "not JSON"),
    (lambda folder: (folder / "test.json").write_text(""), "test.json:1", "not JSON"),
    (lambda folder: (folder / "test.json").write_text("[]"), "test.json", "no list of rows"),
    (lambda folder: (folder / "test.json").write_text('{"Instances": []}'), "test.json", "no list of rows"),
    (_alter("test", label="maybe"), "test.json: row 7", "'maybe' is not in labels.json (entailment, contradiction)"),
    (_alter("train", label="-"), "train.json: row 7", "'-' is not in labels.json"),
    (_alter("train", label=1), "train.json: row 7", "the texts 'sentence' and 'label'"),
    (_alter("train", sentence=" "), "train.json: row 7", "the texts 'sentence' and 'label'"),
    (_alter("train", sentence="Text: a review"), "train.json: row 7", "not built as those of this task"),
    (lambda folder: benchmark_files.change(folder, "train", lambda rows: rows[::2]),
     "train.json", "all rows have one label ('contradiction')"),
    (_alter("train", sentence="sentence 1: \ud800.\nsentence 2: Is it 7?"), "train.json: row 7", "half a character"),
    (_instead(Path.mkdir), "train.json", "can't be read"),
    (_instead(lambda path: path.symlink_to("nowhere")), "train.json", "can't be read"),
    (_no_text_left, "", "no row is left for the train split: train.json with 20 rows"),
    (lambda folder: benchmark_files.change(folder, "train", lambda rows: rows[:9]),
     "", "no row is left for the validation split"),
    (_one_label_left, "", "only rows with the label 'contradiction' are left for the train split"),
    (_one_label_tested, "", "only rows with the label 'contradiction' are left for the test split"),
    (lambda folder: (folder / "labels.json").write_text('["yes", "no"]'), "labels.json", "it lists ['yes', 'no']"),
    (lambda folder: (folder / "labels.json").unlink(), "labels.json", "can't be read"),
    (lambda folder: [(folder / f"{part}.json").unlink() for part in ("train", "test")], "", "neither train.json nor"),
])  # fmt: skip
def test_what_is_no_file_of_it_is_refused_with_its_place(root, damage, at, says):
    folder = benchmark_files.write(root, *RTE)
    damage(folder)
    with pytest.raises(InputError) as caught:
        tasks.prepare_task("scl_rte")
    assert caught.value.where == str(folder / at) if at else str(folder)
    assert says in caught.value.what
    assert caught.value.remedy
    assert not list((root.parents[1] / "cache").glob("tasks/*/*"))


def test_a_folder_of_another_layout_is_refused(root, monkeypatch):
    (root / "RTE").mkdir()
    with pytest.raises(InputError, match=r"no folder NLI/RTE, where CL_Benchmark has one") as caught:
        tasks.prepare_task("scl_rte")
    assert caught.value.where == f"LORABENCH_CL_BENCHMARK={root.parent}"
    monkeypatch.setenv("LORABENCH_CL_BENCHMARK", str(root / "nowhere"))
    with pytest.raises(InputError, match="there is no such folder"):
        tasks.prepare_task("scl_rte")


#: Rows of (train.json, test.json) as the published runs use them, and those of a test file that nobody could label.
PUBLISHED = {
    "scl_ag_news": (4000, 7600), "scl_amazon": (5000, 7600), "scl_mnli": (3000, 7600), "scl_qqp": (2000, 7600),
    "scl_boolq": (2000, 3270), "scl_sst2": (2000, 872), "scl_rte": (2000, 277), "scl_wic": (2000, 638),
    "scl_copa": (400, 100), "scl_cb": (250, 56), "scl_dbpedia": (None, 7600), "scl_yelp": (5000, None),
    "scl_imdb": (2000, None), "scl_multirc": (2000, None),
}  # fmt: skip
UNLABELLED = {"scl_mnli": 131}
NAMED = os.environ.get("LORABENCH_CL_BENCHMARK")


@pytest.mark.slow
@pytest.mark.skipif(not NAMED, reason="LORABENCH_CL_BENCHMARK names no folder of the benchmark")
@pytest.mark.parametrize("name", PUBLISHED)
def test_the_benchmarks_own_folder_is_read_whole(name, monkeypatch, tmp_path):
    monkeypatch.setenv("LORABENCH_CACHE", str(tmp_path))
    prepared = tasks.prepare_task(name)
    sizes, (train, test) = prepared.task.splits, PUBLISHED[name]
    if train and test:
        assert sizes["test"] == test - UNLABELLED.get(name, 0)
    assert sizes["train"] + sizes["validation"] + (0 if train and test else 500) in (train or test, (train or test) - 2)
    assert name == "scl_rte" or "left out, whose text" not in prepared.source
    found = rows(prepared)
    texts = [{" ".join(rendering.question(prepared.task, doc).split()) for doc in docs} for docs in found.values()]
    assert sum(map(len, texts)) == len(set.union(*texts)), "no text is in two splits"
    labels = [{rendering.target(prepared.task, doc) for doc in docs} for docs in found.values()]
    assert labels == [set(range(len(prepared.task.files.labels)))] * 3 or name in ("scl_cb", "scl_copa")
