"""What a study asks of its tasks: a training split in a stream, rows for a batch, and for tuning a direction.

``where`` names the study's file in errors.
"""

from __future__ import annotations

from collections.abc import Mapping

from harness.data import tasks
from harness.data.tasks import PreparedTask
from harness.errors import InputError
from harness.study.config import Study


def check_streams(study: Study, where: str) -> None:
    """Every name is a task, and those in a stream can be trained on; nothing is fetched for that."""
    for name in (*study.tasks, *study.probes):
        task = tasks.load_task(name)
        if name in study.tasks and task.role == "probe":
            raise _no_training_rows(name, where)


def _no_training_rows(name: str, where: str) -> InputError:
    return InputError(
        f"task '{name}' has no training split, so it can only be a probe",
        where=f"{where}:streams",
        remedy=f"leave '{name}' out of the streams",
    )


def check_sizes(study: Study, prepared: Mapping[str, PreparedTask], where: str) -> None:
    """A stream task needs training rows for a batch at least; every scored split needs rows."""
    for name, ready in prepared.items():
        splits = ready.task.splits
        have = splits.get("train", 0)
        if name in study.tasks and not have:
            raise _no_training_rows(name, where)
        if name in study.tasks and have < study.training.batch:
            raise InputError(
                f"task '{name}' has {have} training rows, fewer than one batch ({study.training.batch})",
                where=f"{where}:streams",
                remedy=f"lower training.batch, or leave '{name}' out of the streams",
            )
        if not splits.get(study.scoring.split):
            raise InputError(
                f"task '{name}' has no rows in its {study.scoring.split} split",
                where=f"{where}:scoring.split",
                remedy="choose another split",
            )


def short_tasks(study: Study, rows: Mapping[str, int]) -> tuple[str, ...]:
    """What a person should know of tasks with fewer training ``rows`` than the study asks for."""
    own = [settings.get("examples") for settings in study.methods.values()]
    asked = [study.training.examples, *(n for entry in own for n in (entry if isinstance(entry, list) else [entry]))]
    most = max(value for value in asked if isinstance(value, int))
    fewer = {task: study.training.fitting(rows[task], most) for task in study.tasks}
    said = [f"{task} {count}" for task, count in fewer.items() if count < most]
    if not said:
        return ()
    return (f"where {most} examples a task are asked for, every arm trains on all there are, in whole batches: "
            f"{', '.join(said)}",)  # fmt: skip


def check_directions(prepared: Mapping[str, PreparedTask], where: str) -> None:
    """Tuning goes by average accuracy, which there is where every task is better the higher its score."""
    for name, ready in prepared.items():
        first = next(iter(ready.config.get("metric_list") or ()), {})
        if first.get("higher_is_better") is False:
            raise InputError(
                f"'{name}' is better the lower its {first.get('metric')}, so there is no average accuracy to tune by",
                where=f"{where}:streams",
                remedy=f"leave '{name}' out of the streams, or run the study untuned",
            )
