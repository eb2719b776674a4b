"""Experiment trackers, by accelerate's interface to them: a run each for what is logged.

Where a tracker keeps its runs, under which account, and whether it is online is its own setting (``WANDB_MODE``,
``MLFLOW_TRACKING_URI``, ...).
"""

from __future__ import annotations

import importlib
import importlib.util
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from harness.errors import InputError, LorabenchError

if TYPE_CHECKING:
    from accelerate.tracking import GeneralTracker

#: Name -> the module that has to be installed, which the extra of that name brings along.
TRACKERS = {"tensorboard": "tensorboard", "wandb": "wandb", "mlflow": "mlflow", "trackio": "trackio"}
#: Numbers in one call to MLflow, which takes no more.
BATCH = 1000


class Run(Protocol):
    """What is logged as one run: its settings, and values by rising step."""

    @property
    def name(self) -> str: ...
    @property
    def group(self) -> str: ...
    @property
    def settings(self) -> Mapping[str, Any]: ...
    @property
    def points(self) -> Sequence[tuple[int, Mapping[str, float]]]: ...


def check_tracker(name: str) -> None:
    """Refuse a tracker whose package is missing, with the extra that brings it."""
    if importlib.util.find_spec(TRACKERS[name]) is None:
        raise InputError(
            f"{TRACKERS[name]} is not installed", where=f"--to {name}", remedy=f"pip install 'lorabench[{name}]'"
        )


def log_runs(name: str, runs: Iterable[Run], project: str, folder: Path, done: Callable[[Run], object]) -> int:
    """Log every run to the tracker of this name; returns how many.  ``folder`` is for one that writes files.

    Raises LorabenchError with the tracker's own words where it refuses: no account, no server, a closed folder.
    """
    count = 0
    for run in runs:
        try:
            _log(name, run, project, folder)
        except Exception as error:
            raise LorabenchError(
                f"{type(error).__name__}: {error}",
                where=f"--to {name}, run {run.name}",
                remedy=f"{count} logged before it; accounts, servers and places are settings of {name}",
            ) from error
        done(run)
        count += 1
    return count


def _log(name: str, run: Run, project: str, folder: Path) -> None:
    tracker = _tracker(name, run, project, folder)
    tracker.start()
    try:
        tracker.store_init_configuration(dict(run.settings))
        if name == "mlflow":
            _in_batches(tracker, run)
        else:
            for step, values in run.points:
                tracker.log(dict(values), step=step)
    finally:
        tracker.finish()


def _in_batches(tracker: Any, run: Run) -> None:
    """Many steps a call: MLflow takes one transaction, or one request, for each."""
    mlflow = importlib.import_module("mlflow")
    client, now = mlflow.MlflowClient(), round(1000 * time.time())
    found = [
        mlflow.entities.Metric(key, value, now, step) for step, values in run.points for key, value in values.items()
    ]
    for start in range(0, len(found), BATCH):
        client.log_batch(tracker.tracker.info.run_id, metrics=found[start : start + BATCH])


def _tracker(name: str, run: Run, project: str, folder: Path) -> GeneralTracker:
    from accelerate import PartialState, tracking

    PartialState(cpu=True)  # who logs needs no device
    if name == "tensorboard":
        return tracking.TensorBoardTracker(run.name, str(folder))
    if name == "wandb":
        return tracking.WandBTracker(project, name=run.name, group=run.group)
    if name == "mlflow":
        return tracking.MLflowTracker(project, run_name=run.name, tags={"group": run.group})
    return tracking.TrackioTracker(project, name=run.name, group=run.group)
