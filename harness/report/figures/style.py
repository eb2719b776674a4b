"""How figures look and how they are saved: colour-blind-safe, the same bytes every time."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from io import BytesIO
from itertools import cycle
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from harness.report.files import readable, write_text
from harness.store.files import atomic_write

#: Okabe & Ito's palette in a fixed order, so that a method has its colour in every report; grey for the control.
FIXED = {
    "frozen": "#7A7A7A",
    "lora": "#0072B2",
    "stable_lora": "#D55E00",
    "lora_ema": "#009E73",
    "self_distill": "#CC79A7",
    "combined": "#E69F00",
}
#: For other arms: Okabe-Ito's sky blue, then Paul Tol's muted wine, olive, teal and rose.
OTHERS = ("#56B4E9", "#882255", "#999933", "#44AA99", "#CC6677")
LABEL = 32  #: letters of a name on one line
NAME = 80  #: letters of a name at an axis
#: Inches that a line of a label and the gap between two labels take in a legend.
LINE_HEIGHT, GAP = 0.142, 0.06
INK, GRID, PAPER = "#24292F", "#B4BBC3", "#FFFFFF"
MARKERS = "osD^v>P<X*ph"
LINES = ("-", (0, (4, 1.6)), (0, (1, 1.2)), (0, (5, 1.2, 1, 1.2)))

SUPERSCRIPT = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")
RC = {
    "font.family": "DejaVu Sans", "font.size": 8.5, "axes.labelsize": 8.5, "axes.titlesize": 9, "legend.fontsize": 8.5,
    "xtick.labelsize": 8, "ytick.labelsize": 8, "text.color": INK, "axes.labelcolor": INK, "axes.edgecolor": INK,
    "xtick.color": INK, "ytick.color": INK, "axes.linewidth": 0.7, "xtick.major.width": 0.7, "ytick.major.width": 0.7,
    "axes.spines.top": False, "axes.spines.right": False, "axes.titlelocation": "left", "axes.titleweight": "bold",
    "axes.grid": True, "grid.color": GRID, "grid.linewidth": 0.5, "grid.alpha": 0.55, "axes.axisbelow": True,
    "legend.frameon": False, "lines.linewidth": 1.6, "figure.facecolor": PAPER, "axes.facecolor": PAPER,
    "savefig.facecolor": PAPER, "svg.hashsalt": "lorabench", "svg.fonttype": "path", "axes.formatter.useoffset": False,
    "text.parse_math": False,  # a $ in a name starts no formula
}  # fmt: skip


@dataclass(frozen=True)
class Look:
    """How one arm is drawn in every figure; the marker tells arms apart where colour cannot."""

    label: str
    color: str
    marker: str
    line: Any


def looks(arms: Iterable[tuple[str, str]]) -> dict[str, Look]:
    """A look per arm, from (arm, method) pairs: arms of one colour differ in line and marker.

    The first arm of a method of the fixed list has its colour, so that a method looks the same in every report; all
    other arms take the colours that are left, since a board may be many settings of one method.
    """
    known = list(FIXED)
    pairs = sorted(arms, key=lambda pair: (known.index(pair[1]) if pair[1] in known else 99, pair[0]))
    first_arms = {method: name for name, method in reversed(pairs) if method in FIXED}
    reserved = {FIXED[method] for method in first_arms}
    left = cycle(each for each in (*OTHERS, *list(FIXED.values())[1:]) if each not in reserved)
    styles: dict[str, Look] = {}
    used: dict[str, int] = {}
    for name, method in pairs:
        taken = FIXED[method] if first_arms.get(method) == name else next(left)
        nth = used[taken] = used.get(taken, -1) + 1
        styles[name] = Look(_label(name), taken, MARKERS[len(styles) % len(MARKERS)], LINES[nth % len(LINES)])
    return styles


def looks_in_order(names: Iterable[str]) -> dict[str, Look]:
    """A look for each name by its place, for names that are not methods: all markers before one comes again."""
    colors = (*list(FIXED.values())[1:], *OTHERS)
    return {
        name: Look(_label(name), colors[i % len(colors)], MARKERS[i % len(MARKERS)], LINES[0])
        for i, name in enumerate(names)
    }


def drawn_name(name: str) -> str:
    """A name as it stands at an axis: control characters written out, without the middle of a very long one."""
    name = readable(name)
    return name if len(name) <= NAME else f"{name[: NAME - 21]}…{name[-20:]}"


def _label(name: str) -> str:
    """A name as it fits a legend: broken at commas and @ into lines; of a longer part the middle is left out."""
    lines = [""]
    for part in re.split(r"(?<=[,@])", " ".join(readable(name).split())):
        short = part if len(part) <= LABEL else f"{part[: LABEL - 11]}…{part[-10:]}"
        if len(lines[-1] + short) <= LABEL:
            lines[-1] += short
        else:
            lines.append(short)
    return "\n".join(lines).strip("\n")


def power_of_ten(value: float, place: int | None = None) -> str:
    """``10⁻³`` for a tick of a log axis: matplotlib would write a formula, and formulas are off."""
    return "10" + str(round(math.log10(value))).translate(SUPERSCRIPT)


def new_figure(width: float, height: float) -> Figure:
    """An empty figure in inches, laid out without overlaps; drawing must happen inside :func:`context`."""
    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def context():
    """The settings under which figures are drawn and saved: the user's matplotlibrc is ignored."""
    settings: dict[Any, Any] = {**mpl.rcParamsDefault, **RC, "backend": "agg"}
    return mpl.rc_context(settings)


def save(figure: Figure, stem: Path) -> list[Path]:
    """``stem``.png (200 dpi) and ``stem``.svg, without dates or versions: the same data gives the same bytes."""
    png, svg = stem.with_suffix(".png"), stem.with_suffix(".svg")
    pixels, drawing = BytesIO(), BytesIO()
    figure.savefig(pixels, format="png", dpi=200, metadata={"Software": None})
    figure.savefig(drawing, format="svg", metadata={"Date": None, "Creator": None})
    atomic_write(png, pixels.getvalue())
    return [png, write_text(svg, drawing.getvalue().decode())]


def legend(figure: Figure, arms: Iterable[str], drawn: Mapping[str, Look]) -> None:
    """One legend above all panels, outside the data, in the fixed order of the arms; the figure grows to hold it."""
    names = [name for name in drawn if name in set(arms)]
    if not names:
        return
    handles = [
        Line2D([], [], color=drawn[n].color, marker=drawn[n].marker, linestyle=drawn[n].line, markersize=5)
        for n in names
    ]
    labels = [drawn[name].label for name in names]
    # Matplotlib doesn't wrap legends: about 0.07 inch a letter, 0.6 for the line and the gaps.
    widths = [0.07 * max(map(len, label.split("\n"))) + 0.6 for label in labels]
    room = figure.get_figwidth()
    fitting = len(names) if sum(widths) <= room else max(1, int(room / max(widths)))
    columns = np.array_split([1 + label.count("\n") for label in labels], fitting)  # as matplotlib fills them
    lines, rows = max(int(column.sum()) for column in columns), len(columns[0])
    # The height of a figure includes one line of legend; further lines must not shrink the panels.
    figure.set_figheight(figure.get_figheight() + LINE_HEIGHT * (lines - 1) + GAP * (rows - 1))
    figure.legend(handles, labels, loc="outside upper left", ncols=fitting, handlelength=2.2, columnspacing=1.6)


def inline(svg: Path, prefix: str, label: str) -> str:
    """The SVG as an element for an HTML page: prefixed ids, an accessible name, ink and paper in the page's colours."""
    text = svg.read_text(encoding="utf-8")
    text = text[text.index("<svg") :]
    text = re.sub(r'\b(id="|href="#|url\(#)', lambda match: match.group(1) + prefix + "-", text)
    text = re.sub(r"<!--.*?-->", "", text, flags=re.DOTALL)
    text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.DOTALL)
    text = re.sub(INK, "currentColor", text, flags=re.IGNORECASE)
    text = re.sub(PAPER, "var(--paper)", text, flags=re.IGNORECASE)
    text = re.sub(GRID, "var(--grid)", text, flags=re.IGNORECASE)
    head, rest = text.split(">", 1)
    # 1.4 CSS pixels a point: the same size of letters in every figure, about that of the page's small text.
    width = re.search(r'width="([\d.]+)pt"', head)
    head = re.sub(r' (width|height)="[^"]*"', "", head)
    size = float(width.group(1)) * 1.4 if width else 900
    # On a phone it shrinks to three quarters and then scrolls: smaller letters could not be read.
    style = f' style="max-width:{size:.0f}px;min-width:{0.75 * size:.0f}px"'
    return f'<svg role="img" aria-label="{label}"{style}{head.removeprefix("<svg")}>{rest}'
