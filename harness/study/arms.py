"""The arms of a study: every method with every setting that the study gives it, checked.

A list of values for a setting is a grid: a row of the board for each.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from typing import Any

from pydantic import BaseModel, ValidationError

from harness.errors import InputError, SettingError, unknown_name
from harness.store.records import Facts
from harness.study.aliases import ENTRY, unknown_key
from harness.study.config import AdapterSettings, ScoringSettings, Study, TrainingSettings, first_problem
from harness.study.limits import check_size, same_twice, shown, twice
from harness.study.methods import MethodLike, RecipeLike
from harness.study.overrides import (
    TRAINING_KEYS,
    ArmTraining,
    arm_budget,
    arm_training,
    refuse_adapter_grids,
    taken_apart,
)

#: Keys of a study that somebody may have put under a method.
BLOCKS = {
    "adapter": tuple(AdapterSettings.model_fields),
    "training": tuple(TrainingSettings.model_fields),
    "scoring": tuple(ScoringSettings.model_fields),
}


@dataclass(frozen=True)
class PlannedArm:
    """One row of the board: a method with one setting."""

    method: str
    setting: str
    settings: Any
    recipe: RecipeLike
    facts: Facts
    training: ArmTraining
    #: (settings, recipe) on a task with so many steps, which some settings depend on.
    on_steps: Callable[[int], tuple[Any, RecipeLike]] = field(compare=False, repr=False)

    @property
    def name(self) -> str:
        return named(self.method, self.setting)


def expand_arms(study: Study, methods: Mapping[str, MethodLike], where: str) -> list[PlannedArm]:
    """Every (method, setting) of the study; a list of values for a setting is a grid."""
    check_size(study, where)
    arms: list[PlannedArm] = []
    for key, given in study.methods.items():
        name, _, label = key.partition("@")
        place = f"{where}:methods.{key}"
        if name not in methods:
            raise unknown_name("method", name, methods, where=place)
        refuse_adapter_grids(given, place)
        _refuse_odd_grids(given, place)
        arms += [_arm(study, methods[name], *point, place) for point in grid_points(given, label)]
    again = twice(arm.name for arm in arms)
    if again is not None:
        raise InputError(f"the row '{again}' stands here twice", where=f"{where}:methods", remedy="name each setting")
    return arms


def _refuse_odd_grids(given: Mapping[str, Any], place: str) -> None:
    """A grid is one or more plain values: rows are named after them."""
    for setting, value in given.items():
        if value == []:
            raise InputError(
                "this grid has no values",
                where=f"{place}.{setting}",
                remedy="give at least one value, or leave the key out",
            )
        if isinstance(value, list) and (nested := [part for part in value if isinstance(part, list | dict)]):
            raise InputError(
                f"a grid is a list of plain values (got {shown(nested[0])})",
                where=f"{place}.{setting}",
                remedy="write a number or a word for each row, as in [0.1, 0.2]",
            )
        if isinstance(value, list) and (again := same_twice(value)) is not None:
            raise InputError(
                f"the value {shown(again)} stands here twice, and both rows would be one and the same",
                where=f"{place}.{setting}",
                remedy="list each value once",
            )


def _arm(study: Study, method: MethodLike, setting: str, point: Mapping[str, Any], place: str) -> PlannedArm:
    """One point of a grid; ``place`` is ``file:methods.key``."""
    values, instead = taken_apart(point)
    given = checked(method, values, place, TRAINING_KEYS)
    check_streams(given, study, place)
    settings, recipe = composed(method, given, arm_budget(instead, study, place).steps, place)
    training = arm_training(instead, study, method.name, recipe, place)
    facts = recipe.facts(control=method.control, study_between=training.between_tasks)

    @cache
    def on_steps(steps: int) -> tuple[Any, RecipeLike]:
        its_settings, its_recipe = composed(method, given, steps, place)
        return its_settings, its_recipe.under(training.between_tasks)

    own = recipe.under(training.between_tasks)
    return PlannedArm(method.name, setting, settings, own, facts, training, on_steps)


def check_streams(settings: Any, study: Study, place: str) -> None:
    """Refuse settings that have no meaning on one of the study's streams; ``place`` is ``file:key``."""
    for tasks in sorted(set(map(len, study.streams.values()))):
        try:
            settings.check_stream(tasks)
        except SettingError as error:
            raise InputError(str(error), where=f"{place}.{error.key}", remedy=error.remedy) from error


def composed(method: MethodLike, settings: Any, steps: int, place: str) -> tuple[Any, RecipeLike]:
    """(settings with their defaults filled in, the recipe); whatever the method's code raises names ``place``."""
    try:
        settings = settings.resolved(steps)
        return settings, method.compose(settings)
    except (InputError, KeyboardInterrupt):
        raise
    except BaseException as error:  # a method may even ask to exit
        raise InputError(
            f"'{method.name}' makes nothing of these settings: {type(error).__name__}: {error}",
            where=place,
            remedy="choose other settings, or correct the method: lorabench methods --check " + method.name,
        ) from error


def key_of(study: Study, arm: str) -> str:
    """Of the study's methods, the one that this arm is of."""
    return arm if arm in study.methods else arm.partition("@")[0]


def texts(study: Study, methods: Mapping[str, MethodLike], where: str) -> dict[str, str]:
    """Every task whose unscored text the start of an arm looks at, with a place in the study that says so."""
    found: dict[str, str] = {}
    for arm in expand_arms(study, methods, where):
        text = arm.recipe.adapter.reads_text if arm.recipe.adapter else None
        if text is not None:
            found.setdefault(text, f"{where}:methods.{key_of(study, arm.name)}")
    return found


def remarks(study: Study, methods: Mapping[str, MethodLike]) -> tuple[str, ...]:
    """What a person should know of the arms before they run: which of them are something simpler on a short stream."""
    short = [name for name, stream in study.streams.items() if len(stream) == 1]
    names = dict.fromkeys(key.partition("@")[0] for key in study.methods)
    if not short:
        return ()
    return tuple(
        f"{name} is {methods[name].on_one_task} on {', '.join(short)}: with one task there are no earlier ones"
        for name in names
        if methods[name].on_one_task
    )


def arm_names(study: Study) -> list[str]:
    """The arms, in the study's order, by its keys alone: whether their methods are there is not looked at."""
    return [
        named(key.partition("@")[0], setting)
        for key, given in study.methods.items()
        for setting, _ in grid_points(given, key.partition("@")[2])
    ]


def named(method: str, setting: str) -> str:
    """An arm's name."""
    return method if setting == "default" else f"{method}@{setting}"


def grid_points(given: Mapping[str, Any], label: str) -> list[tuple[str, dict[str, Any]]]:
    """(name of the setting, its values) of every point of the grid."""
    lists = {key: value for key, value in given.items() if isinstance(value, list)}
    if not lists:
        return [(label or "default", dict(given))]
    points = []
    for combination in itertools.product(*lists.values()):
        chosen = dict(zip(lists, combination, strict=True))
        name = ",".join(f"{key}={value}" for key, value in chosen.items())
        points.append((f"{label},{name}" if label else name, {**given, **chosen}))
    return points


def checked(method: MethodLike, values: Mapping[str, Any], where: str, others: Sequence[str] = ()) -> BaseModel:
    """The method's settings with these values; a wrong one is an error that names ``where.key``.

    ``others`` are further keys that may stand there, for the error's list.
    """
    for key in values:
        if key not in method.settings.model_fields:
            known = (*method.settings.model_fields, *others)
            raise unknown_key(
                f"setting of '{method.name}'", str(key), known, BLOCKS, where=f"{where}.{key}", place=ENTRY
            )
    try:
        return method.settings.model_validate(values)
    except ValidationError as error:
        raise first_problem(error, where, separator=".") from error
