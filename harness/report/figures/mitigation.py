"""The figure of ``lorabench mitigate``: what is recovered and lost over the part of the intruders kept."""

from __future__ import annotations

from matplotlib.axes import Axes

from harness.report.figures.palette import Look
from harness.report.figures.parts import Rows, empty
from harness.report.figures.style import INK, PAGE, legend, new_figure, note

#: Quantity -> (column, sign: -1 where the quantity grows as the column falls, label).
PANELS = {
    "forgetting recovered": ("forgetting", -1, "forgetting recovered (points)"),
    "general ability recovered": ("general_delta", 1, "probes recovered (points)"),
    "accuracy lost": ("last_task_accuracy", -1, "lost on the last task (points)"),
}
LINES = {"mitigated": "-", "control": (0, (4, 2))}


def draw_mitigation(points: Rows, styles: dict[str, Look]):
    quantities = [name for name in PANELS if any(point["quantity"] == name for point in points)]
    if not quantities:
        return empty("No variant could be scored.")[0]
    figure = new_figure(PAGE / 3 * max(2, len(quantities)), 2.5)
    for axes, quantity in zip(figure.subplots(1, len(quantities), squeeze=False)[0], quantities, strict=True):
        _panel(axes, [point for point in points if point["quantity"] == quantity], styles)
        axes.set_ylabel(PANELS[quantity][2])
    note(figure, "Dashed: all of ΔW shrunk as much.")
    legend(figure, {point["arm"] for point in points}, styles)
    return figure


def _panel(axes: Axes, points: Rows, styles: dict[str, Look]) -> None:
    """A line per arm and kind, which ends in the trained adapter: everything kept, nothing changed."""
    axes.axhline(0, color=INK, linewidth=0.7)
    for arm in styles:
        for kind, line in LINES.items():
            line_points = sorted((p for p in points if (p["arm"], p["kind"]) == (arm, kind)), key=lambda p: p["keep"])
            if line_points:
                x, y = [p["keep"] for p in line_points] + [1.0], [100 * p["mean"] for p in line_points] + [0.0]
                look = styles[arm]
                marker = look.marker if kind == "mitigated" else None
                axes.plot(x, y, color=look.color, linestyle=line, marker=marker)
    axes.set_xlabel("part of the intruders kept, λ")
