"""What an arm may change beside its method's settings: its adapter's shape, its data, and what happens between tasks.

    lora@rank2: {adapter: {rank: 2}}                   # alpha 4 in a study with rank 8 and alpha 16
    lora@qv: {adapter: {targets: [q_proj, v_proj]}}    # the study's other targets are left alone
    lora@reinit: {between_tasks: reinit}
    lora: {examples: [16, 512]}                        # separate trainings: the rows lora@examples=16 and ...=512

A key that is left out is the study's; but a rank without an alpha keeps the study's alpha / rank, as the custom of
alpha = 2 rank does.  All stand in the trial's ``training`` block, where the study's would.  Fewer examples are the
first of those that more have, in the same order.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from pydantic import ValidationError

from harness.errors import InputError, unknown_name
from harness.study.aliases import unknown_key
from harness.study.config import AdapterSettings, Study, TrainingSettings, first_problem
from harness.study.methods import RecipeLike

#: Keys of an entry of ``methods`` that are not settings of the method.
TRAINING_KEYS = ("adapter", "between_tasks", "examples")


@dataclass(frozen=True)
class ArmTraining:
    """How one arm trains, where arms of a study may differ."""

    adapter: AdapterSettings
    between_tasks: Literal["continue", "reinit"]
    examples: int  #: of each task


def taken_apart(values: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """(settings of the method, what is under the keys of :data:`TRAINING_KEYS`) of one entry of ``methods``."""
    training = {key: values[key] for key in TRAINING_KEYS if key in values}
    return {key: value for key, value in values.items() if key not in training}, training


def refuse_adapter_grids(given: Mapping[str, Any], where: str) -> None:
    """A list makes rows that are named after its values, and an adapter is more than a value."""
    adapter = given.get("adapter")
    grids = {"adapter": adapter}
    if isinstance(adapter, dict):
        grids = {f"adapter.{key}": adapter[key] for key in ("rank", "alpha") if key in adapter}
    for key, value in grids.items():
        if isinstance(value, list):
            raise InputError(
                f"a list of adapters is not a grid (got {value!r})",
                where=f"{where}.{key}",
                remedy="give each a key of its own, as in `lora@rank2: {adapter: {rank: 2}}`",
            )


def arm_training(given: Mapping[str, Any], study: Study, method: str, recipe: RecipeLike, where: str) -> ArmTraining:
    """The study's adapter and regime with what an arm has ``given`` instead.

    ``recipe`` is as the ``method`` composes it, ``where`` is ``file:methods.key``.
    """
    training = arm_budget(given, study, where)
    training = ArmTraining(arm_adapter(given, study, where), training.between_tasks, training.examples)
    _refuse_what_has_no_effect(given, method, recipe, where)
    return training


def arm_adapter(given: Mapping[str, Any], study: Study, where: str) -> AdapterSettings:
    """The study's adapter with what an arm has ``given`` instead, whatever its method; ``where`` is as above."""
    if "adapter" not in given:
        return study.adapter
    overrides, where = given["adapter"], f"{where}.adapter"
    if not isinstance(overrides, dict) or not overrides:
        raise InputError(
            f"an arm's own adapter is a mapping with some of {', '.join(AdapterSettings.model_fields)} "
            f"(got {overrides!r})",
            where=where,
            remedy="write it as in `adapter: {rank: 2}`, or leave the key out",
        )
    for key in overrides:
        if key not in AdapterSettings.model_fields:
            known = list(AdapterSettings.model_fields)
            raise unknown_key("key of adapter", str(key), known, {}, where=f"{where}.{key}", place="adapter")
    try:
        adapter = AdapterSettings.model_validate({**study.adapter.model_dump(), **overrides})
    except ValidationError as error:
        raise first_problem(error, where, separator=".") from error
    known = tuple(dict.fromkeys((*study.adapter.targets, *AdapterSettings().targets)))
    for target in adapter.targets:
        if target not in known:
            raise _not_a_target(target, known, where)
    # In one order and once each: what is written otherwise and trains alike is the same trial.
    changes: dict[str, Any] = {"targets": tuple(name for name in known if name in adapter.targets)}
    if "rank" in overrides and "alpha" not in overrides:
        changes["alpha"] = study.adapter.alpha * adapter.rank / study.adapter.rank
    return adapter.model_copy(update=changes)


def _not_a_target(target: str, known: Sequence[str], where: str) -> InputError:
    near = unknown_name("projection", target, known, where=f"{where}.targets")
    return InputError(
        f"'{target}' is neither among the study's own targets nor among the usual ones",
        where=near.where,
        remedy=f"{near.remedy}; a projection that the model has besides these goes into the study's adapter.targets",
    )


def arm_budget(given: Mapping[str, Any], study: Study, where: str) -> TrainingSettings:
    """The study's training with what an arm has ``given`` instead; ``where`` is as above."""
    changed = {key: given[key] for key in TrainingSettings.model_fields if key in given}
    if not changed:
        return study.training
    try:
        return TrainingSettings.model_validate(study.training.model_dump() | changed)
    except ValidationError as error:
        raise first_problem(error, where, separator=".") from error


def _refuse_what_has_no_effect(given: Mapping[str, Any], method: str, recipe: RecipeLike, where: str) -> None:
    """A row of the board must not promise what its method can't keep."""
    has_rank = recipe.adapter is not None and recipe.adapter.has_rank
    if given and recipe.adapter is None:
        key, what = next(iter(given)), f"'{method}' trains nothing"
    elif "between_tasks" in given and recipe.between is not None:
        key, what = "between_tasks", f"'{method}' decides by itself what happens between tasks ({recipe.between})"
    elif not has_rank and (ranks := [key for key in ("rank", "alpha") if key in given.get("adapter", {})]):
        key, what = f"adapter.{ranks[0]}", f"'{method}' trains dense matrices, which have no {ranks[0]}"
    else:
        return
    raise InputError(f"{what}, so this changes nothing", where=f"{where}.{key}", remedy="leave the key out")


def differences(study: Study, training: Mapping[str, Any]) -> dict[str, Any]:
    """Where a trial's ``training`` block differs from the study's, by key, to be shown to a person."""
    own = ("between_tasks", "examples")
    plain = study.adapter.model_dump(mode="json") | {key: getattr(study.training, key) for key in own}
    values = {**training["adapter"], **{key: training[key] for key in own}}
    return {
        key if key in own else f"adapter.{key}": " ".join(value) if isinstance(value, list) else value
        for key, value in values.items()
        if value != plain[key]
    }
