"""Forgetting of every trained trial against its intruder dimensions."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator, NullFormatter

from harness.analysis.correlation import LEAST_ARMS, Correlation, Slope, spearman
from harness.report.figures.intruders_at_end import LABELS
from harness.report.figures.parts import Rows, drawn_arms, empty, from_zero, limits, other_arms
from harness.report.figures.style import GRID, Look, legend, new_figure, power_of_ten
from harness.report.study import StudyResults
from harness.report.within_arms import last_intruders, slope_of

#: A trial of an arm that the figures don't draw.
OTHER = Look("", GRID, "o", "-")
#: Up to so many trials each is a drawn object, which can be taken out of the SVG; more are one an arm, which takes a
#: hundredth of time and memory.
SINGLY = 1000
#: An arm, and where its points lie.
Marks = tuple[str, list[float], list[float]]


def against_forgetting(study: StudyResults, styles: dict[str, Look]) -> tuple[Figure, Sequence[str], Rows]:
    """Forgetting of every trained trial against its intruders; Spearman's rho is over all of them, slopes within arms.

    Trials of arms without a look are grey: arms are drawn by their accuracy, which must not choose the trials.
    """
    columns = ("arm", "order", "seed", "count", "distance", "forgetting", "rho_count", "rho_distance",
               *(f"slope_{metric}{end}" for metric in LABELS for end in ("", "_ci_low", "_ci_high")))  # fmt: skip
    points = [
        (arm.name, trial, taken)
        for arm in (*drawn_arms(study, styles), *other_arms(study, styles))
        for trial in arm.trials
        if (taken := last_intruders(trial)) and trial.metrics.get("forgetting") is not None
    ]
    if not points:
        return empty("Intruders against forgetting needs two tasks and trained adapters."), columns, []
    lost = [float(trial.metrics["forgetting"] or 0.0) for _, trial, _ in points]
    correlations = {
        metric: spearman([float(getattr(taken, metric)) for *_, taken in points], lost) for metric in LABELS
    }
    slopes = {metric: slope_of(points, metric) for metric in LABELS}
    ends = {f"slope_{m}{end}": getattr(s, of) if s else None for m, s in slopes.items()
            for end, of in (("", "value"), ("_ci_low", "low"), ("_ci_high", "high"))}  # fmt: skip
    rows: Rows = [
        {"arm": name, "order": trial.key[0], "seed": trial.key[1], "count": taken.count, "distance": taken.distance,
         "forgetting": trial.metrics["forgetting"],
         **{f"rho_{m}": r.rho if r else None for m, r in correlations.items()}, **ends}
        for name, trial, taken in points
    ]  # fmt: skip
    figure = new_figure(8.4, 3.8)
    for axes, (metric, label) in zip(figure.subplots(1, 2, sharey=True), LABELS.items(), strict=True):
        xs = [float(getattr(taken, metric)) for *_, taken in points]
        marks = [(name, [x], [100 * y]) for (name, *_), x, y in zip(points, xs, lost, strict=True)]
        singly = len(marks) <= SINGLY
        for name, xs, ys in marks if singly else _by_arm(marks):
            look = styles.get(name, OTHER)
            axes.plot(xs, ys, color=look.color, marker=look.marker, markersize=5, alpha=0.8,
                      zorder=2 + (name in styles), linestyle="-" if singly else "none")  # fmt: skip
        axes.set_title(f"{correlation_words(correlations[metric], len(points))}\n{slope_words(slopes[metric])}")
        axes.set_xlabel(label)
    axes = figure.axes[0]
    axes.set_ylabel("forgetting (points)")
    axes.set_ylim(limits([100 * value for value in lost], 2))
    axes.xaxis.set_major_locator(MaxNLocator(nbins=4, integer=True))
    if not any(taken.count for *_, taken in points):
        axes.set_xlim(from_zero([], counts=True))
    distances = [taken.distance for *_, taken in points]
    if max(distances) > 10 * min(distances) > 0:  # methods may lie decades apart
        figure.axes[1].set_xscale("log")
        figure.axes[1].xaxis.set_major_formatter(FuncFormatter(power_of_ten))
        figure.axes[1].xaxis.set_minor_formatter(NullFormatter())
    legend(figure, {name for name, *_ in points}, styles)
    return figure, columns, rows


def slope_words(slope: Slope | None) -> str:
    """The slope within arms in points of forgetting; "not testable" where it is None."""
    if slope is None:
        return f"within arms: not testable (under {LEAST_ARMS} arms vary)"
    ends = f"[{100 * slope.low:+.2f}, {100 * slope.high:+.2f}]"
    return f"within arms {100 * slope.value:+.2f} {ends} points an SD, {slope.arms} arms"


def _by_arm(marks: Iterable[Marks]) -> list[Marks]:
    """The points of every arm together, in the order of its first."""
    arms: dict[str, Marks] = {}
    for name, xs, ys in marks:
        _, all_xs, all_ys = arms.setdefault(name, (name, [], []))
        all_xs += xs
        all_ys += ys
    return list(arms.values())


def correlation_words(correlation: Correlation | None, n: int) -> str:
    """Spearman's rho with its interval; "not defined" where it is None."""
    if correlation is None:
        return f"Spearman's ρ: not defined ({n} trials)"
    return f"Spearman's ρ {correlation.rho:.2f} [{correlation.low:.2f}, {correlation.high:.2f}], {correlation.n} trials"
