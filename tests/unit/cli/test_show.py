"""What comes from outside is printed as the text that it is: no markup, no emoji codes, nothing a terminal obeys."""

from __future__ import annotations

import io
import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from rich.live import Live
from synthetic import QUICK, failed

from harness.cli import terminal
from harness.cli.show import outcome, progress
from harness.cli.show import screen as screens
from harness.cli.show.standing import COLUMNS, SPARED
from harness.running.campaign import State
from harness.store import write_trial
from harness.store.lanes import Lane
from harness.store.records import Failure
from harness.store.standing import JobStanding, Standing
from harness.store.survey import Survey
from harness.store.tuning import Tuning

#: Texts, and how they are shown.
ODD = [
    ("[/bold]", "[/bold]"),
    ("[red]x", "[red]x"),
    ("[link=https://x.y]z[/link]", "[link=https://x.y]z[/link]"),
    (":smile:", ":smile:"),
    ("\x1b[2Ja\x9b1mb\x00c", r"\x1b[2Ja\x9b1mb\x00c"),
    ("a\u202eb", r"a\u202eb"),
    ("a\ud83db", r"a\ud83db"),
    ("é 日本 😀", "é 日本 😀"),
]

STANDING = Standing(
    study="mine", device="cuda", packs=12, done=4, failed=1, share=0.43, seconds_spent=65, seconds_left=3723,
    jobs=(
        JobStanding(
            name="a", number=3, trials=4, what="task 2/6: training", share=0.37, position=2, positions=6, step=12,
            steps=64, tokens_per_second=3456.7, memory_gib=1.26, seconds_left=61,
        ),
        JobStanding(name="b", number=7, trials=1, what="loading the model and the tasks"),
    ),
)  # fmt: skip
#: What a table shows of it.
TABLE = (
    "mine", "GPU GiB", "3/12       4       2/6  training   ", "  12/64     3,457      1.3   37%  1:01",
    "7/12       1         -  loading the model and the tasks  ", "4 of 12 packs done, 1 trial failed", "43%",
    "ETA 1:02:03", "1:05",
)  # fmt: skip


@pytest.fixture
def screen(monkeypatch) -> io.StringIO:
    """A terminal, as rich sees it."""
    file = io.StringIO()
    start, stop = Live.start, Live.stop  # a thread of rich's draws in between, now and then
    monkeypatch.setattr(Live, "start", lambda self, refresh=False: start(self, True))
    monkeypatch.setattr(Live, "stop", lambda self: (self.refresh(), stop(self)))
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setattr(screens.screen, "_file", file)  # `file` would come back as today's stdout
    monkeypatch.setattr(screens.screen, "_force_terminal", True)
    monkeypatch.setattr(screens.screen, "is_interactive", True)
    monkeypatch.setattr(screens.screen, "_width", 300)
    return file


def campaign(text: str, folder=None) -> Any:
    return SimpleNamespace(study=SimpleNamespace(name=text), folder=folder, searches=())


@pytest.mark.parametrize(("text", "shown"), ODD)
def test_a_text_is_shown_as_it_is(text, shown):
    assert terminal.visible(text) == shown


@pytest.mark.parametrize(("text", "shown"), ODD)
def test_a_spinner_and_a_bar_show_it_as_it_is(screen, text, shown):
    with screens.preparing(f"preparing {text}"):
        pass
    with progress.progress(text) as watcher:
        watcher.total(10)
        watcher.progress("job", 5, f"training {text}")
    assert f"preparing {shown}" in screen.getvalue()
    assert f"training {shown}" in screen.getvalue()


@pytest.mark.parametrize(("text", "shown"), ODD[:4])
def test_a_log_shows_it_as_it_is(monkeypatch, capsys, text, shown):
    monkeypatch.setattr(progress._LogLines, "every", -1.0)
    with progress.progress(text) as watcher:
        watcher.progress("job", 5, f"training {text}")
    assert capsys.readouterr().err == f"[{shown}] training {shown}\n"


@pytest.mark.parametrize(("text", "shown"), ODD)
def test_tables_titles_and_outcomes_show_it_as_it_is(screen, tmp_path, text, shown):
    row = {"arm": text, "setting": text, "metric": "", "score": 0.5, "standard_error": None, "trials": 1,
           "diverged": 0, "best": True, "chosen": True}  # fmt: skip
    tuning = Tuning.model_construct(study=text, seeds=(1,), settings=5, arms={}, tries=(row,))
    searched: Any = SimpleNamespace(searches=(SimpleNamespace(arm=text),), folder=tmp_path / "x")
    outcome.show_choices(searched, tuning)
    said = screen.getvalue()
    assert said.count(shown) == 4, "the title, two cells and what there is nothing to tune for"
    record = failed("lora", QUICK, status="error").model_copy(
        update={"failure": Failure(phase="train", message="boom [/bold]")}
    )
    write_trial(tmp_path, record)
    state = State({record.fingerprint: "error"}, {}, (), 1)
    outcome.show_outcome(campaign(text, tmp_path), state, state)
    assert f"{shown}: 1 error" in screen.getvalue()
    assert "train: boom [/bold]" in screen.getvalue()


def test_many_long_messages_fill_a_screen_at_most(screen, tmp_path):
    statuses = {}
    for seed in range(30):
        failure = Failure(phase="train", message=f"{seed} " + "x" * 1_000_000)
        record = failed("lora", QUICK, status="error", seed=seed).model_copy(update={"failure": failure})
        write_trial(tmp_path, record)
        statuses[record.fingerprint] = "error"
    state = State(statuses, {}, (), 1)
    outcome.show_outcome(campaign("mine", tmp_path), state, state)
    assert len(screen.getvalue()) < 25 * terminal.LONGEST
    assert "and 10 more" in screen.getvalue()


def test_an_outcome_tells_how_long_lanes_waited(screen, tmp_path):
    slow = [Lane(place=f"gpu{n}", packs=2, seconds=25, between=1, loading=4, after=6) for n in range(10)]
    busy = Lane(place="busy", packs=2, seconds=25, between=0, loading=0, after=0)
    state = State({"a": "ok"}, {}, (), 0, lanes=(busy, *slow))
    outcome.show_outcome(campaign("mine", tmp_path), state, state)
    said = screen.getvalue()
    assert "gpu0: 2 packs in 0:25, idle 4.0% between them and 24.0% at the end, loading 16.0%" in said
    assert "busy" not in said
    assert "and 3 more, idle less between packs" in said


def test_a_table_of_thousands_of_rows_is_cut(screen):
    screens.table("t", ("a",), [(f"row{n}",) for n in range(20_000)])
    assert "row199" in screen.getvalue()
    assert "row200" not in screen.getvalue()
    assert "and 19,800 more" in screen.getvalue()


@pytest.mark.parametrize(
    ("arm", "lines"),
    [
        ("lora", ["lora"]),
        ("stable_lora@shrink=0.001,learning_rate=0.0005", ["stable_lora@shrink=0.001,", "learning_rate=0.0005"]),
        ("a" * 40, ["a" * 32, "a" * 8]),
        ("lora@" + "b" * 40, ["lora@", "b" * 32, "b" * 8]),
        ("@,", ["@,"]),
    ],
)
def test_a_long_name_is_folded_between_its_settings(arm, lines):
    assert screens.folded(arm).split("\n") == lines


def test_a_list_is_folded_to_a_terminal_alone(screen, monkeypatch):
    rows = [("stable_lora@shrink=0.001,learning_rate=0.0005", "word " * 40), ("lora", "[red]x")]
    monkeypatch.setattr(screens.screen, "_width", 60)
    screens.listing(("arm", "what"), rows)
    said = screen.getvalue()
    assert all(len(line) <= 70 for line in said.splitlines()), "60, and what makes the header bold"
    assert "\nlearning_rate=0.0005" in said
    monkeypatch.setattr(screens.screen, "_force_terminal", False)
    screens.listing(("arm", "what"), rows)
    assert screen.getvalue().removeprefix(said).splitlines()[1].startswith(f"{rows[0][0]}  word word")
    assert screen.getvalue().endswith("lora                                           [red]x\n")


def test_a_list_of_many_columns_cuts_no_setting(screen, monkeypatch):
    columns = ("arm", *(f"a wordy heading {number}" for number in range(6)))
    monkeypatch.setattr(screens.screen, "_width", 90)
    screens.listing(columns, [("stable_lora@shrink=0.0005", *["12.3"] * 6), ("lora", *["4.5"] * 6)])
    lines = screen.getvalue().splitlines()
    first = next(number for number, line in enumerate(lines) if line.startswith("stable_lora@ "))
    assert lines[first + 1 : first + 2] == ["shrink=0.0005"]


def test_an_encoding_that_lacks_a_letter_is_no_traceback(monkeypatch):
    raw = io.BytesIO()
    monkeypatch.setattr("sys.stdout", io.TextIOWrapper(raw, encoding="ascii"))
    terminal.take_any_encoding()
    terminal.say("a → b")
    assert raw.getvalue() == b"a \\u2192 b\n"


def test_a_live_table_has_a_row_for_every_pack_at_work(screen):
    with progress.progress("mine") as watcher:
        watcher.total(10)
        watcher.standing(STANDING)
        watcher.progress("a", 5, "not shown beside what was put together")
    said = screen.getvalue()
    for words in TABLE:
        assert words in said
    assert "not shown" not in said


def test_a_table_is_not_higher_than_the_terminal(screen, monkeypatch):
    monkeypatch.setattr(screens.screen, "_height", 20)
    many = STANDING.model_copy(update={"jobs": STANDING.jobs * 50})
    with progress.progress("mine") as watcher:
        watcher.standing(many)
    last = screen.getvalue().rpartition("mine\n")[2]
    assert "and 85 more at work" in last
    assert last.count("\n") < 20


def test_status_shows_the_same_as_the_run(screen, tmp_path, capsys):
    outcome.show_status(tmp_path, Survey({}, {}), False, (), STANDING)
    for words in TABLE:
        assert words in screen.getvalue()
    outcome.show_status(tmp_path, Survey({}, {}), True, (), STANDING)
    outcome.show_status(tmp_path, Survey({}, {}), True, ())
    first, second = capsys.readouterr().out.split("}\n{")
    assert json.loads(first + "}")["running"] == STANDING.model_dump(mode="json")
    assert json.loads("{" + second)["running"] is None


def test_a_log_has_a_line_for_every_pack_at_work(capsys, monkeypatch):
    now = [100.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    before = STANDING.model_copy(
        update={"jobs": STANDING.jobs[1:], "done": 0, "failed": 0, "share": 0.0, "seconds_left": None}
    )
    with progress.progress("mine") as watcher:
        watcher.standing(Standing(study="mine", packs=12, what="starting"))
        watcher.standing(before)
        for _ in range(100):
            watcher.standing(STANDING)
            watcher.standing(before)
            now[0] += 0.5
        watcher.standing(STANDING.model_copy(update={"jobs": (), "done": 12, "share": 1.0, "seconds_left": 0.0}))
    ahead = ["[mine]   0%  ETA -:--  0 of 12 packs done", "[mine] pack 7/12  1 trial  loading the model and the tasks"]
    first = [
        "[mine]  43%  ETA 1:02:03  4 of 12 packs done, 1 trial failed",
        "[mine] pack 3/12  4 trials  position 2/6  training  step 12/64  3,457 tokens/s  1.3 GiB  37%  ETA 1:01",
        "[mine] pack 7/12  1 trial  loading the model and the tasks",
    ]
    assert capsys.readouterr().err.splitlines() == [
        *ahead,
        *first,
        *first,
        "[mine] 100%  ETA 0:00  12 of 12 packs done, 1 trial failed",
    ]


@pytest.mark.parametrize("width", [120, 80, 70, 60])
def test_a_table_fits_the_terminal(screen, monkeypatch, width):
    """Columns that tell less go first; what a job is doing is cut, and its number stays."""
    changes = {"number": 103, "what": "task 2/6: intruder dimensions", "step": 112, "steps": 128}
    changes |= {"tokens_per_second": 123456.0, "seconds_left": 4000}
    large = STANDING.jobs[0].model_copy(update=changes)
    monkeypatch.setattr(screens.screen, "_width", width)
    outcome.show_status(
        Path("x"), Survey({}, {}), False, (), STANDING.model_copy(update={"packs": 120, "jobs": (large,)})
    )
    lines = screen.getvalue().split("mine\n")[1].splitlines()
    assert len(lines) == 3
    assert all(len(line.rstrip()) <= width for line in lines)
    assert lines[1].startswith("103/120")
    columns = lines[0].replace("GPU ", "").split()
    assert [name for name in COLUMNS if name not in columns] == [
        name for name in COLUMNS if name in {120: (), 80: (), 70: ("trials", "GiB"), 60: SPARED}[width]
    ]
