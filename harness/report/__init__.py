"""Tables, figures and pages from trial records: the same records give the same bytes."""

from __future__ import annotations

from pathlib import Path

from harness.report import leaderboard, page, plots
from harness.report.audit import write_audit
from harness.report.frame import TIDY, tidy_rows, write_csv
from harness.report.mitigation import write_mitigation
from harness.report.study import Readout, gather

__all__ = ["build_report", "write_audit", "write_mitigation", "write_report"]


def build_report(folder: Path, *, allow_mixed: bool = False) -> list[Path]:
    """Write tables, figures, report.md and report.html of ``<folder>/trials/*.json`` into ``folder``.

    Returns the paths written.  Raises ``InputError`` where no trial finished, and where records may not be compared
    (another stack, base model, task version) unless ``allow_mixed``, which puts a banner on the pages.
    """
    from harness.store import read_trials

    return write_report(folder, read_trials(folder), allow_mixed=allow_mixed)


def write_report(folder: Path, readout: Readout, *, allow_mixed: bool = False) -> list[Path]:
    """:func:`build_report` of records already read."""
    study = gather(readout, allow_mixed=allow_mixed, where=str(folder))
    folder.mkdir(parents=True, exist_ok=True)
    unfinished = [record for arm in study.arms for record in arm.unfinished]
    written = [
        write_csv(folder / "trials.csv", TIDY, tidy_rows(study.trials, unfinished)),
        write_csv(folder / "leaderboard.csv", leaderboard.columns(study), leaderboard.table(study)),
    ]
    written += plots.draw_all(study, folder / "figures")
    return written + page.write_pages(study, leaderboard.rows(study), folder)
