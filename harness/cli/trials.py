"""Verbs about single trials: list them, export one."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from harness.cli.completion import arm_names, order_names
from harness.cli.options import (
    AsJson,
    ModelName,
    OutFolder,
    StudyName,
    out_folder,
    refuse_unknown,
    resolve,
)
from harness.cli.terminal import say
from harness.errors import InputError, LorabenchError
from harness.store.choice import Choice, name_of
from harness.words import plural

if TYPE_CHECKING:
    from harness.store.records import TrialRecord

ArmName = Annotated[str | None, typer.Option("--arm", help="An arm, as the board names it.", autocompletion=arm_names)]
OrderName = Annotated[
    str | None,
    typer.Option("--order", help="A stream of the study, by its name.", autocompletion=order_names),
]
Seed = Annotated[int | None, typer.Option("--seed", help="A seed of the study.")]


def trials(
    study: StudyName = "auto",
    arm: ArmName = None,
    order: OrderName = None,
    seed: Seed = None,
    model: ModelName = None,
    out: OutFolder = None,
    as_json: AsJson = False,
) -> None:
    """List a study's trials: fingerprint, status, scores, commit; what is missing or stale, where that is known."""
    from harness.cli.show.trials import listed, show_trials
    from harness.cli.study import laid_out
    from harness.store import read_trials
    from harness.study.folders import results_folder

    name, choice = resolve(study), Choice(arm=arm, order=order, seed=seed)
    folder = results_folder(name, model, out)
    refuse_unknown(name, folder)
    readout = read_trials(folder, lean=True)
    campaign = laid_out(name, model, out)
    rows = listed(readout, None if isinstance(campaign, str) else campaign.plan)
    show_trials(folder, readout.quarantined, choice.among(rows), choice, as_json=as_json)


def export(
    words: Annotated[
        list[str],
        typer.Argument(
            metavar="[TRIAL] TO", help="A trial's fingerprint, or the beginning of it, and the folder to write."
        ),
    ],
    arm: ArmName = None,
    order: OrderName = None,
    seed: Seed = None,
    lm_eval: Annotated[
        bool, typer.Option("--lm-eval", help="Write its scores as lm-eval's results_<when>.json instead of an adapter.")
    ] = False,
    force: Annotated[bool, typer.Option("--force", help="Write into a folder that holds something.")] = False,
    study: Annotated[str, typer.Option("--study", help="The study it belongs to.")] = "auto",
    model: ModelName = None,
    out: OutFolder = None,
) -> None:
    """Export a trial's scored adapter in PEFT's format with a model card, by fingerprint or --arm, --order, --seed."""
    from harness.store import read_trials
    from harness.study.folders import results_folder

    beginning, to = _places(words, named=any(value is not None for value in (arm, order, seed)))
    folder = results_folder(resolve(study), model, out)
    record = Choice(beginning, arm, order, seed).one(read_trials(folder).records, str(folder / "trials"))
    if lm_eval:
        _export_scores(record, folder, to, force)
    else:
        _refuse_full(to, force)
        _export_adapter(record, folder, to)


def _places(words: Sequence[str], *, named: bool) -> tuple[str, Path]:
    """(beginning of a fingerprint, folder to write)."""
    if len(words) > 2:
        raise InputError("there are too many words", where=words[2], remedy="give a TRIAL and the folder TO")
    if len(words) == 1 and not named:
        remedy = "give its fingerprint before the folder, or --arm, --order and --seed"
        raise InputError("no trial is named", where="TRIAL", remedy=remedy)
    beginning = words[0].strip() if len(words) == 2 else ""
    if len(words) == 2 and not beginning:
        raise InputError("this is empty", where="TRIAL", remedy="give a fingerprint: lorabench trials STUDY lists them")
    return beginning, out_folder(words[-1], "TO")


def _refuse_full(to: Path, force: bool) -> None:
    if not force and to.is_dir() and any(to.iterdir()):
        raise InputError("this folder holds something", where=str(to), remedy="name another, or add --force")


def _export_adapter(record: TrialRecord, folder: Path, to: Path) -> None:
    from harness.data import models
    from harness.engine.adapters.files import export_peft, find_adapter
    from harness.posthoc.model_card import About, loading_lines, write_card

    if not record.facts.trains:
        raise InputError(
            f"'{record.spec.arm}' trains nothing, so there is no adapter", where=record.fingerprint,
            remedy="--lm-eval exports its scores",
        )  # fmt: skip
    source, place = find_adapter(folder, record.fingerprint)
    base = models.loadable(record.spec.model)
    export_peft(source, place, to, base=base.name, revision=base.revision)
    if record.status == "ok":
        write_card(record, About(base, *_method(record.spec.method), _licences(record)), to.absolute())
    say(f"{name_of(record)} -> {to}")
    say("\n".join(f"    {line}" for line in loading_lines(base, to.absolute())))


def _method(name: str) -> tuple[str, str]:
    """(what it is, where it is from); empty where the method isn't there any more."""
    from harness.method.registry import methods

    method = methods().get(name)
    return (method.summary, method.source) if method else ("", "")


def _licences(record: TrialRecord) -> dict[str, str]:
    from harness.data import tasks

    found = {}
    for name in record.spec.stream:
        try:
            found[name] = tasks.load_task(name).licence
        except LorabenchError:  # it is gone, or was a plug-in's
            found[name] = "not known here"
    return found


def _export_scores(record: TrialRecord, folder: Path, to: Path, force: bool) -> None:
    from harness.data import tasks
    from harness.posthoc.lm_eval_results import write_lm_eval

    if record.status != "ok":
        raise InputError(
            f"this trial did not finish: {record.status}", where=record.fingerprint, remedy="choose another"
        )
    prepared = {name: tasks.prepare_task(name) for name in (*record.tasks, *record.probes)}
    path = write_lm_eval(record, folder, prepared, to, replace=force)
    say(f"{name_of(record)}: {plural(len(prepared), 'task')} -> {path}")
