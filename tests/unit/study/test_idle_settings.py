"""Tuning tries nothing twice: a setting that changes no number of an arm is in no grid."""

from __future__ import annotations

import itertools
from typing import Any, cast

import pytest
from places import ROOT

from harness.errors import InputError
from harness.method.registry import methods
from harness.study.load import build_study
from harness.study.plan import Inputs, build_plan
from harness.study.search import Search, lay_out

WINDOW = {"ema_window": [0.1, 0.3]}


def search(name: str, given: dict[str, Any], grid: dict[str, Any] | None = None) -> Search:
    data: dict[str, Any] = {"model": "m", "seeds": [0], "streams": {"o": ["a", "b"]}, "methods": {name: given}}
    if grid is not None:
        data["tuning"] = {"grids": {name: grid}}
    return lay_out(build_study(data, where="s.yaml"), methods(), "s.yaml")[0]


@pytest.mark.parametrize(("name", "given", "there"), [
    ("sdft", {"teacher": "base"}, False), ("sdft", {"teacher": "live"}, False), ("sdft", {}, True),
    ("self_distill", {"teacher": "snapshot"}, False), ("combined", {"teacher": "base"}, True), ("lora_ema", {}, True),
])  # fmt: skip
def test_a_window_that_nobody_looks_through_is_not_tuned(name, given, there):
    """That of an average which nobody learns from and which is not scored."""
    if there:
        assert search(name, given, WINDOW).grid == 2
        return
    assert "ema_window" not in {key for entry in search(name, given).tries for key in entry.values}
    with pytest.raises(InputError, match="'ema_window' changes nothing for this arm") as error:
        search(name, given, WINDOW)
    assert error.value.where == f"s.yaml:tuning.grids.{name}.ema_window"


def test_a_limit_is_nothing_to_tune():
    with pytest.raises(InputError, match="'null_level' changes nothing"):
        search("lora_null", {}, {"null_level": [0.1, 0.2]})
    assert search("lora_null", {}, {"fix_a": [False, True]}).grid == 2


@pytest.mark.parametrize("levels", [[0.1, 1e-4], [1e-4, 0.1]])
def test_each_limit_of_a_grid_is_looked_at(levels):
    """A strict one is not let pass because it is listed behind one that is met."""
    data: dict[str, Any] = {"model": "m", "seeds": [0], "streams": {"o": ["a", "b"]}}
    study = build_study({**data, "methods": {"lora_null": {"null_level": levels}}}, where="s.yaml")
    digests = dict.fromkeys(("a", "b"), "task")
    inputs = Inputs("model", digests, {"lora_null": "source"}, text_digests={"plain_text": "text"})
    packs = build_plan(study, methods(), inputs, 8, "s.yaml").packs
    rows = [row for pack in packs for row in pack.rows]
    assert [[trial.recipe.adapter.level for trial in row.trials] for row in rows] == [[level] for level in levels]


def test_limits_are_settings():
    for name, method in methods().items():
        settings = cast(Any, method.settings)
        assert settings.limits <= set(settings.model_fields), name
        assert not settings.limits & set(settings.grid(64)), name


def test_the_readme_says_what_is_tuned():
    said = set()
    for line in (ROOT / "baselines" / "README.md").read_text(encoding="utf-8").splitlines():
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        if len(cells) == 3 and cells[0].startswith("`"):
            said |= {(name.strip("`"), cells[0].strip("`"), cells[1]) for name in cells[2].split(", ")}
    grids = {name: cast(Any, method.settings).grid(64) for name, method in methods().items()}
    shown = {
        (name, setting, ", ".join(f"{value:g}" if isinstance(value, int | float) else value for value in values))
        for name, grid in grids.items()
        for setting, values in grid.items()
    }
    assert said == shown


@pytest.mark.parametrize("name", sorted(methods()))
@pytest.mark.parametrize("steps", [1, 12, 64])
def test_no_two_points_of_a_methods_grid_are_alike(name, steps):
    method = methods()[name]
    kind = cast(Any, method.settings)
    grid, keys = kind.grid(steps), []
    for point in itertools.product(*grid.values()):
        given = kind.model_validate(dict(zip(grid, point, strict=True))).resolved(steps)
        keys.append((getattr(given, "learning_rate", None), method.compose(given).result_key))
    assert len(set(keys)) == len(keys)
