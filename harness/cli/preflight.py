"""What is wrong with a study is said before anything is started or fetched, with the study's file and key."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from harness.errors import InputError, unknown_name

if TYPE_CHECKING:
    from harness.study.config import Study


def checked_study(name: str, model: str | None = None) -> tuple[Path, Study]:
    """The file of a study and what it says; ``model`` replaces the study's model.

    Raises InputError as ``file:key`` for a study that can't be read, and for tasks and probes that do not exist.
    """
    from harness.data import paths
    from harness.data.sources import cl_benchmark
    from harness.study.load import find_study, load_study

    file = find_study(name, paths.studies_dir())
    study = load_study(file, overrides={"model": model} if model is not None else None)
    cl_benchmark.use(study.cl_benchmark)
    places = {task: f"{file}:streams.{order}" for order, stream in study.streams.items() for task in stream}
    for task, place in (places | dict.fromkeys(study.probes, f"{file}:probes")).items():
        _check_task(task, place)
    return file, study


def check_methods(file: Path, study: Study) -> None:
    """The same for its methods; reading those takes seconds, for they import torch."""
    from harness.method.registry import methods

    for key in study.methods:
        if (method := key.partition("@")[0]) not in methods():
            raise unknown_name("method", method, methods(), where=f"{file}:methods.{key}")


def _check_task(name: str, place: str) -> None:
    from harness.data import paths, tasks

    try:
        tasks.load_task(name)
    except InputError as error:
        if error.where not in (None, "lm-eval", paths.shown(paths.tasks_dir())):
            raise  # something is wrong in one of the task's files
        raise InputError(error.what, where=place, remedy=error.remedy) from error
