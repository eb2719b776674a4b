"""Tables of documents, made from declarations and committed results: ``python -m harness.report.documentation``.

Each stands between two comments of Markdown that name it; the rest of the file is written by hand.  What the report
keeps of the simulation of its statistics is written beside them.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from harness.analysis.statistics.promises import outside, unreliable
from harness.report import leaderboard_csv, metrics, trials_csv
from harness.report.documented_boards import REFERENCES, board
from harness.report.documented_claims import claims_table
from harness.report.documented_metrics import metric_tables
from harness.report.findings import RULE
from harness.report.numbers import NOTHING, number
from harness.report.reliability import UNRELIABLE

README = Path("results", "README.md")
STATISTICS = Path("docs", "statistics.md")
CLAIMS_PAGE = Path("docs", "claims.md")
METRICS_PAGE = Path("docs", "metrics.md")
REFERENCE = REFERENCES / "README.md"
SIMULATION = Path("results", "perf", "statistics.json")
_MARKED = re.compile(
    r"(<!-- (columns of leaderboard\.csv|columns of trials\.csv|simulation|rule of claims|claims|metrics"
    r"|board of [a-z0-9_]+) -->\n).*?(?=<!-- end -->)",
    re.DOTALL,
)
#: Of the simulation's table.
HEADINGS = {
    "coverage": "interval of a difference",
    "coverage_of_means": "of a mean",
    "coverage_of_block": "block interval of the noisiest arm",
    "false_better": "false 'better than LoRA'",
    "false_groups": "false groups",
    "power": "power",
    "block_shown": "block interval shown",
}


def documented(text: str) -> str:
    """The text with its tables written again."""
    tables: dict[str, Callable[[], str]] = {
        "columns of leaderboard.csv": leaderboard_columns,
        "columns of trials.csv": trials_columns,
        "simulation": lambda: simulation_table(simulated()),
        "rule of claims": lambda: f"{RULE}\n",
        "claims": claims_table,
        "metrics": metric_tables,
    }

    def table(name: str) -> str:
        return board(name.removeprefix("board of ")) if name.startswith("board of ") else tables[name]()

    return _MARKED.sub(lambda match: match[1] + table(match[2]), text)


def leaderboard_columns() -> str:
    """The columns of leaderboard.csv, with the direction that is better; without the ends of intervals."""
    better = {metric.name: metric.better for metric in metrics.METRICS}
    lines = ["| column | better | what it is |", "|---|---|---|"]
    for name, meaning in _meant(leaderboard_csv.columns(["<probe>"])).items():
        lines.append(f"| `{name}` | {better.get(name, '')} | {meaning} |")
    return _joined(lines)


def trials_columns() -> str:
    """The columns of trials.csv."""
    lines = [f"| `{name}` | {meaning} |" for name, meaning in _meant(trials_csv.COLUMNS).items()]
    return _joined(["| column | what it is |", "|---|---|", *lines])


def simulated() -> list[dict[str, Any]]:
    """The cells of the committed simulation."""
    return json.loads(SIMULATION.read_text(encoding="utf-8"))["cells"]


def simulation_table(cells: Sequence[Mapping[str, Any]]) -> str:
    """A line a cell, in per cent; what is outside its bar is bold."""
    lines = [f"| seeds x orders | arms | situation | {' | '.join(HEADINGS.values())} |", "|---" * 10 + "|"]
    for cell in cells:
        missed = outside(cell)
        shares = [NOTHING if cell[key] is None else number(cell[key], 1, 100) for key in HEADINGS]
        bold = [f"**{share}**" if key in missed else share for key, share in zip(HEADINGS, shares, strict=True)]
        front = f"| {cell['seeds']} x {cell['orders']} | {cell['arms']} | {cell['situation']} |"
        lines.append(f"{front} {' | '.join(bold)} |")
    return _joined(lines)


def kept(cells: Sequence[Mapping[str, Any]]) -> str:
    """What the report keeps of the simulation, as JSON."""
    return json.dumps(unreliable(cells), indent=1) + "\n"


def _meant(columns: Mapping[str, str]) -> dict[str, str]:
    return {name: meaning for name, meaning in columns.items() if meaning}


def _joined(lines: list[str]) -> str:
    return "".join(f"{line}\n" for line in lines)


def write() -> None:
    """Write the tables of every page again, and what the report keeps."""
    for path in (README, STATISTICS, CLAIMS_PAGE, METRICS_PAGE, REFERENCE):
        path.write_text(documented(path.read_text(encoding="utf-8")), encoding="utf-8")
    UNRELIABLE.write_text(kept(simulated()), encoding="utf-8")


if __name__ == "__main__":
    write()
