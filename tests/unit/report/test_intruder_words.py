"""What a page says of intruder dimensions and forgetting: slopes within arms, in words no stronger than they are."""

from __future__ import annotations

import numpy as np
import pytest
from synthetic import QUICK, Folder, trial

from harness.report import write_report
from harness.report.study import gather
from harness.report.text.intruders import intruder_tables
from harness.store.intruders import Intruders

ARMS = ("lora", "stable_lora", "lora_ema", "self_distill", "combined", "lora@hot")


def records(slope: float, arms=ARMS, between: float = 40.0, mixed: bool = False):
    """Trials whose forgetting goes with their intruders by ``slope`` points each, and between arms by 1 of 40.

    ``mixed``: by the opposite in every other arm.
    """
    made = []
    for place, arm in enumerate(arms):
        for seed in range(6):
            record = trial(arm, QUICK, seed=seed)
            count = int(100 + between * place + 10 * seed * (-1) ** (seed + place))
            rng = np.random.default_rng([place, seed])
            lost = (
                0.05
                + 0.01 * place
                + slope * (-1) ** (place * mixed) / 100 * (count - 100 - between * place)
                + 0.001 * rng.normal()
            )
            made.append(_with(record, count, lost, 2.0 + place + rng.normal() / 10))
    return made


def _with(record, count: int, lost: float, norm: float):
    """The record with so many intruders, forgetting and norm of the change."""
    last = record.intruders[-1].model_dump(mode="json") | {"count": count, "delta_norm": norm}
    tasks = dict(record.tasks)
    for task in QUICK[:-1]:
        score = list(tasks[task].score)
        score[-1] = max(score[1:-1]) - lost
        tasks[task] = tasks[task].model_copy(update={"score": tuple(score)})
    intruders = (*record.intruders[:-1], Intruders.model_validate(last))
    return record.model_copy(update={"tasks": tasks, "intruders": intruders})


@pytest.mark.parametrize(
    ("slope", "words"),
    [
        (0.05, "that with more intruder dimensions forgets more (+"),
        (-0.05, "that with more intruder dimensions forgets less (−"),
    ],
)
def test_the_verdict_is_of_the_slope_within_arms(slope, words):
    """Between arms both always grow together: that says nothing."""
    (table,) = intruder_tables(gather(Folder(records(slope))), tested=False)
    assert words in table.caption
    assert "`lorabench mitigate quick` tests it" in table.caption
    over, within = table.rows[0][1:3]
    assert over.startswith("+0.")
    spread = np.std([c for place in range(6) for c in 10 * np.arange(6) * (-1.0) ** (np.arange(6) + place)])
    assert float(within.split()[0].replace("−", "-")) == pytest.approx(slope * spread, abs=0.15)
    assert table.rows[0][3:] == ["6", "36"]


def test_arms_that_disagree_have_no_slope():
    (table,) = intruder_tables(gather(Folder(records(0.05, mixed=True))), tested=True)
    assert "Within arms it does not go with their number (" in table.caption
    assert "tested by the mitigation below" in table.caption


def test_few_arms_or_equal_counts_say_nothing():
    assert intruder_tables(gather(Folder(records(0.05, arms=ARMS[:3]))), tested=False) == []
    same = [_with(record, 0, 0.01 * record.spec.seed, 2.0) for record in records(0.05)]
    assert intruder_tables(gather(Folder(same)), tested=False) == []


def test_the_page_has_the_verdict(tmp_path):
    write_report(tmp_path, Folder(records(0.05)))
    for name in ("report.md", "report.html"):
        assert "Do intruder dimensions explain forgetting? Of two trials of one arm" in (tmp_path / name).read_text()
