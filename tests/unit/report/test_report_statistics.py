"""What the pages say of the statistics: who contends, what is testable, where intervals end, what is not reliable."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import product

import numpy as np
import pytest
from synthetic import QUICK, Folder, trial

from harness.analysis.statistics import Estimate
from harness.analysis.statistics.promises import BARS
from harness.errors import InputError
from harness.report import (
    build_index,
    compare_studies,
    comparison,
    leaderboard,
    leaderboard_csv,
    reliability,
    write_report,
)
from harness.report.numbers import interval
from harness.report.study import StudyResults, gather
from harness.report.text.answer import answer
from harness.report.text.board import board_cells, columns
from harness.report.text.notes import RERUN, notes
from harness.store import write_trial
from harness.store.records import TrialRecord

ORDERS = {"a": QUICK, "b": QUICK[::-1]}


def with_finals(record: TrialRecord, final: float) -> TrialRecord:
    """Every task ends at this score, so average accuracy is it."""
    tasks = {n: t.model_copy(update={"score": (*t.score[:-1], final)}) for n, t in record.tasks.items()}
    return record.model_copy(update={"tasks": tasks})


def study_of(finals: dict[str, Iterable[float]], order: str = "a") -> StudyResults:
    return gather(Folder([
        with_finals(trial(arm, ORDERS[order], order=order, seed=seed), final)
        for arm, values in finals.items() for seed, final in enumerate(values)
    ]))  # fmt: skip


def several(arms: Iterable[str], seeds: int = 3, orders: str = "a") -> list[TrialRecord]:
    return [trial(arm, ORDERS[o], order=o, seed=s) for arm, o, s in product(arms, orders, range(seeds))]


def lines(board: leaderboard.Board) -> dict[str, dict]:
    return {line["method"]: line for line in leaderboard_csv.table(board)}


# -- contestants and controls -----------------------------------------------------------------------------------------


def test_a_control_wins_nothing_and_is_in_no_group(tmp_path):
    """`multitask` is best and `frozen` worst: neither is named, ranked among the others, or tested."""
    noise = np.array([0.0, 0.02, 0.01, 0.03, 0.01, 0.0])
    study = study_of({"multitask": 0.9 + noise[::-1], "frozen": 0.1 + noise[::-1], "lora": 0.5 + noise,
                      "combined": 0.51 + noise[::-1]})  # fmt: skip
    board = leaderboard.rows(study)
    assert [row.arm.name for row in board] == ["combined", "lora", "multitask", "frozen"]
    assert [row.group for row in board] == [1, 1, None, None]
    assert answer(study, board)[0].startswith("combined has the highest mean")
    assert not any("multitask" in text or "frozen" in text for text in answer(study, board)[:2])
    alone = leaderboard.rows(study_of({"lora": 0.5 + noise, "combined": 0.51 + noise[::-1]}))
    assert lines(board)["combined"]["p_holm"] == lines(alone)["combined"]["p_holm"]
    assert lines(board)["multitask"]["p"] is None
    assert lines(board)["multitask"]["difference_to_reference_ci_low"] > 0
    write_report(tmp_path, Folder([record for arm in study.arms for record in arm.records]))
    text = (tmp_path / "report.md").read_text()
    assert text.index("| lora |") < text.index("## Controls: bounds") < text.index("| multitask |")
    page = (tmp_path / "report.html").read_text()
    assert page.index(">combined<") < page.index(">Controls: bounds") < page.index(">multitask<")


def test_exact_ties_are_named_and_nobody_wins():
    tied = [0.50, 0.52, 0.54, 0.50, 0.52, 0.54]
    study = study_of({"lora": tied, "combined": tied[::-1], "stable_lora": [x - 0.3 for x in tied]})
    board = leaderboard.rows(study)
    assert [row.arm.name for row in board.best] == ["combined", "lora"]
    first = answer(study, board)[0]
    assert first.startswith("combined and lora tie exactly: they have the highest mean of average accuracy, 52.0 %")
    assert board[0].group == board[1].group == 1


def test_equally_cheap_arms_are_named_together():
    study = gather(Folder(several(("lora", "lora_ema", "stable_lora", "self_distill"))))
    cost = answer(study, leaderboard.rows(study))[2].rpartition("power. ")[2]
    assert cost.startswith("Training takes 1.00 (lora_ema and stable_lora) to 2.00 (self_distill) times as many")


# -- what can be tested -----------------------------------------------------------------------------------------------


def test_where_no_test_can_tell_it_says_not_testable():
    """Five pairs, one arm far noisier than the others: no groups, and nobody is called tied."""
    quiet = np.array([0.500, 0.501, 0.500, 0.501, 0.500])
    study = study_of({"lora": quiet, "lora_ema": quiet[::-1], "stable_lora": quiet + 0.0004 * np.arange(5),
                      "combined": [0.2, 0.9, 0.4, 0.8, 0.1]})  # fmt: skip
    board = leaderboard.rows(study)
    assert board.groups.test is None
    assert {board_cells(row, board)["group"] for row in board} == {"not testable"}
    assert "not testable (it takes 6 pairs where arms are not equally noisy: here 5)" in answer(study, board)[0]
    assert not any("told apart" in text for text in (*answer(study, board), *notes(study, board)))
    assert board.no_block.startswith("the trained arms are not equally noisy")
    assert any("no block interval: the trained arms are not" in text for text in notes(study, board))


def test_pairs_without_spread_are_not_testable():
    lora = [0.50, 0.52, 0.51, 0.55, 0.5, 0.6]
    study = study_of({"lora": lora, "combined": [x + 0.125 for x in lora]})
    board = leaderboard.rows(study)
    cells = {row.arm.name: board_cells(row, board) for row in board}
    assert (cells["combined"]["p"], cells["combined"]["detectable"]) == ("not testable", "–")
    assert cells["lora"]["p"] == "–", "nothing to test"
    first, _, third = answer(study, board)
    assert "combined could not be tested: the pairs show no spread" in first
    assert "80 % power" not in third


def test_the_block_interval_stands_beside_the_difference():
    study = gather(Folder(several(("lora", "lora_ema", "stable_lora", "self_distill", "frozen"), orders="ab")))
    board = leaderboard.rows(study)
    assert board.no_block == ""
    by_name = {row.arm.name: row for row in board}
    row = by_name["lora_ema"]
    assert row.block.mean == row.difference.mean
    widths = {(r.block.high - r.block.low) for r in board if r.block}
    assert max(widths) - min(widths) < 1e-12, "one noise for all"
    assert by_name["frozen"].block is None, "what is not trained has none of it"
    assert lines(board)["lora_ema"]["difference_to_reference_block_low"] == row.block.low
    assert any(text.startswith("Block interval: a second interval") for text in notes(study, board))


def test_a_block_interval_needs_seeds_and_the_same_orders():
    one = leaderboard.rows(gather(Folder(several(("lora", "lora_ema", "stable_lora")))))
    assert one.no_block == "", "one order with three seeds has three blocks"
    few = leaderboard.rows(gather(Folder(several(("lora", "lora_ema")))))
    assert few.no_block.startswith("it takes 3 trained arms")
    mixed = several(("lora", "lora_ema", "stable_lora")) + several(("self_distill",), orders="b")
    apart = leaderboard.rows(gather(Folder(mixed)))
    assert apart.no_block == "the trained arms ran different orders or seeds"
    assert apart.groups.untested == "the arms share no two seeds of every order"


# -- intervals --------------------------------------------------------------------------------------------------------


def test_intervals_end_with_their_scale_and_say_so():
    study = study_of({"lora": [0.97, 1.0, 1.0], "combined": [0.96, 0.99, 1.0]})
    board = leaderboard.rows(study)
    (lora,) = (row for row in board if row.arm.name == "lora")
    assert str(columns(board)[0].cell(lora)).endswith(", 100.0] cut")
    assert any(text.startswith("Intervals marked cut") for text in notes(study, board))
    middle = study_of({"lora": [0.47, 0.5, 0.5], "combined": [0.46, 0.49, 0.5]})
    for name in ("general_delta", "forgetting"):
        for arm in middle.arms:
            assert not arm.estimate(name).cut
    assert interval(Estimate(0.5, 0.4, 1.0, 3, cut=True)) == "[40.0, 100.0] cut"


def test_two_trials_have_no_interval_of_a_share():
    (arm,) = study_of({"lora": [0.3, 0.5]}).arms
    assert arm.estimate("average_accuracy") == Estimate(pytest.approx(0.4), None, None, 2)
    assert arm.estimate("plain_text_delta").high is not None


def test_what_packs_share_has_neither_interval_nor_p(tmp_path):
    for record in several(("lora", "combined"), seeds=8):
        write_trial(tmp_path / "packed", record)
        own = record.model_copy(update={"costs": record.costs.model_copy(update={"shared_by": 1})})
        write_trial(tmp_path / "alone", own)
    found = {}
    for name in ("packed", "alone"):
        folder = tmp_path / name
        gaps = compare_studies(folder, "combined", folder, "lora").gaps
        found[name] = gaps["train_seconds"]
        assert gaps["average_accuracy"].p is not None
    assert found["packed"].mean == found["alone"].mean
    assert (found["packed"].low, found["packed"].p) == (None, None)
    assert found["alone"].low is not None


# -- intransigence ----------------------------------------------------------------------------------------------------


def test_intransigence_is_that_of_the_same_order_and_seed():
    study = gather(Folder(several(("lora", "single_task"), orders="ab")))
    arms = {arm.name: arm for arm in study.arms}
    alone = {trial.key: trial.matrix for trial in arms["single_task"].trials}
    for each in arms["lora"].trials:
        gaps = [alone[each.key][j + 1, j] - each.matrix[j + 1, j] for j in range(3)]
        assert each.metrics["intransigence"] == pytest.approx(np.mean(gaps))
    assert arms["single_task"].values("intransigence") == {}, "it is its own reference"
    (without,) = gather(Folder(several(("lora",)))).arms
    assert without.values("intransigence") == {}


def test_intransigence_needs_one_reference():
    """Two settings of it, or none of this seed: empty cells."""
    two = gather(Folder(several(("lora", "single_task", "single_task@rate=2"))))
    assert next(arm for arm in two.arms if arm.name == "lora").values("intransigence") == {}
    fewer = gather(Folder(several(("lora",)) + several(("single_task",), seeds=2)))
    assert next(arm for arm in fewer.arms if arm.name == "lora").values("intransigence") == {}


# -- headroom ---------------------------------------------------------------------------------------------------------


def with_majority(record, majority: dict[str, float]):
    columns = {
        task: scores.model_copy(update={"majority": majority.get(task)}) for task, scores in record.tasks.items()
    }
    return record.model_copy(update={"tasks": columns})


def test_averages_are_given_without_tasks_that_are_not_learnt(tmp_path):
    """By the control that learns each task afresh: no better there than always giving the most frequent answer."""
    records = several(("lora", "single_task", "frozen"))
    assert not gather(Folder(records)).named("lora").values("average_accuracy_of_learnt"), "all are learnt"
    hard = [with_majority(record, {QUICK[1]: 0.97, QUICK[0]: 0.1}) for record in records]
    study = gather(Folder(hard))
    assert [study.headroom[task].learnt for task in QUICK] == [True, False, True]
    for each in study.named("lora").trials:
        last = each.matrix[-1]
        assert each.metrics["average_accuracy"] == pytest.approx(last.mean())
        assert each.metrics["average_accuracy_of_learnt"] == pytest.approx((last[0] + last[2]) / 2)
    for record in hard:
        write_trial(tmp_path, record)
    write_report(tmp_path, Folder(hard))
    page = (tmp_path / "report.md").read_text()
    assert f"Not learnt by this model: {QUICK[1]}." in page
    assert ", not learnt" in page
    assert "Average accuracy without tasks that are not learnt" in page
    without = gather(Folder([record for record in hard if record.spec.method != "single_task"]))
    assert not without.headroom, "nobody tells"


# -- on every page ----------------------------------------------------------------------------------------------------


def test_rerun_noise_is_on_every_page(tmp_path):
    folder = tmp_path / "study"
    for record in several(("lora", "combined")):
        write_trial(folder, record)
    write_report(folder, Folder(several(("lora", "combined"))))
    for page in ("report.md", "report.html"):
        assert RERUN in (folder / page).read_text(), page
    assert RERUN in build_index(tmp_path).read_text()
    assert RERUN in comparison.sentences(compare_studies(folder, "combined", folder, "lora"))


def test_a_study_without_average_accuracy_is_told_so(tmp_path):
    for record in several(("lora", "combined")):
        flipped = record.tasks[QUICK[0]].model_copy(update={"higher_is_better": False})
        write_trial(tmp_path, record.model_copy(update={"tasks": record.tasks | {QUICK[0]: flipped}}))
    with pytest.raises(InputError, match="no average accuracy of combined and lora") as error:
        compare_studies(tmp_path, "combined", tmp_path, "lora")
    assert "seeds" not in str(error.value)


# -- reliability ------------------------------------------------------------------------------------------------------


@pytest.fixture
def known(monkeypatch):
    cells = [
        {"seeds": 3, "orders": 1, "arms": 5, "situation": "skewed noise", "coverage_of_means": 0.913},
        {"seeds": 3, "orders": 1, "arms": 5, "situation": "t3 noise", "coverage_of_means": 0.92, "power": 0.7},
        {"seeds": 5, "orders": 3, "arms": 20, "situation": "skewed noise", "false_better": 0.08},
    ]
    monkeypatch.setattr(reliability, "unreliable", lambda: cells)


def caveats(arms: Iterable[str], seeds: int, orders: str = "a") -> list[str]:
    return reliability.caveats(leaderboard.rows(gather(Folder(several(arms, seeds, orders)))))


def test_a_page_says_what_is_not_reliable_for_its_design(known):
    assert caveats(("lora", "combined"), 4) == [
        "Not reliable here, by simulation of a design like this (3 seeds, 1 order, 5 arms): 95 % intervals of means "
        "hold the truth in 91.3 to 92.0 % (skewed noise and t3 noise); the detectable effect is found with 70.0 % "
        "power, not 80 % (t3 noise)."
    ]
    many = ["lora", *(f"lora@x={i}" for i in range(7))]
    assert "called better than the reference on 8.0 % of boards" in caveats(many, 6, "ab")[0]


def test_a_design_that_held_has_no_caveat(known):
    assert caveats(("lora", "combined"), 5) == []
    assert caveats(("lora", "combined"), 2) == [], "nothing is ranked"


def test_every_promise_has_its_words():
    assert set(reliability.WORDS) == set(BARS)
    assert all(set(cell) - {"seeds", "orders", "arms", "situation"} <= set(BARS) for cell in reliability.unreliable())
