"""An arm's own numbers don't depend on who else is on the board: only on its trials and on plain LoRA's.

What a definition asks of the others is left out here: ranks and groups among the arms, Holm's correction over them and
what follows from their number, the noise that all share, what the control that learns each task afresh gets to, the
settings tried of a method, the front, and correlations over all trials.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from functools import cache
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from places import REFERENCE
from synthetic import QUICK, Folder, failed, trial

from harness.report import leaderboard, leaderboard_csv
from harness.report.estimates import certain
from harness.report.figures import registry
from harness.report.study import StudyResults, gather
from harness.report.text import parameters, tables
from harness.report.trial import Trial
from harness.store import read_trials
from harness.store.records import Curve, TrialRecord

#: Columns that a definition makes depend on the other arms.
RELATIVE = {
    "tie_group", "minimum_detectable_effect", "difference_to_reference_block_low", "difference_to_reference_block_high",
    "intransigence", "Intransigence, points", "average_accuracy_of_learnt",
    "Average accuracy without tasks that are not learnt, %", "settings_tried", "Settings tried", "on_front",
}  # fmt: skip
#: Columns of the tables behind figures that say which number of an arm a row is.
PLACE = ("order", "seed", "metric", "place", "x", "examples", "after_task", "position")
#: Sets of trials that one arm each is made of: what means something else, costs something else, or broke.
CAST = (
    "combined", "diverged", "frozen", "full_finetune", "incomplete", "lora", "lora@rank2", "lora_ema",
    "multitask", "replay", "single_task", "stable_lora",
)  # fmt: skip
OTHERS = [name for name in CAST if name != "lora"]
ORDERS = {"a": QUICK, "b": QUICK[::-1]}
GRID = (0, 16, 32, 64, 96)


def arm(name: str) -> list[TrialRecord]:
    """Three seeds of an arm in each order, but for one that is incomplete and one of which two trials diverged."""
    keys = [(order, seed) for order in ORDERS for seed in range(3)]
    if name == "diverged":
        return [*(failed(name, QUICK, seed=seed) for seed in (0, 1)), one(name, "b", 2)]
    return [one(name, order, seed) for order, seed in (keys[1:] if name == "incomplete" else keys)]


def one(name: str, order: str, seed: int) -> TrialRecord:
    record = trial(name, ORDERS[order], order=order, seed=seed, grid=GRID, intruders="all")
    spec = record.spec
    if name == "lora@rank2":
        adapter = {"rank": 2, "alpha": 4, "targets": ["q_proj"]}
        spec = spec.model_copy(update={"training": spec.training | {"adapter": adapter}})
    return record.model_copy(update={"spec": spec, "curves": tuple(_spent(name, record))})


def _spent(name: str, record: TrialRecord) -> Iterator[Curve]:
    """Curves whose tokens are what the tasks' lengths and the arm make them, and that learn at different speeds."""
    lengths = dict(zip(QUICK, (31, 61, 122), strict=True))
    for curve in record.curves:
        each = lengths[curve.task]
        factor = {"multitask": 71 / each, "frozen": 0.0, "combined": 1.9}.get(name, 1.0)
        if name == "replay":  # one example in a few is another task's, longer or shorter
            factor = 0.9 if each == max(lengths.values()) else 1.1
        late = name in ("lora", "stable_lora", "replay") and curve.task == QUICK[2]  # gets there at the last point
        score = (*curve.score[:1], *([curve.score[0]] * 3), curve.score[-1]) if late else curve.score
        tokens = tuple(int(n * each * factor) for n in curve.examples)
        yield curve.model_copy(update={"tokens": tokens, "score": score})


def board_of(names: Sequence[str]) -> Folder:
    expected = {"incomplete": 6} if "incomplete" in names else {}
    return Folder([record for name in names for record in arm(name)], expected=expected)


def own_numbers(study: StudyResults, figures: bool = False) -> dict[tuple[Any, ...], Any]:
    """(arm, place, ...) -> what the report says there of the arm, wherever its number stands."""
    board = leaderboard.rows(study)
    found: dict[tuple[Any, ...], Any] = {}
    for line in leaderboard_csv.table(board):
        found |= {(line["method"], "leaderboard", column): value for column, value in line.items()}
    for one_trial in study.trials:
        for metric, value in one_trial.metrics.items():
            found[one_trial.record.spec.arm, "trials", *one_trial.key, metric] = value
    for table in [*tables.tables(study, board), parameters.parameters(study)]:
        for row in table.rows:
            cells = zip(table.columns[1:], row[1:], strict=True)
            found |= {(row[0], table.heading, column): cell for column, cell in cells}
    for plot in registry.FIGURES if figures else ():
        _, _, rows = plot.draw(study, registry.drawn_looks(study, board))
        for row in rows:
            place = tuple(row.get(key) for key in PLACE)
            found |= {(row["arm"], plot.name, *place, column): value for column, value in row.items()}
    return {key: value for key, value in found.items() if not _relative(key[-1])}


def _relative(column: str) -> bool:
    return column in RELATIVE or column.endswith("p_holm") or column.startswith(("rho_", "slope_"))


def assert_unchanged(before: dict[tuple[Any, ...], Any], after: dict[tuple[Any, ...], Any]) -> None:
    """Every number that is there after is what it was, and of an arm that stayed none is gone.

    But for its hyper-parameters: which are columns, words or the same in all is a question of all arms.
    """
    stayed = {arm for arm, *_ in after}
    before, after = ({key: value for key, value in numbers.items() if key[1] != "Hyper-parameters"}
                     for numbers in (before, after))  # fmt: skip
    moved = {key: (before.get(key), value) for key, value in after.items() if not _same(before.get(key), value)}
    gone = [key for key, value in before.items() if key[0] in stayed and key not in after and _number(value)]
    assert (moved, gone) == ({}, [])


def _same(one: Any, other: Any) -> bool:
    # Sums over arrays of other widths differ in the last bits.
    if isinstance(one, float) and isinstance(other, float):
        return math.isclose(one, other, rel_tol=1e-9, abs_tol=1e-12)
    return one == other


def _number(value: Any) -> bool:
    return value not in (None, "", "–")


@cache
def full(figures: bool = False) -> dict[tuple[Any, ...], Any]:
    return own_numbers(gather(board_of(CAST)), figures)


@pytest.mark.parametrize("name", OTHERS)
def test_dropping_an_arm_changes_no_other_arm_s_number(name):
    assert_unchanged(full(), own_numbers(gather(board_of([other for other in CAST if other != name]))))


@settings(max_examples=25)
@given(st.sets(st.sampled_from(OTHERS)))
def test_an_arms_numbers_ignore_who_else_is_on_the_board(others):
    assert_unchanged(full(), own_numbers(gather(board_of(["lora", *sorted(others)]))))


def test_nor_do_the_numbers_behind_the_figures():
    """Without all arms that mean something else or broke, at once."""
    left = ("combined", "lora", "replay", "stable_lora")
    assert_unchanged(full(figures=True), own_numbers(gather(board_of(left)), figures=True))


def test_a_new_name_of_an_arm_changes_no_other_arm_s_number():
    board = board_of(CAST)
    board.records = [_renamed(record) if record.spec.arm == "multitask" else record for record in board.records]
    after = own_numbers(gather(board))
    assert any(arm == "multitask@a" for arm, *_ in after)
    assert_unchanged(full(), {key: value for key, value in after.items() if key[0] != "multitask@a"})


def _renamed(record: TrialRecord) -> TrialRecord:
    return record.model_copy(update={"spec": record.spec.model_copy(update={"setting": "a"})})


@cache
def committed() -> tuple[TrialRecord, ...]:
    return tuple(read_trials(REFERENCE / "ablate_adapter").records)


def test_dropping_an_arm_changes_no_other_arms_number():
    before = own_numbers(gather(Folder(list(committed()))))
    for name in sorted({record.spec.arm for record in committed()} - {"lora"}):
        left = Folder([record for record in committed() if record.spec.arm != name])
        assert_unchanged(before, own_numbers(gather(left)))


# -- the horizon of examples and tokens to 90 % ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("records", "among"),
    [(lambda: board_of(CAST).records, {"lora", "stable_lora", "full_finetune"}), (committed, {"lora", "lora@rank16"})],
    ids=["synthetic", "committed"],
)
def test_the_cheapest_arm_has_one_share_in_tokens_and_examples(records, among):
    study = gather(Folder(list(records())))
    least = {each.key: _tokens(each) for each in certain(study.reference).trials}
    cheapest = [
        each
        for each in study.trials
        if each.metrics.get("tokens_to_90_share") is not None
        and all(0 < spent <= least[each.key][task] for task, spent in _tokens(each).items())
    ]
    assert among <= {each.record.spec.arm for each in cheapest}
    for each in cheapest:
        assert each.metrics["tokens_to_90_share"] == each.metrics["examples_to_90_share"]


def _tokens(trial: Trial) -> dict[str, int]:
    return {curve.task: curve.tokens[-1] for curve in trial.record.curves}


def with_tokens(name: str, seed: int, tokens: int, reached: bool) -> TrialRecord:
    """A trial on one task that spends so many tokens and gets to 90 % at its last point, or never."""
    record = trial(name, QUICK[:1], seed=seed)
    curve = Curve(task=QUICK[0], examples=(0, 32, 96), score=(0.3, 0.3, 0.9 if reached else 0.3), tokens=(0, 1, tokens))
    return record.model_copy(update={"curves": (curve,)})


def test_a_trial_is_followed_as_far_as_plain_lora_goes():
    lora = [with_tokens("lora", seed, 1000 * (1 + seed), reached=True) for seed in range(2)]
    # Of seed 2 plain LoRA has no trial: the mean of its others.
    never = [with_tokens("stable_lora", seed, 9000, reached=False) for seed in range(3)]
    cheap = [with_tokens("lora_ema", seed, 500, reached=seed > 0) for seed in range(3)]
    dear = [with_tokens("combined", seed, 1400, reached=True) for seed in range(3)]
    arms = {arm.name: arm for arm in gather(Folder([*lora, *never, *cheap, *dear])).arms}
    assert list(arms["lora"].values("tokens_to_90").values()) == [1000, 2000]
    assert list(arms["stable_lora"].values("tokens_to_90").values()) == [1000, 2000, 1500]
    assert list(arms["stable_lora"].values("examples_to_90").values()) == [96, 96, 96]
    assert list(arms["lora_ema"].values("tokens_to_90").values()) == [1000, 500, 500]
    assert list(arms["combined"].values("tokens_to_90").values()) == [1000, 1400, 1400]
    assert list(arms["combined"].values("tokens_to_90_share").values()) == [0, 1, 1]
