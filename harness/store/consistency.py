"""Whether a record says one thing: what a person or a script has edited does not fit the rest of it.

A record holds the same fact more than once: its spec makes its fingerprint, the items' correctness makes a score and
its standard error, the ends of a curve are entries of the matrix, intruders of the types of projection add up.  So an
edited number shows without a checksum, and a record that was written before there was a check can be checked.
"""

from __future__ import annotations

import binascii
import math
from collections.abc import Iterator

from harness.store.intruders import Intruders
from harness.store.records import BaseRecord, TaskScores, TrialRecord

#: A score is a mean of zeros and ones in fp64, whose sum may have been taken in another order.
ROUNDING = 1e-9
#: What a metric can be; of others nothing is known.
RANGES = {
    **dict.fromkeys(("acc", "acc_norm", "exact_match", "f1", "em"), (0.0, 1.0)),
    **dict.fromkeys(("rouge_l", "edit_similarity", "sari"), (0.0, 1.0)),  # harness.scoring.metrics
    **dict.fromkeys(("bits_per_byte", "word_perplexity", "byte_perplexity", "perplexity"), (0.0, math.inf)),
}


def misfit(record: TrialRecord) -> str | None:
    """What of a record does not fit the rest of it, in words; ``None`` where all of it fits."""
    return next(_misfits(record), None)


def misfit_of_base(base: BaseRecord) -> str | None:
    """The same of the base model's scores, which become row 0 of every trial's matrix."""
    for name, score in base.scores.items():
        column = TaskScores(
            metric=score.metric,
            higher_is_better=score.higher_is_better,
            items=score.items,
            chance=score.chance,
            score=(score.score,),
            stderr=(score.stderr,),
            correct=(score.correct,),
        )
        for problem in _scores(column):
            return f"{name}: {problem}"
    return None


def _misfits(record: TrialRecord) -> Iterator[str]:
    if record.spec.fingerprint != record.fingerprint:
        yield "its spec is that of another trial: it gives another fingerprint"
    for name, scores in (record.tasks | record.probes).items():
        yield from (f"{name}: {problem}" for problem in _scores(scores))
    if record.status == "ok":
        yield from _names(record)
        yield from _curves(record)
    for stage, intruders in enumerate(record.intruders, start=1):
        if intruders is not None:
            yield from (f"intruders after task {stage}: {problem}" for problem in _intruders(intruders))


def _names(record: TrialRecord) -> Iterator[str]:
    for what, have, wanted in (
        ("tasks", record.tasks, record.spec.stream),
        ("probes", record.probes, record.spec.probes),
    ):
        if set(have) != set(wanted):
            yield f"its {what} are {', '.join(sorted(have)) or 'none'}; its spec asks for {', '.join(wanted) or 'none'}"


def _scores(scores: TaskScores) -> Iterator[str]:
    """Scores against the items that were right, where these are known."""
    if scores.items < 1:
        yield f"{scores.items} items"
        return
    if scores.correct and len(scores.correct) != len(scores.score):
        yield f"{len(scores.score)} scores, and the items of {len(scores.correct)}"
        return
    least, most = RANGES.get(scores.metric, (-math.inf, math.inf))
    for stage, score in enumerate(scores.score):
        if score is not None and not least <= score <= most:
            yield f"the score after task {stage} is {score}, and {scores.metric} is from {least:g} to {most:g}"
    bits = scores.correct or (None,) * len(scores.score)
    for stage, (score, error, right) in enumerate(zip(scores.score, scores.stderr, bits, strict=True)):
        if right is None:
            continue
        count = _ones(right, scores.items)
        if count is None:
            yield f"the items after task {stage} are not {scores.items} bits"
            continue
        mean = count / scores.items
        if score is None or abs(score - mean) > ROUNDING:
            yield f"the score after task {stage} is {score}, and {mean:.6g} of its items are right"
        if error is not None and scores.items > 1:
            wanted = math.sqrt(mean * (1 - mean) / (scores.items - 1))
            if abs(error - wanted) > ROUNDING:
                yield f"the standard error after task {stage} is {error}, of its items {wanted:.6g}"


def _ones(text: str, items: int) -> int | None:
    """How many bits are 1 in what ``pack_bits`` makes of so many items; None where this is something else."""
    try:
        data = binascii.a2b_base64(text, strict_mode=True)
    except ValueError:
        return None
    return (int.from_bytes(data) >> -items % 8).bit_count() if len(data) == -(-items // 8) else None


def _curves(record: TrialRecord) -> Iterator[str]:
    """Both ends of a curve are entries of the matrix, and the points between them shares of the items.

    So are a student's points, the first of which is the base model's score.
    """
    for stage, curve in enumerate(record.curves):
        scores = record.tasks.get(curve.task)
        if stage >= len(record.spec.stream) or scores is None or curve.task != record.spec.stream[stage]:
            yield f"curve number {stage + 1} is of {curve.task}"
            continue
        ends = (scores.score[stage], scores.score[stage + 1])
        if not len(curve.examples) == len(curve.score) == len(curve.tokens) >= 2:
            yield f"the curve of {curve.task} has points without a score, examples or tokens"
        elif curve.student and (record.facts.scored != "average" or len(curve.student) != len(curve.score)):
            yield f"the curve of {curve.task} has {len(curve.student)} points of a student beside {len(curve.score)}"
        elif curve.student and not stage and abs(curve.student[0] - curve.score[0]) > ROUNDING:
            yield f"the student's curve of {curve.task} starts at {curve.student[0]}, the base is at {curve.score[0]}"
        elif any(end is None or abs(end - have) > ROUNDING for end, have in zip(ends, _ends(curve.score), strict=True)):
            yield f"the curve of {curve.task} ends at {_ends(curve.score)}, the matrix has {ends}"
        elif any(scores.correct) and (
            odd := next((s for s in (*curve.score, *curve.student) if not _share(s, scores.items)), None)
        ):
            yield f"the curve of {curve.task} has a score of {odd}, which is no share of {scores.items} items"


def _ends(values: tuple[float, ...]) -> tuple[float, float]:
    return values[0], values[-1]


def _share(score: float, items: int) -> bool:
    return 0 <= score <= 1 and abs(score * items - round(score * items)) < items * ROUNDING


def _intruders(intruders: Intruders) -> Iterator[str]:
    if intruders.by_epsilon.get("0.5", intruders.count) != intruders.count:
        yield f"{intruders.count}, and {intruders.by_epsilon['0.5']} at 0.5"
    for places, what in ((intruders.by_type, "type of projection"), (intruders.by_layer, "layer")):
        if places and sum(places.count.tolist()) != intruders.count:
            yield f"{intruders.count}, and {sum(places.count.tolist())} by {what}"
