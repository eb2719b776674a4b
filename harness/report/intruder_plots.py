"""Figures of intruder dimensions beside the one along the stream: over epsilon, by place, against forgetting."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, ScalarFormatter

from harness.analysis.correlation import Correlation, spearman
from harness.analysis.statistics import Estimate
from harness.report.drawing import (
    POINT,
    Rows,
    drawn_arms,
    empty,
    from_zero,
    grey_lines,
    limits,
    other_arms,
    point_row,
    spans,
    values_of,
    whisker,
)
from harness.report.frame import Arm, Trial, estimate
from harness.report.study import Study
from harness.report.style import GRID, Look, drawn_name, legend, new_figure
from harness.store.records import Intruders

#: A trial of an arm that the figures don't draw.
OTHER = Look("", GRID, "o", "-")
#: From so many counts on the axis is logarithmic, and linear up to 1: arms lie decades apart.
FAR = 50
LABELS = {"count": "intruder dimensions", "distance": "intruder distance (1 − best |cos|)"}


def _last(trial: Trial) -> Intruders | None:
    """After the last task, where it was taken and the trial has adapted matrices at all."""
    taken = trial.record.intruders[-1] if trial.record.intruders else None
    return taken if taken and taken.matrices else None


def _of_arms(arms: Iterable[Arm]) -> dict[str, dict[tuple[str, int], Intruders]]:
    """Arm -> (order, seed) -> the intruders after the last task, of arms where every trial has them."""
    found = {}
    for arm in arms:
        taken = {trial.key: _last(trial) for trial in arm.trials}
        if all(taken.values()):
            found[arm.name] = {key: value for key, value in taken.items() if value}
    return found


def by_epsilon(study: Study, styles: dict[str, Look]) -> tuple[Figure, Sequence[str], Rows]:
    """Count after the last task over the threshold below which a best |cosine| makes an intruder.

    Arms without a look that have intruders are grey lines, as in the figure along the stream.
    """
    by_name = {arm.name: arm for arm in study.arms}
    lines: dict[str, list[tuple[float, Estimate]]] = {}
    rows: Rows = []
    for name, taken in _of_arms((*drawn_arms(study, styles), *other_arms(study, styles))).items():
        if name not in styles and not any(found.count for found in taken.values()):
            continue
        for epsilon in next(iter(taken.values())).by_epsilon:
            counts = {key: found.by_epsilon.get(epsilon) for key, found in taken.items()}
            if all(count is not None for count in counts.values()):
                value = estimate({key: float(count) for key, count in counts.items() if count is not None})
                lines.setdefault(name, []).append((float(epsilon), value))
                rows.append(point_row(by_name[name], epsilon, value))
    if not lines:
        return empty("No intruder dimensions were counted."), POINT, rows
    figure = new_figure(6.4, 3.6)
    axes = figure.subplots()
    own = {name: points for name, points in lines.items() if name in styles}
    for name, points in own.items():
        look = styles[name]
        axes.plot([x for x, _ in points], [v.mean for _, v in points], color=look.color, linestyle=look.line)
        for x, value in points:
            whisker(axes, x, value, look)
    axes.set_xlabel("threshold ε on the best |cosine|")
    axes.set_ylabel("intruder dimensions (all matrices)")
    axes.set_ylim(from_zero(spans(values_of(own)), counts=True))
    grey_lines(axes, {name: points for name, points in lines.items() if name not in styles})
    if axes.get_ylim()[1] > FAR:
        axes.set_yscale("symlog", linthresh=1)
        axes.yaxis.set_major_formatter(ScalarFormatter())
        axes.set_ylim(-0.2, 2 * axes.get_ylim()[1])
    legend(figure, own, styles)
    return figure, POINT, rows


def by_place(study: Study, styles: dict[str, Look]) -> tuple[Figure, Sequence[str], Rows]:
    """Count and distance after the last task by type of projection and by layer."""
    columns = ("metric", "place", *POINT)
    arms, by_name = _of_arms(drawn_arms(study, styles)), {arm.name: arm for arm in study.arms}
    rows: Rows = []
    series: dict[tuple[str, str], dict[str, dict[str, Estimate]]] = {}
    for metric in LABELS:
        for place in ("by_type", "by_layer"):
            for name, taken in arms.items():
                for x in getattr(next(iter(taken.values())), place):
                    parts = {key: getattr(found, place).get(x) for key, found in taken.items()}
                    if all(parts.values()):
                        value = estimate({key: float(getattr(part, metric)) for key, part in parts.items()})
                        series.setdefault((metric, place), {}).setdefault(name, {})[x] = value
                        rows.append(point_row(by_name[name], x, value, metric=metric, place=place))
    if not series:
        return empty("No intruder dimensions were counted by matrix."), columns, rows
    figure = new_figure(8.4, 5.6)
    panels = figure.subplots(2, 2, squeeze=False, width_ratios=(1, 1.4))
    for line, metric in zip(panels, LABELS, strict=True):
        for axes, place in zip(line, ("by_type", "by_layer"), strict=True):
            own = series.get((metric, place), {})
            _place(axes, own, styles, "type" if place == "by_type" else "layer")
            values = [value for points in own.values() for value in points.values()]
            held = spans(values) if place == "by_type" else [value.mean for value in values]
            axes.set_ylim(from_zero(held, metric == "count"))
        line[0].set_ylabel(LABELS[metric])
    legend(figure, arms, styles)
    return figure, columns, rows


def _place(axes: Axes, arms: dict[str, dict[str, Estimate]], styles: dict[str, Look], what: str) -> None:
    """One position a type or layer; layers in order of their number are joined by lines."""
    names = list(dict.fromkeys(name for values in arms.values() for name in values))
    if what == "layer":
        names.sort(key=lambda name: (not name.isdecimal(), len(name) if name.isdecimal() else 0, name))
    for nth, (arm, values) in enumerate(arms.items()):
        look = styles[arm]
        own = [name for name in names if name in values]
        if what == "layer":
            x = [names.index(name) for name in own]
            axes.plot(x, [values[name].mean for name in own], color=look.color, linestyle=look.line, linewidth=1.2)
            continue
        for name in own:
            shift = (nth - (len(arms) - 1) / 2) * min(0.12, 0.8 / len(arms))
            whisker(axes, names.index(name) + shift, values[name], look)
    step = max(1, len(names) // 10) if what == "layer" else 1
    turned = {"rotation": 30, "ha": "right", "rotation_mode": "anchor"} if what == "type" else {}
    axes.set_xticks(range(0, len(names), step), [drawn_name(name) for name in names[::step]], **turned)
    axes.set_xlabel("type of projection" if what == "type" else "layer")


def against_forgetting(study: Study, styles: dict[str, Look]) -> tuple[Figure, Sequence[str], Rows]:
    """Forgetting of every trained trial against its intruders; Spearman's rho is over all of them.

    Those of arms without a look are grey: which arms are drawn goes by accuracy, and must not choose the trials.
    """
    columns = ("arm", "order", "seed", "count", "distance", "forgetting", "rho_count", "rho_distance")
    points = [
        (arm.name, trial, taken)
        for arm in (*drawn_arms(study, styles), *other_arms(study, styles))
        for trial in arm.trials
        if (taken := _last(trial)) and trial.metrics.get("forgetting") is not None
    ]
    if not points:
        return empty("Intruders against forgetting needs two tasks and trained adapters."), columns, []
    lost = [float(trial.metrics["forgetting"] or 0.0) for _, trial, _ in points]
    found = {metric: spearman([float(getattr(taken, metric)) for *_, taken in points], lost) for metric in LABELS}
    rows: Rows = [
        {"arm": name, "order": trial.key[0], "seed": trial.key[1], "count": taken.count, "distance": taken.distance,
         "forgetting": trial.metrics["forgetting"], **{f"rho_{m}": r.rho if r else None for m, r in found.items()}}
        for name, trial, taken in points
    ]  # fmt: skip
    figure = new_figure(8.4, 3.8)
    for axes, (metric, label) in zip(figure.subplots(1, 2, sharey=True), LABELS.items(), strict=True):
        for (name, _, taken), value in zip(points, lost, strict=True):
            look = styles.get(name, OTHER)
            axes.plot(getattr(taken, metric), 100 * value, color=look.color, marker=look.marker, markersize=5,
                      alpha=0.8, zorder=2 + (name in styles))  # fmt: skip
        axes.set_title(correlation_words(found[metric], len(points)))
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
    legend(figure, {name for name, *_ in points}, styles)
    return figure, columns, rows


def correlation_words(found: Correlation | None, n: int) -> str:
    """Spearman's rho with its interval, or that there is none."""
    if found is None:
        return f"Spearman's ρ: not defined ({n} trials)"
    return f"Spearman's ρ {found.rho:.2f} [{found.low:.2f}, {found.high:.2f}], {found.n} trials"
