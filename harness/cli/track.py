"""The verb that hands a study's numbers to an experiment tracker."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from harness.cli.options import ModelName, OutFolder, StudyName, one_of, out_option, resolve
from harness.cli.terminal import say, when_stopped
from harness.cli.trials import ArmName, OrderName, Seed
from harness.errors import InputError
from harness.store.choice import Choice
from harness.words import plural


def _trackers(incomplete: str) -> list[str]:
    """For the shell: trackers that begin so."""
    from harness.posthoc.trackers import TRACKERS

    return [name for name in TRACKERS if name.startswith(incomplete)]


def log(
    study: StudyName = "auto",
    to: Annotated[
        str,
        typer.Option(
            "--to", metavar="TRACKER", help="tensorboard, wandb, mlflow or trackio.", autocompletion=_trackers
        ),
    ] = "tensorboard",
    arm: ArmName = None,
    order: OrderName = None,
    seed: Seed = None,
    project: Annotated[str | None, typer.Option("--project", help="Its name there; left out: the study's.")] = None,
    folder: Annotated[
        Path | None, out_option("Where TensorBoard's files go, instead of tensorboard/ in the results.", "--dir")
    ] = None,
    model: ModelName = None,
    out: OutFolder = None,
    allow_mixed: Annotated[bool, typer.Option("--allow-mixed", help="Also trials of different stacks.")] = False,
) -> None:
    """Log a study's trials to a tracker: loss, curves, scores over the stream, intruders, and the final board."""
    from harness.posthoc.trackers import TRACKERS, check_tracker, log_runs
    from harness.report.series import board_of, series_of
    from harness.report.study import gather
    from harness.store import read_trials
    from harness.store.tuning import read_tuning
    from harness.study.folders import results_folder

    check_tracker(one_of(to, "--to", TRACKERS))
    results = results_folder(resolve(study), model, out)
    if not results.is_dir():
        raise InputError(
            "there are no results here", where=str(results), remedy="run the study first: lorabench run STUDY"
        )
    tuning = read_tuning(results)
    gathered = gather(read_trials(results), allow_mixed=allow_mixed, where=str(results), tuning=tuning)
    choice = Choice(arm=arm, order=order, seed=seed)
    meant = {record.fingerprint for record in choice.among([trial.record for trial in gathered.trials])}
    target = folder or results / "tensorboard"
    if to == "tensorboard" and target.is_dir() and any(target.iterdir()):
        what = "there is a log here, and a second one would be shown on top of it"
        raise InputError(what, where=str(target), remedy="remove it, or name another folder with --dir")
    runs = [run for run in series_of(gathered) if run.settings["trial"] in meant]
    if choice.is_empty:
        runs.append(board_of(gathered))
    if not runs:
        raise InputError(f"no finished trial is of {choice}", where=str(results), remedy="lorabench trials lists them")
    with when_stopped("the runs that were named are logged; the others are not"):
        count = log_runs(to, runs, project or gathered.name, target, lambda run: say(f"logged {run.name}", err=True))
    say(f"{plural(count, 'run')} logged to {to}" + (f": tensorboard --logdir {target}" if to == "tensorboard" else ""))
