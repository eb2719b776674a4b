"""What the shell completes of a study and of its results: nothing is fetched for it, and no torch imported."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

import typer

from harness.cli.options import resolve
from harness.errors import LorabenchError

if TYPE_CHECKING:
    from harness.study.config import Study


def arm_names(context: typer.Context, incomplete: str) -> list[str]:
    """Arms that begin so: of the line's study, or of its results where its file is elsewhere."""
    from harness.study import arms

    study = _study(context)
    return _beginning(arms.arm_names(study) if study else _recorded(context), incomplete)


def order_names(context: typer.Context, incomplete: str) -> list[str]:
    """Orders of the line's study that begin so."""
    study = _study(context)
    return _beginning(study.streams if study else (), incomplete)


def column_names(incomplete: str) -> list[str]:
    """Lists of metrics of the board, the last of which begins so."""
    from harness.report import metrics

    before, comma, last = incomplete.rpartition(",")
    taken = before.split(",")
    shown = [metrics.PRIMARY, *(each.name for table in ("main", "tests") for each in metrics.in_table(table))]
    return [f"{before}{comma}{name}" for name in _beginning(shown, last) if name not in taken]


def _beginning(names: Iterable[str], incomplete: str) -> list[str]:
    return [name for name in names if name.startswith(incomplete)]


def _study(context: typer.Context) -> Study | None:
    from harness.data import paths
    from harness.study.load import find_study, load_study

    try:
        name = resolve(_typed(context))
        is_file = name.endswith((".yaml", ".yml"))
        return load_study(find_study(name if is_file else name.partition("@")[0], paths.studies_dir()))
    except LorabenchError:  # a shell shows no errors; the verb will
        return None


def _typed(context: typer.Context) -> str:
    """The study's name; an option that has no value yet keeps the parser from giving arguments their names."""
    arguments = [each.name for each in context.command.params if each.param_type_name == "argument"]
    if context.args and arguments[:1] == ["study"]:
        return context.args[0]
    return str(context.params.get("study") or "auto")


def _recorded(context: typer.Context) -> Iterable[str]:
    from harness.store.results import read_manifest
    from harness.study.folders import results_folder

    try:
        folder = results_folder(resolve(_typed(context)), None, context.params.get("out"))
        return read_manifest(folder).expected or ()
    except LorabenchError:
        return ()
