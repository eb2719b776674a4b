"""The answer at the top of the page: three sentences from the statistics, never stronger than they are.

One on accuracy, one on forgetting, learning speed, plain text and intruder dimensions, one on how sure that is and
what it costs.
Every claim of a difference to the reference is a paired t test with Holm over the contestants, and every claim of a
winner a test of all pairs; what was not tested is not claimed, and controls win nothing.
"""

from __future__ import annotations

from collections.abc import Sequence

from harness.analysis.statistics import LEVEL, Paired
from harness.report import metrics
from harness.report.arms import Arm
from harness.report.estimates import certain
from harness.report.leaderboard import Board, BoardRow
from harness.report.metric import Metric
from harness.report.metrics import PRIMARY
from harness.report.numbers import interval, joined, listed, number, p_text, percent, plural, points
from harness.report.study import StudyResults

#: The tests of all pairs at once, by the name of their kind.
TESTS = {"range": "Tukey's range", "max-T": "the largest t of all pairs, labels permuted"}
#: What to know of a report that comes half-way.
WILL_CHANGE = (
    "The others have no record yet. Every number, the order of the arms and every test will change; a study that is "
    "stopped when a test says what one hopes finds what is not there."
)
#: Names in a sentence before the rest is counted.
NAMES = 4


def scope(study: StudyResults) -> str:
    """What ran, in a line."""
    streams, seeds = study.streams, {trial.record.spec.seed for trial in study.trials}
    lengths = sorted({len(stream) for stream in streams.values()})
    tasks = plural(lengths[0], "task") if len(lengths) == 1 else f"{lengths[0]} to {lengths[-1]} tasks"
    counts = {word: sum(arm.failures()[word] for arm in study.arms) for word in ("diverged", "failed", "missing")}
    lost = [f"{count} {word}" for word, count in counts.items() if count]
    return (
        f"{plural(len(study.arms), 'arm')}, {tasks} in {plural(len(streams), 'order')}, {plural(len(seeds), 'seed')}: "
        f"{plural(len(study.trials), 'finished trial')}{', ' + ', '.join(lost) if lost else ''}. {_size(study)}"
    )


def _size(study: StudyResults) -> str:
    """A sentence: how much a trial trains on and is asked, and whether its settings were chosen; empty of no trial."""
    trained = [arm for arm in study.arms if arm.records and arm.trains]
    if not trained:
        return ""
    records = [record for arm in trained for record in arm.records]
    seen = {curve.examples[-1] for record in records for curve in record.curves}
    # Before a trial has finished nothing tells how many of them its tasks have.
    asked = {int(record.spec.training.get("examples", 0)) for record in records}
    examples = _range(seen) if seen else f"At most {_range(asked)}"
    items = {scores.items for record in records for scores in record.tasks.values()}
    tuned = sum(arm.tuned for arm in trained)
    how = (
        "every trained arm is tuned"
        if tuned == len(trained)
        else "no arm is tuned"
        if not tuned
        else (f"{tuned} of {len(trained)} trained arms are tuned")
    )
    return f"{examples} training examples and {_range(items)} scored items a task; {how}."


def _range(numbers: set[int]) -> str:
    low, high = min(numbers, default=0), max(numbers, default=0)
    return f"{low:,}" if low == high else f"{low:,} to {high:,}"


def halfway(study: StudyResults) -> str:
    """What a report is called that comes before all trials have a record; empty for one that is whole."""
    return f"Partial: {len(study.records)} of {study.planned} trials" if study.partial else ""


def opening(study: StudyResults, board: Board) -> str:
    """The first sentence of the answer, after one that says of a partial report that it is one."""
    so_far = f"{halfway(study)} so far. " if study.partial else ""
    return so_far + answer(study, board)[0]


def answer(study: StudyResults, board: Board) -> list[str]:
    """The three sentences."""
    return [_accuracy(study, board), _others(study, board), _certainty(study, board)]


def _accuracy(study: StudyResults, board: Board) -> str:
    contestants = [row for row in board if row.contends]
    if not contestants:
        return "No contestant is ranked, so no arm is called better or worse than another: the board says why."
    best = board.best
    value = certain(best[0].arm.estimate(PRIMARY))
    if len(best) > 1:
        text = f"{_names(best)} tie exactly: they have the highest mean of average accuracy, {percent(value.mean)} %"
    else:
        ends = f" (95 % CI {percent(value.low)} to {percent(value.high)})" if value.low is not None else ""
        text = f"{best[0].arm.name} has the highest mean of average accuracy, {percent(value.mean)} %{ends}"
    text += _by_how_much(study, best)
    return f"{text}{beyond(board, contestants, best)}; {_against_reference(study, board, PRIMARY)}."


def _by_how_much(study: StudyResults, best: Sequence[BoardRow]) -> str:
    """A clause: the best arm's difference to its reference; empty where it is that, or has none."""
    gap = next((row.difference for row in best if row.difference), None)
    if gap is None or len(best) > 1:
        return ""
    return f", {joined(f'{points(gap.mean)} points', interval(gap.estimate, points))} against {study.called}"


def beyond(board: Board, contestants: Sequence[BoardRow], best: Sequence[BoardRow]) -> str:
    """A clause: what the tests of all pairs say of the best and the other contestants."""
    if len(best) == len(contestants):
        return ""
    if board.groups.test is None:
        return f", but whether any contestant is better than another is not testable ({board.groups.untested})"
    tied = [row for row in contestants if row.group == 1 and row not in best]
    if tied:
        return f", and {_names(tied)} cannot be told apart from {'them' if len(best) > 1 else 'it'}"
    return f", significantly above every other contestant ({TESTS[board.groups.test]}, 5 % over all pairs)"


def _against_reference(study: StudyResults, board: Sequence[BoardRow], metric: str) -> str:
    """A clause: the significant differences in the primary outcome."""
    if study.reference is None:
        return "there is no arm of plain LoRA to compare with, and the study names no other"
    tested = [row for row in board if metric in row.tested and row.tested[metric].p_holm is not None]
    untestable = [row for row in board if row.untestable]
    left = f", and {_names(untestable)} could not be tested: the pairs show no spread" if untestable else ""
    if not tested:
        return (
            f"no difference to {study.called} was tested, which takes two ranked contestants, one of them the reference"
            f"{left}"
        )
    clear = _clear(tested, metric)
    if not clear:
        return f"no contestant differs significantly from {study.called} in accuracy{left}"
    parts = []
    for word, sign in (("above", 1), ("below", -1)):
        same = [row for row, gap in clear if gap.mean * sign > 0]
        if same:
            p = max(certain(row.tested[metric].p_holm) for row in same)
            size = f"{_sizes(same, metrics.metric(metric))}, p {_equals(p, len(same))}"
            are = "are" if len(same) > 1 else "is"
            parts.append(f"{_names(same)} {are} significantly {word} {study.called} ({size})")
    it = "it" if len(study.partners) == 1 else study.called
    others = (
        "" if len(clear) == len(tested) else f", and no other contestant differs significantly from {it} in accuracy"
    )
    return " and ".join(parts) + others + left


def _clear(rows: Sequence[BoardRow], metric: str) -> list[tuple[BoardRow, Paired]]:
    """Rows with a significant difference in a metric."""
    tests = [(row, row.tested[metric]) for row in rows if metric in row.tested]
    return [(row, test.gap) for row, test in tests if test.p_holm is not None and test.p_holm < LEVEL]


def _others(study: StudyResults, board: Sequence[BoardRow]) -> str:
    # A model that is never trained forgets nothing and has no intruders: that is not a merit, and controls have none.
    trained = [row for row in board if row.arm.trains and not row.arm.control]
    lowest = _lowest_forgetting(trained)
    if study.reference is None:
        return f"Without a reference nothing is tested of forgetting, learning speed, plain text and intruders{lowest}."
    clauses, level, unknown = [], [], []
    for metric in (each for each in metrics.secondary() if each.answered):
        name = metric.name_in_sentence
        known = [r for r in trained if metric.name in r.tested and r.tested[metric.name].p_holm is not None]
        if not known:
            unknown.append(name)
            continue
        clear = _clear(known, metric.name)
        for word, sign in (("lower", -1), ("higher", 1)):
            same = [row for row, gap in clear if gap.mean * sign > 0]
            if same:
                clauses.append(f"{name} is significantly {word} for {_names(same)} ({_sizes(same, metric)})")
        if not clear:
            level.append(name)
    if level:
        clauses.append(f"no contestant differs significantly in {_or(level)}")
    if unknown:
        clauses.append(f"{listed(unknown)} could not be tested")
    return f"Against {study.called}, {'; '.join(clauses)}{lowest}."


def _lowest_forgetting(trained: Sequence[BoardRow]) -> str:
    lowest = lowest_forgetting(trained)
    if not lowest:
        return ""
    arm = lowest[0]
    value = certain(arm.estimate("forgetting"))
    size = f"{number(value.mean, 1, 100)} points"
    if len(lowest) > 1:
        return f"; the lowest mean forgetting, {size}, is an exact tie of {some([arm.name for arm in lowest])}"
    learnt = certain(arm.estimate("learning_accuracy"))
    return (
        f"; the lowest mean forgetting of the contestants is that of {arm.name}, {joined(size, interval(value))} at a "
        f"learning accuracy of {percent(learnt.mean)} %"
    )


def lowest_forgetting(rows: Sequence[BoardRow]) -> list[Arm]:
    """The ranked arms with the lowest mean forgetting: several where they tie exactly, none of fewer than two."""
    known = {row.arm.name: value.mean for row in rows if row.ranked and (value := row.arm.estimate("forgetting"))}
    if len(known) < 2:
        return []
    least = min(round(mean, 12) for mean in known.values())
    return [row.arm for row in rows if row.arm.name in known and round(known[row.arm.name], 12) == least]


def _certainty(study: StudyResults, board: Sequence[BoardRow]) -> str:
    tested = [row for row in board if row.p is not None]
    detectable = [row.detectable for row in tested if row.detectable is not None]
    pairs = max((certain(row.difference).pairs for row in tested), default=0)
    if not tested:
        sure = "How sure: nothing was tested, so the means and intervals describe these trials and decide nothing"
    elif not detectable:
        sure = f"How sure: {plural(pairs, 'pair')} without any spread, which say nothing of what could be found"
    else:
        low, high = number(min(detectable), 1, 100), number(max(detectable), 1, 100)
        sure = (
            f"How sure: with {plural(pairs, 'pair')} a true difference to {study.called} of "
            f"{low if low == high else f'{low} to {high}'} points, depending on the arm, is found with 80 % power"
        )
    cost = _cost(study, board)
    return f"{sure}. {cost[0].upper()}{cost[1:]}."


def _cost(study: StudyResults, board: Sequence[BoardRow]) -> str:
    """A clause: tokens of training against the reference's.  Seconds depend on the pack: a larger one shares more."""
    times = times_as_many_tokens(board)
    if not times:
        return f"what training costs against {study.called or 'a reference'} was not measured"
    written = {name: number(factor, 2) for name, factor in times.items()}
    low, high = (number(find(times.values()), 2) for find in (min, max))
    least, most = (sorted(name for name, text in written.items() if text == end) for end in (low, high))
    as_many = f"times as many tokens as that of {study.called}"
    if low == high:
        return f"training takes {low} {as_many} for {'every arm' if len(most) > 1 else most[0]}"
    ends = f"{low} ({some(least)}) to {high} ({some(most)})"
    return f"training takes {ends} {as_many}, those of teachers and samples included"


def times_as_many_tokens(board: Sequence[BoardRow]) -> dict[str, float]:
    """By arm: all tokens that went through the model in training, over those of its reference."""
    tokens = {row.arm.name: (_tokens(row.arm), _tokens(row.partner)) for row in board if row.partner}
    return {name: spent / theirs for name, (spent, theirs) in tokens.items() if spent and theirs}


def _tokens(arm: Arm) -> float:
    value = arm.estimate("training_tokens")
    return value.mean if value else 0.0


def some(names: Sequence[str]) -> str:
    """The first names, and how many more there are."""
    left = len(names) - NAMES
    return listed(names) if left <= 1 else f"{', '.join(names[:NAMES])} and {left} others"


def _names(rows: Sequence[BoardRow]) -> str:
    return some([row.arm.name for row in rows])


def _sizes(rows: Sequence[BoardRow], metric: Metric) -> str:
    """The differences of arms to their references, the largest first: ``+12.5 to +5.6 points``."""
    gaps = sorted((row.tested[metric.name].gap.mean for row in rows), key=abs, reverse=True)
    ends = dict.fromkeys([metric.change(gaps[0]), metric.change(gaps[-1])])
    return f"{' to '.join(ends)} {metric.unit_of_difference}".strip()


def _or(names: Sequence[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} or {names[-1]}"


def _equals(p: float, arms: int) -> str:
    """``= .012``; of several arms the largest: ``≤ .012``."""
    text = p_text(p)
    return text if text.startswith("<") else f"{'≤' if arms > 1 else '='} {text}"
