"""How far a run is: a table with a row for every job at work, or plain lines; the same from any shell."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from rich.console import Group, RenderableType
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from harness.cli.show.screen import clock
from harness.cli.terminal import visible
from harness.store.standing import JobStanding, Standing

COLUMNS: tuple[str, ...] = ("pack", "trials", "position", "doing", "step", "tokens/s", "GiB", "done", "ETA")
#: What a narrow terminal does without, in this order; and the least that is shown of what a job is doing.
SPARED, LEAST = ("trials", "GiB", "tokens/s"), 10
#: Plain lines at a time for jobs at work.
MOST_LINES = 8
NOTHING = "-"


def view(standing: Standing, rows: int, width: int) -> RenderableType:
    """The table, of ``rows`` jobs at most and no wider than ``width``, above a bar for the whole run."""
    if not standing.packs or not standing.jobs:
        return _bar(standing, width)
    texts: list[dict[str, str]] = [
        dict(zip(COLUMNS, map(visible, _cells(job, standing.packs)), strict=True)) for job in standing.jobs[:rows]
    ]
    heads = {name: "GPU GiB" if name == "GiB" and standing.device == "cuda" else name for name in COLUMNS}
    widths: dict[str, int] = {name: max(len(line[name]) for line in (heads, *texts)) for name in COLUMNS}
    for name in SPARED:
        if _total(widths | {"doing": LEAST}) > width:
            del widths[name]
    widths["doing"] = max(LEAST, min(widths["doing"], width - _total(widths | {"doing": 0})))
    grid = Table(box=None, padding=(0, 2, 0, 0), pad_edge=False, header_style="bold")
    for name, size in widths.items():
        justify = "left" if name in ("pack", "doing") else "right"
        grid.add_column(heads[name], justify=justify, width=size, no_wrap=True, overflow="ellipsis")
    for line in texts:
        grid.add_row(*(Text(line[name]) for name in widths))
    left = len(standing.jobs) - rows
    more = [Text(f"and {left:,} more at work")] if left > 0 else []
    title = Text(visible(standing.study), style="bold", no_wrap=True, overflow="ellipsis")
    return Group(title, grid, *more, _bar(standing, width))


def _total(widths: Mapping[str, int]) -> int:
    """Of a line, with the gaps."""
    return sum(widths.values()) + 2 * len(widths) - 2


def _bar(standing: Standing, width: int) -> RenderableType:
    """The whole run in a line; without the bar where that leaves no room for it."""
    texts = (visible(_summary(standing)), _percent(standing.share), _eta(standing.seconds_left))
    texts = (*texts, clock(standing.seconds_spent))
    room = width - len("  ".join(texts)) - 2
    if room < 4:
        return Text("  ".join(texts), no_wrap=True, overflow="ellipsis")
    total = 1.0 if standing.share is not None else None
    line = Table.grid(padding=(0, 2, 0, 0), pad_edge=False)
    bar = ProgressBar(total=total, completed=standing.share or 0.0, width=min(room, 30))
    line.add_row(Text(texts[0]), bar, *map(Text, texts[1:]))
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
        f"{memory} GiB" if job.memory_gib else "",
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
        f"{job.memory_gib:.1f}" if job.memory_gib else NOTHING,
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
