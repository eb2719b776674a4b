"""Verbs that read the results of studies: report, compare."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from harness.cli.completion import arm_names, column_names
from harness.cli.options import AsJson, ModelName, OutFolder, StudyName, kind_of, resolve
from harness.cli.terminal import say
from harness.errors import InputError

Mixed = Annotated[bool, typer.Option("--allow-mixed", help="Put different stacks on one board, with a banner.")]


def report(
    study: StudyName = "auto",
    model: ModelName = None,
    out: OutFolder = None,
    allow_mixed: Mixed = False,
    latex: Annotated[bool, typer.Option("--latex", help="Also write the tables as report.tex.")] = False,
    columns: Annotated[
        str,
        typer.Option(
            "--columns",
            help="Metrics of the main table of report.tex, such as average_accuracy,forgetting.",
            autocompletion=column_names,
        ),
    ] = "",
    partial: Annotated[
        bool, typer.Option("--partial", help="Also while a run is at work: of the trials there are, marked as such.")
    ] = False,
    every: Annotated[bool, typer.Option("--all", help="Write an index page over everything under results/.")] = False,
) -> None:
    """Write the tables, figures and page of a study's results."""
    from harness.study.folders import results_folder

    if every:
        from harness.report import build_index

        say(f"index: {build_index((out or Path('results')).resolve())}")
        return
    folder = results_folder(resolve(study), model, out)
    if not partial:
        _refuse_at_work(folder)
    chosen = [name.strip() for name in columns.split(",") if name.strip()]
    write_report(folder, allow_mixed=allow_mixed, latex=chosen or latex)


def _refuse_at_work(folder: Path) -> None:
    """A report that comes half-way is asked for by name, so that nobody takes it for the last."""
    from harness.store.claims import at_work

    if owner := at_work(folder):
        what = f"a run ({owner}) is at work here, and writes the report when it ends"
        raise InputError(what, where=str(folder), remedy="wait for it, or add --partial")


def compare(
    study: Annotated[str, typer.Argument(metavar="STUDY", help="The study of both arms, or of A.")],
    first: Annotated[str, typer.Argument(metavar="A", help="An arm, as the board names it.", autocompletion=arm_names)],
    second: Annotated[
        str, typer.Argument(metavar="B", help="The arm that A is compared with.", autocompletion=arm_names)
    ],
    other: Annotated[str | None, typer.Option("--with", help="The study of B, or its folder, if another.")] = None,
    model: ModelName = None,
    out: OutFolder = None,
    allow_mixed: Mixed = False,
    as_json: AsJson = False,
) -> None:
    """Say by how much arm A differs from arm B, in pairs of the same order and seed, and how sure that is."""
    from harness.cli.show.comparison import show_comparison
    from harness.report import compare_studies
    from harness.study.folders import results_folder

    folder = _existing(results_folder(resolve(study), model, out))
    partner = folder
    if other is not None:
        is_folder = other != "" and kind_of(Path(other) / "trials") == "folder"
        partner = Path(other).resolve() if is_folder else _existing(results_folder(resolve(other), model, None))
    show_comparison(compare_studies(folder, first, partner, second, allow_mixed=allow_mixed), as_json)


def renew_report(folder: Path) -> None:
    """Write the report of a run, unless the one that is there is what would be written."""
    from harness.store.reported import current_answer

    if (answer := current_answer(folder)) is not None:
        say(answer)
        say(f"report: {folder / 'report.html'}, as it was")
    else:
        write_report(folder)


def write_report(folder: Path, *, allow_mixed: bool = False, latex: bool | list[str] = False) -> None:
    """Write it, and say its answer in a sentence and where it is."""
    from harness.report import build_report

    build_report(_existing(folder), allow_mixed=allow_mixed, latex=latex, tell=say)
    say(f"report: {folder / 'report.html'}")


def _existing(folder: Path) -> Path:
    if not folder.is_dir():
        raise InputError(
            "there are no results here", where=str(folder), remedy="run the study first: lorabench run STUDY"
        )
    return folder
