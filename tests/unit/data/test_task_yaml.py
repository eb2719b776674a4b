"""A task's YAML and its ``prepare.py``: whatever is wrong there is one message with its place, never a traceback."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
import yaml

from harness.data import paths, tasks
from harness.data.tasks import cache
from harness.data.tasks.own.task_yaml import KEYS, REFUSED
from harness.errors import InputError, LorabenchError
from harness.scoring.lm_eval_task import ScoredTask, TaskData
from harness.scoring.suite import Suite

ROWS = """
def rows(source):
    for number in range(60):
        yield {"text": f"item {number}", "label": number % 2, "words": ["no", "yes"], "answer": f"[{number}]"}
"""
SOUND = """
task: foo
output_type: multiple_choice
training_split: train
validation_split: validation
test_split: test
doc_to_text: "{{text}}?"
doc_to_choice: ["no", "yes"]
doc_to_target: label
metric_list: [{metric: acc, aggregation: mean, higher_is_better: true}]
metadata: {version: 1, role: stream, licence: MIT, source: made in code, chance: 0.5,
  splits: {train: 40, validation: 10, test: 10}, split_seed: 3}
"""


@pytest.fixture
def folder(tmp_path, monkeypatch) -> Path:
    """A folder of tasks with one that is sound, and an empty cache."""
    monkeypatch.setenv("LORABENCH_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(paths, "tasks_dir", lambda: tmp_path / "tasks")
    (tmp_path / "tasks" / "foo").mkdir(parents=True)
    (tmp_path / "tasks" / "foo" / "foo.yaml").write_text(SOUND)
    (tmp_path / "tasks" / "foo" / "prepare.py").write_text(ROWS)
    return tmp_path / "tasks" / "foo"


def refused(key: str = "", file: str = "tasks/foo/foo.yaml") -> InputError:
    with pytest.raises(InputError) as caught:
        tasks.prepare_task("foo")
    assert caught.value.where == f"{file}:{key}".rstrip(":")
    assert caught.value.remedy
    assert len(str(caught.value)) < 5000
    assert not list(paths.cache_dir().glob("tasks/*/*"))
    return caught.value


def scored(prepared: tasks.PreparedTask) -> Suite:
    """The task as lm-eval makes it for a study."""
    found = {split: tasks.read_split(prepared, split) for split in prepared.files}
    return Suite([TaskData("foo", prepared.config, found, 0.5)], split="test", items={})


def judge(prepared: tasks.PreparedTask, answer: str) -> None:
    """Filter and score an answer as lm-eval's evaluation does."""
    task = scored(prepared).tasks["foo"].task
    for instance in task.instances:
        instance.resps = [answer]
    task.apply_filters()
    task.process_results(task.eval_docs[0], [answer])


# -- keys -------------------------------------------------------------------------------------------------------------


def test_every_key_of_lm_evals_is_known_or_refused_by_name():
    from lm_eval.config.task import TaskConfig

    theirs = {field.name for field in dataclasses.fields(TaskConfig)}
    assert theirs <= {*KEYS, *REFUSED}
    assert set(KEYS) <= theirs
    assert not set(KEYS) & set(REFUSED)


@pytest.mark.parametrize("key", sorted(REFUSED))
def test_what_is_not_supported_is_refused_with_its_reason(folder, key):
    with (folder / "foo.yaml").open("a") as file:
        file.write(f"{key}: other.yaml\n")
    error = refused(key)
    assert "is not supported" in error.what


@pytest.mark.parametrize(("key", "near"), [
    ("doc_to_txt", "did you mean 'doc_to_text'"), ("Description", "did you mean 'description'"),
    ("dataset", "known: "), ("zzz", "known: "), ("7", "known: "), ("true", "known: "),
])  # fmt: skip
def test_an_unknown_key_suggests_the_nearest(folder, key, near):
    (folder / "foo.yaml").write_text(f"{key}: x\n{SOUND}")
    error = refused(str(yaml.safe_load(key)))
    assert "unknown key" in error.what
    assert near in error.remedy


@pytest.mark.parametrize(
    ("line", "key", "says"),
    [
        ("doc_to_choice: [no, yes]", "doc_to_choice.0", "in quotes"),
        ("doc_to_choice: ['no', 1]", "doc_to_choice.1", "in quotes"),
        ("doc_to_choice: {a: b}", "doc_to_choice", "a text or a list"),
        ("doc_to_choice: nothing", "doc_to_choice", "no list of choices"),
        ("doc_to_choice: text", "doc_to_choice", "no list of choices"),
        ("doc_to_choice: \"{{'[' * 9999}}\"", "doc_to_choice", "no list of choices"),
        ("doc_to_choice: \"['no', ['yes']]\"", "doc_to_choice", "two different"),
        ("doc_to_text: [a]", "doc_to_text", "not a text"),
        ("doc_to_text: label", "doc_to_text", "0 is no text"),
        ("doc_to_text: '{{answer[1:-1]}}'", "doc_to_text", "the number of a choice"),
        ("doc_to_text: '{{text / 0}}'", "doc_to_text", "unsupported operand"),
        ("doc_to_text: '{{1 / 0}}'", "doc_to_text", "division by zero"),
        ("doc_to_text: '{{'", "doc_to_text", "can't be rendered"),
        ("doc_to_text: '{% for x in y %}'", "doc_to_text", "can't be rendered"),
        ("doc_to_text: '{{text.a.b}}'", "doc_to_text", "can't be rendered"),
        ("doc_to_text: null", "doc_to_text", "is missing"),
        ("doc_to_target: '²'", "doc_to_target", "must be an index"),
        ("doc_to_target: '" + "7" * 5000 + "'", "doc_to_target", "must be an index"),
        ("doc_to_target: 1.5", "doc_to_target", "a text or a whole number"),
        ("doc_to_target: words", "doc_to_target", "must be an index"),
        ("num_fewshot: many", "num_fewshot", "a whole number"),
        ("num_fewshot: true", "num_fewshot", "a whole number"),
        ("target_delimiter: 7", "target_delimiter", "a text"),
        ("fewshot_split: dev", "fewshot_split", "none of the splits"),
        ("fewshot_config: first_n", "fewshot_config", "a mapping"),
        ("generation_kwargs: [until]", "generation_kwargs", "a mapping"),
        ("generation_kwargs: {max_gen_tok: 8}", "generation_kwargs.max_gen_tok", "did you mean 'max_gen_toks'"),
        ("generation_kwargs: {max_gen_toks: -1}", "generation_kwargs.max_gen_toks", "a number of tokens"),
        ("generation_kwargs: {max_gen_toks: abc}", "generation_kwargs.max_gen_toks", "a number of tokens"),
        ("generation_kwargs: {until: 5}", "generation_kwargs.until", "in quotes"),
        ("generation_kwargs: {until: ['']}", "generation_kwargs.until", "not empty"),
        ("num_fewshot: -1", "num_fewshot", "at least 0"),
        ("repeats: 0", "repeats", "at least 1"),
        ("generation_kwargs: {until: 2026-01-01}", "generation_kwargs", "more than JSON"),
        ("generation_kwargs: {until: !!set {a}}", "generation_kwargs", "more than JSON"),
        ("generation_kwargs: {until: !!binary aGk=}", "generation_kwargs", "more than JSON"),
        ("generation_kwargs: {1: a, b: c}", "generation_kwargs", "more than JSON"),
        ("filter_list: &a [{name: x, filter: [{function: take_first, more: *a}]}]", "26", "stands within what it"),
        ("description: \"\\ud83d\"", "description", "more than JSON"),
        ("filter_list: take_first", "filter_list", "a list"),
        ("filter_list: []", "filter_list", "is empty"),
        ("filter_list: [{name: x, filter: []}]", "filter_list.0.filter", "is empty"),
        ("filter_list: [take_first]", "filter_list.0", "not a mapping"),
        ("filter_list: [{name: x}]", "filter_list.0", "lacks filter"),
        ("filter_list: [{name: x, filter: take_first}]", "filter_list.0.filter", "a list"),
        ("filter_list: [{name: x, filter: [take_first]}]", "filter_list.0.filter", "- function: NAME"),
        ("metric_list: acc", "metric_list", "a list"),
        ("metric_list: [acc]", "metric_list.0", "not a mapping"),
        ("metric_list: []", "metric_list.0", "lacks metric, aggregation, higher_is_better"),
        ("metric_list: [{metric: acc, aggregation: mean, higher_is_better: 'yes'}]", "metric_list.0.higher_is_better",
         "true or false"),
        ("metadata: [version]", "metadata", "a mapping"),
        ("metadata: {}", "metadata.version", "required"),
        ("test_split: [test]", "test_split", "a text"),
        ("output_type: [multiple_choice]", "output_type", "a text"),
        ("task: bar", "task", "the folder's name"),
        ("tag: 7", "tag", "a text or a list"),
    ],
)  # fmt: skip
def test_a_value_that_can_not_be_used_is_refused_by_its_key(folder, line, key, says):
    name = line.partition(":")[0]
    kept = [row for row in yaml.safe_load(SOUND).items() if row[0] != name]
    (folder / "foo.yaml").write_text(yaml.safe_dump(dict(kept)) + line + "\n")
    assert says in str(refused(key))


@pytest.mark.parametrize(
    ("text", "line", "says"),
    [
        (SOUND + "task: foo\n", "13", "'task' stands here twice; the first is in line 2"),
        (SOUND.replace("version: 1,", "version: 1, version: 2,"), "11", "twice"),
        (SOUND + "description: [a\n", "14", "not valid YAML"),
        (SOUND + "description: !function utils.f\n", "13", "!function tags are not supported"),
        (SOUND + "description: !!python/object/apply:os.system [ls]\n", "13", "not valid YAML"),
        (SOUND + "description: " + "[" * 5000 + "]" * 5000, "13", "nested too deeply"),
        (SOUND + "description: 2026-13-45\n", "", "can't be read"),
        (SOUND + "\x01", "", "not valid YAML"),
        ("", "", "must be a mapping"),
        ("- task: foo\n", "", "must be a mapping"),
        (SOUND + "---\ntask: foo\n", "13", "not valid YAML"),
    ],
)
def test_what_is_no_yaml_is_refused_by_its_line(folder, text, line, says):
    (folder / "foo.yaml").write_text(text)
    assert says in str(refused(line))


def test_a_yaml_that_is_no_text_or_no_file_is_refused(folder):
    (folder / "foo.yaml").write_bytes(b"\xff\xfe")
    assert "not UTF-8" in refused().what
    (folder / "foo.yaml").unlink()
    (folder / "foo.yaml").mkdir()
    assert "directory" in refused().what


@pytest.mark.parametrize(
    "more",
    [
        "repeats: 1", "doc_to_text: '{{answer[1:-1]}} '", "num_fewshot: 2\nfewshot_split: train", "tag: [a, b]",
        "task_alias: a", "gen_prefix: null", "doc_to_decontamination_query: text\nshould_decontaminate: false",
        "fewshot_config: {sampler: first_n}", "description: 'Say:\n\n  '",
    ],
)  # fmt: skip
def test_keys_that_are_supported_make_a_task_of_lm_evals(folder, more):
    (folder / "foo.yaml").write_text(yaml.safe_dump(yaml.safe_load(SOUND) | yaml.safe_load(more)))
    suite = scored(tasks.prepare_task("foo"))
    assert suite.tasks["foo"].items == 10
    assert len(suite.tasks["foo"].task.instances) == 20


@pytest.mark.parametrize(
    ("more", "says"),
    [
        ("description: '{{nothing}}'", "UndefinedError"),
        ("gen_prefix: '{{'", "TemplateSyntaxError"),
        ("fewshot_config: {sampler: nearest}", "lm-eval can't make"),
        ("fewshot_config: {shots: 3}", "TypeError"),
        ("filter_list: [{name: x, filter: [{function: nothing}]}]", "lm-eval can't make"),
    ],
)
def test_what_only_lm_eval_can_tell_names_the_task(folder, more, says):
    (folder / "foo.yaml").write_text(SOUND + more + "\n")
    prepared = tasks.prepare_task("foo")
    with pytest.raises(InputError) as caught:
        scored(prepared)
    assert caught.value.where == "task 'foo'"
    assert says in caught.value.what
    assert caught.value.remedy


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"metric_list": [{"metric": "acc", "aggregation": "meen", "higher_is_better": True}]}, "did you mean 'mean'"),
        (
            {"metric_list": [{"metric": "exact_match", "aggregation": "mean", "higher_is_better": True, "x": 1}]},
            "TypeError",
        ),
        ({"filter_list": [{"name": "x", "filter": [{"function": "regex", "regex_pattern": "("}]}]}, "unterminated"),
        ({"filter_list": [{"name": "x", "filter": [{"function": "take_first_k"}]}]}, "KeyError: 'k'"),
    ],
)
def test_what_fails_in_scoring_names_the_task(folder, change, says):
    generated = {"output_type": "generate_until", "doc_to_target": "answer", "doc_to_choice": None}
    generated["metric_list"] = [{"metric": "exact_match", "aggregation": "mean", "higher_is_better": True}]
    (folder / "foo.yaml").write_text(yaml.safe_dump(yaml.safe_load(SOUND) | generated | change))
    with pytest.raises(InputError) as caught:
        judge(tasks.prepare_task("foo"), "[1]")
    assert "foo" in caught.value.where
    assert says in str(caught.value)


def test_what_fails_in_lm_evals_evaluation_names_the_tasks(folder, monkeypatch):
    from harness.scoring import scorer

    def fail(**_: object) -> None:
        raise TypeError("unsupported operand")

    monkeypatch.setattr(scorer, "evaluate", fail)
    monkeypatch.setattr(ScoredTask, "by_document", False)
    model = SimpleNamespace(module=torch.nn.Linear(1, 1), device=torch.device("cpu"))
    asked = scorer.Scorer(model, scored(tasks.prepare_task("foo")), SimpleNamespace(broken=set()), None)
    with pytest.raises(InputError, match="unsupported operand") as caught:
        asked._judge(0, ["foo"])
    assert caught.value.where == "scoring of foo"


# -- prepare.py -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("code", "line", "says"),
    [
        ("def rows(source):\n    raise KeyError('ideal')\n", 2, "KeyError: 'ideal'"),
        ("def rows(source):\n    yield {}\n    1 / 0\n", 3, "ZeroDivisionError"),
        ("import nothing_like_this\n", 1, "nothing_like_this"),
        ("x = (\n", 1, "SyntaxError"),
        ("import sys\nsys.exit(0)\n", 2, "SystemExit"),
        ("import sys\n\ndef rows(source):\n    sys.exit('no data')\n", 4, "SystemExit: no data"),
        ("def rows(source):\n    yield {}\n    raise SystemExit\n", 3, "SystemExit"),
        ("def rows(source):\n    return rows(source)\n", 2, "RecursionError"),
        ("def rows():\n    return []\n", 1, "TypeError"),
        ("def rows(source):\n    return None\n", 1, "it gives a NoneType"),
        ("def rows(source):\n    return 'text'\n", 1, "it gives a str"),
        ("def rows(source):\n    return {'text': 1}\n", 1, "it gives a dict"),
        ("def rows(source):\n    return 7\n", 1, "it gives a int"),
        ("def rows(source):\n    yield {}\n    yield ['x']\n", 1, "document 2 is ['x']"),
        ("def rows(source):\n    yield {1: 'x'}\n", 1, "document 1 is {1: 'x'}"),
        ("def rows(source):\n    yield 'x' * 50_000_000\n", 1, "document 1 is"),
        ("def rows(source):\n    yield source.file('nothing.txt')\n", 2, "FileNotFoundError"),
        ("x = 1\n", None, "rows"),
        ("rows = 7\n", None, "not callable"),
    ],
)
def test_a_prepare_that_fails_is_named_with_its_line(folder, code, line, says):
    (folder / "prepare.py").write_text(code)
    error = refused(str(line or ""), "tasks/foo/prepare.py")
    assert says in error.what


def test_a_prepare_that_is_no_text_is_named(folder):
    (folder / "prepare.py").write_bytes(b"x = '\xff'\n")
    assert "UnicodeDecodeError" in refused("", "tasks/foo/prepare.py").what
    (folder / "prepare.py").write_bytes(b"x = 1\x00\n")
    assert "null bytes" in refused("", "tasks/foo/prepare.py").what


@pytest.mark.parametrize("value", [b"x", {1, 2}, object(), "\ud83d"])
def test_documents_that_are_no_json_are_refused(folder, value, monkeypatch):
    monkeypatch.setattr("harness.data.tasks.own.splits.documents", lambda task: [
        {"text": f"{n}?", "label": n % 2, "more": value} for n in range(60)])  # fmt: skip
    assert "more: " in refused("metadata.source").what


def test_an_error_in_another_file_names_the_importing_line(folder, tmp_path, monkeypatch):
    (tmp_path / "broken_helper.py").write_text("\n\n\n(\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    (folder / "prepare.py").write_text("import json\nimport broken_helper\n")
    assert "SyntaxError" in refused("2", "tasks/foo/prepare.py").what


def test_a_source_error_of_ours_keeps_its_place(folder):
    (folder / "prepare.py").write_text("def rows(source):\n    yield from source.jsonl('x')\n")
    assert "names no wheel" in refused("metadata.source").what


# -- what was built ---------------------------------------------------------------------------------------------------


def _edited(change) -> str:
    """The manifest's text after a change to it."""
    found = json.loads((cache.cache_folder(tasks.load_task("foo")) / "manifest.json").read_text())
    change(found)
    return json.dumps(found)


@pytest.mark.parametrize(
    "content",
    [
        "", "{", "[]", "null", "7", '"text"', "{}", "[" * 100_000, '{"files": {}}', '{"files": [], "counts": {}}', None,
        lambda found: found.update(files=None), lambda found: found.update(files=["test"]),
        lambda found: found.update(files={"test": 7}), lambda found: found["files"].update(test=None),
        lambda found: found["files"].pop("test"), lambda found: found["files"].update({"../test": "x"}),
        lambda found: found.update(counts=None), lambda found: found.update(counts={}),
        lambda found: found["counts"].update(test=9), lambda found: found["counts"].update(test="10"),
        lambda found: found["counts"].update(more=1), lambda found: found.update(digest="0" * 64),
        lambda found: found.update(digest=None), lambda found: found.pop("digest"),
    ],
)  # fmt: skip
def test_a_damaged_manifest_is_built_anew(folder, content):
    whole = tasks.prepare_task("foo")
    manifest = cache.cache_folder(whole.task) / "manifest.json"
    if content is None:
        manifest.unlink()
        manifest.mkdir()
    else:
        manifest.write_text(content if isinstance(content, str) else _edited(content))
    assert not tasks.task_ready("foo")
    assert tasks.prepare_task("foo") == whole
    assert tasks.task_ready("foo")


@pytest.mark.parametrize("damage", ["cut", "garbage", "more", "gone", "folder", "a file for the folder", "a link"])
def test_a_damaged_split_is_built_anew(folder, damage):
    whole = tasks.prepare_task("foo")
    file = whole.files["test"]
    content = file.read_bytes()
    if damage in ("cut", "garbage", "more"):
        file.write_bytes({"cut": content[:-9], "garbage": b"\x00" + content[1:], "more": content * 2}[damage])
    elif damage == "a file for the folder":
        target = file.parent.rename(file.parent.with_suffix(".old"))
        target.with_suffix("").write_text("")
    elif damage == "a link":
        target = file.parent.rename(file.parent.with_suffix(".old"))
        target.with_suffix("").symlink_to(target / "nowhere")
    else:
        file.unlink()
        if damage == "folder":
            (file / "x").mkdir(parents=True)
    assert not tasks.task_ready("foo")
    assert tasks.prepare_task("foo").files["test"].read_bytes() == content


@pytest.mark.parametrize("content", [b"\xff", b"{", b"[" * 100_000, None])
def test_a_split_that_is_damaged_after_the_check_is_one_message(folder, content):
    prepared = tasks.prepare_task("foo")
    file = prepared.files["test"]
    file.unlink()
    if content is not None:
        file.write_bytes(content)
    with pytest.raises(LorabenchError) as caught:
        tasks.read_split(prepared, "test")
    assert caught.value.where == str(file)
    assert caught.value.remedy
