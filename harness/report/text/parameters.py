"""The hyper-parameters of every arm: what all share in a sentence, what few have in words, and the rest as columns."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from harness.report.arms import ADAPTER, Arm, adapter_of, adapters_differ
from harness.report.numbers import NOTHING, plural
from harness.report.study import StudyResults
from harness.report.text.table import Table, settings

#: Settings of its own that an arm has, in words: as columns they would be empty for most arms.
OWN = "Others"
#: Of the columns of an arm's adapter, those that a study has among its settings of training.
TRAINING = ("between_tasks", "examples")


def parameters(study: StudyResults) -> Table:
    """Settings of every arm, as its first record has them; those of its adapter where the arms differ in it.

    What all that have settings share stands below the table.  A column is what most of them have; the rest is words.
    """
    arms = [arm for arm in study.arms if arm.records]
    of_arms = {arm.name: _settings(arm, adapter=adapters_differ(study.arms)) for arm in arms}
    given = [own for own in of_arms.values() if own]
    shared = _shared(given)
    names = list(dict.fromkeys(name for own in given for name in own if name not in shared))
    shown = [name for name in names if 2 * sum(name in own for own in given) > len(given)]
    words = [name for name in names if name not in shown]
    rows = [
        [arm.name, *(of_arms[arm.name].get(name, NOTHING) for name in shown), _in_words(of_arms[arm.name], words),
         *_chosen(arm)]
        for arm in arms
    ]  # fmt: skip
    columns = ["Method", *shown, OWN, "Tuned", "Place in grid", "Settings tried"]
    kept = [i for i in range(len(columns)) if i == 0 or any(row[i] != NOTHING for row in rows)]
    cells = [[row[i] for i in kept] for row in rows]
    caption = _caption(shared, len(given), len(arms))
    return Table("Hyper-parameters", [columns[i] for i in kept], cells, caption, prose=True)


def _settings(arm: Arm, *, adapter: bool) -> dict[str, str]:
    record = arm.records[0]
    own = adapter_of(record) if adapter else {}
    named = {key if key in TRAINING else f"adapter.{key}": own[key] for key in ADAPTER if key in own}
    return settings(dict(sorted(record.spec.parameters.items())) | named)


def _shared(given: Sequence[Mapping[str, str]]) -> dict[str, str]:
    """What all arms with settings have, and have alike; nothing of a single arm, whose row says it."""
    if len(given) < 2:
        return {}
    return {name: value for name, value in given[0].items() if all(own.get(name) == value for own in given)}


def _in_words(own: Mapping[str, str], names: Sequence[str]) -> str:
    return ", ".join(f"{name} {own[name]}" for name in names if name in own) or NOTHING


def _chosen(arm: Arm) -> list[str]:
    choice = arm.choice if arm.tuned else None
    return ["yes" if choice else "no", choice.place if choice and choice.place else NOTHING, str(arm.settings_tried)]


def _caption(shared: Mapping[str, str], given: int, arms: int) -> str:
    if not shared:
        return ""
    whose = "Every arm has" if given == arms else f"Every arm with settings ({given} of {plural(arms, 'arm')}) has"
    return f"{whose} {_in_words(shared, list(shared))}."
