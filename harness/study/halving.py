"""Parts of a pack that has failed, so that one bad trial takes no other with it.

A pack whose worker raised, ran out of memory, died or gave no sign of life is halved, and each half is tried again,
until what fails is one trial alone.  The halves of a pack are a function of the pack, so the same failure gives the
same parts again, and on a CPU the same bits.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace

from harness.store.records import FINAL
from harness.study.plan import Pack, Row, pack_of


def halves(pack: Pack) -> tuple[Pack, ...]:
    """Two packs of half the rows each; of one row that several trials share, of half its trials; else empty."""
    rows = pack.rows
    if len(rows) == 1:
        trials = rows[0].trials
        rows = tuple(replace(rows[0], trials=part) for part in (trials[: len(trials) // 2], trials[len(trials) // 2 :]))
        rows = tuple(row for row in rows if row.trials)
    if len(rows) == 1:
        return ()
    middle = len(rows) // 2
    return pack_of(rows[:middle], pack.shares), pack_of(rows[middle:], pack.shares)


def unfinished(pack: Pack, statuses: Mapping[str, str]) -> tuple[Pack, ...]:
    """What a run does of a planned pack; ``statuses`` are by fingerprint, ``missing`` where there is no record.

    The whole pack, so that its bits are those of an undisturbed run.  But a trial that has failed stood alone when it
    did, and is tried again alone; what else is missing of its pack goes without it.
    """
    states = {trial.fingerprint: statuses[trial.fingerprint] for trial in pack.trials}
    failed = {trial for trial, status in states.items() if status not in (*FINAL, "missing")}
    missing = {trial for trial, status in states.items() if status == "missing"}
    if not failed:
        return (pack,) if missing else ()
    rest = _only(pack.rows, missing)
    alone = [part for row in _only(pack.rows, failed) for part in _each(row)]
    return (*((pack_of(rest, pack.shares),) if rest else ()), *(pack_of((row,), pack.shares) for row in alone))


def _only(rows: Sequence[Row], wanted: Collection[str]) -> tuple[Row, ...]:
    """The rows with these trials alone."""
    kept = (replace(row, trials=tuple(t for t in row.trials if t.fingerprint in wanted)) for row in rows)
    return tuple(row for row in kept if row.trials)


def _each(row: Row) -> list[Row]:
    return [replace(row, trials=(trial,)) for trial in row.trials]
