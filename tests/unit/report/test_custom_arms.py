"""Arms under names that nobody knows: the report asks what their records say of them."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest
from synthetic import QUICK, Folder, facts, trial

from harness.report import leaderboard, leaderboard_csv, write_report
from harness.report.figures import style
from harness.report.figures.accuracy_forgetting import accuracy_forgetting
from harness.report.figures.registry import FIGURES, drawn_looks
from harness.report.study import gather
from harness.report.text.answer import answer
from harness.store.records import TrialRecord
from harness.study.reference import DEFAULT

#: A known method, and the name of a plug-in that is the same kind of arm.
NAMES = {"frozen": "as_it_is", "single_task": "upper_bound", "full_finetune": "dense"}
ADAPTER = {"rank": 16, "alpha": 32, "targets": ["q_proj"]}


def record(method: str, seed: int) -> TrialRecord:
    made = trial(method, QUICK, seed=seed, intruders="all")
    training = {"adapter": ADAPTER, "between_tasks": "continue"}
    spec = made.spec.model_copy(update={"training": training})
    return made.model_copy(update={"spec": spec, "facts": facts(method)})


def known() -> Folder:
    arms = ("lora", "stable_lora", *NAMES)
    return Folder([record(arm, seed) for arm in arms for seed in range(3)])


def custom() -> Folder:
    """The same numbers under the names of plug-ins."""
    folder = known()
    folder.records = [
        each.model_copy(
            update={"spec": each.spec.model_copy(update={"method": NAMES.get(each.spec.method, each.spec.method)})}
        )
        for each in folder.records
    ]
    return folder


@pytest.fixture(scope="module")
def board(tmp_path_factory) -> dict[str, dict[str, str]]:
    folder = tmp_path_factory.mktemp("custom")
    write_report(folder, custom(), latex=True)
    with (folder / "leaderboard.csv").open(encoding="utf-8", newline="") as file:
        return {row["method"]: row for row in csv.DictReader(file)}


def test_a_custom_bound_has_no_forgetting(board):
    row = board["upper_bound"]
    assert row["average_accuracy"]
    assert row["between_tasks"] == "", "its method decides that"
    for name in ("forgetting", "backward_transfer", "learning_accuracy", "sample_efficiency_auc", "examples_to_90"):
        assert row[name] == "", name
        assert board["stable_lora"][name] != "", name
    assert row["forgetting_difference_to_reference"] == ""


def test_a_custom_dense_arm_has_no_rank(board):
    row = board["dense"]
    assert (row["rank"], row["alpha"], row["targets"]) == ("", "", "q_proj")
    assert board["upper_bound"]["rank"] == "16"


def test_a_custom_untrained_arm_has_no_adapter(board):
    assert [board["as_it_is"][name] for name in ("rank", "alpha", "targets", "between_tasks")] == [""] * 4


def drawn(folder: Folder):
    """The rows behind every figure, and the figure of accuracy against forgetting."""
    study = gather(folder)
    styles = drawn_looks(study, leaderboard.rows(study))
    with style.context():
        rows = {plot.name: plot.draw(study, styles)[2] for plot in FIGURES}
        return rows, accuracy_forgetting(study, styles)[0][0]


def test_figures_draw_custom_arms_by_what_they_are():
    rows, figure = drawn(custom())
    for name in ("forgetting", "sample_efficiency", "accuracy_forgetting"):
        assert {row["arm"] for row in rows[name]} >= {"lora", "dense"}
        assert "upper_bound" not in {row["arm"] for row in rows[name]}, name
    assert {row["x"] for row in rows["intruders"] if row["arm"] == "upper_bound"} == {len(QUICK)}
    fronts = {row["arm"]: row["on_front"] for row in rows["accuracy_forgetting"] if "on_front" in row}
    assert fronts["as_it_is"] is False, "it forgets nothing by not learning"
    said = [text.get_text() for text in figure.axes[0].texts]
    assert any("as_it_is" in text and text.endswith("below the axis") for text in said), said


def test_an_untrained_arm_is_no_winner_by_any_name():
    folder = custom()
    folder.records = [each for each in folder.records if each.spec.method != "stable_lora"]
    study = gather(folder)
    assert "that of as_it_is" not in answer(study, leaderboard.rows(study))[1]


def test_a_name_says_nothing_but_colour():
    """The same records under other names: the same numbers on the board and behind every figure."""
    back = {new: old for old, new in NAMES.items()}
    boards = []
    for folder in (known(), custom()):
        study = gather(folder)
        table = leaderboard_csv.table(leaderboard.rows(study))
        boards.append({back.get(row["method"], row["method"]): row | {"method": ""} for row in table})
    assert boards[0] == boards[1]
    before, after = drawn(known())[0], drawn(custom())[0]
    for name, rows in after.items():
        renamed = [row | {"arm": back.get(row["arm"], row["arm"])} for row in rows]
        assert sorted(map(str, renamed)) == sorted(map(str, before[name])), name


def test_no_module_of_the_report_names_a_method():
    """But for the reference, and the colours of the project's methods."""
    root = Path(__file__).resolve().parents[3]
    methods = {path.stem for path in (root / "baselines").glob("*.py")} - {"__init__", DEFAULT, "combined"}
    for path in (root / "harness" / "report").rglob("*.py"):
        if path.name != "palette.py":
            named = [name for name in methods if f'"{name}"' in path.read_text(encoding="utf-8")]
            assert not named, path
