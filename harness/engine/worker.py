"""Run one job in this process and turn whatever happens into an outcome: failure is data, input errors are not."""

from __future__ import annotations

import traceback
from dataclasses import dataclass

import torch

from harness.engine.base import run_base
from harness.engine.job import Job, Report
from harness.engine.pack import run_pack
from harness.engine.stack import host, stack
from harness.errors import LorabenchError
from harness.store.records import Failure, Status, TrialRecord
from harness.store.results import write_trial


@dataclass(frozen=True)
class Outcome:
    """What became of a job: the status of every trial of its pack, in order (none for the base)."""

    job: str
    statuses: tuple[str, ...]
    message: str = ""


def execute(job: Job, report: Report) -> Outcome:
    """Do the job.  Out of memory and unexpected errors become records; :class:`LorabenchError` is the caller's."""
    phase = "loading"

    def watched(units: float, what: str) -> None:
        nonlocal phase
        phase = what
        report(units, what)

    try:
        if job.pack is None:
            run_base(job, watched)
            return Outcome(job.name, ())
        return Outcome(job.name, tuple(run_pack(job, watched)))
    except LorabenchError:
        raise
    except torch.cuda.OutOfMemoryError as error:
        advice = "lower training.pass_tokens, scoring.batch_tokens or pack: in the study"
        if job.pack is None:
            raise LorabenchError(f"the device ran out of memory: {error}", where=phase, remedy=advice) from error
        return failed(job, "oom", phase, f"{error}\n{advice} (this pack had {len(job.pack.rows)} rows)", "")
    except Exception as error:
        if job.pack is None:
            raise
        message = f"{type(error).__name__}: {error} ({_raised_at(error)})"
        return failed(job, "error", phase, message, traceback.format_exc())


def _raised_at(error: BaseException) -> str:
    """``file:line`` of the last call that is not a library's: of a method of one's own, say."""
    frames = traceback.extract_tb(error.__traceback__)
    frame = next((frame for frame in reversed(frames) if "site-packages" not in frame.filename), frames[-1])
    return f"{frame.filename}:{frame.lineno}"


def failed(job: Job, status: Status, phase: str, message: str, trace: str) -> Outcome:
    """Write a record that says why, for every trial of the pack that has none."""
    assert job.pack is not None
    for trial in job.pack.trials:
        if trial.fingerprint in job.write:
            record = TrialRecord(
                fingerprint=trial.fingerprint,
                study=job.study.name,
                status=status,
                spec=trial.spec,
                stack=stack(job.study, torch.device(job.device)),
                host={**host(), **job.extras, "pack": job.name},
                failure=Failure(phase=phase, message=message, traceback=trace),
            )
            write_trial(job.folder, record)
    return Outcome(job.name, (status,) * len(job.pack.trials), message)
