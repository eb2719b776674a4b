"""Study files: every mistake is named with ``file:key``, before anything runs."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from harness.errors import InputError
from harness.study.config import build_study, check_name, find_study, load_study

STUDIES = Path(__file__).parents[2] / "tasks" / "studies"
LM_EVAL = ("hellaswag", "arc_challenge", "winogrande", "piqa")  # probes by lm-eval's own names
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
    assert study.curve == (0, 512)
    assert load_study(write(tmp_path, GOOD), overrides={"model": "n"}).model == "n"


@pytest.mark.parametrize("path", sorted(STUDIES.glob("*.yaml")), ids=lambda path: path.stem)
def test_every_study_that_comes_along_loads_and_expands(path):
    from harness.methods import methods
    from harness.study.plan import expand_arms

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
    with pytest.raises(InputError, match="not valid YAML"):
        load_study(path)
    with pytest.raises(InputError, match="cannot read"):
        load_study(tmp_path / "none.yaml")


def test_a_study_is_found_by_name_or_by_path(tmp_path):
    path = write(tmp_path, GOOD)
    assert find_study("mine", tmp_path) == path
    assert find_study(str(path), tmp_path / "elsewhere") == path
    with pytest.raises(InputError, match="did you mean 'mine'"):
        find_study("mime", tmp_path)
    with pytest.raises(InputError, match="no such study file"):
        find_study("none.yaml", tmp_path)


def test_a_study_does_not_change():
    study = build_study(GOOD | {"methods": {"lora": {}}}, where="x")
    with pytest.raises(ValueError, match="frozen"):
        study.model = "other"
