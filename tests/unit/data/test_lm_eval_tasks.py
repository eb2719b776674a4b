"""lm-eval's own tasks by name: splits, configuration, requests and refusals.  Data are made up; no network."""

from __future__ import annotations

import contextlib
import json
from pathlib import Path

import hub_copies
import pytest
import yaml

from harness.data import paths, tasks
from harness.data.sources import hub_data
from harness.data.tasks import cache
from harness.data.tasks.lm_eval import index as lm_eval_index
from harness.data.tasks.lm_eval import rows as lm_eval_rows
from harness.data.tasks.lm_eval import yaml_files
from harness.errors import InputError

datasets = pytest.importorskip("datasets")
TASKS = sorted(hub_copies.DATA)


@pytest.fixture(scope="module")
def index(tmp_path_factory) -> Path:
    """An index of a few folders of lm-eval's, made once."""
    folder = tmp_path_factory.mktemp("index")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LORABENCH_CACHE", str(folder))
        lm_eval_index.write_index(hub_copies.FOLDERS)
        return lm_eval_index.index_file()


@pytest.fixture
def mirror(tmp_path, monkeypatch, index) -> Path:
    """An empty mirror, an empty cache with the small index in it, and no hub."""
    monkeypatch.setenv("LORABENCH_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("LORABENCH_DATASETS", str(tmp_path / "mirror"))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setattr(paths, "lock_file", lambda: tmp_path / "lock.json")
    lm_eval_index.index_file().parent.mkdir(parents=True)
    lm_eval_index.index_file().write_bytes(index.read_bytes())
    return tmp_path / "mirror"


@pytest.fixture
def own_yaml(tmp_path, monkeypatch, mirror):
    """``own_yaml(**config)``: lm-eval as if it had a task 'mine' with this YAML."""

    def write(text: str = "", **config: object) -> Path:
        root = tmp_path / "lm_eval_tasks"
        root.mkdir(exist_ok=True)
        sound = {"task": "mine", "dataset_path": "org/name", "output_type": "multiple_choice", "test_split": "test"}
        sound |= {"doc_to_text": "{{q}}", "doc_to_target": "a", "doc_to_choice": ["no", "yes"]}
        (root / "mine.yaml").write_text(yaml.safe_dump({k: v for k, v in (sound | config).items() if v}) + text)
        monkeypatch.setattr(yaml_files, "tasks_root", lambda: root)
        lm_eval_index.write_index()
        return root / "mine.yaml"

    return write


def refused(name: str) -> InputError:
    with pytest.raises(InputError) as caught:
        tasks.prepare_task(name)
    assert caught.value.remedy
    return caught.value


def built(config: dict, name: str, **changes: object) -> list[tuple]:
    """The requests that lm-eval builds from a configuration."""
    from lm_eval.tasks import TaskManager

    task = TaskManager(include_defaults=False).load([{**config, "task": name, **changes}])["tasks"][name]
    task.set_fewshot_seed(0)
    task.build_all_requests(rank=0, world_size=1)
    return [(one.request_type, one.doc_id, one.args) for one in task.instances]


def ours(prepared: tasks.PreparedTask, **changes: object) -> list[tuple]:
    def custom_dataset(**_: object) -> dict:
        return {split: datasets.Dataset.from_list(tasks.read_split(prepared, split)) for split in prepared.files}

    return built(prepared.config, prepared.task.name, custom_dataset=custom_dataset, **changes)


def theirs(task: tasks.Task, folder: Path, cache: Path, **changes: object) -> list[tuple]:
    """lm-eval's own configuration, which loads the copy by itself."""
    from lm_eval.tasks._yaml_loader import load_yaml

    own = {"dataset_path": str(folder), "dataset_kwargs": {"cache_dir": str(cache)}}
    return built(load_yaml(task.yaml), task.name, **own, **changes)


# -- what is asked ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", TASKS)
def test_the_requests_are_lm_evals_own(mirror, tmp_path, name):
    folder = hub_copies.copy_of(mirror, name)
    prepared = tasks.prepare_task(name)
    changes = {"num_fewshot": 0}
    found = ours(prepared, **changes)
    assert found == theirs(prepared.task, folder, tmp_path / "hf", **changes)
    assert len({doc_id for _, doc_id, _ in found}) == prepared.task.splits["test"]


@pytest.mark.parametrize("name", ["arc_easy", "sciq", "mmlu_anatomy"])
def test_worked_examples_are_lm_evals_own(mirror, tmp_path, name):
    folder = hub_copies.copy_of(mirror, name)
    prepared = tasks.prepare_task(name)
    found = ours(prepared, num_fewshot=2)
    assert found == theirs(prepared.task, folder, tmp_path / "hf", num_fewshot=2)
    assert found != ours(prepared, num_fewshot=0)


@pytest.mark.parametrize(
    "splits",
    [
        {"test_split": None, "validation_split": "dev"},
        {"test_split": "test", "validation_split": "dev"},
        {"test_split": "test", "fewshot_split": "dev"},
        {"test_split": "test", "fewshot_split": "test"},
        {"test_split": "test", "training_split": "dev", "validation_split": "more"},
    ],
)
def test_worked_examples_follow_lm_evals_rule(own_yaml, mirror, tmp_path, splits):
    """Which split they come from where none is named, and whether an item may be an example for itself."""
    own_yaml(**splits)
    data = {name: [{"q": f"{name} {i}?", "a": i % 2} for i in range(12)] for name in ("dev", "test", "more")}
    folder = hub_copies.copy(mirror, "org/name", "default", data)
    prepared = tasks.prepare_task("mine")
    assert ours(prepared, num_fewshot=3) == theirs(prepared.task, folder, tmp_path / "hf", num_fewshot=3)


def test_worked_examples_are_lm_evals_less_validation_rows(mirror, tmp_path):
    """They are drawn from the whole training split, in its order: the same prompts as lm-eval's own."""
    folder = hub_copies.copy_of(mirror, "gsm8k")
    prepared = tasks.prepare_task("gsm8k")
    assert ours(prepared) == theirs(prepared.task, folder, tmp_path / "hf")
    assert len(ours(prepared)[0][2][0].split("\n\n")) == 6, "five examples and the item"
    assert tasks.read_split(prepared, "fewshot") == hub_copies.rows("gsm8k")["train"]


def test_no_item_of_the_validation_split_is_its_own_example(mirror):
    from harness.scoring.lm_eval_task import Prompting, TaskData
    from harness.scoring.suite import Suite

    hub_copies.copy_of(mirror, "gsm8k")
    prepared = tasks.prepare_task("gsm8k")
    splits = {split: tasks.read_split(prepared, split) for split in prepared.files}
    data = TaskData("gsm8k", prepared.config, splits, 0.0, prepared.shuffled)
    suite = Suite([data], split="validation", items={}, prompting=Prompting({"gsm8k": 30}))
    scored = {row["question"] for row in splits["validation"]}
    for instance in suite.tasks["gsm8k"].task.instances:
        shots = [block.splitlines()[0].removeprefix("Question: ") for block in instance.args[0].split("\n\n")]
        assert len(shots) == 31
        assert not scored & set(shots[:-1])


# -- splits -----------------------------------------------------------------------------------------------------------


def test_splits_are_the_data_sets_in_their_order(mirror):
    hub_copies.copy_of(mirror, "arc_easy")
    assert not tasks.task_ready("arc_easy")
    prepared = tasks.prepare_task("arc_easy")
    assert tasks.task_ready("arc_easy")
    assert {split: tasks.read_split(prepared, split) for split in tasks.SPLITS} == hub_copies.rows("arc_easy")
    assert prepared.task.splits == {"train": 30, "validation": 8, "test": 12}
    assert (prepared.task.origin, prepared.task.role, prepared.task.kind) == ("lm-eval", "stream", "multiple_choice")
    assert not prepared.shuffled


@pytest.mark.parametrize(("name", "scored"), [("boolq", "validation"), ("gsm8k", "test")])
def test_validation_is_taken_out_of_train_where_there_is_none(mirror, name, scored):
    hub_copies.copy_of(mirror, name)
    prepared = tasks.prepare_task(name)
    source = hub_copies.rows(name)
    train, validation, test = (tasks.read_split(prepared, split) for split in tasks.SPLITS)
    assert test == source[scored]
    assert len(validation) == len(source["train"]) // 10
    assert [row for row in source["train"] if row not in validation] == train
    assert validation != source["train"][: len(validation)]
    assert prepared.config["validation_split"] == "validation"


def test_at_most_200_rows_are_taken_for_validation(mirror, monkeypatch):
    monkeypatch.setattr(lm_eval_rows, "VALIDATION_ROWS", 3)
    hub_copies.copy_of(mirror, "boolq")
    assert tasks.prepare_task("boolq").task.splits == {
        "train": 37, "validation": 3, "test": 10, "fewshot": 40,
    }  # fmt: skip


def test_a_probe_has_what_it_is_scored_on(mirror):
    hub_copies.copy_of(mirror, "mmlu_anatomy")
    prepared = tasks.prepare_task("mmlu_anatomy")
    assert prepared.task.role == "probe"
    assert set(prepared.files) == {"test", "fewshot"}
    assert tasks.read_split(prepared, "fewshot") == hub_copies.rows("mmlu_anatomy")["dev"]
    assert (prepared.config["test_split"], prepared.config["fewshot_split"]) == ("test", "fewshot")
    assert prepared.task.chance == 0.25


def test_a_loglikelihood_task_is_a_probe(mirror):
    hub_copies.copy_of(mirror, "lambada_openai")
    task = tasks.prepare_task("lambada_openai").task
    assert (task.kind, task.role, task.chance) == ("loglikelihood", "probe", None)


def test_a_task_scored_on_its_training_split_is_a_probe(own_yaml, mirror):
    """As lm-eval's gpqa: to train on it would be to train on the test items."""
    own_yaml(training_split="train", validation_split="train", test_split=None)
    hub_copies.copy(mirror, "org/name", "default", {"train": [{"q": f"{i}?", "a": i % 2} for i in range(20)]})
    prepared = tasks.prepare_task("mine")
    assert (prepared.task.role, prepared.task.splits) == ("probe", {"test": 20})
    assert len(ours(prepared)) == 40


def test_the_configuration_names_no_data_set(mirror):
    hub_copies.copy_of(mirror, "winogrande")
    config = tasks.prepare_task("winogrande").config
    assert not {"dataset_path", "dataset_name", "dataset_kwargs", "include"} & set(config)
    assert callable(config["doc_to_choice"])
    assert {key: value for key, value in config.items() if key.endswith("_split")} == {
        "training_split": "train", "validation_split": "validation", "test_split": "test", "fewshot_split": "fewshot",
    }  # fmt: skip


# -- identity ---------------------------------------------------------------------------------------------------------


def test_later_calls_only_read(mirror, monkeypatch):
    hub_copies.copy_of(mirror, "gsm8k")
    first = tasks.prepare_task("gsm8k")
    monkeypatch.setattr(hub_data, "load", lambda *_: pytest.fail("loaded again"))
    again = tasks.prepare_task("gsm8k")
    assert (again.digest, again.files, again.task) == (first.digest, first.files, first.task)


def test_the_digest_is_of_rows_configuration_and_functions(own_yaml, mirror):
    data = {"test": [{"q": f"{i}?", "a": i % 2} for i in range(8)]}
    hub_copies.copy(mirror, "org/name", "default", data)
    helper = own_yaml().parent / "utils.py"
    helper.write_text("def docs(d):\n    return d\n")
    seen = []
    for text, version in (("", 1), ("process_docs: !function utils.docs\n", 1), ("", 2)):
        own_yaml(text, metadata={"version": version})
        seen.append(tasks.prepare_task("mine").digest)
    helper.write_text("def docs(d):\n    return d.select(range(4))\n")
    own_yaml("process_docs: !function utils.docs\n", metadata={"version": 1})
    seen.append(tasks.prepare_task("mine").digest)
    assert len(ours(tasks.prepare_task("mine"))) == 8, "the new function is used: four documents of two choices"
    data["test"][0]["q"] = "another?"
    hub_copies.copy(mirror, "org/name", "default", data)
    own_yaml(metadata={"version": 1})
    seen.append(tasks.prepare_task("mine").digest)
    assert len(set(seen)) == 5


def test_the_digest_names_no_place_of_this_machine(own_yaml, mirror):
    helper = own_yaml().parent / "utils.py"
    helper.write_text("def docs(d):\n    return d\n")
    own_yaml("process_docs: !function utils.docs\n")
    assert str(helper.parent) not in json.dumps(tasks.load_task("mine").config)


# -- refusals ---------------------------------------------------------------------------------------------------------


def test_an_unknown_name_suggests_the_nearest_of_both_lists(mirror):
    assert "did you mean 'arc_easy'" in str(refused("arc_esy"))
    assert "did you mean 'toy_recall'" in str(refused("toy_recal"))


def test_a_group_or_tag_names_its_tasks(mirror):
    error = refused("ai2_arc")
    assert "is a group of 2 tasks" in error.what
    assert "arc_challenge, arc_easy" in error.remedy
    assert "is a group of 57 tasks" in refused("mmlu").what


@pytest.mark.parametrize(
    ("change", "key", "says"),
    [
        ({"unsafe_code": True}, "unsafe_code", "runs the code"),
        ({"doc_to_image": "image"}, "doc_to_image", "pictures"),
        ({"dataset_path": None}, "custom_dataset", "makes its data in Python"),
        ({"test_split": None}, "test_split", "neither a test nor a validation split"),
        ({"class": "Mine"}, "class", "defined in Python"),
        ({"metric_list": [{"metric": "bertscoree"}]}, "metric_list", "'bertscoree'"),
        ({"metric_list": [{"metric": "exact_match", "hf_evaluate": True}]}, "metric_list", "'exact_match'"),
        ({"dataset_path": "csv", "dataset_kwargs": {"data_files": {"test": "/x.csv"}}}, "dataset_kwargs", "outside"),
    ],
)
def test_what_cannot_be_used_is_refused_by_key(own_yaml, change, key, says):
    file = own_yaml(**change)
    error = refused("mine")
    assert error.where == f"{file}:{key}"
    assert says in error.what
    assert "'mine'" in error.what


def test_an_unregistered_metric_is_fine_where_the_task_scores(own_yaml):
    own_yaml(metric_list=[{"metric": "mine_too"}], process_results="{{a}}")
    assert tasks.load_task("mine").kind == "multiple_choice"


def test_a_function_that_cannot_be_imported_is_named(own_yaml, mirror):
    hub_copies.copy(mirror, "org/name", "default", {"test": [{"q": "a?", "a": 0}]})
    file = own_yaml()
    (file.parent / "utils.py").write_text("import no_such_module\n")
    own_yaml("process_docs: !function utils.docs\n")
    assert "no_such_module" in refused("mine").what


@pytest.mark.parametrize(
    ("code", "says"),
    [
        ("1 / 0\n", "ZeroDivisionError"),
        ("import sys\nsys.exit(3)\n", "SystemExit"),
        ("raise LookupError('no corpus')\n", "no corpus"),
        ("x = (\n", "SyntaxError"),
        ("def other(d):\n    return d\n", "has no function 'docs'"),
    ],
)
def test_functions_that_fail_to_import_are_one_message(own_yaml, mirror, code, says):
    hub_copies.copy(mirror, "org/name", "default", {"test": [{"q": "a?", "a": 0}]})
    (own_yaml().parent / "utils.py").write_text(code)
    file = own_yaml("process_docs: !function utils.docs\n")
    error = refused("mine")
    assert says in error.what
    assert error.where == str(file)


@pytest.mark.parametrize(
    "code", ["def docs(d):\n    return d[0]['nothing']\n", "def docs(d):\n    return None\n", "docs = 7\n"]
)
def test_a_task_that_can_not_be_made_is_named(own_yaml, mirror, code):
    from harness.scoring.lm_eval_task import TaskData
    from harness.scoring.suite import Suite

    hub_copies.copy(mirror, "org/name", "default", {"test": [{"q": "a?", "a": 0}]})
    (own_yaml().parent / "utils.py").write_text(code)
    own_yaml("process_docs: !function utils.docs\n")
    prepared = tasks.prepare_task("mine")
    data = TaskData("mine", prepared.config, {"test": tasks.read_split(prepared, "test")}, None, False)
    with pytest.raises(InputError) as caught:
        Suite([data], split="test", items={})
    assert caught.value.where == "task 'mine'"
    assert caught.value.remedy


@pytest.mark.parametrize("content", [
    None, "", "task: [", "- a list", "task: mine\ninclude: mine.yaml", "task: mine\ninclude: nothing.yaml",
    "task: mine\ndataset_path: a/b\ntest_split: test\nmetric_list: [acc]",
    "task: mine\ndataset_path: a/b\ntest_split: test\nmetric_list: [{aggregation: mean}]",
    "task: mine\ndataset_path: a/b\ntest_split: test\ndataset_kwargs: text",
    "task: mine\ndataset_path: json\ntest_split: test\ndataset_kwargs: {data_files: [a]}", "[" * 5000,
])  # fmt: skip
def test_a_yaml_of_lm_evals_that_is_damaged_is_one_message(own_yaml, content):
    file = own_yaml()
    file.unlink()
    if content is not None:
        file.write_text(content)
    error = refused("mine")
    assert error.where.startswith(str(file))
    assert len(str(error)) < 5000


def test_a_split_that_is_missing_or_empty_is_named(own_yaml, mirror):
    own_yaml()
    hub_copies.copy(mirror, "org/name", "default", {"train": [{"q": "a?", "a": 0}]})
    error = refused("mine")
    assert "org/name has no rows in a split 'test'" in error.what
    assert "train" in error.remedy
    assert not cache.cache_folder(tasks.load_task("mine")).exists()


def test_rows_that_are_no_plain_json_are_refused(own_yaml, mirror):
    own_yaml()
    folder = mirror / "org/name"
    folder.mkdir(parents=True)
    data = datasets.Dataset.from_list([{"q": "a?", "a": 0, "raw": b"\x00"}])
    data.to_parquet(str(folder / "test.parquet"))
    assert "raw: bytes" in refused("mine").what
    features = datasets.Features({"q": datasets.Value("string"), "picture": datasets.Image()})
    picture = datasets.Dataset.from_dict({"q": ["a?"], "picture": [None]}, features=features)
    picture.to_parquet(str(folder / "test.parquet"))
    assert "picture hold pictures" in refused("mine").what


def test_single_files_of_the_hub_are_read_from_the_mirror(own_yaml, mirror):
    """As lm-eval's arithmetic tasks name their data."""
    url = "hf://datasets/org/name/data/rows.jsonl"
    own_yaml(dataset_path="json", test_split="validation", dataset_kwargs={"data_files": {"validation": url}})
    (mirror / "org/name/data").mkdir(parents=True)
    (mirror / "org/name/data/rows.jsonl").write_text('{"q": "a?", "a": 1}\n')
    (mirror / "org/name/other.jsonl").write_text('{"q": "b?", "a": 1}\n')
    assert tasks.read_split(tasks.prepare_task("mine"), "test") == [{"q": "a?", "a": 1}]


# -- the index --------------------------------------------------------------------------------------------------------


def test_the_index_is_read_once_it_is_there(mirror, monkeypatch):
    monkeypatch.setattr(lm_eval_index, "write_index", lambda *_: pytest.fail("built again"))
    entry = lm_eval_index.index()["arc_easy"]
    assert entry == {
        "kind": "task", "yaml": "arc/arc_easy.yaml", "output_type": "multiple_choice",
        "dataset_path": "allenai/ai2_arc", "training_split": True, "members": [],
    }  # fmt: skip


@pytest.mark.parametrize("content", [
    b"", b"{", b"[]", b"{}", b"\xff", b"[" * 100_000, b'{"arc_easy": null}', b'{"arc_easy": {"kind": "task"}}', None,
])  # fmt: skip
def test_a_damaged_index_is_made_anew(mirror, monkeypatch, content):
    whole = lm_eval_index.write_index(["arc"])
    file = lm_eval_index.index_file()
    file.unlink()
    if content is None:
        (file / "x").mkdir(parents=True)
    else:
        file.write_bytes(content)
    lm_eval_index._read.cache_clear()
    make = lm_eval_index.write_index
    monkeypatch.setattr(lm_eval_index, "write_index", lambda: make(["arc"]))
    assert lm_eval_index.index() == whole
    assert file.is_file()


def test_the_projects_tasks_need_no_index(mirror, monkeypatch):
    monkeypatch.setattr(lm_eval_index, "index", lambda: pytest.fail("the index was read"))
    assert tasks.prepare_task("toy_recall").shuffled
    assert tasks.task_ready("toy_recall")


@pytest.mark.slow
def test_the_whole_index(tmp_path, monkeypatch):
    """Every name of lm-eval's is a task that loads or is refused with a reason; a sample is loaded."""
    monkeypatch.setenv("LORABENCH_CACHE", str(tmp_path))
    entries = lm_eval_index.index()
    assert len(entries) > 10_000
    assert {entry["kind"] for entry in entries.values()} == {"task", "group", "tag", "python"}
    assert len(lm_eval_index.tasks_of("mmlu")) == 57
    loaded = 0
    for name in list(entries)[::20]:
        with contextlib.suppress(InputError):
            loaded += bool(tasks.load_task(name).hub)
    assert loaded > 500
