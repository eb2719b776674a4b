"""How far a run is: a table with a row for every job at work, or plain lines; the same from any shell."""

from __future__ import annotations

import re
from collections.abc import Sequence

from rich.console import Group, RenderableType
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from harness.cli.show.screen import clock
from harness.cli.terminal import visible
from harness.store.standing import JobStanding, Standing

COLUMNS = ("pack", "trials", "position", "doing", "step", "tokens/s", "memory", "done", "ETA")
#: Plain lines at a time for jobs at work.
MOST_LINES = 8
NOTHING = "-"


def view(standing: Standing, rows: int) -> RenderableType:
    """The table, of ``rows`` jobs at most, above a bar for the whole run."""
    if not standing.packs or not standing.jobs:
        return _bar(standing)
    title = Text(visible(standing.study), style="bold")
    grid = Table(title=title, title_justify="left", header_style="bold")
    for column in COLUMNS:
        name = "GPU memory" if column == "memory" and standing.device == "cuda" else column
        grid.add_column(name, justify="left" if column in ("pack", "doing") else "right", no_wrap=column != "doing")
    for job in standing.jobs[:rows]:
        grid.add_row(*(Text(visible(cell)) for cell in _cells(job, standing.packs)))
    left = len(standing.jobs) - rows
    more = [Text(f"and {left:,} more at work")] if left > 0 else []
    return Group(grid, *more, _bar(standing))


def _bar(standing: Standing) -> RenderableType:
    """The whole run in a line."""
    total = 1.0 if standing.share is not None else None
    line = Table.grid(padding=(0, 1))
    line.add_row(
        Text(visible(_summary(standing))),
        ProgressBar(total=total, completed=standing.share or 0.0, width=30),
        Text(_percent(standing.share)),
        Text(_eta(standing.seconds_left)),
        Text(clock(standing.seconds_spent)),
    )
    return line


def lines(standing: Standing) -> list[str]:
    """The same as plain text: the whole run first, then its jobs at work."""
    ahead = [f"{_percent(standing.share):>4}", _eta(standing.seconds_left)] if standing.share is not None else []
    whole = "  ".join([*ahead, _summary(standing)])
    jobs = [_line(job, standing.packs) for job in standing.jobs[:MOST_LINES]] if standing.packs else []
    left = len(standing.jobs) - len(jobs)
    return [whole, *jobs, *([f"and {left:,} more at work"] if jobs and left > 0 else [])]


def _line(job: JobStanding, packs: int) -> str:
    pack, trials, position, doing, step, speed, memory, done, left = _cells(job, packs)
    parts = (
        f"pack {pack}" if job.number else pack,
        f"{trials} trial{'s'[: job.trials != 1]}" if job.trials else "",
        f"position {position}" if job.position else "",
        doing,
        f"step {step}" if job.step else "",
        f"{speed} tokens/s" if job.tokens_per_second else "",
        memory if job.memory_gib else "",
        done if job.share is not None else "",
        f"ETA {left}" if job.seconds_left is not None else "",
    )
    return "  ".join(filter(None, parts))


def _cells(job: JobStanding, packs: int) -> Sequence[str]:
    """As in :data:`COLUMNS`."""
    return (
        f"{job.number}/{packs}" if job.number else job.name,
        str(job.trials) if job.trials else NOTHING,
        _of(job.position, job.positions),
        re.sub(r"^task \d+/\d+: ", "", job.what) if job.position else job.what,
        _of(job.step, job.steps),
        f"{job.tokens_per_second:,.0f}" if job.tokens_per_second else NOTHING,
        f"{job.memory_gib:.1f} GiB" if job.memory_gib else NOTHING,
        _percent(job.share),
        clock(job.seconds_left) if job.seconds_left is not None else NOTHING,
    )


def _summary(standing: Standing) -> str:
    """What the packs have done; before the first, and of work that has none, what is being done."""
    if not standing.packs or standing.share is None:
        return standing.what
    failed = f", {standing.failed} trial{'s'[: standing.failed != 1]} failed" if standing.failed else ""
    return f"{standing.done} of {standing.packs} pack{'s'[: standing.packs != 1]} done{failed}"


def _of(number: int | None, whole: int | None) -> str:
    return NOTHING if number is None else f"{number}/{whole}" if whole else str(number)


def _percent(share: float | None) -> str:
    return "" if share is None else f"{100 * share:.0f}%"


def _eta(seconds: float | None) -> str:
    return f"ETA {clock(seconds) if seconds is not None else '-:--'}"
