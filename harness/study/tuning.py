"""Equal tuning: the same number of settings for every arm, tried on seeds and items that no result is made of.

    study -> searches (which settings of which arm) -> the tuning study (an ordinary one) -> records -> tuning.json

The tuning study differs from the study in its seeds (``tuning.seeds``), in what is scored (the tasks' validation items,
no probes, no curves, no intruders) and in its arms: one for each setting that is tried.  The campaign runs it like any
other.  What was chosen goes into ``results/<study>/tuning.json``, with all tries, and the study's run reads it.
"""

from __future__ import annotations

import itertools
import math
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean, stdev
from typing import Any, Literal, cast

from pydantic import ValidationError

from harness.analysis import continual
from harness.errors import InputError
from harness.reading import read_json
from harness.store.files import write_json
from harness.store.fingerprint import digest
from harness.store.records import TrialRecord
from harness.store.values import Frozen, Scalar
from harness.study.config import Study, first_problem
from harness.study.limits import MOST_TRIALS, arms_of, check_size
from harness.study.methods import MethodLike
from harness.study.overrides import arm_budget, arm_training, refuse_adapter_grids, taken_apart
from harness.study.plan import Plan, check_streams, checked, composed, expand_arms, grid_points
from harness.study.seeds import derive

FILE = "tuning.json"
SPLIT: Literal["validation"] = "validation"
RULE = (
    "the highest mean over all tuning trials (orders x seeds) of average accuracy on validation items, or of learning "
    "accuracy for an arm that starts every task afresh; a setting with a diverged trial is never chosen; of equal ones "
    "that which leaves most settings as the study has them, then the first of the grid"
)
#: Means closer than this are equal: they differ by the rounding of a sum, not by an item.
SAME = 1e-9
#: Of two values one is always at an end, which says nothing.
ENOUGH = 3


@dataclass(frozen=True)
class Try:
    """One setting of an arm, as an arm of the tuning study; ``values`` are what is tried, without what is fixed."""

    arm: str
    setting: str
    values: Mapping[str, Any]
    changed: int  #: how many of the values the study does not have by itself


@dataclass(frozen=True)
class Search:
    """What is tried for one arm of the study: ``tries`` of the ``grid`` points there are; empty where nothing is."""

    arm: str
    fixed: Mapping[str, Any]
    grid: int
    tries: tuple[Try, ...]
    metric: Literal["average_accuracy", "learning_accuracy"]


class Choice(Frozen):
    """What was chosen for an arm; ``settings`` are None where every try diverged."""

    settings: dict[str, Scalar] | None
    tried: int
    grid: int  #: points of the whole grid
    metric: str
    digest: str  #: of the trials that the choice was made from; another one means that the study has changed
    ends: tuple[str, ...] = ()  #: ``setting=value`` that is the least or largest tried: better ones may lie beyond


class Tuning(Frozen):
    """``tuning.json``: one choice an arm, and every try in a row of a table."""

    schema_version: Literal[1] = 1
    study: str
    rule: str = RULE
    split: str = SPLIT
    seeds: tuple[int, ...]
    settings: int  #: tries that every arm could have
    arms: dict[str, Choice]
    tries: tuple[dict[str, Scalar], ...]


# -- which settings ---------------------------------------------------------------------------------------------------


def lay_out(study: Study, methods: Mapping[str, MethodLike], where: str) -> tuple[Search, ...]:
    """The search of every arm of the study, in its order; ``where`` is the study's file."""
    if both := sorted(set(study.tuning.seeds) & set(study.seeds)):
        raise InputError(
            f"seed {both[0]} is one of the study's own; what is tuned on must not be among the results",
            where=f"{where}:tuning.seeds",
            remedy="choose other seeds for tuning",
        )
    arms = iter(expand_arms(study, methods, where))
    searches = []
    points = 0
    for key, given in study.methods.items():
        name, _, label = key.partition("@")
        points += arms_of(given) * math.prod(map(len, study.tuning.grids.get(key, {}).values()))
        _refuse_many(points, f"{where}:tuning.grids.{key}")
        for setting, values in grid_points(given, label):
            arm = next(arms)
            grid = _grid(study, methods[name], key, values, given, where)
            prefix = "" if setting == "default" else setting
            default = {**arm.settings.model_dump(), "between_tasks": arm.training.between_tasks}
            tries = _tries(study, name, prefix, grid, default)
            count = math.prod(map(len, grid.values()))
            metric = "learning_accuracy" if getattr(arm.recipe, "between", None) == "fresh" else "average_accuracy"
            searches.append(Search(arm.name, values, count, tries if count > 1 else (), metric))
    return tuple(searches)


def _refuse_many(points: int, place: str) -> None:
    """Before any grid is multiplied out."""
    if points > MOST_TRIALS:
        raise InputError(
            f"the grids to tune over have {points:,} points up to here; at most {MOST_TRIALS:,} are looked at",
            where=place,
            remedy="list fewer values; of a large grid only a choice is tried anyway",
        )


def _grid(
    study: Study, method: MethodLike, key: str, values: Mapping[str, Any], given: Mapping[str, Any], where: str
) -> dict[str, list[Any]]:
    """The study's grid for this key of ``methods``, or the method's grid for what the study does not fix."""
    grid, place = study.tuning.grids.get(key), f"{where}:tuning.grids.{key}"
    if grid is None:
        steps = arm_budget(values, study, f"{where}:methods.{key}").steps
        declared = cast(Any, method.settings).grid(steps)  # of the settings of every method
        fixed = taken_apart(values)[0]
        return {
            setting: list(choices) for setting, choices in declared.items()
            if setting not in values and _goes_with(fixed, setting, choices[0], method)
        }  # fmt: skip
    refuse_adapter_grids(grid, place)
    if "examples" in grid:
        raise InputError(
            "more training data are no better setting: every try of an arm has the same",
            where=f"{place}.examples",
            remedy=f"list them in methods.{key}, where each makes a row of the board",
        )
    for setting, choices in grid.items():
        if isinstance(given.get(setting), list):
            raise InputError(
                f"'{setting}' has a row of the board for each of its values, so it can't be tuned as well",
                where=f"{place}.{setting}",
                remedy=f"give one value in methods.{key}, or leave '{setting}' out here",
            )
        for value in choices:
            _check(study, method, {**values, setting: value}, place)
    return {setting: list(choices) for setting, choices in grid.items()}


def _goes_with(fixed: Mapping[str, Any], setting: str, value: object, method: MethodLike) -> bool:
    """Whether a setting may stand beside those that the study fixes: one of them may say the same in other words."""
    try:
        method.settings.model_validate({**fixed, setting: value})
    except ValidationError:
        return False
    return True


def _check(study: Study, method: MethodLike, values: Mapping[str, Any], place: str) -> None:
    """Refuse a point of the study's own grid that can't be an arm: its settings, or its regime between tasks."""
    settings, instead = taken_apart(values)
    given = checked(method, settings, place)
    check_streams(given, study, place)
    recipe = composed(method, given, arm_budget(instead, study, place).steps, place)[1]
    arm_training(instead, study, method.name, recipe, place)


def _tries(
    study: Study, name: str, prefix: str, grid: Mapping[str, list[Any]], default: Mapping[str, Any]
) -> tuple[Try, ...]:
    """At most as many points of the grid as the study has for every arm, in the grid's order."""
    points = [dict(zip(grid, combination, strict=True)) for combination in itertools.product(*grid.values())]
    tries = []
    for values in _choose(points, study.tuning.settings, study.root_seed):
        setting = _label(values)
        changed = sum(value != default.get(key) for key, value in values.items())
        tries.append(Try(f"{name}@{prefix},{setting}" if prefix else f"{name}@{setting}", setting, values, changed))
    return tuple(tries)


def _label(values: Mapping[str, Any]) -> str:
    return ",".join(f"{key}={value}" for key, value in values.items())


def _choose(points: list[dict[str, Any]], count: int, root_seed: int) -> list[dict[str, Any]]:
    """``count`` points, as evenly as can be over the values of their first setting (the learning rate).

    By hashes of what the points are, so that arms with the same grid try the same points whoever stands beside them.
    """
    if len(points) <= count:
        return points
    rounds: Counter[Any] = Counter()
    turns = []
    for point in sorted(points, key=lambda point: derive(root_seed, "tuning", _label(point))):
        first = next(iter(point.values()))
        turns.append((rounds[first], point))
        rounds[first] += 1
    chosen = {_label(point) for _, point in sorted(turns, key=lambda turn: turn[0])[:count]}
    return [point for point in points if _label(point) in chosen]


def tuning_study(study: Study, searches: Iterable[Search], where: str) -> Study:
    """The study that tries them, to be run like any other."""
    methods = {entry.arm: {**search.fixed, **entry.values} for search in searches for entry in search.tries}
    if not methods:
        raise InputError(
            "no method of this study has more than one setting to try",
            where=f"{where}:methods",
            remedy="leave settings to their methods, or list values under tuning.grids",
        )
    asked = {"split": SPLIT, "curve": (), "probe_items": None, "intruders_after": "never"}
    changes = {
        "name": f"{study.name}-tuning",
        "title": f"tuning of {study.name}",
        "seeds": study.tuning.seeds,
        "probes": (),
        "methods": methods,
        "reference": None,
        "keep_adapters": "none",
        "published": None,
        "scoring": study.scoring.model_copy(update=asked),
    }
    changed = study.model_copy(update=changes)
    check_size(changed, where, "tuning")
    return changed


# -- what came out ----------------------------------------------------------------------------------------------------


def judge(study: str, plan: Plan, searches: Iterable[Search], records: Iterable[TrialRecord]) -> Tuning:
    """The choice of every arm, by :data:`RULE`, from the finished records of the tuning study's ``plan``."""
    by_fingerprint = {record.fingerprint: record for record in records}
    records_of_arm = {
        arm: [by_fingerprint[trial.fingerprint] for trial in trials] for arm, trials in plan.by_arm.items()
    }
    arms, rows = {}, []
    for search in (search for search in searches if search.tries):
        scores = [_scores(search.metric, records_of_arm[entry.arm]) for entry in search.tries]
        means = [fmean(values) if len(values) == len(records_of_arm[entry.arm]) else None
                 for entry, values in zip(search.tries, scores, strict=True)]  # fmt: skip
        best = max((mean for mean in means if mean is not None), default=None)
        tied = [mean is not None and best is not None and best - mean <= SAME for mean in means]
        leaders = [entry for entry, equal in zip(search.tries, tied, strict=True) if equal]
        chosen = min(leaders, key=lambda entry: entry.changed, default=None)
        for entry, values, mean, equal in zip(search.tries, scores, means, tied, strict=True):
            trials = len(records_of_arm[entry.arm])
            rows.append({
                "arm": search.arm, "setting": entry.setting, "metric": search.metric, "score": mean,
                "standard_error": stdev(values) / math.sqrt(trials) if mean is not None and trials > 1 else None,
                "trials": trials, "diverged": trials - len(values),
                "best": equal, "chosen": entry is chosen,
            })  # fmt: skip
        settings = dict(chosen.values) if chosen else None
        arms[search.arm] = Choice(
            settings=settings, tried=len(search.tries), grid=search.grid, metric=search.metric,
            digest=trials_digest(plan, search), ends=_ends(search.tries, chosen) if chosen else (),
        )  # fmt: skip
    return Tuning(
        study=study, seeds=plan.study.seeds, settings=plan.study.tuning.settings, arms=arms, tries=tuple(rows)
    )


def _ends(tries: Iterable[Try], chosen: Try) -> tuple[str, ...]:
    """Numbers of the chosen setting that are the least or the largest of the three or more that were tried."""
    tried = {name: {entry.values[name] for entry in tries} for name in chosen.values}
    numbers = {
        name: values for name, values in tried.items()
        if len(values) >= ENOUGH and all(isinstance(value, int | float) for value in values)
    }  # fmt: skip
    return tuple(
        _label({name: chosen.values[name]})
        for name, values in numbers.items()
        if chosen.values[name] in (min(values), max(values))
    )


def _scores(metric: str, records: Iterable[TrialRecord]) -> list[float]:
    """The metric of every trial that has one."""
    function = continual.learning_accuracy if metric == "learning_accuracy" else continual.average_accuracy
    return [function(record.matrix()) for record in records if record.status == "ok"]


def trials_digest(plan: Plan, search: Search) -> str:
    """What a choice was made from: the same as long as data, method, settings and budget are."""
    arms = dict.fromkeys(entry.arm for entry in search.tries)
    return digest(sorted(trial.fingerprint for arm in arms for trial in plan.by_arm.get(arm, ())))


def with_chosen(study: Study, searches: Iterable[Search], tuning: Tuning) -> Study:
    """The study with one key for every arm, and the chosen settings of those that have been tuned."""
    methods = {}
    for search in searches:
        choice = tuning.arms.get(search.arm)
        methods[search.arm] = {**search.fixed, **((choice.settings if choice else None) or {})}
    return study.model_copy(update={"methods": methods})


# -- the file ---------------------------------------------------------------------------------------------------------


def write_tuning(folder: Path, tuning: Tuning) -> None:
    write_json(folder / FILE, tuning.model_dump(mode="json"))


def read_tuning(folder: Path) -> Tuning | None:
    """What was chosen for this folder's study; None where nothing was tuned."""
    path = folder / FILE
    if not path.exists():
        return None
    remedy = "run `lorabench tune` again, or remove this file to run untuned"
    data = read_json(path, remedy=remedy)
    try:
        return Tuning.model_validate(data)
    except ValidationError as error:
        problem = first_problem(error, str(path))
        what = f"not readable as the outcome of a tuning: {problem.what}"
        raise InputError(what, where=problem.where, remedy=remedy) from error
