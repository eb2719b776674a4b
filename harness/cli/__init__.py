"""The command line: one verb a function, thin, and quick to start (torch and ray are imported only where they run).

``VERBS`` says where each verb is: ``study`` runs a study, ``results`` reads what it left, ``trials`` lists and exports
single ones, ``track`` logs them elsewhere, ``adapters`` takes what was trained, ``lists`` says what there is; ``perf``
and ``new`` are groups of verbs.  ``options`` is what several share.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Annotated

import typer

from harness.cli import adapters, lists, new, perf, results, study, track, trials
from harness.cli.options import kind_of
from harness.cli.terminal import say, stopped, take_any_encoding
from harness.data.files import FULL
from harness.errors import InputError, LorabenchError

#: In the order of the help.
VERBS = (
    study.fetch, study.plan, study.run, study.tune, study.status,
    results.report, results.compare,
    trials.trials, trials.export, track.log, adapters.audit, adapters.mitigate,
    lists.doctor, lists.methods, lists.tasks, lists.studies,
)  # fmt: skip

app = typer.Typer(
    name="lorabench",
    help="Compare ways of LoRA fine-tuning on sequences of tasks: forgetting, learning, intruder dimensions, cost.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
for verb in VERBS:
    app.command()(verb)
app.add_typer(perf.app, name="perf")
app.add_typer(new.app, name="new")


def _show_version(asked: bool) -> None:
    """``lorabench 0.1.0``, with the commit of the clone that it runs from."""
    if not asked:
        return
    from importlib.metadata import PackageNotFoundError, version

    from harness.store.clone import clone

    try:
        number = version("lorabench")
    except PackageNotFoundError:
        number = "(not installed)"
    here = clone()
    changed = {True: "", False: ", changed since", None: ""}[here.clean]
    say(f"lorabench {number}" + (f" (clone at {here.commit[:12]}{changed})" if here.commit else ""))
    raise typer.Exit


@app.callback()
def plug_in(
    context: typer.Context,
    plugins: Annotated[
        list[Path] | None,
        typer.Option("--plugins", help="A folder of custom methods/ and tasks/; anywhere on the line."),
    ] = None,
    version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Say which version this is.")
    ] = False,
) -> None:
    """Makes the folders known to this process and to its workers.

    On this machine by the environment; those of a cluster are given the files (``harness.executors.ray.parcel``).
    """
    for folder in plugins or ():
        if context.invoked_subcommand != "new" and (kind := kind_of(folder)) != "folder":
            what = "this is a file, not a folder" if kind == "file" else "there is no such folder"
            remedy = "name a folder that holds methods/, tasks/ or both"
            raise InputError(what, where=f"--plugins {folder}", remedy=remedy)
    if plugins:
        os.environ["LORABENCH_PLUGINS"] = os.pathsep.join(str(folder.resolve()) for folder in plugins)


def _plugins_first(arguments: list[str]) -> list[str]:
    """``--plugins DIR`` wherever it stands: it belongs to no verb."""
    first, rest, words = [], [], iter(arguments)
    for word in words:
        if word == "--plugins":
            first += [word, *([value] if (value := next(words, None)) is not None else [])]
        else:
            (first if word.startswith("--plugins=") else rest).append(word)
    return first + rest


def main() -> None:
    """Entry point: errors of ours become one message and their exit status; Ctrl-C is 130."""
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    os.environ.setdefault("TQDM_DISABLE", "1")  # one progress bar, ours
    take_any_encoding()
    try:
        app(_plugins_first(sys.argv[1:]), prog_name="lorabench")  # which names the completion's variable, too
    except LorabenchError as error:
        say(f"error: {error}", err=True)
        sys.exit(error.exit_status)
    except OSError as error:  # wherever a disk is full
        if error.errno not in FULL:
            raise
        place = f"{error.filename}: " if error.filename else ""
        say(f"error: {place}cannot be written: {error.strerror}\n  -> free disk space, then run again", err=True)
        sys.exit(1)
    except SystemExit as stop:  # typer turns Ctrl-C into its exit status
        if stop.code == 130:
            say(stopped(), err=True)
        raise
