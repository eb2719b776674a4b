"""Study files: every mistake is named with ``file:key``, before anything runs."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml
from places import STUDIES

from harness.errors import InputError
from harness.study.config import check_name
from harness.study.load import build_study, find_study, load_study

#: lm-eval's own, by their names.
LM_EVAL = ("hellaswag", "arc_challenge", "arc_easy", "openbookqa", "winogrande", "piqa")
GOOD = {"model": "m", "seeds": [0], "streams": {"one": ["a", "b"]}, "methods": {"lora": None}}


def write(tmp_path: Path, data: object, name: str = "mine") -> Path:
    path = tmp_path / f"{name}.yaml"
    path.write_text(data if isinstance(data, str) else yaml.safe_dump(data))
    return path


def error_of(tmp_path: Path, data: object, name: str = "mine") -> InputError:
    with pytest.raises(InputError) as error:
        load_study(write(tmp_path, data, name))
    assert error.value.where.startswith(str(tmp_path / name))
    return error.value


def test_a_good_study(tmp_path):
    study = load_study(write(tmp_path, GOOD))
    assert study.name == "mine"
    assert study.methods == {"lora": {}}
    assert study.tasks == ("a", "b")
    assert study.steps_per_task == 64
    assert study.curve(512) == (0, 512)
    assert load_study(write(tmp_path, GOOD), overrides={"model": "n"}).model == "n"


@pytest.mark.parametrize("path", sorted(STUDIES.glob("*.yaml")), ids=lambda path: path.stem)
def test_every_study_that_comes_along_loads_and_expands(path):
    from harness.method.registry import methods
    from harness.study.arms import expand_arms

    study = load_study(path)
    assert study.name == path.stem
    assert study.title
    assert expand_arms(study, methods(), str(path))
    for task in (*study.tasks, *study.probes):
        assert (STUDIES.parent / task).is_dir() or task in LM_EVAL, task


@pytest.mark.parametrize(("extra", "key", "near"), [
    ({"modell": "m"}, "modell", "model"),
    ({"stream": {}}, "stream", "streams"),
    ({"training": {"exmples": 8}}, "training.exmples", "examples"),
    ({"scoring": {"itms": 8}}, "scoring.itms", "items"),
    ({"adapter": {"rnk": 8}}, "adapter.rnk", "rank"),
])  # fmt: skip
def test_an_unknown_key_is_named_with_the_nearest_one(tmp_path, extra, key, near):
    error = error_of(tmp_path, GOOD | extra)
    assert error.where == f"{tmp_path / 'mine.yaml'}:{key}"
    assert f"did you mean '{near}'?" in error.remedy
    assert error.exit_status == 2


def test_an_unknown_key_like_no_other(tmp_path):
    error = error_of(tmp_path, GOOD | {"zzzz": 1})
    assert "did you mean" not in error.remedy
    assert "known keys: " in error.remedy


@pytest.mark.parametrize(("change", "key"), [
    ({"model": 5}, "model"),
    ({"model": None}, "model"),
    ({"seeds": "zero"}, "seeds"),
    ({"seeds": []}, "seeds"),
    ({"seeds": [1, 1]}, "seeds"),
    ({"seeds": [0.5]}, "seeds.0"),
    ({"streams": ["a"]}, "streams"),
    ({"streams": {}}, "streams"),
    ({"streams": {"one": []}}, "streams"),
    ({"streams": {"one": "a"}}, "streams.one"),
    ({"methods": ["lora"]}, "methods"),
    ({"methods": {}}, "methods"),
    ({"methods": {"lora": 5}}, "methods.lora"),
    ({"dtype": "float16"}, "dtype"),
    ({"device": "tpu"}, "device"),
    ({"threads": 0}, "threads"),
    ({"tuning": {"settings": 1}}, "tuning.settings"),
    ({"tuning": {"seeds": []}}, "tuning.seeds"),
    ({"tuning": {"grids": {"lora": {"learning_rate": []}}}}, "tuning.grids.lora.learning_rate"),
    ({"training": 5}, "training"),
    ({"training": {"examples": "many"}}, "training.examples"),
    ({"training": {"clip": 0}}, "training.clip"),
    ({"training": {"clip": float("nan")}}, "training.clip"),
    ({"training": {"weight_decay": float("inf")}}, "training.weight_decay"),
    ({"training": {"between_tasks": "merge"}}, "training.between_tasks"),
    ({"scoring": {"split": "train"}}, "scoring.split"),
    ({"scoring": {"curve": [32, 16]}}, "scoring.curve"),
    ({"scoring": {"curve": [16, 16]}}, "scoring.curve"),
    ({"adapter": {"rank": 0}}, "adapter.rank"),
    ({"keep_adapters": "some"}, "keep_adapters"),
])  # fmt: skip
def test_a_wrong_value_names_its_key(tmp_path, change, key):
    error = error_of(tmp_path, GOOD | change)
    # ``pack`` and the like are unions, whose keys pydantic makes longer; none of them is here.
    assert error.where == f"{tmp_path / 'mine.yaml'}:{key}"


WRONG_NUMBERS = [
    ({"seeds": [True]}, "seeds.0"), ({"seeds": [1.0]}, "seeds.0"), ({"seeds": [-1]}, "seeds.0"),
    ({"seeds": ["1"]}, "seeds.0"), ({"seeds": [2**53]}, "seeds.0"), ({"seeds": [16**9000]}, "seeds.0"),
    ({"root_seed": -1}, "root_seed"), ({"root_seed": 1e3}, "root_seed"), ({"threads": 1_000_000}, "threads"),
    ({"threads": "2"}, "threads"), ({"pack": 0}, "pack"), ({"pack": 10**9}, "pack"), ({"pack": "many"}, "pack"),
    ({"pack": True}, "pack"), ({"adapter": {"rank": 10**9}}, "adapter.rank"),
    ({"adapter": {"rank": 8.0}}, "adapter.rank"),
    ({"adapter": {"alpha": True}}, "adapter.alpha"), ({"adapter": {"alpha": float("inf")}}, "adapter.alpha"),
    ({"adapter": {"alpha": 10**400}}, "adapter.alpha"), ({"training": {"examples": 10**12}}, "training.examples"),
    ({"training": {"batch": "8"}}, "training.batch"), ({"training": {"warmup_steps": 10**12}}, "training.warmup_steps"),
    ({"training": {"max_length": 10**12}}, "training.max_length"), ({"training": {"clip": True}}, "training.clip"),
    ({"training": {"pass_tokens": 10**12}}, "training.pass_tokens"), ({"scoring": {"items": 10**12}}, "scoring.items"),
    ({"scoring": {"items": True}}, "scoring.items"), ({"scoring": {"probe_items": 0}}, "scoring.probe_items"),
    ({"probes": ["p"], "scoring": {"probe_items": {"p": 10**12}}}, "scoring.probe_items"),
    ({"scoring": {"batch_tokens": 10**12}}, "scoring.batch_tokens"),
    ({"scoring": {"max_length": 10**12}}, "scoring.max_length"),
    ({"scoring": {"num_fewshot": 10**9}}, "scoring.num_fewshot"),
    ({"scoring": {"num_fewshot": {"a": "5"}}}, "scoring.num_fewshot"),
    ({"scoring": {"curve": [-8]}}, "scoring.curve.0"),
    ({"training": {"examples": 80_000}, "scoring": {"curve": list(range(0, 80_000, 8))}}, "scoring.curve"),
    ({"tuning": {"settings": 10**9}}, "tuning.settings"), ({"tuning": {"seeds": [-5]}}, "tuning.seeds.0"),
]  # fmt: skip


@pytest.mark.parametrize(("change", "key"), WRONG_NUMBERS)
def test_a_number_is_written_as_one_and_within_its_limit(change, key):
    with pytest.raises(InputError) as error:
        build_study(GOOD | change, where="s.yaml")
    assert error.value.where == f"s.yaml:{key}"
    assert len(str(error.value)) < 1000


def test_a_limit_says_what_it_is_and_why(tmp_path):
    error = error_of(tmp_path, GOOD | {"threads": 1_000_000})
    assert error.what == "must be a whole number from 1 to 1,024: no machine has more cores (got 1000000)"


def test_a_rate_as_yaml_reads_it_is_a_number(tmp_path):
    """YAML 1.1, which is Python's, takes 1e-3 for text."""
    path = write(tmp_path, "model: m\nseeds: [0]\nstreams: {one: [a]}\nmethods: {lora: }\ntraining: {clip: 1e-3}\n")
    assert load_study(path).training.clip == 0.001


@pytest.mark.parametrize(("text", "key", "what"), [
    ("streams: {one: !!set {a, b}}", "streams.one", "not a set"),
    ("title: !!binary aGVsbG8=", "title", "not a bytes"),
    ("title: 2026-01-01", "title", "in quotes"),
    ('title: "\\ud83d"', "title", "half a character"),
    ('methods: {lora: {learning_rate: "\\ud83d"}}', "methods.lora.learning_rate", "half a character"),
    ('methods: {"\\ud83d": {}}', "methods", "half a character"),
])  # fmt: skip
def test_only_plain_data_is_a_study(tmp_path, text, key, what):
    data = {"model": "m", "seeds": "[0]", "streams": "{one: [a]}", "methods": "{lora: }"}
    lines = [f"{name}: {value}" for name, value in data.items() if not text.startswith(name)]
    error = error_of(tmp_path, "\n".join([*lines, text]))
    assert error.where == f"{tmp_path / 'mine.yaml'}:{key}"
    assert what in error.what


def test_an_arm_that_stands_twice_is_refused_with_its_line(tmp_path):
    """The second would win, and the first would vanish from the board."""
    text = "model: m\nseeds: [0]\nstreams: {one: [a]}\nmethods:\n  lora: {}\n  lora: {learning_rate: 0.1}\n"
    error = error_of(tmp_path, text)
    assert error.where == f"{tmp_path / 'mine.yaml'}:6"
    assert "'lora' stands here twice; the first is in line 5" in error.what
    assert error.remedy


def test_a_syntax_error_has_a_line_and_a_remedy(tmp_path):
    error = error_of(tmp_path, "model: m\nseeds: [0\n")
    assert error.where == f"{tmp_path / 'mine.yaml'}:3"
    assert error.remedy == "correct the study file"


@pytest.mark.parametrize("model", ["", "  ", "a\0b", "a\x1b[1m", "m" * 300, "a\nb"])
def test_a_model_has_a_name_that_can_be_looked_for(model):
    with pytest.raises(InputError, match="must name a model") as error:
        build_study(GOOD | {"model": model}, where="s.yaml")
    assert error.value.where == "s.yaml:model"


def test_a_file_that_is_too_large_is_not_read(tmp_path):
    path = tmp_path / "mine.yaml"
    with path.open("wb") as file:
        file.truncate(10**12)  # takes no room
    with pytest.raises(InputError, match="at most 2,000,000 bytes"):
        load_study(path)


@pytest.mark.parametrize("missing", ["model", "seeds", "streams", "methods"])
def test_a_missing_key_is_named(tmp_path, missing):
    error = error_of(tmp_path, {key: value for key, value in GOOD.items() if key != missing})
    assert error.where.endswith(f":{missing}")


@pytest.mark.parametrize(("change", "text"), [
    ({"training": {"examples": 100, "batch": 8}}, "multiple of batch"),
    ({"scoring": {"curve": [1024]}}, "asks for 1024 examples"),
    ({"scoring": {"curve": [20]}}, "20 is not a multiple of training.batch"),
    ({"probes": ["b"]}, "'b' is a probe and stands in a stream"),
    ({"streams": {"one": ["a", "b", "a"]}}, "stream 'one' names a task twice"),
])  # fmt: skip
def test_what_does_not_fit_together(tmp_path, change, text):
    assert text in error_of(tmp_path, GOOD | change).what


@pytest.mark.parametrize("name", ["reference", "perf"])
def test_a_reserved_name(tmp_path, name):
    assert "reserved" in error_of(tmp_path, GOOD, name).what


@pytest.mark.parametrize("name", ["Mine", "my study", "-x", ".x", "x" * 65, "ä", ""])
def test_a_bad_name(tmp_path, name):
    with pytest.raises(InputError, match="is not a name for a study"):
        check_name(name, "study")
    if name and not name.startswith("."):
        assert "is not a name" in error_of(tmp_path, GOOD, name).what


@pytest.mark.parametrize("name", ["x", "0", "a.b_c-d", "x" * 64])
def test_a_good_name(name):
    assert check_name(name, "study") == name


@pytest.mark.parametrize("name", ["a/b", "../up", "a\n", "..", "a\x00"])
def test_a_name_never_leaves_its_folder(name):
    with pytest.raises(InputError):
        check_name(name, "study")


@pytest.mark.parametrize("text", ["", "5", "- a", "a: [", "a: !!python/object/apply:os.getcwd []", "\x00"])
def test_not_a_study_at_all(tmp_path, text):
    error_of(tmp_path, text)


def test_not_text(tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_bytes(b"\xff\xfe\xfa")
    with pytest.raises(InputError, match="not UTF-8"):
        load_study(path)
    with pytest.raises(InputError, match="can't be read"):
        load_study(tmp_path / "none.yaml")


def test_a_study_is_found_by_name_or_by_path(tmp_path):
    path = write(tmp_path, GOOD)
    assert find_study("mine", tmp_path) == path
    assert find_study(str(path), tmp_path / "elsewhere") == path
    with pytest.raises(InputError, match="did you mean 'mine'"):
        find_study("mime", tmp_path)
    for name in ("none.yaml", f"{'x' * 5000}.yaml"):
        with pytest.raises(InputError, match="no such study file"):
            find_study(name, tmp_path)


def test_a_study_does_not_change():
    study = build_study(GOOD | {"methods": {"lora": {}}}, where="x")
    with pytest.raises(ValueError, match="frozen"):
        study.model = "other"
