"""The tables of docs/metrics.md: every metric in words, from its declaration."""

from __future__ import annotations

from collections.abc import Callable

from harness.report.metric import Metric
from harness.report.metrics import METRICS

#: What the tables of the page are of, in their order; a metric stands in the first that takes it.
GROUPS: dict[str, Callable[[Metric], bool]] = {
    "The board": lambda each: each.table == "main" or each.tested == "primary",
    "More of the same trials": lambda each: each.table == "more",
    "Costs": lambda each: each.of == "costs",
    "Elsewhere: in files, comparisons and figures": lambda each: True,
}
TESTED = {"primary": "yes, the primary outcome", "secondary": "yes, with a Holm of its own", "": ""}


def metric_tables() -> str:
    """A table a group, in Markdown."""
    left = list(METRICS)
    text = ""
    for title, takes in GROUPS.items():
        here = sorted((each for each in left if takes(each)), key=lambda each: (each.tested != "primary", each.place))
        left = [each for each in left if each not in here]
        rows = [_row(each) for each in here]
        head = "| on the page | column | better | what it is | tested |\n|---|---|---|---|---|\n"
        text += f"\n## {title}\n\n{head}{''.join(rows)}"
    return f"{text}\n"


def _row(each: Metric) -> str:
    return f"| {each.heading} | `{each.name}` | {each.better} | {each.meaning} | {TESTED[each.tested]} |\n"
