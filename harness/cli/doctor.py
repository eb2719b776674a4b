"""``lorabench doctor``: is this machine ready, and if not, what is to be done."""

from __future__ import annotations

import json
import os
import shutil
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, requires, version
from typing import TYPE_CHECKING, Literal

from packaging.requirements import Requirement

from harness.cli.terminal import say
from harness.errors import InputError, LorabenchError

if TYPE_CHECKING:
    from harness.data.tasks import Task

Verdict = Literal["ok", "note", "problem"]
NEEDED_GB = 3  # model, data, spectra and results of the quick study, with room to convert the model


@dataclass(frozen=True)
class Finding:
    """One line of the check-up."""

    what: str
    verdict: Verdict
    text: str


def show(as_json: bool) -> bool:
    """Print every finding; whether there is no problem among them."""
    findings = [finding for check in CHECKS for finding in _findings(check)]
    if as_json:
        print(json.dumps([asdict(finding) for finding in findings], indent=1))
    else:
        width = max(len(finding.what) for finding in findings)
        for finding in findings:
            say(f"{finding.verdict:8}{finding.what:{width}}  {finding.text}")
    return all(finding.verdict != "problem" for finding in findings)


def _findings(check: Callable[[], Iterator[Finding]]) -> Iterator[Finding]:
    """Those of one check; what stops it, a broken task or a closed folder, is one of them."""
    try:
        yield from check()
    except (LorabenchError, OSError) as error:
        yield Finding(check.__name__.strip("_"), "problem", " ".join(str(error).split()))


def _python() -> Iterator[Finding]:
    good = sys.version_info >= (3, 11)
    text = sys.version.split()[0] + ("" if good else ": 3.11 or newer is needed")
    yield Finding("python", "ok" if good else "problem", text)


def _libraries() -> Iterator[Finding]:
    try:
        wanted = requires("lorabench") or ()
    except PackageNotFoundError:
        yield Finding("lorabench", "note", "not installed, so its requirements are not known here")
        return
    for line in wanted:
        requirement = Requirement(line)
        if requirement.marker and not requirement.marker.evaluate({"extra": ""}):
            continue
        try:
            have = version(requirement.name)
        except PackageNotFoundError:
            yield Finding(requirement.name, "problem", f"missing; install it: pip install '{line}'")
            continue
        if requirement.specifier.contains(have, prereleases=True):
            yield Finding(requirement.name, "ok", have)
        else:
            yield Finding(requirement.name, "problem", f"{have}; wanted {requirement.specifier}")


def _device() -> Iterator[Finding]:
    import torch

    from harness.engine.environment import fused_kernels
    from harness.engine.model.products import multiplies_bfloat16

    if torch.cuda.is_available():
        for index in range(torch.cuda.device_count()):
            gigabytes = torch.cuda.get_device_properties(index).total_memory / 1e9
            yield Finding("gpu", "ok", f"{torch.cuda.get_device_name(index)}, {gigabytes:.0f} GB")
        if not fused_kernels():
            text = "not installed: training takes half as long again; pip install 'lorabench[gpu]'"
            yield Finding("liger-kernel", "note", text)
        return
    if shutil.which("nvidia-smi"):
        yield Finding(
            "gpu",
            "note",
            f"there is an NVIDIA driver, and torch {torch.__version__} sees no GPU; "
            "install a CUDA build: make clean, then make TORCH_INDEX=https://download.pytorch.org/whl/cu130",
        )
    else:
        yield Finding("gpu", "note", "none; the quick study is made for that")
    yield Finding("cpu", "ok", f"{os.cpu_count()} cores, {torch.backends.cpu.get_cpu_capability()}")
    if not multiplies_bfloat16():
        yield Finding(
            "bfloat16",
            "note",
            "not in this CPU's instructions: a study in it takes two to three times its first forecast",
        )


def _disk() -> Iterator[Finding]:
    from harness.data.paths import cache_dir

    for name, folder in (("cache", cache_dir()), ("results", None)):
        place = folder or os.getcwd()  # noqa: PTH109
        while not os.path.exists(place):  # noqa: PTH110
            place = os.path.dirname(place)  # noqa: PTH120
        if not os.path.isdir(place):  # noqa: PTH112
            yield Finding(name, "problem", f"{place} is a file, not a folder; set LORABENCH_CACHE")
            continue
        free = shutil.disk_usage(place).free / 1e9
        enough = free >= NEEDED_GB
        text = f"{folder or place}: {free:.1f} GB free" + ("" if enough else f"; {NEEDED_GB} GB are needed")
        yield Finding(name, "ok" if enough else "problem", text)
        if not os.access(place, os.W_OK):
            yield Finding(name, "problem", f"{place} cannot be written" + ("; set LORABENCH_CACHE" if folder else ""))


def _cached() -> Iterator[Finding]:
    from harness.data import models, tasks

    for name in models.model_names():
        ready = models.model_ready(name)
        yield Finding(f"model {name}", "ok" if ready else "note", "ready" if ready else "not fetched: lorabench fetch")
    found = {name: tasks.load_task(name) for name in tasks.task_names()}
    hub = [name for name, task in found.items() if task.hub]
    yield from _benchmark([task for task in found.values() if task.files])
    here = [name for name, task in found.items() if not (task.hub or task.files)]
    for what, names in (("tasks", here), ("tasks of the hub", hub)):
        missing = [name for name in names if not tasks.task_ready(name)]
        text = f"{len(names) - len(missing)} of {len(names)} ready"
        if missing:
            text += "; fetched with a study that uses them" if names is hub else f"; not fetched: {', '.join(missing)}"
        if names:
            yield Finding(what, "note" if missing else "ok", text)


def _benchmark(read: Sequence[Task]) -> Iterator[Finding]:
    """The folder of the benchmark's own files, where one is named: ``read`` are the tasks that read it."""
    from harness.data.sources import cl_benchmark

    try:
        there = sum(bool(cl_benchmark.parts(task.files)) for task in read if task.files)
    except InputError as error:
        yield Finding(cl_benchmark.FOLDER, "problem", str(error))
        return
    if read:
        text = f"{there} of {len(read)} tasks have files in {cl_benchmark.named()}"
        yield Finding(cl_benchmark.FOLDER, "ok" if there == len(read) else "note", text)


def _ray() -> Iterator[Finding]:
    from harness.executors import make_executor

    try:
        executor = make_executor("ray")
    except LorabenchError as error:
        yield Finding("ray", "problem", str(error))
        return
    except Exception as error:  # whatever Ray raises, the remedy is the same
        yield Finding("ray", "problem", f"does not start ({type(error).__name__}: {error}); use --executor local")
        return
    try:
        yield Finding("ray", "ok", executor.describe())
    finally:
        executor.close()


CHECKS: tuple[Callable[[], Iterator[Finding]], ...] = (_python, _libraries, _device, _disk, _cached, _ray)
