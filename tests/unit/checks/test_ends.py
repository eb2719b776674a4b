"""What a rule declares of the ends of tasks, against what it does there over two of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Self

import pytest

from harness.checks.ends import undeclared
from harness.engine.adapters import AdapterBank
from harness.method import BoundUpdate, CurrentTask, Inspection, LowRank, Recipe, UpdateRule
from harness.study.inspection import When


@dataclass(frozen=True)
class Looks(UpdateRule):
    """Reads, and looks at SVDs, at these ends: (end, number of the task); and declares some."""

    does: tuple[tuple[str, int], ...]
    declares: tuple[When, ...] = ()
    takes_spectra: bool = False

    @property
    def inspects(self) -> tuple[Inspection, ...]:
        return tuple(Inspection(when, "tokens", 64) for when in self.declares)

    @classmethod
    def bind(cls, rules: Sequence[Self | None], bank: AdapterBank[Any]) -> BoundUpdate:
        (rule,) = rules
        assert rule is not None
        return _BoundLooks(rule.does)


class _BoundLooks(BoundUpdate):
    def __init__(self, does: tuple[tuple[str, int], ...]) -> None:
        self.does = does

    def begin_task(self, bank: AdapterBank[Any], task: CurrentTask) -> None:
        self._look("begin", task)

    def end_task(self, bank: AdapterBank[Any], task: CurrentTask) -> None:
        self._look("end", task)

    def _look(self, end: str, task: CurrentTask) -> None:
        if (end, task.position) in self.does:
            assert task.inputs is not None
            list(task.inputs(0).moments(task.examples[0], 64)[0])
        if (f"spectra at {end}", task.position) in self.does:
            assert task.spectra is not None
            task.spectra()


def differences(*does: tuple[str, int], declares: tuple[When, ...] = (), takes_spectra: bool = False) -> list[str]:
    return undeclared(Recipe(adapter=LowRank(), updates=(Looks(does, declares, takes_spectra),)))


@pytest.mark.parametrize("end", ["begin", "end"])
def test_what_begins_with_the_second_task_can_be_declared(end):
    assert not differences((end, 1), declares=(end,))
    (wrong,) = differences((end, 1))
    assert "second task it reads" in wrong
    assert not differences((end, 0), (end, 1), declares=(end,))


def test_what_is_declared_has_to_be_seen():
    assert not differences(("begin", 0), declares=("start",))
    assert not differences(("end", 0), declares=("end",))
    for does, declares in ((("begin", 0), "begin"), (("end", 1), "begin"), (("begin", 1), "end")):
        assert any(f"say that it reads at '{declares}'" in wrong for wrong in differences(does, declares=(declares,)))


def test_spectra_may_be_asked_for_after_the_second_task_alone():
    assert not differences(("spectra at end", 1), takes_spectra=True)
    assert differences(("spectra at end", 1)) == differences(takes_spectra=True) != []
