"""``lorabench new study``: a file that plans as it is, and every key of which may be taken as it stands."""

from __future__ import annotations

import re

import pytest
import yaml
from places import ROOT

from harness.cli import documentation, new_study
from harness.errors import InputError
from harness.study.config import Study
from harness.study.load import load_study

TOY = {"model": "tiny-random-llama", "tasks": ("toy_recall", "toy_digits"), "probes": (), "arms": ("frozen", "lora")}


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_it_is_a_study(here):
    study = load_study(new_study.new_study("mine", **TOY))
    assert (study.name, study.model, list(study.methods)) == ("mine", "tiny-random-llama", ["frozen", "lora"])
    assert study.streams == {"order1": ("toy_recall", "toy_digits"), "order2": ("toy_digits", "toy_recall")}
    plain = Study(name="mine", **{key: getattr(study, key) for key in ("model", "seeds", "streams", "methods")})
    assert {name for name in Study.model_fields if getattr(study, name) != getattr(plain, name)} == {
        "title", "training", "scoring",
    }  # fmt: skip


def test_its_comments_are_keys_with_their_defaults(here):
    text = new_study.new_study("mine", **TOY).read_text()
    lines = [line for line in text.splitlines()[3:] if not line.lstrip().startswith("# For")]
    awake = "\n".join(re.sub(r"^(\s*)# ?", r"\1", line, count=1) for line in lines)
    data = yaml.safe_load(awake)
    assert set(data) == set(Study.model_fields) - {"name"}
    mine, taken = load_study(here / "mine.yaml"), Study.model_validate({**data, "name": "mine"})
    assert taken == mine


def test_of_one_task_there_is_one_order(here):
    study = load_study(new_study.new_study("one.yaml", **TOY | {"tasks": ("toy_recall",)}))
    assert (study.name, study.streams) == ("one", {"order1": ("toy_recall",)})


@pytest.mark.parametrize(
    ("name", "change", "said"),
    [
        ("Bad Name", {}, "not a name for a study"),
        ("mine", {"arms": ("lora", "stabel_lora")}, "unknown method 'stabel_lora'"),
        ("mine", {"probes": ("toy_recall",)}, "is a probe and stands in a stream"),
        ("mine", {"model": " "}, "must name a model"),
    ],
)
def test_what_is_no_study_leaves_no_file(here, name, change, said):
    with pytest.raises(InputError, match=said):
        new_study.new_study(name, **TOY | change)
    assert list(here.iterdir()) == []


def test_a_file_that_is_there_stays(here):
    (here / "mine.yaml").write_text("mine")
    with pytest.raises(InputError, match="such a file already"):
        new_study.new_study("mine", **TOY)
    assert (here / "mine.yaml").read_text() == "mine"


def test_names_that_yaml_reads_otherwise_are_quoted(here):
    text = new_study.study_text({"model": "on", "streams": {"a": ["1", "x"]}, "methods": {}, "seeds": [0]}, here / "x")
    data = yaml.safe_load(text)
    assert (data["model"], data["streams"]) == ("on", {"a": ["1", "x"]})


def test_inside_the_clone_an_editor_finds_the_schema():
    assert new_study._hint(ROOT / "tasks" / "studies" / "x.yaml").endswith("$schema=../../docs/study.schema.json")
    assert "lorabench studies --schema" in new_study._hint(ROOT.parent / "x.yaml")


def test_the_verb_writes_it_and_prints_the_schema(here, in_process):
    status, out, _ = in_process("new", "study", "mine", "--model", "tiny-random-llama", "--tasks", "toy_recall")
    assert status == 0
    assert "lorabench plan mine.yaml" in out
    assert load_study(here / "mine.yaml").probes == ()
    assert in_process("studies", "--schema")[1] == documentation.schema_text()


@pytest.mark.parametrize("page", [documentation.STUDY_PAGE, documentation.METHODS_PAGE], ids=str)
def test_pages_are_what_the_settings_make(page):
    text = (ROOT / page).read_text(encoding="utf-8")
    assert text == documentation.documented(text), "run: python -m harness.cli.documentation"
    assert text.count("<!-- end -->") == {"study.md": 1, "methods.md": 2}[page.name]


def test_the_committed_schema_is_what_is_printed():
    text = (ROOT / documentation.SCHEMA).read_text(encoding="utf-8")
    assert text == documentation.schema_text(), "run: python -m harness.cli.documentation"
