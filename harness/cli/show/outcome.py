"""How a run or a tuning ended, and how far a results folder is."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from harness.cli.show.screen import MOST_MESSAGES, MOST_ROWS, clock, damaged_lines, folded, print_json, screen, table
from harness.cli.show.standing import view
from harness.store.lanes import Lane
from harness.store.records import FINAL, STATUSES
from harness.store.results import read_manifest, read_some
from harness.store.standing import Standing
from harness.store.survey import Survey
from harness.store.tuning import FILE, Tuning
from harness.study.reference import lines

if TYPE_CHECKING:
    from harness.running.campaign import Campaign, State

#: Lanes that are told of.
MOST_LANES = 8


def show_outcome(campaign: Campaign, before: State, state: State) -> None:
    """How it ended, in a line; ``before`` is how it stood when the run began."""
    counts = Counter(state.statuses.values())
    words = ", ".join(f"{number} {status}" for status, number in sorted(counts.items()))
    if state.complete:
        rest = "; nothing to do" if before.complete else ""
        done = "the one trial is" if len(state.statuses) == 1 else f"all {len(state.statuses)} trials are"
        screen.print(f"{campaign.study.name}: {done} done ({words}){rest}")
    else:
        screen.print(f"{campaign.study.name}: {words}; run the same command to try the others again", style="red")
        failed = [name for name, status in state.statuses.items() if status not in (*FINAL, "missing")]
        failures = [record.failure for record in read_some(campaign.folder, failed)]
        messages = list(dict.fromkeys(f"{f.phase}: {f.message}" for f in failures if f))
        for message in messages[:MOST_MESSAGES]:
            screen.print(f"  {message}")
        if len(messages) > MOST_MESSAGES:
            screen.print(f"  and {len(messages) - MOST_MESSAGES:,} more: lorabench report shows them")
        screen.print(f"  what each pack did: {campaign.folder / 'logs'}")
    _show_lanes(state.lanes)


def _show_lanes(used: Sequence[Lane]) -> None:
    """How much of its time each lane of a run waited; of many those that waited longest.  Nothing of single packs."""
    used = sorted((lane for lane in used if lane.packs > 1), key=lambda lane: lane.between / lane.seconds, reverse=True)
    for lane in used[:MOST_LANES]:
        between, loading, after = (each / lane.seconds for each in (lane.between, lane.loading, lane.after))
        screen.print(
            f"  {lane.place}: {lane.packs} packs in {clock(lane.seconds)}, idle {between:.1%} between them and "
            f"{after:.1%} at the end, loading {loading:.1%}"
        )
    if len(used) > MOST_LANES:
        screen.print(f"  and {len(used) - MOST_LANES:,} more, idle less between packs")


def show_choices(campaign: Campaign, tuning: Tuning) -> None:
    """What was tried and chosen for each arm, by :data:`harness.study.tuning.RULE`."""
    rows = []
    for row in tuning.tries:
        score, error = (f"{row[key]:.4f}" if row[key] is not None else "-" for key in ("score", "standard_error"))
        mark = "chosen" if row["chosen"] else "equal" if row["best"] else ""
        rows.append((folded(str(row["arm"])), folded(str(row["setting"])), score, error, str(row["diverged"]), mark))
    columns = ("arm", "setting", "score", "standard error", "diverged", "")
    table(f"{tuning.study}: settings tried on validation", columns, rows)
    for search in campaign.searches:
        choice = tuning.arms.get(search.arm)
        if choice is None:
            screen.print(f"{search.arm}: nothing to tune, it runs as the study says")
        elif choice.settings is None:
            screen.print(f"{search.arm}: every setting diverged, so it stays untuned")
        elif choice.tried < tuning.settings:
            screen.print(f"{search.arm}: its grid has only {choice.tried} of the {tuning.settings} settings")
        if choice and choice.beyond:
            screen.print(f"{search.arm}: tried beyond an end of its grid: {'; '.join(choice.beyond)}")
        if choice and choice.ends:
            left = f"; {'; '.join(search.refused)} is no setting of it" if search.refused else ""
            screen.print(
                f"{search.arm}: chosen at an end of what was tried: {', '.join(choice.ends)}{left}; a wider grid "
                "(tuning.grids in the study) may have a better one",
            )
    screen.print(f"rule: {tuning.rule}")
    screen.print(f"{campaign.folder.parent / FILE}: `lorabench run` takes these settings from now on")


def show_shipped(file: Path, tuning: Tuning) -> None:
    """What was chosen for each arm, on another machine."""
    rows = [
        (arm, ", ".join(f"{key}={value}" for key, value in (choice.settings or {}).items()), str(choice.tried))
        for arm, choice in tuning.arms.items()
    ]
    table(f"{tuning.study}: settings that ship with the study", ("method", "setting", "tried"), rows)
    screen.print(f"rule: {tuning.rule}")
    screen.print(f"{file}: `lorabench run` takes these settings from now on; without --shipped all are tried here")


def show_status(
    folder: Path, surveyed: Survey, as_json: bool, changes: Sequence[str], standing: Standing | None = None
) -> None:
    """Statuses by arm, from the result files, and what of them the study no longer asks for; how far a run is."""
    said = read_manifest(folder)
    expected = said.expected or {}
    counts: dict[str, Counter[str]] = {}
    for entry in surveyed.entries.values():
        counts.setdefault(entry.arm, Counter())[entry.status] += 1
    rows = []
    for arm in dict.fromkeys([*expected, *counts]):
        have = counts.get(arm, Counter())
        missing = max(0, expected.get(arm, 0) - sum(have.values()))
        rows.append({"method": arm, **{status: have[status] for status in STATUSES}, "missing": missing})
    if as_json:
        reference = said.reference.model_dump(mode="json") if said.reference else None
        found = {"damaged": dict(surveyed.damaged), "changes": list(changes)}
        at_work = standing.model_dump(mode="json") if standing else None
        data = {"folder": str(folder), "methods": rows, "reference": reference, "running": at_work, **found}
        print_json(data)
        return
    if rows:
        shown = [[folded(arm), *map(str, counts)] for arm, *counts in (row.values() for row in rows)]
        table(str(folder), ["arm", *list(rows[0])[1:]], shown)
        for line in lines(said.reference) if said.reference else ():
            screen.print(line)
    else:
        screen.print(f"{folder}: no results yet")
    for line in (*damaged_lines(surveyed.damaged), *changes):
        screen.print(line, style="yellow")
    if standing:
        screen.print(view(standing, MOST_ROWS, screen.width))
