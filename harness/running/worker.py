"""A job in a worker, and what becomes of it: failure is data, input errors are not."""

from __future__ import annotations

import os
import socket
import time
import traceback
from dataclasses import replace

import torch

from harness.engine.environment import host, versions
from harness.errors import FolderError, InputError, LorabenchError, SettingError
from harness.executors.interface import NO_FIGURES, Figures, Outcome, Report, Span, StalledError, Work
from harness.running.base import run_base
from harness.running.job import Job, forget, relocated, rest
from harness.running.pack import run_pack
from harness.running.pack_log import logged, note
from harness.store.checkpoints import checkpoint_path
from harness.store.clone import clone
from harness.store.records import Failure, Status, TrialRecord
from harness.store.results import write_trial
from harness.study.arms import key_of
from harness.study.halving import halves

#: Until then an error is not of any method: a model, a task or a setting that no pack of the study can use.
LOADING = ("loading", "loading the model and the tasks")


def execute(job: Job, report: Report) -> Outcome:
    """Do the job.  Whatever a method may have done becomes an outcome.

    Raises :class:`LorabenchError` for what no pack could do: the model or the tasks can't be loaded, the base model
    can't be scored, the folder can't be written.  What stops the job from outside (Ctrl-C, the executor's
    :class:`StalledError`) goes through.  All of it is in the job's log.
    """
    began, ready = time.time(), None
    with logged(job) as log:

        def told(units: float, what: str, figures: Figures = NO_FIGURES) -> None:
            nonlocal ready
            if ready is None and what not in LOADING:
                ready = time.time()
            log.report(what, figures)
            report(units, what, figures)

        outcome = _carry_out(job, told)
        log.say(f"ended: {outcome.failed or 'done'}")
    ended = time.time()
    return replace(outcome, span=Span(_place(job), began, ready or ended, ended))


def _place(job: Job) -> str:
    """The machine; on a GPU with the number of the one in use: the first that this process sees."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES") or "0"
    card = f" GPU {visible.split(',')[0].strip()}" if job.device == "cuda" else ""
    return f"{socket.gethostname()}{card}"


def _carry_out(job: Job, report: Report) -> Outcome:
    phase, done = LOADING[0], False

    def watched(units: float, what: str, figures: Figures = NO_FIGURES) -> None:
        nonlocal phase
        phase = what
        report(units, what, figures)

    try:
        check_stack(job)
        if job.pack is None:
            run_base(job, watched)
        else:
            run_pack(job, watched)
        done = True
        return Outcome(job.name)
    except (FolderError, KeyboardInterrupt, StalledError):
        raise
    except LorabenchError as error:
        if job.pack is None or phase in LOADING:
            raise
        return give_up(job, "error", Failure(phase=phase, message=str(error), traceback=traceback.format_exc()))
    except SettingError as error:  # by a part of a method that has met the model, or the text
        failure = Failure(phase=phase, message=str(_placed(job, error)), traceback=traceback.format_exc())
        return give_up(job, "error", failure)
    except BaseException as error:
        if job.pack is None and not _out_of_memory(error):
            raise
        status, message = _described(job, error)
        return give_up(job, status, Failure(phase=phase, message=message, traceback=traceback.format_exc()))
    finally:
        if not done:
            forget()
        rest(job)


def check_stack(job: Job) -> None:
    """Raise InputError where this machine's numbers are not to be compared with those of the others of its run."""
    here = versions(job.study, job.device)
    if here == job.stack:
        return
    differ = [key for key in sorted({*here, *job.stack} - {"digest"}) if here.get(key) != job.stack.get(key)]
    said = "; ".join(f"{key} {here.get(key, 'none')} here, {job.stack.get(key, 'none')} there" for key in differ)
    raise InputError(
        f"the machine {socket.gethostname()} differs from that which the base model's scores are of: {said}",
        where=job.name,
        remedy="have the same on every machine of the cluster; of several kinds of GPU, name one in the study "
        "(resources: {accelerator_type: ...})",
    )


def _placed(job: Job, error: SettingError) -> InputError:
    """The error with the place of the setting: the arm's, in the study's file."""
    assert job.pack is not None, "the base model has no settings"
    arms = dict.fromkeys(key_of(job.study, trial.spec.arm) for trial in job.pack.trials)
    key = f".{error.key}" if error.key else ""
    return InputError(str(error), where=f"{job.file}:methods.{', '.join(arms)}{key}", remedy=error.remedy)


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
    """``file:line`` of the last call that is not a library's: of a custom method, say."""
    frames = traceback.extract_tb(error.__traceback__)
    frame = next((frame for frame in reversed(frames) if "site-packages" not in frame.filename), frames[-1])
    return f"{frame.filename}:{frame.lineno}"


def give_up(job: Job, status: Status, failure: Failure) -> Outcome:
    """The outcome of a job that failed: a trial that stood alone gets a record that says why, others run in halves.

    Raises :class:`LorabenchError` where the job was the base model's, without which there is nothing to run.
    """
    if job.pack is None:
        remedy = "free memory or another device, then run again: finished trials are kept"
        what = f"the base model could not be scored: {failure.message}"
        raise LorabenchError(what, where=failure.phase, remedy=remedy)
    note(job, f"failed, {status}: {failure.phase}: {failure.message}\n{failure.traceback}")
    checkpoint_path(job.folder, job.pack.name).unlink(missing_ok=True)
    if not halves(job.pack):
        for trial in job.pack.trials:
            if trial.fingerprint in job.write:
                record = TrialRecord(
                    fingerprint=trial.fingerprint,
                    study=job.study.name,
                    status=status,
                    spec=trial.spec,
                    facts=trial.facts,
                    stack=dict(job.stack),
                    host={**host(), **job.extras, "pack": job.name},
                    sources=job.sources_of(trial.spec),
                    commit=clone().commit,
                    clean=clone().clean,
                    failure=failure,
                )
                write_trial(job.folder, record)
    return Outcome(job.name, status, failure.message)


#: What an executor does with the jobs of a campaign.
WORK = Work(execute, give_up, relocated)
