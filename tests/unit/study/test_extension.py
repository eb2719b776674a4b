"""One step beyond an end of a grid: how far, for whom, once, and in a campaign whose tries lie there."""

from __future__ import annotations

from typing import Any

import pytest

from harness.method.registry import methods
from harness.study import extension, search
from harness.study.config import Study
from harness.study.load import build_study
from harness.study.search import Search, Try


def laid_out(given: dict[str, Any], **changes: Any) -> tuple[Study, dict[str, Search]]:
    data = {"name": "s", "model": "m", "seeds": [0], "streams": {"one": ["a", "b"]}, "methods": given}
    study = build_study(data | changes, where="s.yaml")
    return study, {each.arm: each for each in search.lay_out(study, methods(), "s.yaml")}


def at(found: Search, **values: Any) -> Try:
    return next(entry for entry in found.tries if entry.values == values)


def beyond(study: Study, found: Search, chosen: Try | None) -> Search:
    return extension.extended(study, found, chosen, methods()[found.arm.partition("@")[0]], "s.yaml:tuning.grids")


@pytest.mark.parametrize(("values", "end", "next_one"), [
    ([1e-4, 2e-4, 5e-4, 1e-3, 2e-3], 2e-3, 4e-3),
    ([1e-4, 2e-4, 5e-4, 1e-3, 2e-3], 1e-4, 5e-5),
    ([5e-4, 1e-3, 5e-3], 5e-3, 0.025),
    ([0.1, 0.3, 1.0], 1.0, 3.33333),
    ([0.0, 0.5, 1.0], 0.0, -0.5),
    ([-1.0, 0.0, 1.0], 1.0, 2.0),
    ([2, 4, 8], 8, 16),
    ([1, 2, 3], 3, 4),
    ([1, 2, 4], 1, None),
])  # fmt: skip
def test_a_step_is_one_of_the_grids_own_ratio(values, end, next_one):
    found = extension.beyond(values, end)
    assert found == next_one
    assert type(found) is type(next_one)


def test_the_best_at_an_end_gets_one_value_more():
    study, found = laid_out({"lora": {}})
    longer = beyond(study, found["lora"], at(found["lora"], learning_rate=2e-3))
    assert [(entry.arm, entry.values) for entry in longer.extension] == [
        ("lora@learning_rate=0.004", {"learning_rate": 0.004})]  # fmt: skip
    tried = search.tuning_study(study, [longer], "s.yaml").methods
    assert list(tried) == [f"lora@learning_rate={rate}" for rate in (1e-4, 2e-4, 5e-4, 1e-3, 2e-3, 4e-3)]
    assert beyond(study, found["lora"], at(found["lora"], learning_rate=1e-3)).extension == ()
    assert beyond(study, found["lora"], None).extension == (), "every try diverged"


def test_each_setting_at_an_end_is_moved_by_itself():
    grids = {"stable_lora@x": {"learning_rate": [0.1, 0.2, 0.4], "shrink": [0.01, 0.02, 0.04]}}
    study, found = laid_out({"stable_lora@x": {}}, tuning={"settings": 9, "grids": grids})
    longer = beyond(study, found["stable_lora@x"], at(found["stable_lora@x"], learning_rate=0.1, shrink=0.04))
    assert [entry.arm for entry in longer.extension] == [
        "stable_lora@x,learning_rate=0.05,shrink=0.04", "stable_lora@x,learning_rate=0.1,shrink=0.08",
    ]  # fmt: skip


def test_two_values_words_and_refused_ones_are_not_extended():
    grids = {"lora": {"learning_rate": [0.1, 0.2], "between_tasks": ["continue", "reinit"]},
             "stable_lora": {"shrink": [0.1, 0.3, 0.9]}}  # fmt: skip
    study, found = laid_out({"lora": {}, "stable_lora": {}}, tuning={"settings": 4, "grids": grids})
    chosen = at(found["lora"], learning_rate=0.2, between_tasks="reinit")
    assert beyond(study, found["lora"], chosen).extension == (), "of two values one is always at an end"
    longer = beyond(study, found["stable_lora"], at(found["stable_lora"], shrink=0.9))
    assert longer.extension == ()
    assert longer.refused[0].startswith("shrink=2.7 (")


def test_where_the_best_lies_among_what_was_tried():
    _, found = laid_out({"lora": {}})
    tries = found["lora"].tries
    places = [extension.place(tries, entry) for entry in tries]
    assert places == ["at an end", "inside", "inside", "inside", "at an end"]
    assert extension.place(tries[:2], tries[0]) == ""
