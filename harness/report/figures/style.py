"""How figures look and how they are saved: one style for print and page, the same bytes every time.

Figures are as wide as a column or a page of a paper (3.3 and 6.9 inches) and are meant to stand there unscaled.  Names
of axes are 8 points; legends, which have most of the words, 7.5; ticks, names of panels and notes, of which there are
many side by side, 7.  Only numbers in the cells of matrices are 6, as three digits must fit; beyond 27 tasks less.
"""

from __future__ import annotations

import math
import re
import textwrap
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from io import BytesIO
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from PIL import Image

from harness.report.figures.palette import Look
from harness.report.files import readable, write_text
from harness.store.files import atomic_write

#: Inches: a column of a paper with two of them, its text, and the height that a page has room for.
COLUMN, PAGE, HIGH = 3.3, 6.9, 9.0
NAME = 80  #: letters of a name at an axis
ROW_NAME = 36  #: letters of an arm's name beside a row of a map
#: Points: letters of words and legends, and of ticks.
WORDS, TICKS = 8.0, 7.0
#: Inches that a line of a label and the gap between two labels take in a legend, and a letter of it.
LINE_HEIGHT, GAP, LETTER = 0.128, 0.045, 0.064
INK, GRID, PAPER = "#24292F", "#B4BBC3", "#FFFFFF"
#: CSS pixels of a point: letters about as large as the page's small text, a column as wide as a phone.
PIXELS = 1.5

SUPERSCRIPT = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")
RC = {
    "font.family": "DejaVu Sans", "font.size": WORDS, "axes.labelsize": WORDS, "axes.titlesize": WORDS,
    "legend.fontsize": WORDS - 0.5, "xtick.labelsize": TICKS, "ytick.labelsize": TICKS, "text.color": INK,
    "axes.labelcolor": INK, "axes.edgecolor": INK, "xtick.color": INK, "ytick.color": INK, "axes.linewidth": 0.6,
    "xtick.major.width": 0.6, "ytick.major.width": 0.6, "xtick.major.size": 2.5, "ytick.major.size": 2.5,
    "axes.spines.top": False, "axes.spines.right": False, "axes.titlelocation": "left", "axes.titlepad": 3,
    "axes.labelpad": 2.5, "axes.grid": True, "grid.color": GRID, "grid.linewidth": 0.4, "grid.alpha": 0.55,
    "axes.axisbelow": True, "legend.frameon": False, "lines.linewidth": 1.2, "lines.markersize": 3.8,
    "figure.facecolor": PAPER, "axes.facecolor": PAPER, "savefig.facecolor": PAPER, "svg.hashsalt": "lorabench",
    "svg.fonttype": "path", "axes.formatter.useoffset": False,
    "text.parse_math": False,  # a $ in a name starts no formula
}  # fmt: skip


def drawn_name(name: str) -> str:
    """A name as it stands at an axis: control characters written out, without the middle of a very long one."""
    name = readable(name)
    return name if len(name) <= NAME else f"{name[: NAME - 21]}…{name[-20:]}"


def one_line(name: str, most: int = ROW_NAME) -> str:
    """A name on one line: without the middle where it has more letters than that."""
    name = " ".join(readable(name).split())
    tail = most * 15 // 36
    return name if len(name) <= most else f"{name[: most - tail - 1]}…{name[-tail:]}"


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


def save(figure: Figure, stem: Path, later: Callable[[Callable[[], None]], object] = lambda work: work()) -> list[Path]:
    """``stem``.png (240 dpi) and ``stem``.svg, without dates or versions: the same data gives the same bytes.

    ``later`` sees to it that the PNG is packed and written: a third of the time, which another thread may spend.
    """
    png, svg = stem.with_name(f"{stem.name}.png"), stem.with_name(f"{stem.name}.svg")
    pixels, drawing = BytesIO(), BytesIO()
    figure.savefig(pixels, format="png", dpi=240, metadata={"Software": None}, pil_kwargs={"compress_level": 0})
    later(partial(_pack, pixels, png))
    figure.set_layout_engine(None)  # it is laid out already: no second pass for that
    figure.savefig(drawing, format="svg", metadata={"Date": None, "Creator": None})
    return [png, write_text(svg, drawing.getvalue().decode())]


def _pack(pixels: BytesIO, png: Path) -> None:
    """Nothing is transparent: a tenth less."""
    opaque = BytesIO()
    Image.open(pixels).convert("RGB").save(opaque, "png", dpi=(240, 240), compress_level=9)
    atomic_write(png, opaque.getvalue())


def legend(figure: Figure, arms: Iterable[str], drawn: Mapping[str, Look], *, line: bool = True) -> None:
    """One legend above all panels, outside the data, in the order of the looks; the figure grows to hold it."""
    names = [name for name in drawn if name in set(arms)]
    if not names:
        return
    handles = [
        Line2D([], [], color=drawn[n].color, marker=drawn[n].marker, linestyle=drawn[n].line if line else "none")
        for n in names
    ]
    labels = [drawn[name].label for name in names]
    # Matplotlib doesn't wrap legends: so much for letters, and for the line and the gaps.
    widths = [LETTER * max(map(len, label.split("\n"))) + (0.46 if line else 0.26) for label in labels]
    room = figure.get_figwidth() - 0.1
    fitting = len(names) if sum(widths) <= room else max(1, int(room / max(widths)))
    columns = np.array_split([1 + label.count("\n") for label in labels], fitting)  # as matplotlib fills them
    lines, rows = max(int(column.sum()) for column in columns), len(columns[0])
    # The height of a figure includes one line of legend; further lines must not shrink the panels.
    figure.set_figheight(figure.get_figheight() + LINE_HEIGHT * (lines - 1) + GAP * (rows - 1))
    figure.legend(
        handles, labels, loc="outside upper left", ncols=fitting, handlelength=2.0 if line else 1.0, columnspacing=1.2,
        handletextpad=0.5, labelspacing=GAP * 72 / WORDS, borderpad=0.2,
    )  # fmt: skip


def note(figure: Figure, sentence: str) -> None:
    """A sentence below all panels, in place of one that would be empty; the figure grows to hold it."""
    lines = textwrap.wrap(sentence, int((figure.get_figwidth() - 0.1) / 0.0575))
    figure.set_figheight(figure.get_figheight() + LINE_HEIGHT * len(lines) + 0.05)
    figure.supxlabel("\n".join(lines), x=0.01, ha="left", fontsize=TICKS)


def inline(svg: Path, prefix: str, label: str) -> str:
    """The SVG as an element for an HTML page: prefixed ids, an accessible name, ink and paper in the page's colours."""
    text = svg.read_text(encoding="utf-8")
    text = text[text.index("<svg") :]
    text = re.sub(r' id="image[0-9a-f]+"', "", text)  # of equal images, as of two scales of colours, it is the same
    text = re.sub(r'\b(id="|href="#|url\(#)', lambda match: match.group(1) + prefix + "-", text)
    text = re.sub(r"<!--.*?-->", "", text, flags=re.DOTALL)
    text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.DOTALL)
    text = re.sub(INK, "currentColor", text, flags=re.IGNORECASE)
    text = re.sub(PAPER, "var(--paper)", text, flags=re.IGNORECASE)
    text = re.sub(GRID, "var(--grid)", text, flags=re.IGNORECASE)
    head, rest = text.split(">", 1)
    # As many CSS pixels a point in every figure: the same size of letters.
    width = re.search(r'width="([\d.]+)pt"', head)
    head = re.sub(r' (width|height)="[^"]*"', "", head)
    size = float(width.group(1)) * PIXELS if width else 900
    # On a phone it shrinks to three quarters and then scrolls: smaller letters could not be read.
    style = f' style="max-width:{size:.0f}px;min-width:{0.75 * size:.0f}px"'
    return f'<svg role="img" aria-label="{label}"{style}{head.removeprefix("<svg")}>{rest}'
