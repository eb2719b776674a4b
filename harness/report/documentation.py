"""The tables of results/README.md, made from the declarations: ``python -m harness.report.documentation``.

Each stands between two comments of Markdown that name it; the rest of the file is written by hand.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

from harness.report import leaderboard_csv, metrics, trials_csv

README = Path("results", "README.md")
_MARKED = re.compile(r"(<!-- columns of (leaderboard|trials)\.csv -->\n).*?(?=<!-- end -->)", re.DOTALL)


def documented(text: str) -> str:
    """The text with its tables written again."""
    tables = {"leaderboard": leaderboard_columns, "trials": trials_columns}
    return _MARKED.sub(lambda match: match[1] + tables[match[2]](), text)


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


def _meant(columns: Mapping[str, str]) -> dict[str, str]:
    return {name: meaning for name, meaning in columns.items() if meaning}


def _joined(lines: list[str]) -> str:
    return "".join(f"{line}\n" for line in lines)


if __name__ == "__main__":
    README.write_text(documented(README.read_text(encoding="utf-8")), encoding="utf-8")
