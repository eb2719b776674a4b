"""How long work takes, learnt from what records cost; and the order that follows from it."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from harness.store.records import Costs
from harness.study.forecast import START_UNITS, Counts, Effort
from harness.study.pace import Beside, Pace, Sample, learn, longest_first
from harness.study.stack import agrees

LOW: dict[Effort, float] = {("train", "low-rank"): 100.0, ("score", "low-rank"): 50.0, ("analysis", "low-rank"): 10.0}
ONE = Counts(tasks=1, steps=1)
DENSE: dict[Effort, float] = {("train", "dense"): 100.0, ("score", "dense"): 50.0, ("analysis", "dense"): 10.0}


def sample(work: dict[Effort, float], train: float | None, score: float = 5.0, analysis: float = 1.0) -> Sample:
    return Sample(work, Costs(train_seconds=train, score_seconds=score, analysis_seconds=analysis))


def test_each_kind_has_the_median_of_its_records():
    pace = learn([sample(LOW, 10), sample(LOW, 20), sample(LOW, 9000), sample(DENSE, 300)], Pace(7.0))
    assert pace.records == 4
    assert pace.of(("train", "low-rank")) == pytest.approx(0.2), "the record of a machine that slept is one of three"
    assert pace.of(("train", "dense")) == pytest.approx(3.0)
    assert pace.seconds(LOW, ONE) == pytest.approx(7.0 * START_UNITS + 20 + 5 + 1)


STARTS: dict[Effort, float] = LOW | {("decompose", "low-rank"): 40.0}
#: 10 s of training and 20 s of what is decomposed.
GUESS = Pace(7.0, guessed={"train": 0.1, "decompose": 0.5}, beside=Beside(pack=1000.0))


@pytest.mark.parametrize("seconds", [15.0, 21.0, 30.0, 90.0])
def test_what_is_decomposed_has_a_share_of_what_training_took(seconds):
    pace = learn([sample(STARTS, seconds)], GUESS)
    assert pace.of(("train", "low-rank")) == pytest.approx(0.1 * seconds / 30)
    assert pace.of(("decompose", "dense")) == pytest.approx(0.5 * seconds / 30)
    assert pace.seconds(STARTS, ONE) == pytest.approx(7.0 * START_UNITS + seconds + 5 + 1)
    assert pace.records == 1
    assert GUESS.seconds(STARTS, ONE) - GUESS.seconds(LOW, ONE) == pytest.approx(20)


def test_records_that_decompose_nothing_come_first():
    plain = [sample(LOW, 10), sample(LOW, 12), sample(LOW, 14)]
    for seconds, decomposed in ((90.0, 90 - 12), (16.0, 20 * 16 / 32)):  # of 12 + 20 s; half of it by the guess
        pace = learn([*plain, sample(STARTS, seconds)], GUESS)
        assert pace.of(("train", "low-rank")) == pytest.approx(0.12)
        assert 40 * pace.of(("decompose", "low-rank")) == pytest.approx(decomposed)
        assert pace.records == 4
    dense: dict[Effort, float] = DENSE | {("decompose", "dense"): 40.0}
    pace = learn([*plain, sample(dense, 64.0)], GUESS)
    assert pace.of(("train", "dense")) == pytest.approx(0.12 * 64 / 32), "compared with what is known of other kinds"


def test_records_without_training_are_none_to_rest_on():
    untrained: dict[Effort, float] = LOW | {("train", "low-rank"): 0.0}
    pace = learn([sample(untrained, None)], GUESS)
    assert pace.of(("score", "low-rank")) == pytest.approx(0.1)
    assert pace.records == 0
    assert pace.seconds(LOW, ONE) == pytest.approx(7.0 * START_UNITS + 1000 + 10 + 5 + 1)


def test_a_kind_without_records_takes_the_pace_of_its_part():
    pace = learn([sample(LOW, 10)], Pace(7.0))
    assert pace.of(("train", "sampling")) == pytest.approx(0.1)
    assert pace.of(("analysis", "dense")) == pytest.approx(0.1)
    assert pace.of(("score", "scaled")) == pytest.approx(0.1)


def test_without_costs_constants_stand():
    for samples in ([], [Sample(LOW, Costs())], [sample({("train", "low-rank"): 0.0}, 10)]):
        pace = learn(samples, Pace(7.0))
        assert pace == Pace(7.0)
        assert pace.seconds(LOW, ONE) == pytest.approx(7.0 * (START_UNITS + 160))


def test_what_is_beside_the_units_is_in_what_records_tell():
    guess = Pace(7.0, beside=Beside(pack=10.0))
    assert learn([], guess).seconds(LOW, ONE) == pytest.approx(10 + 7.0 * (START_UNITS + 160))
    assert learn([sample(LOW, 10)], guess).seconds(LOW, ONE) == pytest.approx(7.0 * START_UNITS + 10 + 5 + 1)


def test_a_part_without_records_takes_the_pace_guessed_of_it():
    guess = Pace(7.0, guessed={"train": 0.5, "score": 0.25})
    assert guess.seconds(LOW, ONE) == pytest.approx(7.0 * (START_UNITS + 10) + 100 * 0.5 + 50 * 0.25)
    learnt = learn([sample({("train", "low-rank"): 100.0}, 10)], guess)
    assert learnt.of(("train", "dense")) == pytest.approx(0.1)
    assert learnt.of(("score", "low-rank")) == 0.25


def test_tasks_and_steps_take_time_however_few_their_tokens():
    beside = Beside(pack=1, task=10, shapes=100, step=1000, samples=10_000)
    assert beside.seconds(Counts(tasks=2, steps=3)) == 1 + 2 * (10 + 100) + 3 * 1000
    assert beside.seconds(Counts(tasks=2, steps=3, passes=2)) == 1 + 2 * (10 + 200) + 3 * 2000
    assert beside.seconds(Counts(tasks=2, steps=3, samples=True)) == 1 + 2 * (10 + 100) + 3 * (1000 + 10_000)


def test_the_longest_begins_first_and_equals_stay_in_order():
    packs: Any = [
        SimpleNamespace(name=name, takes=takes) for name, takes in zip("abcdef", (2, 5, 2, 9, 5, 2), strict=True)
    ]
    assert [pack.name for pack in longest_first(packs, lambda pack: pack.takes)] == list("dbeacf")
    assert [pack.name for pack in packs] == list("abcdef")


def test_a_stack_is_another_where_one_entry_differs():
    plain = {"torch": "2.11", "device": "NVIDIA H200", "threads": 4}
    assert agrees({**plain, "cuda": "13.0", "digest": "e4"}, plain)
    assert not agrees({**plain, "torch": "2.12"}, plain)
    assert not agrees({"torch": "2.11", "device": "NVIDIA H200"}, plain)
