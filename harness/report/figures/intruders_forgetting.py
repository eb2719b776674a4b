"""Forgetting of every trained trial against its intruder dimensions."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FormatStrFormatter, FuncFormatter, LogLocator, MaxNLocator, NullFormatter

from harness.analysis.correlation import LEAST_ARMS, Correlation, Slope
from harness.report.figures.intruders_at_end import LABELS
from harness.report.figures.palette import Look
from harness.report.figures.parts import CLEAR, Drawing, Rows, empty, limits
from harness.report.figures.style import COLUMN, PAGE, TICKS, legend, new_figure, note, power_of_ten
from harness.report.numbers import number, plural
from harness.report.study import StudyResults
from harness.report.trial import Trial
from harness.report.within_arms import correlation_of, points_of, slope_of
from harness.store.intruders import Intruders

#: Up to so many trials each is a drawn object, which can be taken out of the SVG; more are one an arm, which takes a
#: hundredth of time and memory.
SINGLY = 1000
#: An arm, and where its points lie.
Marks = tuple[str, list[float], list[float]]
#: An arm, a trial of it, and its intruders after the last task.
Measured = tuple[str, Trial, Intruders]


def against_forgetting(study: StudyResults, styles: dict[str, Look]) -> Drawing:
    """Every trained trial's forgetting against its intruders; Spearman's rho is over all, slopes within arms."""
    columns = ("arm", "order", "seed", "count", "distance", "forgetting", "rho_count", "rho_distance",
               *(f"slope_{metric}{end}" for metric in LABELS for end in ("", "_ci_low", "_ci_high")))  # fmt: skip
    known = points_of(study)
    points = sorted((point for point in known if point[0] in styles), key=lambda point: list(styles).index(point[0]))
    if not points:
        return empty("Intruders against forgetting needs two tasks and trained adapters."), columns, []
    lost = [float(trial.metrics["forgetting"] or 0.0) for _, trial, _ in points]
    # Of the points in the order of the study: by what is resampled first the bootstrap's ends differ from the table's.
    correlations = {metric: correlation_of(known, metric) for metric in LABELS}
    slopes = {metric: slope_of(known, metric) for metric in LABELS}
    ends = {f"slope_{m}{end}": getattr(s, of) if s else None for m, s in slopes.items()
            for end, of in (("", "value"), ("_ci_low", "low"), ("_ci_high", "high"))}  # fmt: skip
    rows: Rows = [
        {"arm": name, "order": trial.key[0], "seed": trial.key[1], "count": taken.count, "distance": taken.distance,
         "forgetting": trial.metrics["forgetting"],
         **{f"rho_{m}": r.rho if r else None for m, r in correlations.items()}, **ends}
        for name, trial, taken in points
    ]  # fmt: skip
    return [_figure(points, lost, correlations, slopes, styles)], columns, rows


def _figure(
    points: Sequence[Measured],
    lost: Sequence[float],
    correlations: Mapping[str, Correlation | None],
    slopes: Mapping[str, Slope | None],
    styles: dict[str, Look],
) -> Figure:
    """A panel a measure; counts that are the same in every trial are a sentence."""
    counts = {taken.count for *_, taken in points}
    metrics = [metric for metric in LABELS if metric == "distance" or len(counts) > 1]
    names = {name for name, *_ in points}
    figure = new_figure(PAGE if len(metrics) > 1 or len(names) > CLEAR else COLUMN, 2.6)
    for axes, metric in zip(figure.subplots(1, len(metrics), sharey=True, squeeze=False)[0], metrics, strict=True):
        xs = [float(getattr(taken, metric)) for *_, taken in points]
        marks = [(name, [x], [100 * y]) for (name, *_), x, y in zip(points, xs, lost, strict=True)]
        singly = len(marks) <= SINGLY
        for name, across, up in marks if singly else _by_arm(marks):
            look = styles[name]
            axes.plot(across, up, color=look.color, marker=look.marker, alpha=0.8, zorder=2,
                      linestyle="-" if singly else "none")  # fmt: skip
        words = f"{correlation_words(correlations[metric], len(points))}\n{slope_words(slopes[metric])}"
        axes.set_title(words, fontsize=TICKS)
        axes.set_xlabel(LABELS[metric])
        _axis(axes, metric, xs)
    figure.axes[0].set_ylabel("forgetting (points)")
    figure.axes[0].set_ylim(limits([100 * value for value in lost], 2))
    if len(metrics) == 1:
        note(figure, f"Every trial has {plural(counts.pop(), 'intruder dimension')}: nothing to draw, no correlation.")
    legend(figure, names, styles, line=False)
    return figure


def _axis(axes: Axes, metric: str, xs: Sequence[float]) -> None:
    """Few ticks, which never touch; distances that lie decades apart on a logarithmic axis."""
    if metric == "distance" and max(xs) > 10 * min(xs) > 0:
        axes.set_xscale("log")
        decades = max(xs) > 100 * min(xs)
        axes.xaxis.set_major_locator(LogLocator(subs=(1.0,) if decades else (1.0, 2.0, 5.0), numticks=8))
        axes.xaxis.set_major_formatter(FuncFormatter(power_of_ten) if decades else FormatStrFormatter("%g"))
        axes.xaxis.set_minor_formatter(NullFormatter())
    else:
        axes.xaxis.set_major_locator(MaxNLocator(nbins=4, integer=metric == "count"))


def slope_words(slope: Slope | None) -> str:
    """The slope within arms in points of forgetting; "not testable" where it is None."""
    if slope is None:
        return f"Within arms: not testable (under {LEAST_ARMS} arms vary)"
    value, low, high = (number(each, 2, 100, sign=True) for each in (slope.value, slope.low, slope.high))
    return f"Within arms: {value} points an SD [{low}, {high}], {plural(slope.arms, 'arm')}"


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
    return f"Spearman's ρ: {rho_with_ends(correlation)}, {plural(correlation.n, 'trial')}"


def rho_with_ends(correlation: Correlation) -> str:
    """``−0.32 [−0.59, +0.02]``"""
    rho, low, high = (number(each, 2, sign=True) for each in (correlation.rho, correlation.low, correlation.high))
    return f"{rho} [{low}, {high}]"
