"""What a person sees in the terminal: the plan, a progress bar with an ETA, the outcome.

Everything is printed by :data:`console`, which reads no markup in any text: styles stand beside it.
"""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.progress import BarColumn, Progress, ProgressColumn, SpinnerColumn, Task, TextColumn, TimeElapsedColumn
from rich.table import Table
from rich.text import Text

from harness.cli.terminal import say, visible
from harness.run.campaign import FINAL, Campaign, State, Watcher
from harness.store import read_trials
from harness.store.records import STATUSES, BaseRecord
from harness.store.results import base_path
from harness.study import forecast
from harness.study.overrides import differences
from harness.study.tuning import FILE, Tuning

if TYPE_CHECKING:
    from harness.report.comparison import Comparison

#: Rows of a table, and messages of failed trials: more of them scroll past.
MOST_ROWS = 200
MOST_MESSAGES = 20


class _Console(Console):
    """rich's console without markup and emoji codes, wherever it gets a text: in ``print``, a title or a cell."""

    def __init__(self) -> None:
        super().__init__(soft_wrap=True, highlight=False, markup=False, emoji=False)

    def render_str(self, text: str, **options: Any) -> Text:
        return super().render_str(visible(text), **options)


console = _Console()

#: Units (`harness.study.forecast`) a second: SmolLM2-135M on 2 CPU cores (bf16), on one H100 in packs of several rows.
FIRST_GUESS = {"cpu": 900.0, "cuda": 50_000.0}


@contextmanager
def preparing(what: str) -> Iterator[None]:
    """A spinner while libraries load."""
    with console.status(Text(visible(what))):  # a string would be read as markup, whatever the console says
        yield


def _table(title: str, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    table = Table(title=title, title_justify="left", header_style="bold")
    for column in columns:
        table.add_column(column)
    for row in rows[:MOST_ROWS]:
        table.add_row(*row)
    console.print(table)
    if len(rows) > MOST_ROWS:
        console.print(f"and {len(rows) - MOST_ROWS:,} more")


def show_plan(campaign: Campaign, state: State, device: str) -> None:
    """Trials by arm, packs, what is done, and how long the rest takes."""
    study, plan = campaign.study, campaign.plan
    done = Counter(trial.spec.arm for trial in plan.trials if state.statuses[trial.fingerprint] in FINAL)
    rows = []
    for arm, trials in plan.by_arm.items():
        spec = trials[0].spec
        values = spec.parameters | differences(study, spec.training)
        shown = ", ".join(f"{key}={' '.join(str(value).split())}" for key, value in values.items())
        rows.append((arm, str(len(trials)), str(done[arm]), shown))
    _table(f"{study.name}: {study.title}", ("method", "trials", "done", "settings"), rows)
    orders = "; ".join(f"{name}: {' → '.join(stream)}" for name, stream in study.streams.items())
    console.print(f"model {study.model} ({study.dtype}, {device}); {len(study.seeds)} seeds; {orders}")
    trainings = sum(len(pack.rows) for pack in plan.packs)
    console.print(
        f"{len(plan.trials)} trials, {trainings} trainings in {len(plan.packs)} packs, {len(state.todo)} packs to run; "
        f"results in {campaign.folder}"
    )
    for remark in campaign.remarks:
        console.print(f"note: {remark}", style="yellow")
    for line in (*_damaged(state.damaged), *state.changes.lines):
        console.print(line, style="yellow")
    if state.todo:
        console.print(f"forecast: about {clock(_forecast(campaign, state, device))} on this {device}")


def _damaged(files: Mapping[str, str]) -> list[str]:
    """What is wrong with each file that is no record."""
    shown = [f"  {name}: {problem}" for name, problem in list(files.items())[:MOST_MESSAGES]]
    more = [f"  and {len(files) - MOST_MESSAGES:,} more"] if len(files) > MOST_MESSAGES else []
    return ["damaged records, moved to quarantine/ by the next run:", *shown, *more] if files else []


def _forecast(campaign: Campaign, state: State, device: str) -> float:
    """Seconds for what is left; from the base model's measured speed where there is one."""
    base = _any_base(campaign.folder) or _guessed_base(campaign)
    if not {*campaign.study.tasks, *campaign.study.probes} <= set(base.scores):
        base = _guessed_base(campaign)
    tokens = sum(score.tokens for score in base.scores.values())
    # A GPU scores the one base model far below the speed of a pack, so that says nothing there.
    measured = base.score_seconds and device == "cpu"
    speed = tokens / base.score_seconds if measured else FIRST_GUESS[device]
    units = sum(forecast.pack_units(campaign.study, base, pack) for pack in state.todo)
    return (units + (0 if base.score_seconds else tokens)) / speed


def _any_base(folder: Path) -> BaseRecord | None:
    try:
        return BaseRecord.model_validate_json(base_path(folder).read_bytes())
    except (OSError, ValueError):
        return None


def _guessed_base(campaign: Campaign) -> BaseRecord:
    """Token counts from the length of the rows (four characters a token), before anything has been tokenised."""
    from harness.data.tasks import prepare_task, read_split
    from harness.store.records import BaseScore

    study, scores, train = campaign.study, {}, {}
    for name in (*study.tasks, *study.probes):
        prepared = prepare_task(name)
        rows = read_split(prepared, study.scoring.split)
        limit = study.items(name)
        mean = sum(len(" ".join(map(str, row.values()))) for row in rows) / len(rows) / 4 + 2
        items = min(limit or len(rows), len(rows))
        train[name] = mean
        scores[name] = BaseScore(
            metric="",
            higher_is_better=True,
            items=items,
            chance=None,
            score=0.0,
            stderr=None,
            correct=None,
            tokens=int(mean * items),
        )
    return BaseRecord(key="", scores=scores, train_tokens=train, score_seconds=0.0, peak_memory_gib=0.0)


class _Remaining(ProgressColumn):
    """Time left, from the mean speed since the packs began: the work is counted in even units."""

    def render(self, task: Task) -> Text:
        started = task.fields.get("started")
        if not task.total or started is None or task.completed <= 0:
            return Text("ETA -:--")
        spent = time.monotonic() - started
        return Text(f"ETA {clock(spent * (task.total - task.completed) / task.completed)}")


class _Doing(ProgressColumn):
    """What is being done."""

    def render(self, task: Task) -> Text:
        return Text(visible(task.description))


@contextmanager
def progress(name: str, complete: bool = False) -> Iterator[Watcher]:
    """A bar on a terminal; a line now and then in a log file; neither where all is ``complete``."""
    bar = Progress(
        SpinnerColumn(),
        _Doing(),
        BarColumn(),
        TextColumn("{task.percentage:>3.0f}%"),
        _Remaining(),
        TimeElapsedColumn(),
        console=console,
        transient=True,
    )
    task = bar.add_task("starting", total=None, started=None)
    done: dict[str, float] = {}
    log = _LogLines(name)

    def total(units: float) -> None:
        done.clear()
        bar.update(task, total=max(units, 1.0), completed=0, started=time.monotonic())
        log.begin(units)

    def report(job: str, units: float, what: str) -> None:
        done[job] = units
        bar.update(task, description=what)
        if job != "base":
            bar.update(task, completed=sum(done.values()))
        log.step(sum(done.values()), what)

    if complete:
        yield Watcher(total, report)
    elif console.is_terminal:
        with bar:
            yield Watcher(total, report)
    else:
        yield Watcher(total, report)


class _LogLines:
    """One line every half minute where there is no terminal."""

    every = 30.0

    def __init__(self, name: str) -> None:
        self.name, self.units, self.started, self.last = name, 0.0, time.monotonic(), 0.0

    def begin(self, units: float) -> None:
        self.units, self.started, self.last = units, time.monotonic(), 0.0

    def step(self, done: float, what: str) -> None:
        now = time.monotonic()
        if console.is_terminal or now - self.last < self.every:
            return
        self.last = now
        if not self.units or not done:
            say(f"[{self.name}] {what}", err=True)
            return
        left = (now - self.started) * (self.units - done) / done
        say(f"[{self.name}] {100 * done / self.units:3.0f}%  ETA {clock(left)}  {what}", err=True)


def show_outcome(campaign: Campaign, before: State, state: State) -> None:
    """How it ended, in a line; ``before`` is how it stood when the run began."""
    counts = Counter(state.statuses.values())
    words = ", ".join(f"{number} {status}" for status, number in sorted(counts.items()))
    if state.complete:
        rest = "; nothing to do" if before.complete else ""
        console.print(f"{campaign.study.name}: all {len(state.statuses)} trials are done ({words}){rest}")
    else:
        console.print(f"{campaign.study.name}: {words}; run the same command to try the others again", style="red")
        failures = [record.failure for record in read_trials(campaign.folder).records if record.status not in FINAL]
        messages = list(dict.fromkeys(f"{f.phase}: {f.message}" for f in failures if f))
        for message in messages[:MOST_MESSAGES]:
            console.print(f"  {message}")
        if len(messages) > MOST_MESSAGES:
            console.print(f"  and {len(messages) - MOST_MESSAGES:,} more: lorabench report shows them")


def show_choices(campaign: Campaign, found: Tuning) -> None:
    """What was tried and chosen for each arm, by :data:`harness.study.tuning.RULE`."""
    rows = []
    for row in found.tries:
        score, error = (f"{row[key]:.4f}" if row[key] is not None else "-" for key in ("score", "standard_error"))
        mark = "chosen" if row["chosen"] else "equal" if row["best"] else ""
        rows.append((row["arm"], row["setting"], score, error, str(row["diverged"]), mark))
    columns = ("method", "setting", "score", "standard error", "diverged", "")
    _table(f"{found.study}: settings tried on validation", columns, rows)
    for search in campaign.searches:
        choice = found.arms.get(search.arm)
        if choice is None:
            console.print(f"{search.arm}: nothing to tune, it runs as the study says")
        elif choice.settings is None:
            console.print(f"{search.arm}: every setting diverged, so it stays untuned")
        elif choice.tried < found.settings:
            console.print(f"{search.arm}: its grid has only {choice.tried} of the {found.settings} settings")
        if choice and choice.ends:
            console.print(
                f"{search.arm}: chosen at an end of what was tried: {', '.join(choice.ends)}; a wider grid "
                "(tuning.grids in the study) may have a better one",
            )
    console.print(f"rule: {found.rule}")
    console.print(f"{campaign.folder.parent / FILE}: `lorabench run` takes these settings from now on")


def show_status(folder: Path, as_json: bool, changes: Sequence[str]) -> None:
    """Statuses by arm, from the result files, and what of them the study no longer asks for."""
    found = read_trials(folder)
    counts: dict[str, Counter[str]] = {}
    for record in found.records:
        counts.setdefault(record.spec.arm, Counter())[record.status] += 1
    expected = found.expected or {}
    rows = []
    for arm in dict.fromkeys([*expected, *counts]):
        have = counts.get(arm, Counter())
        missing = max(0, expected.get(arm, 0) - sum(have.values()))
        rows.append({"method": arm, **{status: have[status] for status in STATUSES}, "missing": missing})
    if as_json:
        damaged = dict(found.quarantined)
        data = {"folder": str(folder), "methods": rows, "damaged": damaged, "changes": list(changes)}
        print(json.dumps(data, indent=1))
        return
    if rows:
        _table(str(folder), list(rows[0]), [[str(value) for value in row.values()] for row in rows])
    else:
        console.print(f"{folder}: no results yet")
    for line in (*_damaged(found.quarantined), *changes):
        console.print(line, style="yellow")


def show_comparison(found: Comparison, as_json: bool) -> None:
    """Two arms: the answer in words, then every metric."""
    from harness.report import comparison

    if as_json:
        print(json.dumps(comparison.as_data(found), indent=1, allow_nan=False))
        return
    for line in comparison.sentences(found):
        console.print(line)
    columns, rows = comparison.table(found)
    lines = [columns, *rows]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    for first, *rest in lines:
        console.print("  ".join([first.ljust(widths[0]), *map(str.rjust, rest, widths[1:])]))


def clock(seconds: float) -> str:
    """1:05 for 65 seconds, 2:03:04 for hours."""
    whole = max(0, round(seconds))
    hours, rest = divmod(whole, 3600)
    minutes, seconds = divmod(rest, 60)
    return f"{hours}:{minutes:02}:{seconds:02}" if hours else f"{minutes}:{seconds:02}"
