"""What a tuning came to: the choice of every arm, and the study with it.

What was chosen goes into ``results/<study>/tuning.json`` (harness/store/tuning.py), with all tries, and the study's run
reads it.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from statistics import fmean, stdev

from harness.analysis import continual
from harness.store.fingerprint import digest
from harness.store.records import TrialRecord
from harness.store.tuning import Choice, Tuning
from harness.study import extension
from harness.study.config import Study
from harness.study.methods import MethodLike
from harness.study.plan import Plan
from harness.study.search import SPLIT, Search, label

RULE = (
    "the highest mean over all tuning trials (orders x seeds) of average accuracy on validation items, or of learning "
    "accuracy for an arm that starts every task afresh; a setting with a diverged trial is never chosen; of equal ones "
    "that which leaves most settings as the study has them, then the first of the grid; where the best number lies at "
    "an end of its grid (of three or more), one more beyond that end is tried, once, for every arm alike"
)
#: Means closer than this are equal: they differ by the rounding of a sum, not by an item.
SAME = 1e-9


def judge(study: str, plan: Plan, searches: Iterable[Search], records: Iterable[TrialRecord]) -> Tuning:
    """The choice of every arm, by :data:`RULE`, from the finished records of the tuning study's ``plan``."""
    by_fingerprint = {record.fingerprint: record for record in records}
    records_of_arm = {
        arm: [by_fingerprint[trial.fingerprint] for trial in trials] for arm, trials in plan.by_arm.items()
    }
    arms, rows = {}, []
    for search in (search for search in searches if search.tries):
        tries = search.all_tries
        scores = [_scores(search.metric, records_of_arm[entry.arm]) for entry in tries]
        means = [fmean(values) if len(values) == len(records_of_arm[entry.arm]) else None
                 for entry, values in zip(tries, scores, strict=True)]  # fmt: skip
        best = max((mean for mean in means if mean is not None), default=None)
        tied = [mean is not None and best is not None and best - mean <= SAME for mean in means]
        leaders = [entry for entry, equal in zip(tries, tied, strict=True) if equal]
        chosen = min(leaders, key=lambda entry: entry.changed, default=None)
        for entry, values, mean, equal in zip(tries, scores, means, tied, strict=True):
            trials = len(records_of_arm[entry.arm])
            rows.append({
                "arm": search.arm, "setting": entry.setting, "metric": search.metric, "score": mean,
                "standard_error": stdev(values) / math.sqrt(trials) if mean is not None and trials > 1 else None,
                "trials": trials, "diverged": trials - len(values),
                "beyond": entry in (search.extension or ()), "best": equal, "chosen": entry is chosen,
            })  # fmt: skip
        settings = dict(chosen.values) if chosen else None
        at_ends = extension.ends(tries, chosen) if chosen else ()
        arms[search.arm] = Choice(
            settings=settings, score=best, tried=len(tries), grid=search.grid, metric=search.metric,
            digest=trials_digest(plan, search), place=extension.place(tries, chosen) if chosen else "",
            ends=tuple(label({name: (settings or {})[name]}) for name in at_ends),
            beyond=tuple(entry.setting for entry in search.extension or ()),
        )  # fmt: skip
    return Tuning(
        study=study, rule=RULE, split=SPLIT, seeds=plan.study.seeds, settings=plan.study.tuning.settings, arms=arms,
        tries=tuple(rows),
    )  # fmt: skip


def _scores(metric: str, records: Iterable[TrialRecord]) -> list[float]:
    """The metric of every trial that has one."""
    function = continual.learning_accuracy if metric == "learning_accuracy" else continual.average_accuracy
    return [function(record.matrix()) for record in records if record.status == "ok"]


def trials_digest(plan: Plan, search: Search) -> str:
    """What a choice was made from: the same as long as data, method, settings, budget and what the study fixes are.

    Tries beyond the grid are left out: they follow from the others.
    """
    arms = dict.fromkeys(entry.arm for entry in search.tries)
    trials = sorted(trial.fingerprint for arm in arms for trial in plan.by_arm.get(arm, ()))
    return digest([dict(search.fixed), trials])


def with_chosen(study: Study, searches: Iterable[Search], tuning: Tuning) -> Study:
    """The study with one key for every arm, and the chosen settings of those that have been tuned."""
    methods = {}
    for search in searches:
        choice = tuning.arms.get(search.arm)
        methods[search.arm] = {**search.fixed, **((choice.settings if choice else None) or {})}
    return study.model_copy(update={"methods": methods})


def extend(
    study: Study,
    plan: Plan,
    searches: Iterable[Search],
    records: Iterable[TrialRecord],
    methods: Mapping[str, MethodLike],
    where: str,
) -> tuple[Search, ...]:
    """The searches with what is to be tried beyond their ends, from the finished records of all tries of the grids.

    ``study`` is the one that is tuned, ``plan`` that of its tuning study without extensions.
    """
    searches = tuple(searches)
    chosen = {
        search.arm: next((entry for entry in search.tries if entry.values == choice.settings), None)
        for search in searches if (choice := judge(study.name, plan, [search], records).arms.get(search.arm))
    }  # fmt: skip
    return tuple(
        extension.extended(
            study, search, chosen.get(search.arm), methods[search.arm.partition("@")[0]], f"{where}:tuning.grids"
        )
        for search in searches
    )
