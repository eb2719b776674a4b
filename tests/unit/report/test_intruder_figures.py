"""Figures of intruders: the numbers behind them, and what they say where there is nothing to say."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from matplotlib.text import Text
from scipy import stats
from synthetic import QUICK, Folder, large, quick, trial

from harness.analysis.correlation import Correlation, Slope, spearman
from harness.report.figures import intruders_forgetting
from harness.report.figures.intruders import intruders
from harness.report.figures.intruders_by_epsilon import by_epsilon
from harness.report.figures.intruders_by_place import by_place
from harness.report.figures.intruders_forgetting import against_forgetting, correlation_words, slope_words
from harness.report.figures.palette import looks
from harness.report.figures.style import context
from harness.report.study import gather
from harness.report.within_arms import points_of, slope_of

pytestmark = pytest.mark.drawn


def drawn(draw, folder: Folder):
    """(what the figure says outside of its axes, rows) of one figure."""
    study = gather(folder)
    with context():
        figures, columns, rows = draw(study, looks((arm.name, arm.method) for arm in study.arms))
    assert all(set(row) <= set(columns) for row in rows)
    return figures[0], rows


# -- Spearman ---------------------------------------------------------------------------------------------------------


@given(st.lists(st.tuples(st.integers(-5, 5), st.integers(-5, 5)), min_size=4, max_size=30))
def test_rho_is_scipy_s(pairs):
    x, y = zip(*pairs, strict=True)
    found = spearman(x, y)
    if len(set(x)) == 1 or len(set(y)) == 1:
        assert found is None
        return
    assert found.rho == pytest.approx(stats.spearmanr(x, y).statistic, abs=1e-12)
    assert -1 <= found.low <= found.rho + 1e-12
    assert found.rho - 1e-12 <= found.high <= 1


def test_the_interval_is_bonett_and_wright_s():
    """n = 20, rho = 0.5: z = 0.5493, half = 1.96 sqrt(1.125 / 17) = 0.5042."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=20)
    found = spearman(x, x + 1.6 * rng.normal(size=20))
    half = 1.959964 * np.sqrt((1 + found.rho**2 / 2) / 17)
    assert np.arctanh(found.high) - np.arctanh(found.rho) == pytest.approx(half, rel=1e-6)
    assert np.arctanh(found.rho) - np.arctanh(found.low) == pytest.approx(half, rel=1e-6)


def test_the_interval_covers():
    """95 % of the time, for a Pearson correlation of 0.6 (Spearman's is 6 / pi asin(0.3))."""
    rng, true = np.random.default_rng(1), 6 / np.pi * np.arcsin(0.3)
    pairs = rng.multivariate_normal([0, 0], [[1, 0.6], [0.6, 1]], size=(1000, 25))
    found = [spearman(sample[:, 0], sample[:, 1]) for sample in pairs]
    covered = np.mean([one.low <= true <= one.high for one in found])
    assert 0.93 < covered < 0.97


@pytest.mark.parametrize(("x", "y"), [([1, 2, 3], [1, 2, 3]), ([1, 1, 1, 1], [1, 2, 3, 4]), ([1, 2, 3, 4], [0] * 4)])
def test_it_is_not_defined_for_few_or_constant(x, y):
    assert spearman(x, y) is None
    assert "not defined" in correlation_words(spearman(x, y), len(x))


def test_numbers_have_real_signs():
    assert (
        correlation_words(Correlation(-0.321, -0.586, 0.017, 33), 33) == "Spearman's ρ: −0.32 [−0.59, +0.02], 33 trials"
    )
    assert slope_words(Slope(0.0123, -0.004, 0.0201, 7, 33)) == "Within arms: +1.23 points an SD [−0.40, +2.01], 7 arms"


def test_it_refuses_what_is_not_finite():
    with pytest.raises(ValueError, match="finite"):
        spearman([1, 2, np.nan, 4], [1, 2, 3, 4])


# -- figures ----------------------------------------------------------------------------------------------------------


def test_a_perfect_order_has_no_width():
    found = spearman([1, 2, 3, 4, 5], [10, 20, 30, 40, 50])
    assert (found.rho, found.low, found.high) == (pytest.approx(1), pytest.approx(1), pytest.approx(1))


def test_the_figure_says_what_the_table_says():
    """The ends of a bootstrap depend on the order of what is resampled; the figure's is that of the looks."""
    study = gather(large())
    reverse = looks((arm.name, arm.method) for arm in study.arms)
    with context():
        _, _, rows = against_forgetting(study, dict(reversed(reverse.items())))
    slope = slope_of(points_of(study), "count")
    found = [rows[0][f"slope_count{end}"] for end in ("", "_ci_low", "_ci_high")]
    assert found == [slope.value, slope.low, slope.high]


def test_forgetting_is_drawn_for_every_trained_trial():
    folder = quick()
    figure, rows = drawn(against_forgetting, folder)
    assert {row["arm"] for row in rows} == {"frozen", "lora", "stable_lora", "lora_ema", "self_distill"}
    assert len(rows) == 15
    wanted = stats.spearmanr([row["count"] for row in rows], [row["forgetting"] for row in rows]).statistic
    assert rows[0]["rho_count"] == pytest.approx(wanted)
    assert figure.axes[0].get_title(loc="left").startswith(f"Spearman's ρ: {wanted:+.2f} [")


def test_every_point_has_a_name():
    figure, rows = drawn(against_forgetting, large())
    assert {text.get_text() for text in figure.legends[0].get_texts()} == {row["arm"] for row in rows}


def test_distances_decades_apart_have_powers_of_ten():
    """No name may start a formula, so no tick may be one."""
    folder = quick()
    for number, record in enumerate(folder.records):
        last = record.intruders[-1].model_copy(update={"distance": 10.0 ** -(1 + number % 4)})
        folder.records[number] = record.model_copy(update={"intruders": (None, None, last)})
    figure, _ = drawn(against_forgetting, folder)
    with context():
        figure.draw_without_rendering()
    ticks = [label.get_text() for label in figure.axes[1].get_xticklabels()]
    assert {"10⁻⁴", "10⁻³", "10⁻²", "10⁻¹"} <= set(ticks)
    assert not [text for text in map(Text.get_text, figure.findobj(Text)) if "$" in text]


def test_constant_counts_have_no_correlation():
    folder = Folder([trial("frozen", QUICK, seed=seed) for seed in range(4)])
    figure, rows = drawn(against_forgetting, folder)
    assert {row["count"] for row in rows} == {0}
    assert rows[0]["rho_count"] is None
    assert len(figure.axes) == 1, "counts that are all 0 are a sentence, not a panel"
    assert "Every trial has 0 intruder dimensions" in figure.get_supxlabel().replace("\n", " ")


def test_epsilon_and_place_have_the_means_over_trials():
    folder = large()
    _, rows = drawn(by_epsilon, folder)
    counts = [record.intruders[-1].by_epsilon["0.5"] for record in folder.records if record.spec.arm == "lora"]
    (row,) = (row for row in rows if row["arm"] == "lora" and row["x"] == "0.5")
    assert row["mean"] == pytest.approx(np.mean(counts))
    assert row["trials"] == 15
    _, rows = drawn(by_place, folder)
    (row,) = (row for row in rows if (row["arm"], row["metric"], row["x"]) == ("lora", "distance", "v_proj"))
    own = [r.intruders[-1].by_type["v_proj"].distance for r in folder.records if r.spec.arm == "lora"]
    assert row["mean"] == pytest.approx(np.mean(own))


def test_axes_of_counts_and_distances_begin_at_zero():
    """And hold every trial."""
    many, *records = (trial("lora", QUICK, seed=seed) for seed in range(3))
    few = trial("combined", QUICK).intruders
    figure, _ = drawn(intruders, Folder([many, *(record.model_copy(update={"intruders": few}) for record in records)]))
    for axes in figure.axes:
        low, high = axes.get_xlim()
        assert -0.05 * high < low <= 0
        assert axes.dataLim.x1 <= high


@pytest.mark.parametrize("draw", [by_epsilon, by_place, against_forgetting])
def test_without_intruders_a_figure_says_so(draw):
    folder = Folder([trial("lora", QUICK, seed=seed) for seed in range(3)])
    none = Folder([record.model_copy(update={"intruders": (None,) * 3}) for record in folder.records])
    figure, rows = drawn(draw, none)
    assert rows == []
    assert figure.texts


def test_points_of_many_trials_lie_where_each_would(monkeypatch):
    """As many marks, in the same places and colours, with one drawn object an arm instead of one a trial."""

    def marks() -> tuple[int, list[list[tuple]]]:
        figure, _ = drawn(against_forgetting, quick())
        lines = [[line for line in axes.lines if len(line.get_xdata())] for axes in figure.axes]
        points = [
            sorted((line.get_color(), line.get_marker(), *at) for line in panel for at in line.get_xydata().tolist())
            for panel in lines
        ]
        return sum(map(len, lines)), points

    singly, places = marks()
    monkeypatch.setattr(intruders_forgetting, "SINGLY", 2)
    together, same_places = marks()
    assert (singly, together) == (30, 10), "5 arms of 3 trials, in 2 panels"
    assert same_places == places
