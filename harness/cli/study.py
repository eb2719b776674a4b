"""Verbs that run a study: fetch what it needs, plan, run, tune, status."""

from __future__ import annotations

import os
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from harness.cli.options import AsJson, ModelName, OutFolder, StudyName, refuse_unknown, resolve
from harness.cli.preflight import check_methods, checked_study
from harness.cli.results import renew_report
from harness.cli.terminal import say, when_stopped
from harness.errors import InputError, LorabenchError
from harness.store.choice import Choice, name_of
from harness.words import plural

if TYPE_CHECKING:
    from harness.running.campaign import Campaign, State
    from harness.store.survey import Survey


def _executors(incomplete: str) -> list[str]:
    """For the shell: executors that begin so."""
    from harness.executors import EXECUTORS

    return [name for name in EXECUTORS if name.startswith(incomplete)]


ExecutorName = Annotated[
    str,
    typer.Option(
        "--executor",
        help="Where packs run: ray, or local: in this process, without importing ray.",
        autocompletion=_executors,
    ),
]
Address = Annotated[
    str | None,
    typer.Option(
        "--address", metavar="HOST:PORT", help="A Ray cluster to join (RAY_ADDRESS), in place of one of this run's own."
    ),
]


def fetch(study: StudyName = "auto", model: ModelName = None) -> None:
    """Download and verify a study's model and data, and decompose the model for runs on a CPU; offline afterwards."""
    from harness.data.fetch import fetch
    from harness.running.decompose import decompose

    file, config = checked_study(resolve(study), model)
    source = fetch((*config.tasks, *config.probes), config.model, say)
    decompose(config, file, source, say)


def plan(study: StudyName = "auto", model: ModelName = None, out: OutFolder = None, as_json: AsJson = False) -> None:
    """Print a study's trials and packs, what is done, and a time forecast."""
    from harness.cli.show.plan import seen_from_here, show_plan
    from harness.executors.hardware import likely_device
    from harness.running import campaign

    name = resolve(study)
    check_methods(*checked_study(name, model))
    opened = campaign.load_campaign(name, model=model, out=out, device=likely_device)
    state, device = campaign.read_state(opened), likely_device(opened.study.device)
    campaign.check_memory(opened, state, device)
    show_plan(opened, state, device, seen_from_here(opened.study, device), as_json=as_json)


def run(
    study: StudyName = "auto",
    executor: ExecutorName = "ray",
    model: ModelName = None,
    out: OutFolder = None,
    address: Address = None,
    trial: Annotated[
        str | None,
        typer.Option("--trial", metavar="FP", help="Run the pack of this trial alone: (the beginning of) its name."),
    ] = None,
    report: Annotated[bool, typer.Option(help="Write tables, figures and the page at the end.")] = True,
) -> None:
    """Run what is missing of a study, then write its report.  Finished trials are kept."""
    join(address, executor)
    if trial is not None and not trial.strip():
        raise InputError("this is empty", where="--trial", remedy="lorabench trials STUDY lists the fingerprints")
    campaign, state = _carry_out(resolve(study), executor, model, out, only=trial)
    if report and "ok" in state.statuses.values():
        renew_report(campaign.folder)
    if state.finished < len(state.statuses):
        raise typer.Exit(1)


def tune(
    study: StudyName = "auto",
    executor: ExecutorName = "ray",
    model: ModelName = None,
    out: OutFolder = None,
    address: Address = None,
    shipped: Annotated[
        bool, typer.Option("--shipped", help="Try nothing: take the settings that ship with the study, if they fit.")
    ] = False,
) -> None:
    """Try equally many settings for every method of a study, on seeds and items of their own; `run` takes the best."""
    from harness.cli.show.outcome import show_choices, show_shipped
    from harness.running.campaign import at_ends, choose
    from harness.running.shipped import take_shipped

    join(address, executor)
    name = resolve(study)
    if shipped:
        check_methods(*checked_study(name, model))
        return show_shipped(*take_shipped(name, model, out))
    for _ in ("the grids", "one step beyond"):
        campaign, state = _carry_out(name, executor, model, out, tune=True)
        if state.finished < len(state.statuses):
            raise typer.Exit(1)
        if not (ends := at_ends(campaign)):
            break
        for arm, values in ends.items():
            say(f"{arm}: the best lies at an end of its grid ({', '.join(values)}), so one step beyond is tried, too")
    show_choices(campaign, choose(campaign))


def join(address: str | None, executor: str) -> None:
    """Have the executor join the cluster at this address, which it reads from the environment, as its processes do."""
    if address is None:
        return
    if executor != "ray":
        what = f"--executor {executor} joins no cluster"
        raise InputError(what, where="--address", remedy="leave out one of the two")
    if not address.strip():
        raise InputError("this is empty", where="--address", remedy="give host:port of a Ray cluster, or auto")
    os.environ["RAY_ADDRESS"] = address


def _carry_out(
    name: str, executor: str, model: str | None, out: Path | None, *, tune: bool = False, only: str | None = None
) -> tuple[Campaign, State]:
    """Run what is missing of a study, or of its tuning study, and show how it ended."""
    from harness.cli.show.outcome import show_outcome
    from harness.cli.show.plan import show_plan
    from harness.cli.show.progress import progress
    from harness.cli.show.screen import preparing
    from harness.executors import Deferred
    from harness.running import campaign

    with Deferred(executor) as runner:
        check_methods(*checked_study(name, model))
        with preparing(f"preparing {name}"):
            load = partial(campaign.load_campaign, name, model=model, out=out, tune=tune)
            opened, before, device = campaign.open_campaign(load, runner)
        show_plan(opened, before, device)
        if only:
            opened = _only(opened, only)
            before = before.of(opened)
        with when_stopped(partial(_kept, opened)), progress(opened.study.name, before.complete) as watcher:
            after = campaign.run(opened, runner, device, watcher, {"executor": executor})
    show_outcome(opened, before, after)
    return opened, after


def _only(campaign: Campaign, beginning: str) -> Campaign:
    """The campaign of one trial, with a word on what is trained for it."""
    trial = Choice(beginning).one(campaign.plan.trials, f"--trial {beginning}")
    chosen = replace(campaign, only=frozenset({trial.fingerprint}))
    say(f"--trial: {name_of(trial)}")
    for pack in chosen.chosen.packs:
        if len(pack.trials) > 1:
            say(f"its pack of {len(pack.trials)} trials is trained whole: they take their steps side by side, and the "
                "last bits of each depend on the others")  # fmt: skip
    return chosen


def _kept(campaign: Campaign) -> str:
    """What a run that was stopped has left."""
    from harness.running.campaign import read_state
    from harness.store.checkpoints import checkpoint_path

    state = read_state(campaign).of(campaign)
    begun = sum(checkpoint_path(campaign.folder, pack.name).exists() for pack in state.todo)
    rest = f", {plural(begun, 'pack')} will go on from the last task boundary" if begun else ""
    return (
        f"{state.finished} of {plural(len(state.statuses), 'trial')} finished and kept in {campaign.folder}{rest}; "
        "run the same command to go on"
    )


def status(study: StudyName = "auto", model: ModelName = None, out: OutFolder = None, as_json: AsJson = False) -> None:
    """Say which trials are done, diverged, failed or missing, what has changed since, and how far a run is."""
    from harness.cli.show.outcome import show_status
    from harness.data.paths import cache_dir
    from harness.store.standing import read_standing
    from harness.store.survey import survey
    from harness.study.folders import TUNING, results_folder

    name = resolve(study)
    folder = results_folder(name, model, out)
    refuse_unknown(name, folder)
    surveyed = survey(folder, cache_dir())
    changes = _changes(name, model, out, surveyed) if any(folder.glob("*/*.json")) else ()
    show_status(folder, surveyed, as_json, changes, read_standing(folder) or read_standing(folder / TUNING))


def _changes(name: str, model: str | None, out: Path | None, surveyed: Survey) -> tuple[str, ...]:
    """What of the records no longer fits the study; a line that says why that can't be told here, if it can't."""
    from harness.running import campaign

    opened = laid_out(name, model, out)
    if not isinstance(opened, str):
        try:
            return campaign.read_state(opened, surveyed=surveyed).changes.lines
        except LorabenchError as error:
            opened = error.what
    return (f"whether the study has changed since can't be told here: {opened}",)


def laid_out(name: str, model: str | None, out: Path | None) -> Campaign | str:
    """The plan of a study, as long as nothing has to be fetched or made for it; else why there is none.

    Its trials are those of any machine, its packs as large as the likely device suggests.
    """
    from harness.data import models, paths, tasks
    from harness.executors.hardware import likely_device
    from harness.running import campaign
    from harness.study.load import find_study, load_study

    try:
        study = load_study(find_study(name, paths.studies_dir()), overrides={"model": model} if model else None)
        if not models.model_ready(study.model) or not all(map(tasks.task_ready, (*study.tasks, *study.probes))):
            return "its model or data are not at hand; lorabench fetch makes them ready"
        return campaign.load_campaign(name, model=model, out=out, device=likely_device)
    except LorabenchError as error:
        return error.what
