"""Whom the arms of a study are compared with: plain LoRA, or what the study's ``reference:`` names, at equal settings.

    reference: stable_lora           # the arms of a method: each arm is compared with the one of its own settings
    reference: lora@hot              # one arm: everything is compared with it

The settings that count are those in which the arms of the reference's method differ.  An arm with the same values of
all of them is compared with the arm that has them; any other with *the* reference: the arm that has the method's bare
name, else the one that is best on validation where all of them were tuned, else the first.  What was chosen by tuning
does not count as a setting: arms whose rates were tuned apart stay partners.  Nothing of this changes a trial.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from harness.analysis.thresholds import LEAST_SEEDS
from harness.errors import InputError, unknown_name
from harness.store.reference import Reference
from harness.store.tuning import Tuning
from harness.store.values import Scalar
from harness.study.arms import PlannedArm
from harness.study.config import Study

#: The method whose arms are the reference where a study names none.
DEFAULT = "lora"


@dataclass(frozen=True)
class Candidate:
    """An arm as far as comparisons go; ``values`` are all settings that apply to it, those of its adapter included."""

    name: str
    method: str
    values: Mapping[str, Scalar]


def reference_of(study: Study, arms: Sequence[PlannedArm], tuning: Tuning | None, where: str) -> Reference | None:
    """The reference of a study, from its arms before any tuning; None where it has no arm of :data:`DEFAULT`.

    Raises :class:`InputError` where the study names what is no arm, or a control.
    """
    _refuse_odd(study, arms, f"{where}:reference")
    choices = tuning.arms.items() if tuning else ()
    scores = {arm: choice.score for arm, choice in choices if choice.score is not None}
    return decide([_candidate(arm) for arm in arms], study.reference, scores)


def _refuse_odd(study: Study, arms: Sequence[PlannedArm], place: str) -> None:
    asked = study.reference
    if asked is None:
        return
    meant = [arm for arm in arms if asked in (arm.name, arm.method)]
    if not meant:
        raise unknown_name("arm", asked, {name for arm in arms for name in (arm.method, arm.name)}, where=place)
    if meant[0].facts.control:
        others = [arm.name for arm in arms if not arm.facts.control]
        raise InputError(
            f"'{asked}' is a control: it bounds what can be reached, and is no arm to compare remedies with",
            where=place,
            remedy=f"name another arm ({', '.join(others[:8])})" if others else "add an arm that is no control",
        )


def _candidate(arm: PlannedArm) -> Candidate:
    adapter, facts = arm.training.adapter, arm.facts
    values = dict(arm.settings.model_dump())
    if facts.trains:
        values |= {"targets": " ".join(adapter.targets), "examples": arm.training.examples}
    if facts.has_rank:
        values |= {"rank": adapter.rank, "alpha": adapter.alpha}
    if facts.trains and not facts.chooses_between:
        values["between_tasks"] = arm.training.between_tasks
    return Candidate(arm.name, arm.method, values)


def decide(
    arms: Sequence[Candidate], asked: str | None = None, scores: Mapping[str, float] | None = None
) -> Reference | None:
    """The reference among ``arms``, which stand in the study's order; ``scores`` are on validation, by arm.

    None where the method, or the arm, that is ``asked`` for is not among them.
    """
    wanted = asked or DEFAULT
    said = "the study names it" if asked else "it is plain LoRA as the study has it"
    group = [arm for arm in arms if arm.method == wanted]
    named = [arm for arm in arms if arm.name == wanted]
    if named and not group:
        return Reference(arm=wanted, why=said)
    if not group:
        return None
    best, why = (named[0], said) if named else _best(group, wanted, scores or {})
    return Reference(arm=best.name, why=why, partners=_partners(arms, group, best))


def _best(group: Sequence[Candidate], method: str, scores: Mapping[str, float]) -> tuple[Candidate, str]:
    if len(group) == 1:
        return group[0], f"it is the only arm of {method}"
    if all(arm.name in scores for arm in group):
        best = max(group, key=lambda arm: scores[arm.name])
        return best, f"of the {len(group)} arms of {method} it is the best on validation"
    return group[0], f"it is the first of the {len(group)} arms of {method}"


def _partners(arms: Iterable[Candidate], group: Sequence[Candidate], best: Candidate) -> dict[str, str]:
    """Arm -> the arm of the group that has its settings, where that is not ``best``."""
    keys = {key for arm in group for key in arm.values}
    keys = {key for key in keys if len({repr(arm.values.get(key)) for arm in group}) > 1}
    partners = {}
    for arm in arms:
        if arm.method == best.method or not keys <= arm.values.keys():
            continue
        equal = [one for one in group if all(one.values.get(key) == arm.values[key] for key in keys)]
        if equal and best not in equal:
            partners[arm.name] = equal[0].name
    return partners


def warnings(study: Study, arms: Sequence[PlannedArm], reference: Reference | None) -> tuple[str, ...]:
    """What a person should know of a study's comparisons before it runs."""
    rows = Counter(arm.method for arm in arms if arm.facts.control)
    controls = [f"{method} ({count})" for method, count in rows.items() if count > 1]
    several = "controls with several rows: {}; each is a bound by itself, and none of them can win"
    said = (untested(study, arms, reference), several.format(", ".join(controls)) if controls else "")
    return tuple(line for line in said if line)


def untested(study: Study, arms: Sequence[PlannedArm], reference: Reference | None) -> str:
    """Why no difference of this study will be tested, and what to do; empty where differences will be."""
    if reference is None:
        return f"nothing will be tested: there is no arm of {DEFAULT} to compare with; name one with `reference: ARM`"
    if len(arms) < 2:
        return "nothing will be tested: there is one arm, and a comparison takes two"
    if len(study.seeds) < LEAST_SEEDS:
        seeds = f"{len(study.seeds)} seed{'s' if len(study.seeds) > 1 else ''}"
        return (
            f"nothing will be tested: with {seeds} no arm is ranked, and no difference can be called significant; "
            f"list at least {LEAST_SEEDS} seeds"
        )
    return ""


def lines(reference: Reference | None, most: int = 8) -> tuple[str, ...]:
    """What a person should know of the reference, in lines; at most so many partners by name."""
    if reference is None:
        return ("compared with: nothing",)
    pairs = [f"{arm} with {partner}" for arm, partner in reference.partners.items()]
    left = f" and {len(pairs) - most:,} more" if len(pairs) > most else ""
    equal = (f"at equal settings: {', '.join(pairs[:most])}{left}",) if pairs else ()
    return (f"compared with: {reference.arm} ({reference.why})", *equal)
