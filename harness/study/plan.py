"""From a study to its trials and packs, by the study alone: the same study has the same packs, hence the same bits.

Trials that train alike (same recipe but for what is scored, same rate, seed and order) share a *row*; rows with the
same adapter shape, kind of loss and number of steps at every position share a *pack*.  A task with fewer training rows
than the study asks for has fewer steps, the same for every arm, so orders of such tasks are packs of their own.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from harness.store.fingerprint import digest
from harness.store.lean import uncollected
from harness.store.records import Facts, TrialSpec
from harness.study.arms import PlannedArm, arm_names, expand_arms
from harness.study.config import AdapterSettings, Study
from harness.study.memory import TABLE_RANK, UNKNOWN, Shares, factor_copies
from harness.study.methods import AverageLike, MethodLike, RecipeLike
from harness.study.seeds import derive


@dataclass(frozen=True)
class Inputs:
    """What a study's names stand for: digests of the model, the tasks and the methods' sources."""

    model_digest: str
    task_digests: Mapping[str, str]
    method_digests: Mapping[str, str]
    train_rows: Mapping[str, int] = field(default_factory=dict)  #: of each task; one that is not here has enough
    task_sources: Mapping[str, str] = field(default_factory=dict)  #: where the rows of each task come from
    text_digests: Mapping[str, str] = field(default_factory=dict)  #: of the tasks whose text a start looks at
    tuned: Mapping[str, int] = field(default_factory=dict)  #: arm -> settings that `tune` tried to choose the arm's


@dataclass(frozen=True)
class PlannedTrial:
    """A trial to run: its identity, and its recipe as the engine takes it."""

    spec: TrialSpec
    fingerprint: str
    recipe: Any = field(compare=False)  #: a :class:`RecipeLike` to planning, a ``Recipe`` to the engine
    facts: Facts
    #: Training examples of each task of the stream: those that are asked for, or all of a task that has fewer.
    stage_examples: tuple[int, ...] = ()
    #: The recipe at each position, where some setting depends on a task's steps and not all have as many; else empty.
    recipes: tuple[Any, ...] = field(default=(), compare=False)

    def recipe_at(self, position: int) -> Any:
        """The recipe for the task at this position of the stream."""
        return self.recipes[position] if self.recipes else self.recipe

    @property
    def learning_rate(self) -> float:
        rate = self.spec.parameters["learning_rate"]
        assert isinstance(rate, int | float), "the settings of a method say so"
        return float(rate)

    @property
    def adapter(self) -> AdapterSettings:
        """The study's, or what the arm has instead."""
        return AdapterSettings.model_validate(self.spec.training["adapter"])

    @property
    def examples(self) -> int:
        """Training examples of a task that are asked for, by the study or by the arm instead."""
        examples = self.spec.training["examples"]
        assert isinstance(examples, int), "the settings of a study say so"
        return examples


@dataclass(frozen=True)
class Row:
    """Trials that train once: their seeds, and the trials that are scored from them."""

    init_seed: int
    data_seeds: tuple[int, ...]  # one a task of the stream: which examples, in which order
    trials: tuple[PlannedTrial, ...]

    @property
    def stream(self) -> tuple[str, ...]:
        return self.trials[0].spec.stream

    @property
    def examples(self) -> tuple[int, ...]:
        """Training examples of each task of its stream."""
        return self.trials[0].stage_examples

    @property
    def averages(self) -> set[AverageLike]:
        return {trial.recipe.average for trial in self.trials} - {None}


@dataclass(frozen=True)
class Pack:
    """Rows that take the same steps side by side, with adapters of one rank, alpha and targets; the unit of work."""

    name: str
    rows: tuple[Row, ...]
    shares: Shares = UNKNOWN  #: of one row's adapter

    @property
    def trials(self) -> tuple[PlannedTrial, ...]:
        return tuple(trial for row in self.rows for trial in row.trials)

    @property
    def adapter(self) -> AdapterSettings:
        return self.rows[0].trials[0].adapter

    @property
    def examples(self) -> tuple[int, ...]:
        """Training examples of the tasks at each position."""
        return self.rows[0].examples

    @property
    def stacks(self) -> bool:
        """Whether every task leaves a separate adapter under the next."""
        return self.rows[0].trials[0].recipe.between == "reinit"

    @property
    def copies(self) -> float:
        """What the largest of its rows holds (``copies_of``)."""
        rank = trained_rank(self.rows[0].trials[0], self.adapter)
        return max(copies_of(row, self.shares, rank) for row in self.rows)

    @property
    def merges(self) -> bool:
        """Whether what is scored is made of every task's adapter, by some trial."""
        return any(average.spans_tasks for row in self.rows for average in row.averages)


@dataclass(frozen=True)
class Plan:
    """A study laid out.  ``untrained`` trials need the base model's scores and nothing else."""

    study: Study
    packs: tuple[Pack, ...]
    untrained: tuple[PlannedTrial, ...]

    @cached_property
    def trials(self) -> tuple[PlannedTrial, ...]:
        return (*self.untrained, *(trial for pack in self.packs for trial in pack.trials))

    @cached_property
    def fingerprints(self) -> frozenset[str]:
        return frozenset(trial.fingerprint for trial in self.trials)

    @cached_property
    def by_arm(self) -> dict[str, list[PlannedTrial]]:
        """The trials of every arm, in the study's order of arms."""
        trials_of_arm: dict[str, list[PlannedTrial]] = {arm: [] for arm in arm_names(self.study)}
        for trial in self.trials:
            trials_of_arm[trial.spec.arm].append(trial)
        return trials_of_arm

    @property
    def expected(self) -> dict[str, int]:
        """Trials an arm, in the study's order of arms."""
        return {arm: len(trials) for arm, trials in self.by_arm.items()}


def build_plan(
    study: Study,
    methods: Mapping[str, MethodLike],
    inputs: Inputs,
    pack_size: int,
    where: str,
    dense_rows: Callable[[float], int] | None = None,
    shares: Callable[[AdapterSettings], Shares] = lambda adapter: UNKNOWN,
    later: Collection[str] = (),
) -> Plan:
    """Every trial of the study, in rows and packs of at most ``pack_size`` rows.

    ``dense_rows`` says how many rows that hold so many tensors of the model's size may be a pack; ``None``: as many.
    ``shares`` are an adapter's, of the model's numbers.  Arms that come ``later`` have rows and packs of their own, so
    that those of the others are what they were without them, and are done where they were.
    """
    untrained, rows = [], {}
    seeds = _seeds(study)
    with uncollected():
        for arm in expand_arms(study, methods, where):
            shared = _of_arm(study, arm, inputs)
            for order, seed in seeds:
                trial = _trial(study, arm, shared, order, seed, inputs)
                if arm.recipe.adapter is None:
                    untrained.append(trial)
                else:
                    each = [recipe.training_key for recipe in trial.recipes or (arm.recipe,)]
                    trained = tuple(each) if len(set(each)) > 1 else each[0]
                    key = (trained, trial.learning_rate, arm.name in later, arm.training.adapter, trial.stage_examples)
                    rows.setdefault((order, seed, key), []).append(trial)
    groups: dict[Any, list[Row]] = {}
    for (order, seed, (_, _, *alike)), trials in rows.items():
        kind = (trials[0].recipe.pack_key, *alike)
        groups.setdefault(kind, []).extend(Row(*seeds[order, seed], part) for part in _told_apart(trials))
    packs = []
    for group in groups.values():
        first = group[0].trials[0]
        rank = trained_rank(first, first.adapter)
        own = shares(first.adapter).times(rank / first.adapter.rank)
        size = dense_rows(max(copies_of(row, own, rank) for row in group)) if dense_rows else pack_size
        packs += [pack_of(part, own) for part in _chunks(_by_stream_and_seed(study, group), size)]
    return Plan(study, tuple(packs), tuple(untrained))


def trained_rank(trial: PlannedTrial, adapter: AdapterSettings) -> int:
    """The rank of its factors with this adapter, which may be another; 0 of dense changes, whose tasks add up."""
    return trial.recipe.adapter.trained_rank(adapter.rank) or 0


def copies_of(row: Row, shares: Shares, rank: int, spare: int = TABLE_RANK) -> float:
    """fp32 copies of the model that a row holds, for dense changes and averages and for the numbers of its factors.

    ``shares`` are of the ``rank`` that it trains; of factors only what goes beyond those of a ``spare`` rank counts.
    """
    recipe, stream = row.trials[0].recipe, row.trials[0].spec.stream
    stacks = recipe.between == "reinit" or any(average.spans_tasks for average in row.averages)
    below = len(stream) - 1 if stacks else 0
    if recipe.adapter.puts_below:
        below = 2 * below + 1  # what each task starts with lies below it as well
    parts = (recipe.adapter, *recipe.updates, *row.averages)
    dense = shares.matrices * sum(part.dense_copies for part in parts)
    of_factors = sum(not average.dense_copies for average in row.averages)
    return dense + factor_copies(shares.factors, rank, below, of_factors, spare)


def _of_arm(study: Study, arm: PlannedArm, inputs: Inputs) -> dict[str, Any]:
    """What the specs of an arm's trials share."""
    return {
        "model": study.model,
        "model_digest": inputs.model_digest,
        "method": arm.method,
        "setting": arm.setting,
        "parameters": arm.settings.model_dump(),
        "method_digest": inputs.method_digests[arm.method],
        "probes": study.probes,
        "training": {
            **study.training.model_dump(mode="json"),
            "between_tasks": arm.training.between_tasks,
            "examples": arm.training.examples,
            "adapter": arm.training.adapter.model_dump(mode="json"),
            "dtype": study.dtype,
            "root_seed": study.root_seed,
        },
        "scoring": study.scoring.identity,
        "tuned": arm.name in inputs.tuned,
        "settings_tried": inputs.tuned.get(arm.name, 1),
    }


def _trial(
    study: Study, arm: PlannedArm, shared: Mapping[str, Any], order: str, seed: int, inputs: Inputs
) -> PlannedTrial:
    stream = tuple(study.streams[order])
    digests = {task: inputs.task_digests[task] for task in (*stream, *study.probes)}
    text = arm.recipe.adapter.reads_text if arm.recipe.adapter else None
    if text is not None and text not in digests:
        digests[text] = inputs.text_digests[text]
    training, asked = study.training, arm.training.examples
    counts = tuple(training.fitting(inputs.train_rows.get(task, asked), asked) for task in stream)
    recipes, by_task = _by_position(arm, [count // training.batch for count in counts], asked // training.batch)
    if by_task:
        shared = {**shared, "training": {**shared["training"], "by_task": by_task}}
    spec = TrialSpec(**shared, order=order, stream=stream, task_digests=digests, seed=seed)
    return PlannedTrial(spec, spec.fingerprint, arm.recipe, arm.facts, counts, recipes)


def _by_position(
    arm: PlannedArm, steps: Sequence[int], asked: int
) -> tuple[tuple[RecipeLike, ...], dict[str, list[Any]]]:
    """The recipe at every position, and those of the arm's parameters that are not the same at all of them.

    Both empty where every task has the steps that are ``asked`` for, or where no setting depends on them.
    """
    if arm.recipe.adapter is None or set(steps) == {asked}:
        return (), {}
    found = [arm.on_steps(count) for count in steps]
    each = [settings.model_dump() for settings, _ in found]
    of_arm = arm.settings.model_dump()
    differ = {key: [values[key] for values in each] for key in of_arm if any(v[key] != of_arm[key] for v in each)}
    return (tuple(recipe for _, recipe in found), differ) if differ else ((), {})


def _told_apart(trials: Sequence[PlannedTrial]) -> list[tuple[PlannedTrial, ...]]:
    """Trials that train alike, divided where their averages are not.

    A row knows its averages by what they are.  Two that differ on a long task may be the same on a short one (a window
    has a least number of steps), with what the long one has left in them.
    """
    parts: list[list[tuple[tuple[AverageLike | None, ...], PlannedTrial]]] = []
    for trial in trials:
        averages = tuple(recipe.average for recipe in trial.recipes)
        for part in parts:
            if all(_apart_or_one(averages, others) for others, _ in part):
                part.append((averages, trial))
                break
        else:
            parts.append([(averages, trial)])
    return [tuple(trial for _, trial in part) for part in parts]


def _apart_or_one(first: Sequence[AverageLike | None], second: Sequence[AverageLike | None]) -> bool:
    """Whether two averages are the same at every position, or at none."""
    same = {a == b for a, b in zip(first, second, strict=False)}
    return first == second or True not in same


def _seeds(study: Study) -> dict[tuple[str, int], tuple[int, tuple[int, ...]]]:
    """Of every order and seed: that of the adapter, and that of each task's data."""
    return {
        (order, seed): (
            derive(study.root_seed, order, seed, "init"),
            tuple(derive(study.root_seed, order, seed, "data", task) for task in stream),
        )
        for (order, stream), seed in itertools.product(study.streams.items(), study.seeds)
    }


def _by_stream_and_seed(study: Study, rows: list[Row]) -> list[Row]:
    """Rows of one order and seed side by side, so that a pack holds trials that will be compared."""
    orders = {order: place for place, order in enumerate(study.streams)}
    seeds = {seed: place for place, seed in enumerate(study.seeds)}
    return sorted(rows, key=lambda r: (orders[r.trials[0].spec.order], seeds[r.trials[0].spec.seed]))


def _chunks(rows: list[Row], size: int) -> list[tuple[Row, ...]]:
    """Parts of at most ``size`` rows, as even as they can be."""
    parts = -(-len(rows) // size)
    bounds = [round(i * len(rows) / parts) for i in range(parts + 1)]
    return [tuple(rows[a:b]) for a, b in itertools.pairwise(bounds)]


def pack_of(rows: tuple[Row, ...], shares: Shares) -> Pack:
    """A pack of these rows, named after its trials; ``shares`` are those of one row's adapter."""
    return Pack(digest([trial.fingerprint for row in rows for trial in row.trials])[:16], rows, shares)
