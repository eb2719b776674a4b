"""A study from file to finished results: plan, base scores, packs, report.  Idempotent: only what is missing runs."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from harness.data import files, paths, tasks
from harness.data import models as model_files
from harness.errors import InputError
from harness.store.checkpoints import sweep
from harness.store.claims import claim
from harness.store.files import sweep_temporary
from harness.store.published import PublishedRow, read_published
from harness.store.records import FINAL, BaseRecord
from harness.store.results import (
    check_schema,
    open_results,
    read_base,
    read_records,
    read_trials,
    returning,
    supersede,
    take_back,
)
from harness.study import forecast, tuning
from harness.study.changes import Changes, changes
from harness.study.config import RESERVED, Study, check_name, find_study, load_study
from harness.study.halving import halves, unfinished
from harness.study.memory import adapter_share, dense_rows, pack_size
from harness.study.plan import Inputs, Pack, Plan, build_plan, remarks

if TYPE_CHECKING:
    from harness.executors import Executor

#: The folder of the tuning study, inside that of the study it tunes.
TUNING = "tuning"


@dataclass(frozen=True)
class Campaign:
    """A study with everything its names stand for, and where its results go."""

    study: Study
    file: Path
    folder: Path
    model: model_files.ModelSource
    task_digests: Mapping[str, str]
    plan: Plan
    published: tuple[PublishedRow, ...] = ()
    remarks: tuple[str, ...] = ()
    searches: tuple[tuning.Search, ...] = ()  #: of a tuning study: what is tried for each arm


@dataclass(frozen=True)
class State:
    """How far a campaign is: statuses by fingerprint, damaged files, packs that still have work, and what changed."""

    statuses: Mapping[str, str]
    damaged: Mapping[str, str]  #: name of a file -> what is wrong with it
    todo: tuple[Pack, ...]
    untrained_todo: int
    changes: Changes = field(default_factory=lambda: Changes({}))

    @property
    def finished(self) -> int:
        return sum(status in FINAL for status in self.statuses.values())

    @property
    def complete(self) -> bool:
        return not self.todo and not self.untrained_todo


def results_folder(study: str, model: str | None, out: Path | None) -> Path:
    """``results/<study>``, ``results/<study>@<model>`` where the model was overridden, or ``--out``.

    ``study`` is a name, or the path of a study file.
    """
    if out is not None:
        return out.resolve()
    study = Path(study).stem if study.endswith((".yaml", ".yml")) else study
    name = study if model is None else f"{study}@{model_label(model)}"
    if study in RESERVED:
        raise InputError(f"'{study}' is reserved under results/", remedy="choose another name")
    return (Path("results") / name).resolve()


def model_label(model: str) -> str:
    """A model's name, folder or hub id as the name of a folder."""
    label = Path(model).name if Path(model).exists() else model
    cleaned = (
        "".join(c if c.isascii() and (c.isalnum() or c in "._-") else "-" for c in label.lower()).strip("-._")
        or "model"
    )
    return check_name(cleaned[:64], "model")


def load_campaign(
    name: str, *, model: str | None, out: Path | None, device: Callable[[str], str], tune: bool = False
) -> Campaign:
    """Read the study, make its model and tasks ready, and lay out its packs; with ``tune`` those of its tuning study.

    ``device`` maps what the study wants (cpu, cuda, any) to what there is.
    """
    from harness.method.registry import method_digest, methods

    file = find_study(name, paths.studies_dir())
    study = load_study(file, overrides={"model": model} if model else None)
    folder = results_folder(study.name, model, out)
    _check_streams(study, file)
    published = _published(study, file)
    registry = methods()
    searches: tuple[tuning.Search, ...] = ()
    if tune:
        searches = tuning.lay_out(study, registry, str(file))
        study, folder, published = tuning.tuning_study(study, searches, str(file)), folder / TUNING, ()
    source = model_files.resolve_model(study.model)
    prepared = {task: tasks.prepare_task(task) for task in (*study.tasks, *study.probes)}
    _check_sizes(study, prepared, file)
    if tune:
        _check_directions(prepared, file)
    used = {key.partition("@")[0] for key in study.methods} & set(registry)
    inputs = Inputs(
        model_digest=source.digest,
        task_digests={task: found.digest for task, found in prepared.items()},
        method_digests={method: method_digest(registry[method]) for method in used},
    )
    tuned: tuple[str, ...] = ()
    if not tune:
        study, inputs, tuned = _take_tuned(study, registry, inputs, file, folder)
    there = device(study.device)
    size, dense = pack_size(study, source.path, there), dense_rows(study, source.path, there)
    plan = build_plan(study, registry, inputs, size, str(file), dense, adapter_share(source.path))
    notes = (*remarks(study, registry), *tuned, *_model_remarks(study, source.path, plan))
    return Campaign(study, file, folder, source, inputs.task_digests, plan, published, notes, searches)


def _model_remarks(study: Study, path: Path, plan: Plan) -> tuple[str, ...]:
    """What the model bears less of than others; refuses one that is not taken, or that lacks a projection."""
    from harness.engine.model.remarks import remarks_on

    wanted = {study.adapter.targets, *(pack.adapter.targets for pack in plan.packs)}
    return remarks_on(path, study.dtype, wanted)


def _take_tuned(
    study: Study, registry: Mapping[str, Any], inputs: Inputs, file: Path, folder: Path
) -> tuple[Study, Inputs, tuple[str, ...]]:
    """The study with the settings that were chosen for it, which arms have them, and a line that says so.

    Refuses choices that were made for another version of the study.
    """
    found = tuning.read_tuning(folder)
    if found is None:
        return study, inputs, ()
    searches = tuning.lay_out(study, registry, str(file))
    tried = build_plan(tuning.tuning_study(study, searches, str(file)), registry, inputs, 1, str(file))
    for search in searches:
        choice = found.arms.get(search.arm)
        if choice and choice.digest != tuning.trials_digest(tried, search):
            raise InputError(
                f"'{search.arm}' was tuned for another version of this study: its data, method, budget or grid changed",
                where=str(folder / tuning.FILE),
                remedy="run `lorabench tune` again, or remove this file to run untuned",
            )
    arms = {search.arm for search in searches}
    tuned = {arm: choice.tried for arm, choice in found.arms.items() if choice.settings is not None and arm in arms}
    note = f"settings of {', '.join(tuned) or 'no arm'} are those that {folder / tuning.FILE} chose"
    return tuning.with_chosen(study, searches, found), replace(inputs, tuned=tuned), (note,)


def choose(campaign: Campaign) -> tuning.Tuning:
    """Write ``tuning.json`` from the records of a tuning study that is complete."""
    records = read_trials(campaign.folder).records
    name = campaign.study.name.removesuffix(f"-{TUNING}")
    found = tuning.judge(name, campaign.plan, campaign.searches, records)
    tuning.write_tuning(campaign.folder.parent, found)
    return found


def _published(study: Study, file: Path) -> tuple[PublishedRow, ...]:
    if study.published is None:
        return ()
    return read_published(study.published, paths.published_dir(), f"{file}:published")


def _check_streams(study: Study, file: Path) -> None:
    """Every name is a task, and those in a stream can be trained on; nothing is fetched for that."""
    for name in (*study.tasks, *study.probes):
        task = tasks.load_task(name)
        if name in study.tasks and task.role == "probe":
            raise _no_training_rows(name, file)


def _no_training_rows(name: str, file: Path) -> InputError:
    return InputError(
        f"task '{name}' has no training split, so it can only be a probe",
        where=f"{file}:streams",
        remedy=f"leave '{name}' out of the streams",
    )


def _check_sizes(study: Study, prepared: Mapping[str, tasks.PreparedTask], file: Path) -> None:
    """A stream task needs training rows for the study's examples; every scored split needs rows."""
    for name, found in prepared.items():
        splits = found.task.splits
        have = splits.get("train", 0)
        if name in study.tasks and not have:
            raise _no_training_rows(name, file)
        if name in study.tasks and have < study.training.examples:
            raise InputError(
                f"task '{name}' has {have} training rows, and the study trains on {study.training.examples}",
                where=f"{file}:streams",
                remedy=f"lower training.examples to at most {have}, or leave '{name}' out of the streams",
            )
        if not splits.get(study.scoring.split):
            raise InputError(
                f"task '{name}' has no rows in its {study.scoring.split} split",
                where=f"{file}:scoring.split",
                remedy="choose another split",
            )


def _check_directions(prepared: Mapping[str, tasks.PreparedTask], file: Path) -> None:
    """Tuning goes by average accuracy, which there is where every task is better the higher its score."""
    for name, found in prepared.items():
        first = next(iter(found.config.get("metric_list") or ()), {})
        if first.get("higher_is_better") is False:
            raise InputError(
                f"'{name}' is better the lower its {first.get('metric')}, so there is no average accuracy to tune by",
                where=f"{file}:streams",
                remedy=f"leave '{name}' out of the streams, or run the study untuned",
            )


def read_state(campaign: Campaign, *, quarantine: bool = False) -> State:
    """What is done, and which packs have a record missing."""
    check_schema(campaign.folder)
    records, damaged = read_records(campaign.folder, quarantine=quarantine)
    statuses = {record.fingerprint: record.status for record in records}
    planned = {trial.fingerprint: statuses.get(trial.fingerprint, "missing") for trial in campaign.plan.trials}
    todo = tuple(part for pack in campaign.plan.packs for part in unfinished(pack, planned))
    untrained = sum(planned[trial.fingerprint] not in FINAL for trial in campaign.plan.untrained)
    since = changes(campaign.plan, records, returning(campaign.folder, planned))
    return State(planned, damaged, todo, untrained, since)


@dataclass(frozen=True)
class Watcher:
    """What a run tells whoever watches it."""

    total: Callable[[float], None]  #: units of all the work, once known
    progress: Callable[[str, float, str], None]  #: (job, units done, what it is doing)


def run(campaign: Campaign, executor: Executor, device: str, watcher: Watcher, extras: Mapping[str, Any]) -> State:
    """Run what is missing; finished trials are kept whatever happens to the others."""
    from harness.engine.environment import base_key
    from harness.run.job import Job
    from harness.run.untrained import write_untrained

    study, folder = campaign.study, campaign.folder
    with claim(folder) as held:

        def progress(name: str, units: float, what: str) -> None:
            held.check()  # another run may have taken the folder from one that had stood still
            watcher.progress(name, units, what)

        open_results(folder, study.name, campaign.plan.expected, campaign.published)
        planned = {trial.fingerprint for trial in campaign.plan.trials}
        take_back(folder, planned)
        state = read_state(campaign, quarantine=True)
        supersede(folder, planned)
        sweep(folder, {pack.name for pack in state.todo})
        sweep_temporary(folder)
        files.sweep()
        if state.complete:
            return state
        key = base_key(study, device, campaign.model.digest, campaign.task_digests)

        def job(pack: Pack | None) -> Job:
            write = frozenset(f for f, status in state.statuses.items() if status not in FINAL)
            return Job(study, pack, campaign.model.path, folder, paths.cache_dir(), device, key, write, extras)

        base = read_base(folder, key)
        if base is None:
            executor.run([job(None)], progress)
            base = read_base(folder, key)
            assert base is not None, "the base job writes base.json or raises"
        watcher.total(total_units(campaign, state, base))
        write_untrained(job(None), base, campaign.plan.untrained)
        todo = state.todo
        while todo:
            outcomes = executor.run([job(pack) for pack in todo], progress)
            # One bad trial fails its whole pack: its halves are tried until what fails stands alone.
            todo = tuple(
                half for pack, done in zip(todo, outcomes, strict=True) if done.failed for half in halves(pack)
            )
        after = read_state(campaign)
        sweep(folder, {pack.name for pack in after.todo})  # of workers that were killed, and their packs done by others
        sweep_temporary(folder)
        return after


def total_units(campaign: Campaign, state: State, base: BaseRecord) -> float:
    """Units of all packs that still have work."""
    return sum(forecast.pack_units(campaign.study, base, pack) for pack in state.todo)
