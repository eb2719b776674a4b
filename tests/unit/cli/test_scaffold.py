"""``lorabench new``: what it writes works, and what it can't write is refused; plug-in folders are found."""

from __future__ import annotations

import ast
import json
import sys
from pathlib import Path

import pytest

import baselines
from harness import checks as contract
from harness.cli import scaffold
from harness.data import paths, tasks
from harness.data.new_task import Columns
from harness.errors import InputError
from harness.method import registry


@pytest.fixture
def own(tmp_path, monkeypatch) -> Path:
    """A plug-in folder, known to this process for the length of a test."""
    folder = tmp_path / "own"
    (folder / "methods").mkdir(parents=True)
    monkeypatch.setenv("LORABENCH_PLUGINS", str(folder))
    monkeypatch.setenv("LORABENCH_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(baselines, "__path__", [*baselines.__path__, str(folder / "methods")])
    before = set(sys.modules)
    yield folder
    for name in set(sys.modules) - before:
        if name.startswith("baselines."):
            del sys.modules[name]


def all_methods() -> dict:
    return registry.methods.__wrapped__()


def refused(call, *arguments) -> InputError:
    with pytest.raises(InputError) as error:
        call(*arguments)
    assert error.value.remedy
    return error.value


# -- methods ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["my_method", "tensor", "update", "a1_2b"])
def test_a_new_method_is_listed_and_keeps_the_contract(own, name):
    file = scaffold.new_method(name)
    assert file == own / "methods" / f"{name}.py"
    lines = [line for line in file.read_text().splitlines() if line.strip()]
    assert len(lines) <= 42
    found = all_methods()
    assert found[name].name == name
    assert list(contract.check(name, found)) == list(contract.RULES)
    assert "learning_rate" in found[name].settings.grid(64), "it can be tuned as it is"


def test_two_new_methods_share_no_names(own):
    for name in ("one", "other"):
        scaffold.new_method(name)
    found = all_methods()
    for name in ("one", "other"):
        assert "its parts have names of their own" in list(contract.check(name, found))


@pytest.mark.parametrize("name", ["", "My", "my-method", "1st", "class", "a" * 65, "a.b", "../up", "ä", "a b"])
def test_a_bad_name_is_refused(own, name):
    assert "is not a name for a method" in refused(scaffold.new_method, name).what
    assert list((own / "methods").iterdir()) == []


def test_a_bad_name_has_a_near_one(own):
    assert "'my_method'" in str(refused(scaffold.new_method, "My-Method").remedy)


@pytest.mark.parametrize("name", ["lora", "frozen"])
def test_a_taken_name_is_refused(own, name):
    assert f"there is a method named '{name}'" in refused(scaffold.new_method, name).what


def test_a_file_that_is_there_stays(own):
    file = own / "methods" / "mine.py"
    file.write_text("# notes, no method\n")
    assert refused(scaffold.new_method, "mine").where == str(file)
    assert file.read_text() == "# notes, no method\n"


def test_a_clone_is_where_methods_go_without_a_folder(own, monkeypatch):
    monkeypatch.delenv("LORABENCH_PLUGINS")
    assert scaffold._place("method", "baselines", "methods") == Path(baselines.__file__).parent
    monkeypatch.setattr("harness.data.paths.packaged", lambda: True)
    assert "--plugins DIR" in str(refused(scaffold.new_method, "mine").remedy)


@pytest.mark.parametrize(("text", "line", "what"), [
    ("import nothing_like_this\n", 1, "No module named 'nothing_like_this'"),
    ("x = 1\ny = (\n", 2, "SyntaxError"),
    ("x = 1\ny = 1 / 0\n", 2, "division by zero"),
    ("METHOD = 5\n", None, "METHOD is a int, not a Method"),
    ("from harness.method.recipe import Method\nMETHOD = Method('lora', 's', 's', print)\n", None,
     "two methods named 'lora'"),
    ("from harness.method.recipe import Method\nMETHOD = Method('mine', 's', 's', lambda s: 5)\n", None,
     "compose of 'mine' gives a int, not a Recipe"),
    ("from harness.method.recipe import Method\nMETHOD = Method('mine', 's', 's', lambda s: s.shrink)\n", None,
     "'mine' can't be composed from its defaults"),
])  # fmt: skip
def test_a_plug_in_that_is_no_method_is_refused_by_file(own, text, line, what):
    file = own / "methods" / "zz_mine.py"
    file.write_text(text)
    error = refused(all_methods)
    assert what in error.what
    assert error.where == (f"{file}:{line}" if line else str(file))


def test_two_modules_of_one_name_are_refused(own):
    (own / "methods" / "lora.py").write_text("")
    assert "two modules of this name" in refused(all_methods).what


# -- tasks ------------------------------------------------------------------------------------------------------------


def write(folder: Path, rows: list) -> Path:
    file = folder / "rows.jsonl"
    file.write_text("".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows))
    return file


def classified(count: int = 80, **more) -> list[dict]:
    return [{"question": f"is {n} odd?", "answer": ("no", "yes")[n % 2]} | more for n in range(count)]


def make(own: Path, rows: list, name: str = "mine", columns: Columns = Columns()):  # noqa: B008
    return scaffold.new_task(name, write(own.parent, rows), columns, "CC0")


def test_few_answers_make_a_classification(own):
    found, note = make(own, classified())
    task = found.task
    assert (task.kind, task.role, task.chance, task.licence) == ("multiple_choice", "stream", 0.5, "CC0")
    assert task.splits == {"train": 50, "validation": 10, "test": 20}
    assert task.config["doc_to_choice"] == ["no", "yes"]
    assert task.config["doc_to_text"] == "{{question}}\nAnswer:"
    assert "always answering" in note
    docs = [doc for split in tasks.SPLITS for doc in tasks.read_split(found, split)]
    assert {doc["question"]: ("no", "yes")[doc["label"]] for doc in docs} == {
        row["question"]: row["answer"] for row in classified()
    }
    yaml = (own / "tasks" / "mine" / "mine.yaml").read_text().splitlines()
    assert len(yaml) <= 18
    assert "mine" in tasks.task_names()
    assert tasks.load_task("mine").folder == own / "tasks" / "mine"
    ast.parse((own / "tasks" / "mine" / "prepare.py").read_text())


@pytest.mark.parametrize("answer", ["text", "number", "quoted"])
def test_a_column_of_choices_is_taken_by_text_or_by_number(own, answer):
    """One for the whole file; `"0"` in quotes is a number too where no choice is called that."""
    places = [n // 2 % 2 for n in range(60)]
    said = {"text": [f"{'ab'[place]}{n}" for n, place in enumerate(places)], "number": places,
            "quoted": list(map(str, places))}  # fmt: skip
    rows = [{"question": f"{n}?", "choices": [f"a{n}", f"b{n}", "c"][: 2 + n % 2], "answer": said[answer][n]}
            for n in range(60)]  # fmt: skip
    found, _ = make(own, rows)
    docs = [doc for split in tasks.SPLITS for doc in tasks.read_split(found, split)]
    right = {f"{n}?": f"{'ab'[place]}{n}" for n, place in enumerate(places)}
    assert {doc["question"]: doc["choices"][doc["label"]] for doc in docs} == right
    docs = tasks.read_split(found, "test")
    assert found.task.chance == pytest.approx(sum(1 / len(doc["choices"]) for doc in docs) / len(docs), abs=1e-4)


def test_other_answers_are_generated(own):
    found, note = make(own, [{"question": f"{n}?", "answer": n * 7} for n in range(40)])
    assert found.task.kind == "generate_until"
    assert found.task.chance == 0
    assert found.task.config["generation_kwargs"] == {"until": ["\n"], "max_gen_toks": 8, "do_sample": False}
    assert "free text" in note
    assert all(isinstance(doc["answer"], str) for doc in tasks.read_split(found, "train"))


def test_odd_texts_come_through(own):
    odd = ['{{ jinja }} "quoted" \\n', "new\nline", "\u2028 and \x85", "emoji \U0001f600", "yes: no # x", "- dash"]
    rows = [{"question": f"{n} {odd[n % len(odd)]} .", "answer": odd[n % 2 * 4]} for n in range(60)]
    found, _ = make(own, rows)
    assert found.task.config["doc_to_choice"] == sorted({odd[0], odd[4]})
    docs = [doc for split in tasks.SPLITS for doc in tasks.read_split(found, split)]
    assert {doc["question"] for doc in docs} == {row["question"] for row in rows}


def test_columns_have_any_name(own):
    rows = [{"q": f"{n}?", "a": ("x", "y")[n % 2]} for n in range(40)]
    found, _ = make(own, rows, columns=Columns("q", "a"))
    assert found.task.splits["train"] == 25


GOOD = classified(60)


@pytest.mark.parametrize(("rows", "line", "what"), [
    ([], None, "0 rows are too few"),
    (GOOD[:39], None, "39 rows are too few"),
    ([*GOOD, '{"question": "x"'], 61, "not JSON"),
    ([GOOD[0], "", "nonsense", *GOOD[1:]], 3, "not JSON"),
    ([*GOOD, "[1, 2]"], 61, "a list, not an object"),
    ([*GOOD, {"question": "x"}], 61, "no column 'answer'; the row has question"),
    ([*GOOD, {"questoin": "x", "answer": "yes"}], 61, "no column 'question'"),
    ([*GOOD, {"question": " ", "answer": "yes"}], 61, "'question' is empty"),
    ([*GOOD, {"question": ["x"], "answer": "yes"}], 61, "not a text"),
    ([*GOOD, {"question": "x", "answer": None}], 61, "'answer' is null, not a text"),
    ([*GOOD, {"question": "x", "answer": "yes\nno"}], 61, "more than one line"),
    ([*GOOD, {"question": "is 7  odd?", "answer": "no"}], 61, "the question of line 8 again"),
    ([*GOOD, {"question": "x", "answer": "yes", "choices": ["yes", "no"]}], 61, "and line 1 has none"),
    ([{**GOOD[0], "choices": ["yes", "no"]}, *GOOD[1:]], 2, "no column 'choices'"),
    ([{**GOOD[0], "choices": ["no", "no"]}, *GOOD[1:]], 1, "'choices'[0] and [1] are the same: 'no' and 'no'"),
    ([{**GOOD[0], "choices": "yes,no"}, *GOOD[1:]], 1, "'choices' is a text"),
    ([{"question": f"{n}?", "answer": "same"} for n in range(60)], None, "every answer is 'same'"),
    ([{"question": f"{n}?", "answer": f"{n} " * 50} for n in range(60)], 1, "at most 96"),
])  # fmt: skip
def test_odd_rows_are_refused_with_their_line(own, rows, line, what):
    error = refused(make, own, rows)
    assert what in error.what
    file = own.parent / "rows.jsonl"
    assert error.where == (f"{file}:{line}" if line else str(file))
    assert not (own / "tasks").exists(), "nothing is written"


def test_a_typing_error_in_a_column_has_a_nearest(own):
    error = refused(make, own, [{"questoin": "x", "answer": "y"}])
    assert "did you mean 'questoin'" in str(error.remedy)
    assert "--question" in str(error.remedy)


@pytest.mark.parametrize("content", [None, b"\xff\xfe"])
def test_a_file_that_cannot_be_read(own, content):
    file = own / "rows.jsonl"
    if content is not None:
        file.write_bytes(content)
    assert refused(scaffold.new_task, "mine", file, Columns(), "CC0").where == str(file)


def test_names_of_tasks_are_checked(own):
    make(own, classified())
    before = {path: path.read_bytes() for path in (own / "tasks" / "mine").iterdir()}
    assert "there is a task named 'mine'" in refused(make, own, classified()).what
    assert "there is a task named 'tomi'" in refused(make, own, classified(), "tomi").what
    assert "is not a name" in refused(make, own, classified(), "my-task").what
    (own / "tasks" / "notes").mkdir()
    assert "something of this name" in refused(make, own, classified(), "notes").what
    assert {path: path.read_bytes() for path in (own / "tasks" / "mine").iterdir()} == before


def test_two_tasks_of_one_name_are_refused(own):
    make(own, classified())
    (own / "tasks" / "mine").rename(own / "tasks" / "tomi")
    (own / "tasks" / "tomi" / "mine.yaml").rename(own / "tasks" / "tomi" / "tomi.yaml")
    assert "two tasks named 'tomi'" in refused(tasks.task_names).what


def test_a_package_brings_tasks_by_an_entry_point(own, monkeypatch):
    from importlib.metadata import EntryPoint

    make(own, classified())
    package = own.parent / "somebodys_tasks"
    (own / "tasks").rename(package)
    monkeypatch.syspath_prepend(str(own.parent))
    entry = EntryPoint("some", "somebodys_tasks", "lorabench.tasks")
    monkeypatch.setattr("harness.data.paths.entry_points", lambda group: [entry] if group == "lorabench.tasks" else [])
    monkeypatch.setattr("harness.data.paths._package_dirs", paths._package_dirs.__wrapped__)  # a process looks once
    assert tasks.load_task("mine").folder == package / "mine"


def test_a_package_brings_a_method_by_an_entry_point(own, monkeypatch):
    from importlib.metadata import EntryPoint

    package = own.parent / "somebodys_methods"
    package.mkdir()
    (package / "__init__.py").write_text("from baselines.lora import METHOD as LORA\nfrom dataclasses import replace\n"
                                         "METHOD = replace(LORA, name='theirs')\n")  # fmt: skip
    monkeypatch.syspath_prepend(str(own.parent))
    entries = [EntryPoint("some", "somebodys_methods:METHOD", "lorabench.methods")]
    monkeypatch.setattr(
        "harness.method.registry.entry_points", lambda group: entries if group == "lorabench.methods" else []
    )
    found = all_methods()
    assert found["theirs"].compose is found["lora"].compose
    entries.append(EntryPoint("broken", "somebodys_methods:MISSING", "lorabench.methods"))
    assert refused(all_methods).where == "entry point broken"
