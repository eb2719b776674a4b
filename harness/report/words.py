"""What the report says in words: numbers as text, a summary no stronger than the statistics, and the notes."""

from __future__ import annotations

import math
from collections.abc import Sequence

from harness.analysis.statistics import Estimate, smallest_p
from harness.report.frame import LEAST_SEEDS, certain
from harness.report.leaderboard import PRIMARY, Row
from harness.report.study import Study

NOTHING = "–"
LEVEL = 0.05


def number(value: float | None, digits: int = 1, scale: float = 1.0, sign: bool = False) -> str:
    """A number with a real minus sign; a dash for what is undefined or not finite."""
    if value is None or not math.isfinite(value):
        return NOTHING
    text = f"{value * scale:{'+' if sign else ''},.{digits}f}"
    # A mean that rounds to nothing has no sign.
    if not text.strip("+-0.,"):
        text = text.lstrip("+-")
    return text.replace("-", "−")


def percent(value: float | None) -> str:
    return number(value, 1, 100)


def points(value: float | None) -> str:
    return number(value, 1, 100, sign=True)


def p_text(p: float | None) -> str:
    """An exact p to three digits, as .250; never rounded to 0 and never to a 1 that it is not."""
    if p is None:
        return NOTHING
    if p < 0.001:
        return "< .001"
    return "1" if p >= 0.9995 else f"{p:.3f}"[1:]


def interval(value: Estimate | None, text=percent) -> str:
    """[low, high], or nothing where one trial gives no interval."""
    return f"[{text(value.low)}, {text(value.high)}]" if value and value.low is not None else ""


def with_error(text: str, error: float | None, scale=percent) -> str:
    """``41.7 ± 2.3``: a score with its standard error over the test items, where that is known."""
    return text if error is None or text == NOTHING else f"{text} ± {scale(error)}"


def listed(names: Sequence[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"


def plural(count: int, word: str) -> str:
    return f"{count} {word}{'' if count == 1 else 's'}"


def summary(study: Study, board: Sequence[Row]) -> list[str]:
    """Three or four sentences: what ran, the highest mean, the tests, the least forgetting."""
    return [line for line in (_scope(study), _highest(board), _tests(study, board), _least_forgetting(board)) if line]


def _scope(study: Study) -> str:
    streams, seeds = study.streams, {trial.record.spec.seed for trial in study.trials}
    lengths = sorted({len(stream) for stream in streams.values()})
    tasks = plural(lengths[0], "task") if len(lengths) == 1 else f"{lengths[0]} to {lengths[-1]} tasks"
    counts = {word: sum(arm.failures()[word] for arm in study.arms) for word in ("diverged", "failed", "missing")}
    lost = [f"{count} {word}" for word, count in counts.items() if count]
    return (
        f"{plural(len(study.arms), 'arm')}, {tasks} in {plural(len(streams), 'order')}, {plural(len(seeds), 'seed')}: "
        f"{plural(len(study.trials), 'finished trial')}{', ' + ', '.join(lost) if lost else ''}."
    )


def _highest(board: Sequence[Row]) -> str:
    ranked = [row for row in board if row.ranked]
    if not ranked:
        return "No arm is ranked: see the reasons in the table."
    means = {row.arm.name: certain(row.arm.estimate(PRIMARY)) for row in ranked}
    best = means[ranked[0].arm.name]
    level = [name for name, value in means.items() if percent(value.mean) == percent(best.mean)]
    alone = len(level) == 1 and best.low is not None
    low_high = f" (95 % CI {percent(best.low)} to {percent(best.high)})" if alone else ""
    verb = "has" if len(level) == 1 else "share"
    return f"{listed(level)} {verb} the highest mean of average accuracy, {percent(best.mean)} %{low_high}."


def _tests(study: Study, board: Sequence[Row]) -> str:
    """What the paired tests against plain LoRA allow to say."""
    if study.reference is None:
        return "There is no arm of plain LoRA, so no difference was tested."
    tested = [(row.arm.name, certain(row.difference), row.p_holm) for row in board if row.p_holm is not None]
    if not tested:
        return "No difference to plain LoRA was tested: that takes two ranked arms, one of them plain LoRA."
    clear = [one for one in tested if one[2] < LEVEL]
    if not clear:
        floor = min(smallest_p(gap.pairs) for _, gap, _ in tested) * len(tested)
        why = (
            " With so few pairs no difference, however large, could have been."
            if floor >= LEVEL
            else " The order of the means is not evidence of an order of the methods."
        )
        return f"No paired difference to plain LoRA in average accuracy is significant (Holm, 5 %).{why}"
    parts = []
    for word, sign in (("above", 1), ("below", -1)):
        same = [one for one in clear if one[1].mean * sign > 0]
        if same:
            each = [f"{name} ({points(gap.mean)} points, p {_equals(p)})" for name, gap, p in same]
            parts.append(f"{listed(each)} {word} plain LoRA")
    others = "" if len(clear) == len(tested) else " The other differences to plain LoRA are not significant."
    return (
        f"Significant in paired tests of average accuracy (Holm, 5 %): {'; '.join(parts)}.{others} "
        "Differences between the other arms were not tested."
    )


def _equals(p: float) -> str:
    text = p_text(p)
    return text if text.startswith("<") else f"= {text}"


def _least_forgetting(board: Sequence[Row]) -> str:
    trained = [(row.arm, row.arm.estimate("forgetting")) for row in board if row.ranked and row.arm.method != "frozen"]
    known = [(arm, value) for arm, value in trained if value]
    if len(known) < 2:
        return ""
    arm, value = min(known, key=lambda pair: (pair[1].mean, pair[0].name))
    learnt = certain(arm.estimate("learning_accuracy"))
    return (
        f"The lowest mean forgetting of the arms that train is that of {arm.name}: {number(value.mean, 1, 100)} points"
        f"{' ' + interval(value) if value.low is not None else ''}, at a learning accuracy of {percent(learnt.mean)} %"
        " (not tested)."
    )


def notes(study: Study, board: Sequence[Row]) -> list[str]:
    """What a reader must know before quoting a number."""
    found = [
        "Intervals are 95 % t intervals over trials, with the study's orders as fixed strata. They are about these "
        "orders, tasks and base model, and are not adjusted for the number of arms. ± is the standard error of one "
        "trial's score over the test items.",
    ]
    if any(row.difference for row in board):
        found.append("Differences are paired: same order and seed. p is from a two-sided sign-flip test, then Holm's.")
    found += _power(board) + _standing(study, board)
    if study.quarantined:
        found.append(f"Damaged record files were left out: {', '.join(study.quarantined)}.")
    varying = [
        f"{kind} ({', '.join(names)})"
        for kind, names in (
            ("training", study.common(lambda record: record.spec.training)[1]),
            ("scoring", study.common(lambda record: record.spec.scoring)[1]),
            ("probes", study.common(lambda record: {"probes": list(record.spec.probes)})[1]),
        )
        if names
    ]
    if varying:
        found.append(f"Not all trials share the same settings: {'; '.join(varying)} vary.")
    if cut := _truncated(study):
        found.append(f"Items longer than the context lost their beginning, as in lm-eval: {cut}.")
    if any(trial.matrix is None for trial in study.trials):
        found.append("Some tasks have a metric where lower is better: their trials have no average accuracy.")
    if any(trial.record.costs.shared_by > 1 for trial in study.trials):
        found.append(
            "Trials were trained side by side in packs: seconds and kWh are a pack's divided by its trials, "
            "tokens a second and peak memory are those of the whole pack."
        )
    return found


def _truncated(study: Study) -> str:
    """``task (3 of 500 items)`` for every task and probe where that happened."""
    columns = [column for trial in study.trials for column in (trial.record.tasks | trial.record.probes).items()]
    cut = {name: f"{name} ({scores.truncated} of {scores.items} items)" for name, scores in columns if scores.truncated}
    return ", ".join(cut[name] for name in sorted(cut))


def _power(board: Sequence[Row]) -> list[str]:
    """Where the number of pairs alone forbids a small p."""
    tested = [certain(row.difference).pairs for row in board if row.p is not None]
    found = []
    for pairs in sorted(set(tested)):
        first = smallest_p(pairs) * len(tested)
        if smallest_p(pairs) >= LEVEL:
            found.append(f"{plural(pairs, 'pair')} cannot go below p = {p_text(smallest_p(pairs))}, whatever the data.")
        elif first >= LEVEL:
            found.append(
                f"With {pairs} pairs and {len(tested)} arms compared, Holm's first step cannot go below "
                f"p = {p_text(first)}, whatever the data."
            )
    return found


def _standing(study: Study, board: Sequence[Row]) -> list[str]:
    """Provisional, incomplete and untuned arms."""
    found = []
    few = [row.arm.name for row in board if row.arm.trials and row.arm.seeds < LEAST_SEEDS]
    if few:
        found.append(f"Provisional, with fewer than {LEAST_SEEDS} seeds, and not ranked: {', '.join(few)}.")
    broken = [row.arm.name for row in board if any(row.arm.failures().values())]
    if broken:
        found.append(
            f"Not ranked, because trials diverged, failed or are missing: {', '.join(broken)}. "
            "Their means are over the trials that finished, which can flatter them."
        )
    specs = {a.name: [record.spec for record in study.records if record.spec.arm == a.name] for a in study.arms}
    untuned = [name for name, own in specs.items() if own and not all(spec.tuned for spec in own)]
    trained = [name for name, own in specs.items() if own and own[0].method != "frozen"]
    if trained and set(trained) <= set(untuned):
        found.append("No arm was tuned: each ran with one fixed setting, and another setting may change the order.")
    elif left := [name for name in trained if name in untuned]:
        found.append(f"Not tuned, while others were: {', '.join(left)}. The comparison favours the tuned arms.")
    tried = {name: max(spec.settings_tried for spec in specs[name]) for name in trained}
    if len(set(tried.values())) > 1:
        each = ", ".join(f"{name} {count}" for name, count in sorted(tried.items()))
        found.append(f"The tuning budgets differ (settings tried: {each}).")
    return found
