"""Verbs that run a study: fetch what it needs, plan, run, tune, status."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from harness.cli.options import AsJson, ModelName, OutFolder, StudyName, resolve
from harness.cli.preflight import check_methods, checked_study
from harness.cli.results import write_report
from harness.cli.terminal import say
from harness.errors import LorabenchError, unknown_name

if TYPE_CHECKING:
    from harness.run.campaign import Campaign, State

ExecutorName = Annotated[str, typer.Option("--executor", help="ray, or local: in this process, without importing ray.")]


def fetch(study: StudyName = "auto", model: ModelName = None) -> None:
    """Download and verify a study's model and data, and decompose the model for runs on a CPU; offline afterwards."""
    from harness.data.fetch import fetch
    from harness.run import decompose as prepare

    file, config = checked_study(resolve(study), model)
    source = fetch((*config.tasks, *config.probes), config.model, say)
    prepare.decompose(config, file, source, say)


def plan(study: StudyName = "auto", model: ModelName = None, out: OutFolder = None) -> None:
    """Print a study's trials and packs, what is done, and a time forecast."""
    from harness.cli import console
    from harness.executors.local import LocalExecutor
    from harness.run import campaign

    name = resolve(study)
    check_methods(*checked_study(name, model))
    found = campaign.load_campaign(name, model=model, out=out, device=LocalExecutor().device)
    console.show_plan(found, campaign.read_state(found), LocalExecutor().device(found.study.device))


def run(
    study: StudyName = "auto",
    executor: ExecutorName = "ray",
    model: ModelName = None,
    out: OutFolder = None,
    report: Annotated[bool, typer.Option(help="Write tables, figures and the page at the end.")] = True,
) -> None:
    """Run what is missing of a study, then write its report.  Finished trials are kept."""
    found, state = _carry_out(resolve(study), executor, model, out)
    if report and "ok" in state.statuses.values():
        write_report(found.folder, allow_mixed=False)
    if state.finished < len(state.statuses):
        raise typer.Exit(1)


def tune(
    study: StudyName = "auto", executor: ExecutorName = "ray", model: ModelName = None, out: OutFolder = None
) -> None:
    """Try equally many settings for every method of a study, on seeds and items of their own; `run` takes the best."""
    from harness.cli import console
    from harness.run import campaign

    found, state = _carry_out(resolve(study), executor, model, out, tune=True)
    if state.finished < len(state.statuses):
        raise typer.Exit(1)
    console.show_choices(found, campaign.choose(found))


def _carry_out(
    name: str, executor: str, model: str | None, out: Path | None, *, tune: bool = False
) -> tuple[Campaign, State]:
    """Run what is missing of a study, or of its tuning study, and show how it ended."""
    from harness.cli import console
    from harness.executors import EXECUTORS, make_executor
    from harness.run import campaign

    if executor not in EXECUTORS:
        raise unknown_name("executor", executor, EXECUTORS, where="--executor")
    check_methods(*checked_study(name, model))  # before Ray starts, which takes ten seconds
    with console.preparing(f"preparing {name}"):
        runner = make_executor(executor)
    try:
        found = campaign.load_campaign(name, model=model, out=out, device=runner.device, tune=tune)
        state = campaign.read_state(found)
        device = runner.device(found.study.device)
        console.show_plan(found, state, device)
        with console.progress(found.study.name, state.complete) as watcher:
            before, state = state, campaign.run(found, runner, device, watcher, {"executor": executor})
    finally:
        runner.close()
    console.show_outcome(found, before, state)
    return found, state


def status(study: StudyName = "auto", model: ModelName = None, out: OutFolder = None, as_json: AsJson = False) -> None:
    """Say which trials of a study are done, diverged, failed or missing, and whether it has changed since."""
    from harness.cli import console
    from harness.run import campaign

    name = resolve(study)
    folder = campaign.results_folder(name, model, out)
    console.show_status(folder, as_json, _changes(name, model, out) if any(folder.glob("*/*.json")) else ())


def _changes(name: str, model: str | None, out: Path | None) -> tuple[str, ...]:
    """What of the records no longer fits the study; a line that says why that can't be told here, if it can't."""
    from harness.data import models, paths, tasks
    from harness.run import campaign
    from harness.study.config import find_study, load_study

    try:
        study = load_study(find_study(name, paths.studies_dir()), overrides={"model": model} if model else None)
        there = models.model_ready(study.model) and all(map(tasks.task_ready, (*study.tasks, *study.probes)))
        if not there:
            why = "its model or data are not at hand; lorabench fetch makes them ready"
        else:
            from harness.executors.local import LocalExecutor

            found = campaign.load_campaign(name, model=model, out=out, device=LocalExecutor().device)
            return campaign.read_state(found).changes.lines
    except LorabenchError as error:
        why = error.what
    return (f"whether the study has changed since can't be told here: {why}",)
