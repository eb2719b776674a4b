"""Which trials are meant: by fingerprint, or by arm, order and seed."""

from __future__ import annotations

import pytest
from synthetic import QUICK, trial

from harness.errors import InputError
from harness.store.choice import Choice

TRIALS = [
    trial(arm, QUICK, order=order, seed=seed) for arm in ("lora", "combined") for order in "ab" for seed in (0, 1)
]


def test_an_empty_choice_is_of_all():
    assert Choice().is_empty
    assert Choice().among(TRIALS) == TRIALS


def test_every_part_narrows():
    assert [(t.spec.order, t.spec.seed) for t in Choice(arm="lora", order="b").among(TRIALS)] == [("b", 0), ("b", 1)]
    assert Choice(seed=0).among(TRIALS) == TRIALS[::2]
    assert Choice(TRIALS[3].fingerprint[:9]).among(TRIALS) == [TRIALS[3]]
    assert Choice(TRIALS[3].fingerprint[:9], seed=0).among(TRIALS) == []


def test_one_is_the_one():
    assert Choice(arm="combined", order="a", seed=1).one(TRIALS, "here") is TRIALS[5]


@pytest.mark.parametrize(
    ("choice", "what", "remedy"),
    [
        (Choice(arm="lroa"), "--arm: unknown arm 'lroa'", "did you mean 'lora'?"),
        (Choice(order="c"), "--order: unknown order 'c'", "known: a, b"),
        (Choice(seed=7), "--seed: there is no trial of seed 7", "seeds: 0, 1"),
        (Choice("zz"), "here: 0 trials begin with 'zz'", "lorabench trials STUDY"),
        (Choice(arm="lora", seed=1), "here: 2 trials are of arm lora, seed 1", "say which: lora, order a, seed 1 ("),
        (Choice(), "here: 8 trials are of anything", "and 2 more"),
    ],
)
def test_none_or_several_are_refused_with_what_there_is(choice, what, remedy):
    with pytest.raises(InputError) as caught:
        choice.one(TRIALS, "here")
    assert str(caught.value).startswith(what)
    assert remedy in str(caught.value.remedy)


def test_among_no_trials_there_is_none_and_no_name_is_wrong():
    assert Choice(arm="lroa", order="c", seed=7).among([]) == []
