"""What an executor hands to a worker, and what that loads before it begins."""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch

from harness.data import paths
from harness.data.models import resolve_model
from harness.data.sources import cl_benchmark
from harness.data.tasks import prepare_task
from harness.engine.continuation import forget_graphs
from harness.engine.environment import free_unused, use_threads
from harness.engine.model.load import load_model
from harness.engine.spectra import Spectra
from harness.engine.spectra_ahead import SpectraAhead
from harness.errors import InputError, LorabenchError
from harness.scoring.bench import Bench, make_bench
from harness.store.records import TrialSpec
from harness.store.spectra import Wanted, find, write_note
from harness.study.config import Study
from harness.study.plan import Pack


@dataclass(frozen=True)
class Job:
    """One unit of work: a pack, or (``pack`` is None) the base model's scores."""

    study: Study
    pack: Pack | None
    model_path: Path
    folder: Path  #: the study's results
    cache: Path  #: for what outlives the study: base spectra
    device: str
    base_key: str
    stack: Mapping[str, Any]  #: what its records' numbers depend on: every machine that works for a run has the same
    write: frozenset[str]  #: fingerprints of its records that are missing; others are left as they are
    extras: Mapping[str, Any]  #: put into every record's ``host`` block
    model_digest: str  #: of the files at ``model_path``
    task_digests: Mapping[str, str]
    task_sources: Mapping[str, str] = field(default_factory=dict)  #: where each one's rows come from, for the records
    card: float = 1.0  #: share of a GPU, where it runs on one
    number: int | None = None  #: of the plan's packs, from 1, that this one is or is a part of
    file: str = ""  #: the study's, for errors

    @property
    def name(self) -> str:
        return self.pack.name if self.pack else "base"

    @property
    def about(self) -> str:
        """What it is, for people."""
        if self.pack is None:
            return f"the base model {self.study.model}"
        trials = self.pack.trials
        arms = ", ".join(dict.fromkeys(trial.spec.arm for trial in trials))
        number = f"pack {self.number} of " if self.number else "a pack of "
        return f"{number}{self.study.name} ({len(trials)} trial{'s'[: len(trials) != 1]}: {arms}), {self.device}"

    def sources_of(self, spec: TrialSpec) -> dict[str, str]:
        """Where the rows of a trial's tasks and probes come from, as far as that is known."""
        return {name: self.task_sources[name] for name in (*spec.stream, *spec.probes) if name in self.task_sources}

    @property
    def threads(self) -> int:
        return self.study.threads

    @property
    def cpus(self) -> float:
        return self.study.cpus

    @property
    def gpus(self) -> float:
        return self.card if self.device == "cuda" else 0

    @property
    def stall_minutes(self) -> float:
        return self.study.stall_minutes


def relocated(job: Job, folder: Path) -> Job:
    """The same job on a machine that sees nothing of the run's: its results in this folder, model and data its own.

    Raises InputError where these are not the same here.
    """
    cl_benchmark.use(job.study.cl_benchmark)
    source = resolve_model(job.study.model)
    digests = {task: prepare_task(task).digest for task in (*job.study.tasks, *job.study.probes)}
    named = [f"the model {job.study.model}"] if source.digest != job.model_digest else []
    named += [f"the task {task}" for task, digest in digests.items() if digest != job.task_digests[task]]
    if named:
        raise InputError(
            f"the machine {socket.gethostname()} of the cluster has other files of {', '.join(named)} than the run",
            where=str(paths.cache_dir()),
            remedy="have the same files there (lorabench fetch), or a cache folder that all machines see",
        )
    return replace(job, folder=folder, model_path=source.path, cache=paths.cache_dir())


#: Devices that decompose while they train: a CPU's threads are all at work.
ROOMY = ("cuda",)


@dataclass
class Loaded:
    """What a process keeps from one job to the next: jobs use it and do not change it."""

    bench: Bench
    cache: Path
    wanted: Wanted  #: of the base's decompositions
    _spectra: Spectra | None = None
    _ahead: SpectraAhead | None = None

    def spectra(self, say: Callable[[str], None]) -> Spectra:
        """The decompositions of the base, read or made when they are first asked for; ``say`` is told of the latter.

        And noted, for forecasts: `fetch` leaves them to the run on a GPU.
        """
        if self._spectra is None:
            folder = self.cache / "spectra"
            if self._ahead is not None:
                self._ahead.wait(say)
            self._spectra = Spectra(self.bench.model, folder, say)
            if find(folder, self.wanted) != self._spectra.path:
                with suppress(LorabenchError):  # a cache that others have filled may be read alone
                    write_note(folder, self.wanted, self._spectra.path)
        return self._spectra

    @contextmanager
    def spectra_ahead(self) -> Iterator[None]:
        """For a pack that will ask for decompositions: a device with room for both makes them beside it until then."""
        folder, device = self.cache / "spectra", self.bench.model.device
        if device.type not in ROOMY or self._spectra is not None or find(folder, self.wanted) is not None:
            yield
            return
        self._ahead = SpectraAhead(self.bench.model, folder)
        try:
            yield
        finally:
            self._ahead.stop()
            self._ahead = None

    def forget_spectra(self) -> None:
        self._spectra = None


#: The latest job's, by all that it depends on: one at most.
_kept: dict[tuple[object, ...], Loaded] = {}


def set_up(job: Job) -> Loaded:
    """The model, with room for what the job's pack adapts, and the tasks of its study, on the job's device.

    Taken over from the job before where it had the same: on a CPU that saves some 10 s a pack.  Neither the rank counts
    for that (who scores says how adapters are laid out) nor in which order a pack meets its tasks.
    """
    study = job.study
    cl_benchmark.use(study.cl_benchmark)
    use_threads(study.threads)
    # Trials of one pack adapt the same projections, and what they leave alone is left unwrapped.
    adapter = job.pack.adapter if job.pack else study.adapter
    asked = set(study.tasks) if job.pack is None else {task for row in job.pack.rows for task in row.stream}
    names = (*(task for task in study.tasks if task in asked), *study.probes)
    key = (job.base_key, job.model_path, job.cache, job.device, frozenset(adapter.targets), names)
    if key not in _kept:
        forget()
        device, dtype = torch.device(job.device), getattr(torch, study.dtype)
        model = load_model(job.model_path, dtype=dtype, device=device, targets=adapter.targets)
        wanted = Wanted(job.model_digest, study.dtype, frozenset(adapter.targets))
        _kept[key] = Loaded(make_bench(study, names, model, job.model_path, study.adapter.rank), job.cache, wanted)
    _kept[key].bench.model.capture_again()
    return _kept[key]


def rest(job: Job) -> None:
    """Leave no more of a job on a GPU than the model, so that the next one has the memory and figures of its own.

    The base's spectra go as well: 1.3 GB for a model of 135M, which the next pack may not ask for.
    """
    if job.device == "cuda":
        for loaded in _kept.values():
            loaded.forget_spectra()
        forget_graphs()
        free_unused(torch.device(job.device))


def forget() -> None:
    """Keep nothing: after a job that failed, which may have left anything behind."""
    _kept.clear()
