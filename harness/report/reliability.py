"""Where the statistics of a page are not reliable: its design, looked up among those that were simulated.

``lorabench perf statistics`` simulates (``docs/statistics.md`` has its table); what fell outside stands in
``unreliable.json`` beside this module, which ``python -m harness.report.documentation`` writes.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

from harness.analysis.statistics.promises import BARS
from harness.report.leaderboard import Board
from harness.report.numbers import listed, number

UNRELIABLE = Path(__file__).with_name("unreliable.json")
WORDS = {
    "coverage": "95 % intervals of differences hold the truth in {} %",
    "coverage_of_means": "95 % intervals of means hold the truth in {} %",
    "coverage_of_block": "block intervals hold the truth in {} %",
    "false_better": "an equal arm is called better than the reference on {} % of boards",
    "false_groups": "an equal arm falls into a lower tie group on {} % of boards",
    "power": "the detectable effect is found with {} % power, not 80 %",
}


@cache
def unreliable() -> list[dict[str, Any]]:
    """Cells with something outside: design, situation, and the shares that are."""
    return json.loads(UNRELIABLE.read_text(encoding="utf-8"))


def caveats(board: Board) -> list[str]:
    """A sentence on what is not reliable for a board of this design; none where all held, or nothing is tested.

    Designs in between are looked up where less is known: as few seeds and orders, and as many arms, as simulated.
    """
    ranked = [row for row in board if row.ranked]
    if not ranked:
        return []
    trials = [trial.key for trial in ranked[0].arm.trials]
    orders = {order for order, _ in trials}
    seeds = min(sum(key[0] == order for key in trials) for order in orders)
    contestants = sum(row.contends for row in board)
    simulated = (10, 5, 3) if len(orders) > 1 else (5, 3)
    design = {
        "seeds": next((size for size in simulated if size <= seeds), simulated[-1]),
        "orders": 3 if len(orders) > 1 else 1,
        "arms": 5 if contestants <= 6 else 20,
    }
    cells = [cell for cell in unreliable() if all(cell[key] == value for key, value in design.items())]
    clauses = [clause for key in BARS if (clause := _clause(key, cells))]
    if not clauses:
        return []
    about = f"{design['seeds']} seeds, {design['orders']} order{'s' * (design['orders'] > 1)}, {design['arms']} arms"
    return [f"Not reliable here, by simulation of a design like this ({about}): {'; '.join(clauses)}."]


def _clause(key: str, cells: Sequence[Mapping[str, Any]]) -> str:
    found = [cell for cell in cells if key in cell]
    if not found:
        return ""
    shares = sorted(cell[key] for cell in found)
    ends = dict.fromkeys(number(share, 1, 100) for share in (shares[0], shares[-1]))
    return f"{WORDS[key].format(' to '.join(ends))} ({listed([cell['situation'] for cell in found])})"
