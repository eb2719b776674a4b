"""What the intervals and tests promise, and which simulated cells keep it: ``lorabench perf statistics`` simulates."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

#: What is promised of each share: from, to.
BARS: dict[str, tuple[float, float]] = {
    "coverage": (0.93, 0.97),  #: of 95 % intervals of a paired difference
    "coverage_of_means": (0.93, 0.97),
    "coverage_of_block": (0.93, 0.97),  #: of the noisiest arm's, from the noise that all arms share, where it is shown
    "false_better": (0.0, 0.05),  #: boards on which an equal arm is called better than plain LoRA
    "false_groups": (0.0, 0.06),  #: boards on which an equal arm falls into a lower tie group
    "power": (0.75, 0.85),  #: at the stated minimum detectable effect
}
#: What names a cell.
DESIGN = ("seeds", "orders", "arms", "situation")


def outside(cell: Mapping[str, Any]) -> list[str]:
    """The shares of a simulated cell that are not as promised."""
    return [key for key, (low, high) in BARS.items() if cell[key] is not None and not low <= cell[key] <= high]


def unreliable(cells: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """The cells with something outside, and what that is."""
    found = [(cell, outside(cell)) for cell in cells]
    return [{key: cell[key] for key in (*DESIGN, *missed)} for cell, missed in found if missed]
