"""A study from file to finished results: plan, base scores, packs, report.  Idempotent: only what is missing runs."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from harness.data import files, paths, tasks
from harness.data import models as model_files
from harness.data.sources import cl_benchmark
from harness.data.tasks.text import check_text
from harness.errors import InputError
from harness.executors.hardware import likely_device
from harness.executors.interface import ENDED, FAILED, NO_FIGURES, Figures
from harness.running.claimed import claims_of
from harness.running.lanes import lanes
from harness.running.progress import Tracker
from harness.running.requirements import check_directions, check_sizes, check_streams, short_tasks
from harness.store.checkpoints import sweep, sweep_signs
from harness.store.claims import claim
from harness.store.files import sweep_temporary
from harness.store.lanes import Lane, remove_lanes, write_lanes
from harness.store.published import PublishedRow, read_published
from harness.store.records import FINAL
from harness.store.reference import Reference
from harness.store.results import check_schema, open_results, read_some, read_trials, set_aside
from harness.store.source_claims import SourceClaim
from harness.store.superseded import returning, supersede, take_back
from harness.store.survey import Survey, survey
from harness.store.trial_files import read_identities
from harness.store.tuning import FILE, REMEDY, Tuning, read_tuning, write_tuning
from harness.study import search, tuning
from harness.study.arms import expand_arms, remarks, texts
from harness.study.changes import Changes, changes
from harness.study.config import Study
from harness.study.fits import check_fits, check_ranks
from harness.study.folders import TUNING, results_folder
from harness.study.halving import unfinished
from harness.study.load import find_study, load_study
from harness.study.memory import dense_rows, device_class, pack_size, shares_of
from harness.study.plan import Inputs, Pack, Plan, build_plan
from harness.study.reference import reference_of, warnings
from harness.study.stack import Device

if TYPE_CHECKING:
    from harness.executors.interface import Executor, Watcher


@dataclass(frozen=True)
class Campaign:
    """A study with everything its names stand for, and where its results go."""

    study: Study
    file: str  #: the study's, for errors
    folder: Path
    model: model_files.ModelSource
    task_digests: Mapping[str, str]
    plan: Plan
    published: tuple[PublishedRow, ...] = ()
    remarks: tuple[str, ...] = ()
    searches: tuple[search.Search, ...] = ()  #: of a tuning study: what is tried for each arm
    reference: Reference | None = None  #: whom its arms are compared with; none in a tuning study
    warnings: tuple[str, ...] = ()  #: what to know of the comparisons, as that nothing will be tested
    claims: tuple[SourceClaim, ...] = ()
    task_sources: Mapping[str, str] = field(default_factory=dict)  #: where the rows of each task come from
    only: frozenset[str] = frozenset()  #: fingerprints of the trials whose packs are run; empty: all

    @property
    def chosen(self) -> Plan:
        """What of the plan is run: packs are whole, for a trial's bits depend on who stands beside it."""
        if not self.only:
            return self.plan
        packs = [pack for pack in self.plan.packs if any(trial.fingerprint in self.only for trial in pack.trials)]
        untrained = [trial for trial in self.plan.untrained if trial.fingerprint in self.only]
        return replace(self.plan, packs=tuple(packs), untrained=tuple(untrained))


@dataclass(frozen=True)
class State:
    """How far a campaign is: statuses by fingerprint, damaged files, packs that still have work, and what changed."""

    statuses: Mapping[str, str]
    damaged: Mapping[str, str]  #: name of a file -> what is wrong with it
    todo: tuple[Pack, ...]
    untrained_todo: int
    changes: Changes = field(default_factory=lambda: Changes({}))
    lanes: tuple[Lane, ...] = ()  #: how busy those were of the run that it is the end of

    @property
    def finished(self) -> int:
        return sum(status in FINAL for status in self.statuses.values())

    @property
    def complete(self) -> bool:
        return not self.todo and not self.untrained_todo

    def of(self, campaign: Campaign) -> State:
        """The part of it that the campaign runs."""
        if not campaign.only:
            return self
        statuses = {trial.fingerprint: self.statuses[trial.fingerprint] for trial in campaign.chosen.trials}
        todo = tuple(pack for pack in self.todo if any(trial.fingerprint in campaign.only for trial in pack.trials))
        untrained = sum(statuses[trial.fingerprint] not in FINAL for trial in campaign.chosen.untrained)
        return replace(self, statuses=statuses, todo=todo, untrained_todo=untrained)


def load_campaign(
    name: str, *, model: str | None, out: Path | None, device: Callable[[str], Device], tune: bool = False
) -> Campaign:
    """Read a study's file and lay it out: see :func:`lay_out`; ``model`` replaces the study's."""
    file = find_study(name, paths.studies_dir())
    study = load_study(file, overrides={"model": model} if model else None)
    return lay_out(study, str(file), results_folder(study.name, model, out), device=device, tune=tune)


def lay_out(study: Study, where: str, folder: Path, *, device: Callable[[str], Device], tune: bool = False) -> Campaign:
    """Make the model and the tasks of a study ready, and lay out its packs; with ``tune`` those of its tuning study.

    ``where`` names the study in errors, ``folder`` is for its results, and ``device`` maps what it wants (cpu, cuda,
    any) to what there is, where its packs are to run.
    """
    from harness.method.registry import methods

    cl_benchmark.use(study.cl_benchmark)
    check_streams(study, where)
    published = _published(study, where)
    registry = methods()
    claims = () if tune else claims_of(study, registry, where)
    searches: tuple[search.Search, ...] = ()
    of = study
    if tune:
        searches = search.lay_out(of, registry, where)
        study, folder, published = search.tuning_study(study, searches, where), folder / TUNING, ()
    source = model_files.resolve_model(study.model)
    inputs = _inputs(study, source, registry, where, tune)
    if tune:
        tried = build_plan(study, registry, inputs, 1, where)
        searches = _extended(of, searches, tried, folder, registry, where)
        study = search.tuning_study(of, searches, where)
    tuned: tuple[str, ...] = ()
    reference, said = None, ()
    if not tune:
        arms = expand_arms(study, registry, where)  # before any tuning
        reference = reference_of(study, arms, read_tuning(folder), where)
        said = warnings(study, arms, reference)
        study, inputs, tuned = _take_tuned(study, registry, inputs, where, folder)
    kind = device_class(device(study.device).gigabytes)
    size, dense = pack_size(study, source.path, kind), dense_rows(study, source.path, kind)
    # They are known once the grid has been tried, and must not change its packs.
    later = {entry.arm for each in searches for entry in each.extension or ()}
    plan = build_plan(study, registry, inputs, size, where, dense, shares_of(source.path), later)
    short = short_tasks(study, inputs.train_rows)
    notes = (*remarks(study, registry), *short, *tuned, *_model_remarks(study, source.path, plan))
    return Campaign(
        study,
        where,
        folder,
        source,
        inputs.task_digests,
        plan,
        published,
        notes,
        searches,
        reference,
        said,
        claims,
        inputs.task_sources,
    )


def _inputs(
    study: Study, source: model_files.ModelSource, registry: Mapping[str, Any], where: str, tune: bool
) -> Inputs:
    """What the study's names stand for, with every task in the cache and fit for what is asked of it."""
    from harness.method.registry import method_digest

    prepared = {task: tasks.prepare_task(task) for task in (*study.tasks, *study.probes)}
    check_sizes(study, prepared, where)
    if tune:
        check_directions(prepared, where)
    text = {
        name: tasks.prepare_task(check_text(name, place).name) for name, place in texts(study, registry, where).items()
    }
    used = {key.partition("@")[0] for key in study.methods} & set(registry)
    return Inputs(
        model_digest=source.digest,
        task_digests={task: ready.digest for task, ready in prepared.items()},
        task_sources={task: ready.source for task, ready in prepared.items()},
        train_rows={task: ready.task.splits.get("train", 0) for task, ready in prepared.items()},
        text_digests={task: ready.digest for task, ready in text.items()},
        method_digests={method: method_digest(registry[method]) for method in used},
    )


def open_campaign(load: Callable[..., Campaign], executor: Executor) -> tuple[Campaign, State, Device]:
    """A campaign, how far it is, and the device of its packs; where nothing is to do, the executor is not asked.

    ``load`` is :func:`load_campaign` or :func:`lay_out` with all arguments but ``device``.
    """
    campaign = load(device=likely_device)
    state, likely = read_state(campaign), likely_device(campaign.study.device)
    if state.complete:
        return campaign, state, likely
    study = campaign.study
    device = executor.device(study.device, study.resources.model_copy(update={"num_cpus": study.cpus}))
    if device_class(device.gigabytes) != device_class(likely.gigabytes):  # packs are as large as its memory allows
        campaign = load(device=lambda wanted: device)
        state = read_state(campaign)
    check_memory(campaign, state, device)
    return campaign, state, device


def check_memory(campaign: Campaign, state: State, device: Device) -> None:
    """Raise InputError where what is left to do can't fit its model, or the device that its packs run on."""
    if not state.complete:
        check_ranks(campaign.study, state.todo, campaign.model.path, campaign.file)
        check_fits(campaign.study, state.todo, campaign.model.path, device, campaign.file)


def _model_remarks(study: Study, path: Path, plan: Plan) -> tuple[str, ...]:
    """What the model bears less of than others; refuses one that is not taken, or that lacks a projection."""
    from harness.engine.model.remarks import remarks_on

    wanted = {study.adapter.targets, *(pack.adapter.targets for pack in plan.packs)}
    return remarks_on(path, study.dtype, wanted)


def _take_tuned(
    study: Study, registry: Mapping[str, Any], inputs: Inputs, where: str, folder: Path
) -> tuple[Study, Inputs, tuple[str, ...]]:
    """The study with the settings that were chosen for it, which arms have them, and a line that says so.

    Refuses choices that were made for another version of the study.
    """
    choices = read_tuning(folder)
    if choices is None:
        return study, inputs, ()
    searches = search.lay_out(study, registry, where)
    tried = None
    if any(each.tries for each in searches):
        tried = build_plan(search.tuning_study(study, searches, where), registry, inputs, 1, where)
    for each in searches:
        choice = choices.arms.get(each.arm)
        if choice and (tried is None or choice.digest != tuning.trials_digest(tried, each)):
            raise InputError(
                f"'{each.arm}' was tuned for another version of this study: its data, method, settings, budget or grid "
                "changed",
                where=str(folder / FILE),
                remedy=REMEDY,
            )
    arms = {each.arm for each in searches}
    tuned = {arm: choice.tried for arm, choice in choices.arms.items() if choice.settings is not None and arm in arms}
    whose = ", and which ship with the study" if choices.shipped else ""
    note = f"settings of {', '.join(tuned) or 'no arm'} are those that {folder / FILE} chose{whose}"
    return tuning.with_chosen(study, searches, choices), replace(inputs, tuned=tuned), (note,)


def _extended(
    study: Study, searches: tuple[search.Search, ...], plan: Plan, folder: Path, registry: Mapping[str, Any], where: str
) -> tuple[search.Search, ...]:
    """The searches of a study with tries beyond the ends of its grids, once all tries of the ``plan`` are done."""
    records = [record for record in read_some(folder, plan.fingerprints) if record.status in FINAL]
    if len(records) < len(plan.fingerprints):
        return searches
    return tuning.extend(study, plan, searches, records, registry, where)


def at_ends(campaign: Campaign) -> dict[str, tuple[str, ...]]:
    """Arms whose best lies at an end of a grid that has not been extended yet; the tuning study is complete."""
    if all(each.extension is not None for each in campaign.searches):
        return {}
    return {arm: choice.ends for arm, choice in _judged(campaign).arms.items() if choice.ends}


def choose(campaign: Campaign) -> Tuning:
    """Write ``tuning.json`` from the records of a tuning study that is complete."""
    choices = _judged(campaign)
    write_tuning(campaign.folder.parent, choices)
    return choices


def _judged(campaign: Campaign) -> Tuning:
    records = read_trials(campaign.folder).records
    name = campaign.study.name.removesuffix(f"-{TUNING}")
    return tuning.judge(name, campaign.plan, campaign.searches, records)


def _published(study: Study, where: str) -> tuple[PublishedRow, ...]:
    if study.published is None:
        return ()
    return read_published(study.published, paths.published_dir(), f"{where}:published")


def read_state(campaign: Campaign, *, quarantine: bool = False, surveyed: Survey | None = None) -> State:
    """What is done, and which packs have a record missing; ``surveyed`` is how the folder stands, where that is known.

    Raises :class:`InputError` where a newer schema is met.
    """
    check_schema(campaign.folder)
    surveyed = surveyed or survey(campaign.folder, paths.cache_dir())
    if quarantine:
        set_aside(campaign.folder, surveyed.damaged)
    statuses = {name: entry.status for name, entry in surveyed.entries.items()}
    planned = {trial.fingerprint: statuses.get(trial.fingerprint, "missing") for trial in campaign.plan.trials}
    others = read_identities(campaign.folder, statuses.keys() - planned.keys())
    todo = tuple(part for pack in campaign.plan.packs for part in unfinished(pack, planned))
    untrained = sum(planned[trial.fingerprint] not in FINAL for trial in campaign.plan.untrained)
    since = changes(campaign.plan, others, returning(campaign.folder, planned))
    return State(planned, surveyed.damaged, todo, untrained, since)


def run(campaign: Campaign, executor: Executor, device: Device, watcher: Watcher, extras: Mapping[str, Any]) -> State:
    """Run what is missing, of :attr:`Campaign.chosen`; finished trials are kept whatever happens to the others.

    ``device`` is what the executor says of its own; ``extras`` go into every record's ``host`` block.
    """
    study, folder = campaign.study, campaign.folder
    with claim(folder) as held:

        def progress(name: str, units: float, what: str, figures: Figures = NO_FIGURES) -> None:
            held.check()  # another run may have taken the folder from one that had stood still
            tracker.report(name, units, what, figures)
            if what not in (ENDED, FAILED):
                watcher.progress(name, units, what)

        expected = campaign.plan.expected
        open_results(folder, study.name, expected, campaign.published, campaign.reference, campaign.claims)
        planned = campaign.plan.fingerprints
        take_back(folder, planned)
        state = read_state(campaign, quarantine=True)
        supersede(folder, planned)
        sweep(folder, {pack.name for pack in state.todo})
        sweep_temporary(folder)
        files.sweep()
        mine = state.of(campaign)
        if mine.complete:
            return mine
        from harness.running.missing import Run, run_missing  # with torch, which planning does without

        tracker = Tracker(campaign.chosen, mine.todo, device.kind, folder, watcher.standing)
        state = replace(state, todo=mine.todo)
        if mine.todo:
            remove_lanes(folder)
        try:
            outcomes = run_missing(Run(campaign, executor, device, extras, state, progress, tracker), watcher.total)
        finally:
            tracker.close()
            sweep_signs(folder)
        after = read_state(campaign)
        sweep(folder, {pack.name for pack in after.todo})  # of workers that were killed, and their packs done by others
        sweep_temporary(folder)
        used = lanes(outcomes)
        if used:
            write_lanes(folder, used)
        return replace(after.of(campaign), lanes=tuple(used))
