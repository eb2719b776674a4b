"""Tables, figures and pages from trial records: the same records give the same bytes."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

from harness.report import leaderboard, leaderboard_csv
from harness.report.comparison import Comparison, compare
from harness.report.csv_files import write_csv
from harness.report.figures.registry import draw_all
from harness.report.mitigation import write_mitigation
from harness.report.pages.audit import write_audit
from harness.report.pages.index import PAGE, study_folders, write_index
from harness.report.pages.mitigation import write_mitigation_page
from harness.report.pages.study import write_pages
from harness.report.study import Readout, gather
from harness.report.text.answer import opening
from harness.report.text.latex import MAIN, write_latex
from harness.report.text.tuning import tuning_table
from harness.report.trials_csv import write_trials
from harness.store.tuning import read_tuning

__all__ = [
    "build_index",
    "build_report",
    "compare_studies",
    "write_audit",
    "write_mitigation",
    "write_mitigation_page",
    "write_report",
]


def build_report(
    folder: Path,
    *,
    allow_mixed: bool = False,
    latex: bool | Sequence[str] = False,
    tell: Callable[[str], object] | None = None,
) -> list[Path]:
    """Write tables, figures, report.md and report.html of ``<folder>/trials/*.json`` into ``folder``.

    Returns the paths written; with ``latex`` report.tex is among them, its main table with the metrics that it names.
    ``tell`` gets the answer in a sentence.  Raises ``InputError`` where no trial finished, and where records may not be
    compared (another stack, base model, task version) unless ``allow_mixed``, which puts a banner on the pages.  One
    without ``allow_mixed`` is noted as that of these records, so that a run leaves it.
    """
    from harness.store import read_trials
    from harness.store.lean import settled
    from harness.store.reported import note_report, sources

    made_of = sources(folder)  # before it is read: a run may be writing records
    told: list[str] = []
    readout = read_trials(folder, lean=True)
    with settled():
        written = write_report(folder, readout, allow_mixed=allow_mixed, latex=latex, tell=told.append)
    if not allow_mixed:
        note_report(folder, written, made_of, told[0])
    if tell is not None:
        tell(told[0])
    return written


def write_report(
    folder: Path,
    readout: Readout,
    *,
    allow_mixed: bool = False,
    latex: bool | Sequence[str] = False,
    tell: Callable[[str], object] | None = None,
) -> list[Path]:
    """:func:`build_report` of records already read."""
    tuning = read_tuning(folder)
    study = gather(readout, allow_mixed=allow_mixed, where=str(folder), tuning=tuning)
    board, tries = leaderboard.rows(study), tuning_table(tuning) if tuning else None
    unfinished = [record for arm in study.arms for record in arm.unfinished]
    written = [
        write_trials(folder / "trials.csv", study.trials, unfinished),
        write_csv(
            folder / "leaderboard.csv",
            leaderboard_csv.columns_of(study),
            leaderboard_csv.table(board, partial=study.partial),
        ),
    ]
    written += draw_all(study, board, folder / "figures")
    written += write_pages(study, board, folder, tries)
    if tell is not None:
        tell(opening(study, board))
    if not latex:
        return written
    return [*written, write_latex(study, board, folder, MAIN if latex is True else latex)]


def build_index(root: Path) -> Path:
    """Write ``root/index.html`` over every study under ``root``; a study without a page gets its report first.

    A folder that can't be reported is on the page with the reason.
    """
    from harness.errors import InputError

    for folder in study_folders(root):
        if not (folder / PAGE).exists():
            try:
                build_report(folder)
            except InputError:
                continue  # the index says why
    return write_index(root)


def compare_studies(folder: Path, first: str, other: Path, second: str, *, allow_mixed: bool = False) -> Comparison:
    """Arm ``first`` of the results in ``folder`` minus arm ``second`` of those in ``other``.

    Raises ``InputError`` where the trials of these two are mixed; those of other arms don't matter.
    """
    from harness.store import read_trials

    one = gather(read_trials(folder), allow_mixed=True, where=str(folder))
    if other == folder:
        return compare(one, one, first, second, allow_mixed=allow_mixed)
    two = gather(read_trials(other), allow_mixed=True, where=str(other))
    compared = compare(one, two, first, second, allow_mixed=allow_mixed)
    return replace(compared, studies=_told_apart(folder, other))


def _told_apart(folder: Path, other: Path) -> tuple[str, str]:
    """Names of two results folders, from where their paths part: two models' results of a study share its name."""
    both = [path.resolve() for path in (folder, other)]
    common = os.path.commonpath([path.parent for path in both])
    return both[0].relative_to(common).as_posix(), both[1].relative_to(common).as_posix()
