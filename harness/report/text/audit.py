"""What an audit's page says in words: a verdict no stronger than the numbers, and what must be known to quote them."""

from __future__ import annotations

from collections.abc import Sequence

from harness.report import metrics, sequence
from harness.report.metric import Metric
from harness.report.numbers import NOTHING, listed, number, p_text, percent, plural, points
from harness.report.text.notes import RERUN
from harness.store.audit import AuditChange, AuditedAdapter, AuditRecord, AuditTask


def score_text(task: AuditTask, score: float, stderr: float | None) -> str:
    """A score with its standard error: 56.3 ± 6.2 in per cent, or in the unit of the metric."""
    if not task.higher_is_better:
        return number(score, 3) + (f" ± {number(stderr, 3)}" if stderr is not None else "")
    return percent(score) + (f" ± {percent(stderr)}" if stderr is not None else "")


def change_text(task: AuditTask, change: AuditChange) -> str:
    """A difference with its standard error: −5.2 ± 1.1."""
    if not task.higher_is_better:
        error = "" if change.stderr is None else f" ± {number(change.stderr, 3)}"
        return number(change.difference, 3, sign=True) + error
    return points(change.difference) + (f" ± {percent(change.stderr)}" if change.stderr is not None else "")


def of_sequence(record: AuditRecord) -> list[tuple[Metric, str]]:
    """Metrics of the accuracy matrix of the base and the adapters, each with its unit; a dash where not defined."""
    values = [(metrics.metric(name), value) for name, value in sequence.of_sequence(record.matrix()).items()]
    return [(metric, NOTHING if value is None else f"{metric.text(value)} {metric.unit}") for metric, value in values]


def verdict(record: AuditRecord) -> list[str]:
    """A paragraph per adapter, after one on the training run where the adapters come from one."""
    paragraphs = [" ".join(_about(record, adapter)) for adapter in record.adapters]
    return [_stream(record), *paragraphs] if record.continual else paragraphs


def _stream(record: AuditRecord) -> str:
    known = [f"{metric.name_in_sentence} {text}" for metric, text in of_sequence(record) if text != NOTHING]
    names = " → ".join(task.name for task in record.stream)
    return f"As one training run on {names}, each adapter saved after its task: {listed(known)}."


def _about(record: AuditRecord, adapter: AuditedAdapter) -> list[str]:
    if adapter.status != "ok":
        return [f"{adapter.name} gives log-probabilities that are not finite, so it has no scores."]
    sentences = [
        sentence
        for probe in (True, False)
        for sentence in _against_base(adapter, [task for task in record.tasks if task.probe == probe])
    ]
    if others := [task for task in record.tasks if adapter.changes[task.name].clear is None]:
        each = [f"{t.name} ({change_text(t, adapter.changes[t.name])} {_unit(t)})" for t in others]
        sentences.append(f"Not judged, for want of items: {listed(each)}.")
    taken = adapter.intruders
    count = (
        f"{taken.count} intruder dimension{'' if taken.count == 1 else 's'}"
        if taken.count
        else "no intruder dimensions"
    )
    return [*sentences, f"Its {_matrices(taken.matrices)} {count} (intruder distance {number(taken.distance, 5)})."]


def _matrices(count: int) -> str:
    return "one adapted matrix has" if count == 1 else f"{count} adapted matrices have"


def _against_base(adapter: AuditedAdapter, tasks: Sequence[AuditTask]) -> list[str]:
    """Sentences: on which ``tasks``, all probes or all tasks, the adapter is clearly better or worse than the base."""
    judged = [task for task in tasks if adapter.changes[task.name].clear is not None]
    sentences = []
    for word, sign in (("worse than", 1), ("better than", -1)):
        clear = [t for t in judged if adapter.changes[t.name].clear and adapter.changes[t.name].loss * sign > 0]
        if clear:
            each = [f"{t.name} ({_change(t, adapter.changes[t.name])})" for t in clear]
            sentences.append(
                f"On {_of(len(clear), judged)} {adapter.name} is {word} the base by more than two standard errors: "
                f"{listed(each)}."
            )
    if judged and not sentences:
        sentences.append(f"On {_of(len(judged), judged)} {adapter.name} is within two standard errors of the base.")
    return sentences


def _change(task: AuditTask, change: AuditChange) -> str:
    sure = "" if change.p is None else f", p {_equals(change.p)}"
    return f"{change_text(task, change)} {_unit(task)}{sure}"


def _equals(p: float | None) -> str:
    text = p_text(p)
    return text if text.startswith("<") else f"= {text}"


def _unit(task: AuditTask) -> str:
    return "points" if task.higher_is_better else task.metric.replace("_", " ")


def _of(some: int, tasks: Sequence[AuditTask]) -> str:
    """``2 of 3 judged probes``, ``all 3 judged probes`` or ``the one judged task``."""
    kind = f"judged {'probe' if tasks[0].probe else 'task'}"
    if len(tasks) == 1:
        return f"the one {kind}"
    return f"all {some} {kind}s" if some == len(tasks) else f"{some} of {len(tasks)} {kind}s"


def notes(record: AuditRecord) -> list[str]:
    """What a reader must know before quoting a number."""
    changes = [(task, a.changes[task.name]) for a in record.adapters if a.changes for task in record.tasks]
    tested = [(task, change) for task, change in changes if change.clear is not None]
    sentences = [
        "± is one standard error over the items of the task. Differences are paired: the base answered the same items, "
        "and where items are right or wrong only those whose answer changed count. p is that of McNemar's exact test.",
        "An adapter is one training run. The intervals are over test items, so they say nothing of what another seed "
        "or another order would have given.",
        RERUN,
    ]
    if tested:
        unseen = max((2 * (c.stderr or 0) for task, c in tested if task.higher_is_better and not c.clear), default=0)
        sentences.append(
            f"{plural(len(tested), 'difference')} tested, none adjusted for their number: where nothing has changed, "
            "about one in 20 is beyond two standard errors."
            + (f" Differences up to about {number(unseen, 1, 100)} points can stay unseen here." if unseen else "")
        )
    return sentences + _sequence(record) + _bases(record) + _weak(record)


def _sequence(record: AuditRecord) -> list[str]:
    count, tasks = len(record.adapters), len(record.stream)
    if record.sequence:
        why = (
            "" if record.continual else " Its metrics need scores of every adapter, and higher is better for each task."
        )
        return [
            "There are as many adapters as tasks, so they were taken as one training run, number i saved after task i "
            f"(--independent turns that off).{why}"
        ]
    if count > 1 and tasks > 1:
        return [f"The adapters ({count}, with {tasks} tasks) were taken as independent of each other."]
    return []


def _bases(record: AuditRecord) -> list[str]:
    unknown = [adapter.name for adapter in record.adapters if adapter.file.names_base is None]
    sentences = []
    if unknown:
        sentences.append(
            f"No base is recorded in {listed(unknown)}: that it was made for {record.model} was taken on trust."
        )
    sentences += [
        f"{adapter.name} was made for {adapter.file.base_named}, it says, and was scored on {record.model} as asked."
        for adapter in record.adapters
        if adapter.file.names_base is False
    ]
    return sentences


def _weak(record: AuditRecord) -> list[str]:
    """Tasks on which the base can't lose much, and adapters that are the same file."""
    low = [
        task.name for task in record.tasks
        if task.chance is not None and task.base.stderr is not None
        and task.base.score - task.chance <= 2 * task.base.stderr
    ]  # fmt: skip
    sentences = []
    if cut := [f"{task.name} ({task.truncated})" for task in record.tasks if task.truncated]:
        sentences.append(f"Items longer than the context lost their beginning: {listed(cut)}.")
    if low:
        sentences.append(
            f"The base is within two standard errors of chance, or below it, on {listed(low)}: there is little to "
            "forget there."
        )
    files: dict[str, list[str]] = {}
    for adapter in record.adapters:
        files.setdefault(adapter.file.sha256, []).append(adapter.name)
    sentences += [f"{listed(names)} have the same weights file." for names in files.values() if len(names) > 1]
    return sentences


def standing(adapter: AuditedAdapter, tasks: Sequence[AuditTask]) -> str:
    """``1 above, 0 below, 2 unclear`` of the tasks given."""
    changes = [adapter.changes[task.name] for task in tasks if task.name in adapter.changes]
    if not changes:
        return NOTHING
    below = sum(bool(change.clear) and change.loss > 0 for change in changes)
    above = sum(bool(change.clear) and change.loss < 0 for change in changes)
    return f"{above} above, {below} below, {len(changes) - above - below} unclear"
