"""Which settings of which arm are tried: equally many for every arm, and the study that tries them.

    study -> searches -> the tuning study (an ordinary one) -> records -> tuning.json (harness/study/tuning.py)

The tuning study differs from the study in its seeds (``tuning.seeds``), in what is scored (the tasks' validation items,
no probes, no curves, no intruders) and in its arms: one for each setting that is tried.  The campaign runs it like any
other.
"""

from __future__ import annotations

import itertools
import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, cast

from pydantic import BaseModel, ValidationError

from harness.errors import InputError
from harness.study.arms import check_streams, checked, composed, expand_arms, grid_points
from harness.study.config import Study
from harness.study.limits import MOST_TRIALS, arms_of, check_size, same_twice, shown
from harness.study.methods import MethodLike
from harness.study.overrides import arm_budget, arm_training, refuse_adapter_grids, taken_apart
from harness.study.seeds import derive

SPLIT: Literal["validation"] = "validation"


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
    default: Mapping[str, Any]  #: what its settings are where nothing is tried
    extension: tuple[Try, ...] | None = None  #: beyond an end of the grid; None until the tries of the grid are done
    refused: tuple[str, ...] = ()  #: what lies beyond an end and is no setting of the method

    @property
    def all_tries(self) -> tuple[Try, ...]:
        return (*self.tries, *(self.extension or ()))


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
        name, _, own_name = key.partition("@")
        points += arms_of(given) * math.prod(map(len, study.tuning.grids.get(key, {}).values()))
        _refuse_many(points, f"{where}:tuning.grids.{key}")
        for _, values in grid_points(given, own_name):
            arm = next(arms)
            if key in study.tuning.grids and not arm.facts.trains:
                raise InputError(
                    f"'{name}' trains nothing, so there is nothing to tune",
                    where=f"{where}:tuning.grids.{key}",
                    remedy="leave this grid out",
                )
            grid = _grid(study, methods[name], key, values, given, where)
            default = {**arm.settings.model_dump(), "between_tasks": arm.training.between_tasks}
            tries = _tries(study, arm.name, grid, default)
            count = math.prod(map(len, grid.values()))
            alone = arm.facts.between == "fresh" and not arm.facts.sequential
            metric = "learning_accuracy" if alone else "average_accuracy"
            searches.append(Search(arm.name, values, count, tries if count > 1 else (), metric, default))
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
            and not _idle(study, method, values, setting, choices, f"{where}:methods.{key}")
        }  # fmt: skip
    refuse_adapter_grids(grid, place)
    if "examples" in grid:
        raise InputError(
            "more training data are no better setting: every try of an arm has the same",
            where=f"{place}.examples",
            remedy=f"list them in methods.{key}, where each makes a row of the board",
        )
    read = {}
    for setting, choices in grid.items():
        if isinstance(given.get(setting), list):
            raise InputError(
                f"'{setting}' has a row of the board for each of its values, so it can't be tuned as well",
                where=f"{place}.{setting}",
                remedy=f"give one value in methods.{key}, or leave '{setting}' out here",
            )
        models = [check(study, method, {**values, setting: value}, place) for value in choices]
        # As the method reads them: YAML has 1e-3 as a text.
        read[setting] = [getattr(model, setting, value) for model, value in zip(models, choices, strict=True)]
        if (again := same_twice(choices)) is not None:
            raise InputError(
                f"the value {shown(again)} stands here twice, and would be counted as two tries",
                where=f"{place}.{setting}",
                remedy="list each value once",
            )
        if len(choices) > 1 and _idle(study, method, values, setting, choices, place):
            raise InputError(
                f"'{setting}' changes nothing for this arm: with each of these values it trains and scores alike",
                where=f"{place}.{setting}",
                remedy="leave it out, so that every try is of something else",
            )
    return read


def _idle(
    study: Study, method: MethodLike, values: Mapping[str, Any], setting: str, choices: Sequence[Any], place: str
) -> bool:
    """Whether a setting of the method moves no number of an arm with these values.

    As a window of an average that nobody uses, or a limit that only refuses.
    """
    if setting not in method.settings.model_fields or setting == "learning_rate":
        return False
    if setting in cast(Any, method.settings).limits:  # of the settings of every method
        return True
    fixed, instead = taken_apart(values)
    steps = arm_budget(instead, study, place).steps
    given = (checked(method, {**fixed, setting: value}, place) for value in choices)
    return len({composed(method, each, steps, place)[1].result_key for each in given}) == 1


def _goes_with(fixed: Mapping[str, Any], setting: str, value: object, method: MethodLike) -> bool:
    """Whether a setting may stand beside those that the study fixes: one of them may say the same in other words."""
    try:
        method.settings.model_validate({**fixed, setting: value})
    except ValidationError:
        return False
    return True


def check(study: Study, method: MethodLike, values: Mapping[str, Any], place: str) -> BaseModel:
    """The method's settings with these values; refuses what can't be an arm, for them or its regime between tasks."""
    settings, instead = taken_apart(values)
    given = checked(method, settings, place)
    check_streams(given, study, place)
    recipe = composed(method, given, arm_budget(instead, study, place).steps, place)[1]
    arm_training(instead, study, method.name, recipe, place)
    return given


def _tries(study: Study, arm: str, grid: Mapping[str, list[Any]], default: Mapping[str, Any]) -> tuple[Try, ...]:
    """At most as many points of the grid as the study has for every arm, in the grid's order."""
    points = [dict(zip(grid, combination, strict=True)) for combination in itertools.product(*grid.values())]
    chosen = _choose(points, study.tuning.settings, study.root_seed)
    return tuple(tried_as(arm, values, default) for values in chosen)


def tried_as(arm: str, values: Mapping[str, Any], default: Mapping[str, Any]) -> Try:
    """A setting of an arm of the study as an arm of the tuning study."""
    setting = label(values)
    changed = sum(value != default.get(key) for key, value in values.items())
    return Try(f"{arm}{',' if '@' in arm else '@'}{setting}", setting, values, changed)


def label(values: Mapping[str, Any]) -> str:
    return ",".join(f"{key}={value}" for key, value in values.items())


def _choose(points: list[dict[str, Any]], count: int, root_seed: int) -> list[dict[str, Any]]:
    """``count`` points, as evenly as can be over the values of their first setting (the learning rate).

    By hashes of what the points are, so that arms with the same grid try the same points whoever stands beside them.
    """
    if len(points) <= count:
        return points
    rounds: Counter[Any] = Counter()
    turns = []
    for point in sorted(points, key=lambda point: derive(root_seed, "tuning", label(point))):
        first = next(iter(point.values()))
        turns.append((rounds[first], point))
        rounds[first] += 1
    chosen = {label(point) for _, point in sorted(turns, key=lambda turn: turn[0])[:count]}
    return [point for point in points if label(point) in chosen]


def tuning_study(study: Study, searches: Iterable[Search], where: str) -> Study:
    """The study that tries them, to be run like any other."""
    methods = {entry.arm: {**search.fixed, **entry.values} for search in searches for entry in search.all_tries}
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
        "claims": None,
        "scoring": study.scoring.model_copy(update=asked),
    }
    changed = study.model_copy(update=changes)
    check_size(changed, where, "tuning")
    return changed
