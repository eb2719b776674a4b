"""The accuracy matrix of every arm."""

from __future__ import annotations

import numpy as np

from harness.report.arms import Arm
from harness.report.figures.heat_maps import heat_maps
from harness.report.figures.palette import Look
from harness.report.figures.parts import Drawing, Rows, drawn_arms, empty
from harness.report.study import StudyResults


def mean_matrix(arm: Arm, order: str | None = None) -> np.ndarray | None:
    """Mean (T+1) x T matrix of the arm's trials, orders with the same weight; None without a comparable shape."""
    by_order: dict[str, list[np.ndarray]] = {}
    for trial in arm.trials:
        if trial.matrix is not None and order in (None, trial.record.spec.order):
            by_order.setdefault(trial.record.spec.order, []).append(trial.matrix)
    means = [np.mean(group, axis=0) for group in by_order.values()]
    return np.mean(means, axis=0) if means and len({mean.shape for mean in means}) == 1 else None


def accuracy_matrix(study: StudyResults, styles: dict[str, Look]) -> Drawing:
    """A heat map per arm; with several orders the columns are positions in the stream, and the CSV has every order.

    Controls stand in rows of panels below the contestants.
    """
    columns = ("arm", "order", "after_task", "position", "task", "mean", "trials")
    streams = study.streams
    rows: Rows = []
    arms = [(arm, matrix) for arm in drawn_arms(study, styles) if (matrix := mean_matrix(arm)) is not None]
    for arm, _ in arms:
        for order, stream in streams.items():
            matrix = mean_matrix(arm, order)
            count = sum(trial.record.spec.order == order for trial in arm.trials)
            for (stage, column), value in np.ndenumerate(matrix) if matrix is not None else ():
                rows.append(
                    {
                        "arm": arm.name,
                        "order": order,
                        "after_task": stage,
                        "position": column + 1,
                        "task": stream[column],
                        "mean": value,
                        "trials": count,
                    }
                )
    if not arms:
        return empty("No accuracy matrix: the tasks' metrics are not higher-is-better."), columns, rows
    tasks = arms[0][1].shape[1]
    single = len(set(streams.values())) == 1
    names = list(next(iter(streams.values()))) if single else [f"task {i + 1}" for i in range(tasks)]
    blocks = [[(arm.name, matrix) for arm, matrix in arms if arm.control is control] for control in (False, True)]
    return heat_maps([block for block in blocks if block], names, styles), columns, rows
