"""What has changed since a study's records were written: which no longer belong to it, and why."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from harness.store.records import TrialSpec
from harness.study.plan import Plan
from harness.words import plural

#: Fields of a spec that are digests, and what it means that one differs.
_DIGESTS = {
    "model_digest": "the files of the model have changed",
    "method_digest": "the source of the method has changed",
}


@dataclass(frozen=True)
class Changes:
    """What the plan does not ask for: (arm, why) -> how many records; and trials that fit again, by fingerprint."""

    aside: Mapping[tuple[str, str], int]
    back: tuple[str, ...] = ()

    @property
    def lines(self) -> tuple[str, ...]:
        """A line for each arm and reason, and one for what comes back."""
        lines = [
            f"{plural(count, 'record')} of '{arm}' would be set aside: {why}"
            for (arm, why), count in self.aside.items()
        ]
        if lines:
            lines.insert(0, "the study has changed since; the next run moves what no longer fits to superseded/")
        if self.back:
            fit = "fits" if len(self.back) == 1 else "fit"
            lines.append(f"{plural(len(self.back), 'record')} in superseded/ {fit} again and will be taken back")
        return tuple(lines)


class Identified(Protocol):
    """A record, or what is read of it where no more is asked."""

    @property
    def fingerprint(self) -> str: ...

    @property
    def spec(self) -> TrialSpec: ...


def changes(plan: Plan, records: Iterable[Identified], back: Iterable[str] = ()) -> Changes:
    """Compare the records of a results folder with a plan; ``back`` are trials whose records fit again.

    Arms come in the study's order, those that it has no longer after them.
    """
    planned = {trial.fingerprint for trial in plan.trials}
    named = {(trial.spec.arm, trial.spec.order, trial.spec.seed): trial.spec for trial in plan.trials}
    aside = Counter(
        (record.spec.arm, _why(record.spec, named)) for record in records if record.fingerprint not in planned
    )
    place = {arm: number for number, arm in enumerate(plan.by_arm)}
    in_order = sorted(aside.items(), key=lambda entry: (place.get(entry[0][0], len(place)), entry[0]))
    return Changes(dict(in_order), tuple(back))


def _why(spec: TrialSpec, named: Mapping[tuple[str, str, int], TrialSpec]) -> str:
    """In words what a record's spec has otherwise than the trial that stands in its place."""
    now = named.get((spec.arm, spec.order, spec.seed))
    if now is None:
        for what, value, known in (
            ("arm", spec.arm, {arm for arm, _, _ in named}),
            ("order", spec.order, {order for _, order, _ in named}),
            ("seed", spec.seed, {seed for _, _, seed in named}),
        ):
            if value not in known:
                return f"there is no {what} '{value}' any more"
        return f"there is no such trial in order '{spec.order}' any more"
    other = {name for name in TrialSpec.model_fields if getattr(spec, name) != getattr(now, name)}
    before, after = (each.model_dump(mode="json", include=other) for each in (spec, now))
    return "; ".join(_differences(before, after)) or "it is another trial"


def _differences(old: Mapping[str, Any], new: Mapping[str, Any], prefix: str = "") -> Iterator[str]:
    for key in dict.fromkeys((*old, *new)):
        before, after = old.get(key), new.get(key)
        if before == after or key in ("tuned", "settings_tried"):
            continue
        if key in _DIGESTS:
            yield _DIGESTS[key]
        elif key == "task_digests":
            first, second = before or {}, after or {}
            tasks = [name for name in dict.fromkeys((*first, *second)) if first.get(name) != second.get(name)]
            yield f"{', '.join(tasks)}: prompt or items have changed"
        elif isinstance(before, dict) and isinstance(after, dict):
            yield from _differences(before, after, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key} was {_shown(before)}, is {_shown(after)}"


def _shown(value: Any) -> str:
    text = " ".join(map(str, value)) if isinstance(value, list) else str(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
