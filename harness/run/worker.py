"""Run one job in this process and turn whatever happens into an outcome: failure is data, input errors are not."""

from __future__ import annotations

import signal
import traceback
from dataclasses import dataclass

import torch

from harness.engine.environment import host, stack
from harness.errors import FolderError, LorabenchError
from harness.run.base import run_base
from harness.run.clone import clone
from harness.run.job import Job, Report
from harness.run.pack import run_pack
from harness.store.checkpoints import checkpoint_path
from harness.store.records import Failure, Status, TrialRecord
from harness.store.results import write_trial
from harness.study.halving import halves


@dataclass(frozen=True)
class Outcome:
    """What became of a job.  One that ``failed`` has a record where a trial stood alone; else its halves are to run."""

    job: str
    failed: Status | None = None
    message: str = ""


class StalledError(BaseException):
    """A job has given no sign of life for too long.  No ``except Exception`` of a method may catch it."""


#: Until then an error is not of any method: a model, a task or a setting that no pack of the study can use.
LOADING = ("loading", "loading the model and the tasks")


def execute(job: Job, report: Report) -> Outcome:
    """Do the job.  Whatever a method may have done becomes an outcome.

    Raises :class:`LorabenchError` for what no pack could do: the model or the tasks can't be loaded, the base model
    can't be scored, the folder can't be written.
    """
    phase = LOADING[0]

    def watched(units: float, what: str) -> None:
        nonlocal phase
        phase = what
        report(units, what)

    try:
        if job.pack is None:
            run_base(job, watched)
        else:
            run_pack(job, watched)
        return Outcome(job.name)
    except (FolderError, KeyboardInterrupt):
        raise
    except StalledError:
        disarm()  # or the next alarm comes while this is being written down
        return failed(job, "timeout", phase, stalled(job), traceback.format_exc())
    except LorabenchError as error:
        if job.pack is None or phase in LOADING:
            raise
        return failed(job, "error", phase, str(error), traceback.format_exc())
    except BaseException as error:
        if job.pack is None and not _out_of_memory(error):
            raise
        status, message = _described(job, error)
        return failed(job, status, phase, message, traceback.format_exc())


def disarm() -> None:
    """No alarm from here on, where there are any."""
    if hasattr(signal, "setitimer"):
        signal.setitimer(signal.ITIMER_REAL, 0)


def stalled(job: Job) -> str:
    """What is said of a job without a sign of life."""
    return f"no sign of life for {job.study.stall_minutes:g} minutes (stall_minutes in the study)"


def _described(job: Job, error: BaseException) -> tuple[Status, str]:
    if _out_of_memory(error):
        rows = f" (this pack had {len(job.pack.rows)} rows)" if job.pack else ""
        return "oom", f"{error}\nlower training.pass_tokens, scoring.batch_tokens or pack: in the study{rows}"
    if isinstance(error, SystemExit):
        return "error", f"a method or a library called sys.exit({error.code!r}) ({_raised_at(error)})"
    return "error", f"{type(error).__name__}: {error} ({_raised_at(error)})"


def _out_of_memory(error: BaseException) -> bool:
    """On a GPU torch has a class for it; on a CPU its allocator says so in a RuntimeError."""
    return isinstance(error, torch.cuda.OutOfMemoryError | MemoryError) or (
        isinstance(error, RuntimeError) and "can't allocate memory" in str(error)
    )


def _raised_at(error: BaseException) -> str:
    """``file:line`` of the last call that is not a library's: of a method of one's own, say."""
    frames = traceback.extract_tb(error.__traceback__)
    frame = next((frame for frame in reversed(frames) if "site-packages" not in frame.filename), frames[-1])
    return f"{frame.filename}:{frame.lineno}"


def failed(job: Job, status: Status, phase: str, message: str, trace: str) -> Outcome:
    """The outcome of a job that failed; a trial that stood alone gets a record that says why.

    Raises :class:`LorabenchError` where the job was the base model's, without which there is nothing to run.
    """
    if job.pack is None:
        remedy = "free memory or another device, then run again: finished trials are kept"
        raise LorabenchError(f"the base model could not be scored: {message}", where=phase, remedy=remedy)
    checkpoint_path(job.folder, job.pack.name).unlink(missing_ok=True)
    if halves(job.pack):
        return Outcome(job.name, status, message)
    for trial in job.pack.trials:
        if trial.fingerprint in job.write:
            record = TrialRecord(
                fingerprint=trial.fingerprint,
                study=job.study.name,
                status=status,
                spec=trial.spec,
                facts=trial.facts,
                stack=stack(job.study, torch.device(job.device)),
                host={**host(), **job.extras, "pack": job.name},
                commit=clone().commit,
                clean=clone().clean,
                failure=Failure(phase=phase, message=message, traceback=trace),
            )
            write_trial(job.folder, record)
    return Outcome(job.name, status, message)
