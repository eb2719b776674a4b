"""``lorabench new task`` keeps every row's meaning, or refuses the row by its line and leaves nothing behind."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from harness.cli import scaffold
from harness.cli.scaffold import Columns
from harness.data import tasks
from harness.data.tasks.own import rendering
from harness.errors import InputError, LorabenchError

COLOURS = ["red", "green", "blue"]


@pytest.fixture
def own(tmp_path, monkeypatch) -> Path:
    """A plug-in folder and a cache of its own."""
    monkeypatch.setenv("LORABENCH_PLUGINS", str(tmp_path / "own"))
    monkeypatch.setenv("LORABENCH_CACHE", str(tmp_path / "cache"))
    return tmp_path / "own"


def written(own: Path, rows: list[dict] | list[str] | bytes) -> Path:
    file = own.parent / "rows.jsonl"
    lines = rows if isinstance(rows, bytes) else "".join(
        (row if isinstance(row, str) else json.dumps(row, ensure_ascii=False)) + "\n" for row in rows
    ).encode()  # fmt: skip
    file.write_bytes(lines)
    return file


def made(own: Path, rows: list[dict] | list[str] | bytes, **columns: str) -> dict[str, str]:
    """Question -> the text of the right answer, of every item of the task that is made."""
    found, _ = scaffold.new_task("mine", written(own, rows), Columns(**columns), "CC0")
    docs = [doc for split in tasks.SPLITS for doc in tasks.read_split(found, split)]
    if found.task.kind != "multiple_choice":
        return {doc["question"]: doc["answer"] for doc in docs}
    return {doc["question"]: rendering.choices(found.task, doc)[doc["label"]] for doc in docs}


def refused(own: Path, rows: list[dict] | list[str] | bytes, **columns: str) -> InputError:
    with pytest.raises(InputError) as caught:
        made(own, rows, **columns)
    assert caught.value.remedy
    assert len(str(caught.value)) < 5000
    assert not list(own.rglob("*")), "nothing is left under the name, nor beside it"
    return caught.value


def line_of(error: InputError) -> int | None:
    """The line that an error names."""
    line = error.where.rpartition(":")[2]
    return int(line) if line.isdigit() else None


def beside(choices: list, answers: list) -> list[dict]:
    """60 rows that have these choices and, in turn, these answers."""
    return [{"question": f"{n}?", "choices": choices, "answer": answers[n % len(answers)]} for n in range(60)]


def plain(*answers: object) -> list[dict]:
    """60 rows with these answers in turn."""
    return [{"question": f"{n}?", "answer": answers[n % len(answers)]} for n in range(60)]


def with_row(row: dict | str) -> list:
    """60 good rows, and this one as the 61st."""
    return [*plain("no", "yes"), row]


# -- texts or places --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("choices", "answers", "right"),
    [
        ([1, 2, 3, 4], [0, 1, 2, 3], ["1", "2", "3", "4"]),  # the texts of three of them are choices as well
        (COLOURS, ["0", "1", "2"], COLOURS),
        (COLOURS, COLOURS, COLOURS),
        ([2, 4, 6], [6, 2], ["6", "2"]),
        (["0", "1"], [0, 1], ["0", "1"]),  # both readings fit, and agree
        ([1, 2, 3], [1, 2, 3], ["1", "2", "3"]),  # as texts and as places from 1: the same choices
        ([1.50, "1.5 m"], [1.5, "1.5 m"], ["1.5", "1.5 m"]),
        ([" red", "green "], ["red ", "green"], ["red", "green"]),
    ],
)
def test_one_reading_for_the_whole_file(own, choices, answers, right):
    assert made(own, beside(choices, answers)) == {f"{n}?": right[n % len(right)] for n in range(60)}


@pytest.mark.parametrize(
    ("choices", "answers", "line", "says"),
    [
        ([1, 2, 3, 4], [1, 2, 3], 1, "texts of the choices and as places from 0"),
        (["0", "2", "1"], ["0", "1"], 2, "lines 2, 4, 6, 8, 10 and 25 more"),
        ([3, 1, 2], [1, 2, 3], 1, "texts of the choices and as places from 1"),
        (COLOURS, [1, 2], 1, "as places from 0 and as places from 1"),
    ],
)
def test_two_readings_that_disagree_are_refused(own, choices, answers, line, says):
    error = refused(own, beside(choices, answers))
    assert says in error.what
    assert line_of(error) == line
    assert "--answers" in error.remedy


@pytest.mark.parametrize(
    ("reading", "right"), [("text", ["1", "2", "3"]), ("index", ["2", "3", "4"]), ("index1", ["1", "2", "3"])]
)
def test_the_reading_can_be_said(own, reading, right):
    found = made(own, beside([1, 2, 3, 4], [1, 2, 3]), answers=reading)
    assert found == {f"{n}?": right[n % 3] for n in range(60)}


def test_places_from_1_are_named(own):
    error = refused(own, beside(COLOURS, [1, 2, 3]))
    assert "counted from 1" in error.what
    assert "--answers index1" in error.remedy
    assert made(own, beside(COLOURS, [1, 2, 3]), answers="index1") == {f"{n}?": COLOURS[n % 3] for n in range(60)}


@pytest.mark.parametrize(
    ("answers", "reading", "line", "says"),
    [
        (["red", 1], None, 2, "30 of 60 answers are texts"),
        ([0, 1, 2, "blue"], None, 4, "45 of 60 answers are places from 0"),
        ([0, 1, 3], None, 3, "'3' is none of the choices"),
        ([0, -1], None, 2, "'-1' is none"),
        ([0, 1.0], None, 2, "'1.0' is none"),
        (["0", "01"], None, 2, "'01' is none"),
        (["0", "１"], None, 2, "'１' is none"),
        (["red", "Red"], None, 2, "'Red' is none"),
        ([0, "9" * 5000], None, 2, "is none"),
        (["0", "1"], "text", 1, "'0' is none"),
        (["red", "0"], "index", 1, "'red' is none"),
        ([0, 1, 2], "index1", 1, "its number from 1 to 3"),
    ],
)
def test_an_answer_that_is_no_choice_is_refused(own, answers, reading, line, says):
    error = refused(own, beside(COLOURS, answers), **({"answers": reading} if reading else {}))
    assert says in str(error)
    assert line_of(error) == line


@pytest.mark.parametrize(("columns", "where"), [
    ({"answers": "letters"}, "--answers"),
    ({"answers": "index"}, "--answers"),  # and the rows have no choices
    ({"choices": "question"}, "--question"),
    ({"answer": "question"}, "--question"),
])  # fmt: skip
def test_options_that_can_not_be_meant_are_refused(own, columns, where):
    assert refused(own, plain("no", "yes"), **columns).where == where


def test_a_named_column_of_choices_that_is_missing_is_refused(own):
    assert "no column 'options'" in refused(own, plain("no", "yes"), choices="options").what


# -- what would be made a text ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(("value", "says"), [
    ("NaN", "is NaN"), ("Infinity", "is Infinity"), ("-Infinity", "is -Infinity"), ("null", "is null"),
    ("true", "is true"), ("false", "is false"), ('["yes"]', "is a list"), ('{"text": "yes"}', "is an object"),
    ('""', "is empty"), ('" \\u3000"', "is empty"), (r'"yes \ud83d"', "half a character"),
    (r'"\ude00\ud83d"', "half a character"),
])  # fmt: skip
@pytest.mark.parametrize("column", ["question", "answer", "choices"])
def test_no_text_is_invented(own, value, says, column):
    values = {"question": '"x"', "answer": '"no"', "choices": '["no", "yes"]'}
    values |= {column: f'["no", {value}]' if column == "choices" else value}
    row = "{" + ", ".join(f'"{name}": {text}' for name, text in values.items()) + "}"
    error = refused(own, [*beside(["no", "yes"], ["no", "yes"]), row])
    assert line_of(error) == 61
    assert says in error.what


@pytest.mark.parametrize("choices", [
    '"yes,no"', '{"text": ["no", "yes"]}', "null", "2", "[]", '["no"]', '["no", "no"]', '["no", " no"]',
    '["caf\\u00e9", "cafe\\u0301"]', "[1, 1.0]", '["1", 1]', "[1e2, 100]", '["no", ["yes"]]',
])  # fmt: skip
def test_choices_are_a_list_of_different_texts(own, choices):
    rows = [*beside(["no", "yes"], ["no", "yes"]), f'{{"question": "x", "answer": "no", "choices": {choices}}}']
    assert line_of(refused(own, rows)) == 61


@pytest.mark.parametrize(
    "number", ["12345678901234567890123", "0.1000000000000000000001", "1E2", "1.0", "-0", "1e400", "7" * 90]
)
def test_numbers_are_kept_as_they_are_written(own, number):
    rows = [f'{{"question": {n}, "answer": {number if n % 2 else 3}}}' for n in range(60)]
    assert made(own, rows) == {str(n): number if n % 2 else "3" for n in range(60)}


@pytest.mark.parametrize(("one", "other"), [
    ("yes", "Yes"), ("new york", "new  york"), ("caf\u00e9", "cafe\u0301"), ("yes", "yes\u200b"), (1, 1.0), ("1.0", 1),
])  # fmt: skip
@pytest.mark.parametrize("share", [2, 20])
def test_answers_that_look_alike_are_not_two_classes(own, one, other, share):
    """Nor does a slip in a few rows make free text of classes."""
    rows = plain(one, "no")
    for row in rows[1::share]:
        row["answer"] = other
    error = refused(own, [*rows, *({"question": f"{n} more?", "answer": one} for n in range(9))])
    assert "look alike" in error.what
    assert line_of(error) == 2
    as_they_are = [{**row, "choices": [one, other, "no"]} for row in rows]
    if (one, other) not in ((1, 1.0), ("caf\u00e9", "cafe\u0301")):
        assert made(own, as_they_are)["1?"] == str(other)


def test_space_around_an_answer_does_not_count(own):
    assert set(made(own, plain("no", "yes", " yes", "no\t")).values()) == {"no", "yes"}


@pytest.mark.parametrize("text", [
    "  indented\n    code", "ends in space ", "\u2028 and \x85 and \x0b and \x1c", "\ufeff", "\x00", "{{ jinja }} {% x",
    "emoji \U0001f600 \U0001f468\u200d\U0001f469", "<|endoftext|>", "\r\n", "a\\u2028b", "# no: comment",
])  # fmt: skip
def test_texts_come_through_as_they_are(own, text):
    rows = [{"question": f"{n}{text}", "choices": [f"x{text}y", "no"], "answer": ["no", f"x{text}y"][n % 2]}
            for n in range(60)]  # fmt: skip
    assert made(own, rows) == {row["question"]: row["answer"] for row in rows}


@pytest.mark.parametrize(
    "name", ["a", "no", "null", "~", "1e3", "0x10", "1:30", "<<", "=", "- x", "&a", "*a", "!t", "'"]
)
def test_classes_come_through_the_yaml_as_they_are(own, name):
    assert set(made(own, plain(name, "other")).values()) == {name, "other"}


def test_the_rows_may_be_edited_with_any_character_of_json(own):
    """``prepare.py`` ends a row where JSON Lines does: at a line feed alone."""
    made(own, plain("no", "yes"))
    rows = [{"question": f"{n}\u2028\x85?", "label": n % 2} for n in range(60)]
    text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    (own / "tasks" / "mine" / "data.jsonl").write_text(text, encoding="utf-8")
    found = tasks.prepare_task("mine")
    docs = [doc for split in tasks.SPLITS for doc in tasks.read_split(found, split)]
    assert sorted(doc["question"] for doc in docs) == sorted(row["question"] for row in rows)


# -- the file ---------------------------------------------------------------------------------------------------------

GOOD = "".join(json.dumps(row) + "\n" for row in plain("no", "yes")).encode()


@pytest.mark.parametrize("content", [
    b"\xef\xbb\xbf" + GOOD, GOOD.replace(b"\n", b"\r\n"), GOOD.replace(b"\n", b"\n\n  \n"), GOOD.rstrip(b"\n"),
])  # fmt: skip
def test_a_byte_order_mark_and_line_ends_are_no_content(own, content):
    assert made(own, content) == {row["question"]: row["answer"] for row in plain("no", "yes")}


@pytest.mark.parametrize(
    ("content", "line"),
    [
        (b"", None),
        (b"\n\n", None),
        (GOOD.decode().encode("utf-16"), None),
        (GOOD + b"\xff", None),
        (GOOD + b"\xef\xbb\xbf" + b'{"question": "x", "answer": "no"}', 61),
        (GOOD + b'{"question": "x", "answer": "no"} {"question": "y", "answer": "no"}', 61),
        (GOOD + b'{"question": "x", "answer": "no", "answer": "yes"}', 61),
        (GOOD + b'{"question": "x", "answer": "no", "more": {"a": 1, "a": 2}}', 61),
        (GOOD + b"{'question': 'x', 'answer': 'no'}", 61),
        (GOOD + b'{"question": "x\ty", "answer": "no"}', 61),
        (GOOD + b"[" * 100_000, 61),
        (GOOD + b'{"question": "x", "answer": ' + b"[" * 100_000, 61),
        (GOOD + b'"a text"', 61),
        (GOOD + b"7", 61),
        (GOOD + b"[" + GOOD.replace(b"\n", b",") + b"{}]", 61),
        (GOOD + b'{"question": "x", "answer": "' + b"no" * 5_000_000, 61),
        (GOOD + b'{"question": ["' + b"no" * 5_000_000 + b'"], "answer": "no"}', 61),
        (GOOD + b'{"' + b"no" * 5_000_000 + b'": 1, "answer": "no"}', 61),
    ],
)
def test_a_file_that_is_no_json_lines_is_refused(own, content, line):
    error = refused(own, content)
    assert error.where.startswith(str(own.parent / "rows.jsonl"))
    assert line_of(error) == line


@pytest.mark.parametrize("row", [
    {"question": "x", "answer": "no", "id": "1"},
    '{"question": "x", "answer": "no", "id": NaN, "null": null}',
])  # fmt: skip
def test_other_columns_do_not_count_and_are_said(own, row):
    _, note = scaffold.new_task("mine", written(own, with_row(row)), Columns(), "CC0")
    assert "not used: id" in note


def test_a_folder_is_no_file_of_rows(own):
    with pytest.raises(InputError, match="directory"):
        scaffold.new_task("mine", own.parent, Columns(), "CC0")


def test_a_long_answer_is_not_printed_whole(own):
    _, note = scaffold.new_task("mine", written(own, plain("no" * 20_000, "yes")), Columns(), "CC0")
    assert len(note) < 1000


# -- all or nothing ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "step", ["harness.data.tasks.cache.digest", "harness.data.tasks.own.splits.build", "pathlib.Path.rename"]
)
@pytest.mark.parametrize("error", [KeyboardInterrupt, OSError(28, "No space left on device"), ValueError])
def test_a_step_that_fails_leaves_nothing_under_the_name(own, monkeypatch, step, error):
    def fail(*_: object, **__: object) -> None:
        raise error

    file = written(own, plain("no", "yes"))
    with monkeypatch.context() as patch:
        patch.setattr(step, fail)
        with pytest.raises((KeyboardInterrupt, LorabenchError, ValueError)):
            scaffold.new_task("mine", file, Columns(), "CC0")
    assert not list((own / "tasks").iterdir())
    assert made(own, plain("no", "yes")), "the name is free"


@pytest.mark.parametrize("step", ["cache.write", "pathlib.Path.rename"])
def test_a_kill_leaves_nothing_under_the_name(own, step):
    """Killed where the splits are written, and at the last step, where the folder gets its name."""
    code = (
        "import os, pathlib, signal, sys\nfrom harness.cli import scaffold\nfrom harness.data.tasks import cache\n"
        f"whole = {step}\n"
        "def kill(*arguments):\n"
        "    if str(arguments[-1]).endswith(os.sep + 'mine') or isinstance(arguments[-1], dict):\n"
        "        os.kill(os.getpid(), signal.SIGKILL)\n"
        "    return whole(*arguments)\n"
        f"{step} = kill\n"
        "scaffold.new_task('mine', pathlib.Path(sys.argv[1]), scaffold.Columns(), 'CC0')\n"
    )
    file = written(own, plain("no", "yes"))
    done = subprocess.run([sys.executable, "-c", code, str(file)], env=dict(os.environ), check=False)
    assert done.returncode == -signal.SIGKILL
    assert not (own / "tasks" / "mine").exists()
    assert "mine" not in tasks.task_names()
    assert made(own, plain("no", "yes"))


def test_of_two_at_once_one_wins_and_the_other_hears_so(own, monkeypatch):
    file, rename = written(own, plain("no", "yes")), Path.rename

    def late(self: Path, target: Path) -> Path:
        if target.name == "mine":
            target.mkdir()
            (target / "mine.yaml").write_text("task: mine")
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", late)
    with pytest.raises(InputError, match="something of this name"):
        scaffold.new_task("mine", file, Columns(), "CC0")
    assert [path.name for path in (own / "tasks" / "mine").iterdir()] == ["mine.yaml"]


def test_a_name_in_bytes_is_no_reason_to_fail(own):
    file = Path(os.fsdecode(os.fsencode(own.parent) + b"/r\xffws.jsonl"))
    file.write_bytes(GOOD)
    found, _ = scaffold.new_task("mine", file, Columns(), "CC0")
    assert found.task.source == "own rows (r?ws.jsonl)"
    with pytest.raises(InputError) as caught:
        scaffold.new_task("other", file, Columns(), "\udcff")
    assert caught.value.where == "--licence"


def test_the_temporary_folder_is_no_task(own):
    made(own, plain("no", "yes"))
    left = own / "tasks" / ".tmp-other-x"
    left.mkdir()
    (left / "other.yaml").write_text("")
    assert "other" not in tasks.task_names()
