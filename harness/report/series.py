"""A study's numbers over the steps of each trial, as experiment trackers take them: curves, scores, the final board.

Everything of a trial stands on one axis that only rises, its optimizer steps through the whole stream: trackers refuse
a step that is smaller than one they were given before.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from statistics import fmean

from harness.report import leaderboard, leaderboard_csv
from harness.report.study import StudyResults
from harness.report.trial import Trial
from harness.store.records import TrialRecord

Value = str | float | int | bool
#: Step -> values by name.
Points = dict[int, dict[str, float]]
VERSION = "schema_version"  #: the column of leaderboard.csv that is no number of an arm
BOARD = "board"  #: the run that has the final board


@dataclass(frozen=True)
class Series:
    """What is logged as one run: its settings, and values by rising step."""

    name: str
    group: str
    settings: Mapping[str, Value]
    points: Sequence[tuple[int, Mapping[str, float]]]


def series_of(study: StudyResults) -> Iterator[Series]:
    """Every finished trial of the study; its records hold their losses."""
    for trial in study.trials:
        spec = trial.record.spec
        name = _plain(f"{spec.arm}/{spec.order}/seed{spec.seed}-{trial.record.fingerprint[:8]}")
        yield Series(name, spec.arm, _settings(trial.record), _named(_points(trial)))


def board_of(study: StudyResults) -> Series:
    """The board: ``<column>/<arm>`` for every number of ``leaderboard.csv``, signs such as @ as dashes."""
    values = {}
    for line in leaderboard_csv.table(leaderboard.rows(study), partial=study.partial):
        values |= {f"{column}/{line['method']}": float(each) for column, each in line.items()
                   if isinstance(each, int | float) and not isinstance(each, bool) and column != VERSION}  # fmt: skip
    return Series(BOARD, BOARD, {"study": study.name, "trials": len(study.trials)}, _named({0: values}))


def _plain(name: str) -> str:
    """A name that is the same in every tracker: each refuses or replaces other signs, as @ and = of arms."""
    return re.sub(r"[^A-Za-z0-9_./-]", "-", name)


def _named(points: Points) -> list[tuple[int, dict[str, float]]]:
    """Numbers of every step under plain names; of two that would share one, each after the first has a number."""
    names: dict[str, str] = {}
    for name in dict.fromkeys(name for numbers in points.values() for name in numbers):
        plain, count = _plain(name), 2
        while plain in names.values():
            plain, count = f"{_plain(name)}-{count}", count + 1
        names[name] = plain
    return [(step, {names[name]: value for name, value in points[step].items()}) for step in sorted(points)]


def _settings(record: TrialRecord) -> dict[str, Value]:
    spec, adapter = record.spec, record.spec.training["adapter"]
    plain = {
        "study": record.study, "trial": record.fingerprint, "arm": spec.arm, "method": spec.method, "order": spec.order,
        "stream": " ".join(spec.stream), "seed": spec.seed, "model": spec.model, "commit": record.commit or "",
        **{f"adapter/{key}": " ".join(value) if isinstance(value, list | tuple) else value
           for key, value in adapter.items()},
        **{f"training/{key}": value for key, value in spec.training.items() if key != "adapter"},
        **{f"setting/{key}": value for key, value in spec.parameters.items()},
    }  # fmt: skip
    return {key: value if isinstance(value, Value) else str(value) for key, value in plain.items()}


def _points(trial: Trial) -> Points:
    record = trial.record
    points: Points = defaultdict(dict)
    starts = _starts(record)
    for start, losses in zip(starts, record.train_loss, strict=False):
        for step, loss in enumerate(losses.tolist(), start=start + 1):
            points[step]["train/loss"] = float(loss)
    for (start, end), curve in zip(pairwise(starts), record.curves, strict=False):
        for examples, score in zip(curve.examples, curve.score, strict=True):
            points[start + (end - start) * examples // max(curve.examples[-1], 1)][f"learning/{curve.task}"] = score
    for stage, step in enumerate(starts):
        for kind, columns in (("task", record.tasks), ("probe", record.probes)):
            for name, scores in columns.items():
                if (score := scores.score[stage]) is not None:
                    points[step][f"{kind}/{name}"] = score
        if stage and trial.matrix is not None:
            points[step]["stream/average_accuracy_so_far"] = fmean(trial.matrix[stage][:stage].tolist())
        taken = record.intruders[stage - 1] if stage and len(record.intruders) >= stage else None
        if taken is not None:
            points[step] |= {"weights/intruders": taken.count, "weights/intruder_distance": taken.distance}
    points[starts[-1]] |= {f"final/{name}": value for name, value in trial.metrics.items() if value is not None}
    return points


def _starts(record: TrialRecord) -> list[int]:
    """The step at which each task of the stream begins, and that of the end."""
    training, tasks = record.spec.training, len(record.spec.stream)
    usual = training["examples"] // training["batch"] if "examples" in training else 1
    each = [len(losses) for losses in record.train_loss] if len(record.train_loss) == tasks else [usual] * tasks
    return [sum(each[:at]) for at in range(tasks + 1)]
