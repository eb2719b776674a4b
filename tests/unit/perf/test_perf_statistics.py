"""``lorabench perf statistics``: a few cells keep their promises, and the committed result is of today's functions."""

from __future__ import annotations

import json
from dataclasses import asdict

import numpy as np
import pytest
from places import ROOT

from harness.analysis.statistics.promises import BARS, DESIGN, outside, unreliable
from harness.perf import statistics as simulation
from harness.perf.statistics import SITUATIONS, Design, Situation, boards, cells, measure

COUNT = 1500
#: How far a share of 1,500 boards may be off: three standard errors.
NOISE = 3 * np.sqrt(0.05 * 0.95 / COUNT)


@pytest.mark.parametrize(
    ("design", "name"),
    [(Design(3, 1, 5), "normal noise"), (Design(5, 3, 5), "t3 noise"), (Design(3, 3, 5), "orders 1:1:4")],
    ids=["3x1 normal", "5x3 t3", "3x3 unequal orders"],
)
def test_intervals_and_tests_keep_their_promises(design, name):
    found = measure(design, SITUATIONS[name], COUNT, seed=7)
    for key in ("coverage", "coverage_of_means", "coverage_of_block"):
        low, high = BARS[key]
        assert low - NOISE <= found[key] <= high + NOISE, (key, found[key])
    assert 0.003 < found["false_better"] <= BARS["false_better"][1] + NOISE, "a test that never finds says nothing"
    assert 0.01 < found["false_groups"] <= BARS["false_groups"][1] + NOISE
    assert 0.70 <= found["power"] <= 0.87


def test_made_up_boards_are_what_they_are_called():
    n, design = 400, Design(5, 3, 5)
    plain = boards(design, Situation(), n, seed=1)
    assert plain.shape == (15, 6, n)
    assert (plain[:, 1:] - plain[:, :1]).std() == pytest.approx(np.sqrt(2) * simulation.OWN, rel=0.02)
    assert np.corrcoef(plain[:, 0].ravel(), plain[:, 1].ravel())[0, 1] > 0.25, "pairs share their luck"
    unequal = boards(design, SITUATIONS["orders 1:1:4"], n, seed=1)
    assert unequal[10:].std() == pytest.approx(4 * unequal[:10].std(), rel=0.1)
    unlike = boards(design, SITUATIONS["arms from half to twice the noise"], n, seed=1)
    assert unlike[:, -1].std() > 2 * unlike[:, 0].std()
    high = boards(design, SITUATIONS["scores at the ceiling"], n, seed=1)
    assert high.max() == 1
    assert 0.1 < np.mean(high == 1) < 0.5
    skewed = boards(design, SITUATIONS["skewed noise"], n, seed=1)
    assert np.mean((skewed - skewed.mean()) ** 3) > 0
    assert boards(design, Situation(), n, seed=1).tobytes() == plain.tobytes()


def test_the_false_claims_are_counted(monkeypatch):
    """With a test that always claims, a board has a false claim unless the reference is the best of six by luck."""
    monkeypatch.setattr(simulation, "t_ps", lambda found: np.zeros_like(found.means))
    found = measure(Design(3, 1, 5), Situation(), 200, seed=1)
    assert found["false_better"] == pytest.approx(5 / 6, abs=0.08)
    assert found["power"] == 1


def test_the_committed_result_has_every_cell():
    result = json.loads((ROOT / "results" / "perf" / simulation.FILE).read_text(encoding="utf-8"))
    named = [{**asdict(design), "situation": name} for design, name in cells()]
    assert [{key: cell[key] for key in DESIGN} for cell in result["cells"]] == named
    assert result["bars"] == {key: list(bar) for key, bar in BARS.items()}
    assert all(cell["outside"] == outside(cell) for cell in result["cells"])


def test_the_committed_result_is_of_todays_functions():
    """One cell again: the same seed gives the same shares."""
    result = json.loads((ROOT / "results" / "perf" / simulation.FILE).read_text(encoding="utf-8"))
    cell = result["cells"][0]
    design = Design(*(cell[key] for key in ("seeds", "orders", "arms")))
    again = measure(design, SITUATIONS[cell["situation"]], result["boards"], seed=simulation.SEED)
    for key, value in again.items():
        assert cell[key] == pytest.approx(value, abs=0.002), key


def test_what_is_outside_its_bar_is_kept():
    cell = dict.fromkeys(BARS, 0.95) | {"false_better": 0.04, "false_groups": 0.061, "power": 0.8, "situation": "x"}
    cell |= {"seeds": 3, "orders": 1, "arms": 5, "coverage_of_block": None}
    assert outside(cell) == ["false_groups"]
    assert unreliable([cell]) == [{"seeds": 3, "orders": 1, "arms": 5, "situation": "x", "false_groups": 0.061}]
    assert unreliable([cell | {"false_groups": 0.05}]) == []
