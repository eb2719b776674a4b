"""What ran: the versions and the device that numbers depend on.  Boards refuse to mix different ones."""

from __future__ import annotations

import contextlib
import gc
import os
import platform
import resource
import sys
from collections.abc import Mapping
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch
from threadpoolctl import threadpool_limits

from harness.engine.model.products import multiplies_bfloat16
from harness.engine.model.try_kernels import kernels_for, tried
from harness.store.fingerprint import digest, source_digest
from harness.study.config import CommonSettings, Study
from harness.study.stack import Device, cpu_name, plain_stack

#: What calls our own kernels, or makes what they read, within the package; what only tries them moves no number.
CALLERS = (
    "engine/losses.py", "engine/optimizer.py", "engine/passes.py", "engine/model/attention.py", "engine/model/fused.py",
    "engine/model/gated.py", "engine/model/joining.py", "engine/model/linear.py", "engine/model/precision.py",
    "engine/model/readers.py", "engine/model/residuals.py", "scoring/forward.py",
)  # fmt: skip


def device_name(device: torch.device) -> str:
    """The kind of device: a GPU's name, or ``cpu`` with its architecture."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else cpu_name()


def versions(study: CommonSettings, kind: str) -> dict[str, Any]:
    """A record's ``stack``: versions, device, dtype, threads and scoring batch, with a digest over them.

    ``kind`` is ``cpu`` or ``cuda``: this machine's CPU, or its GPU.
    """
    device = torch.device(kind)
    ran = plain_stack(study, Device(kind, device_name(device))) | {"deterministic": kind == "cpu"}
    if kind == "cuda":
        ran["cuda"] = torch.version.cuda
        ran |= fused_kernels()
        if kernels_for(device):  # ours
            ran["triton"], ran["kernels"] = version("triton"), _kernels()
    return {**ran, "digest": digest(ran)[:16]}


@cache
def _kernels() -> str:
    """A digest of our own kernels and of what calls them: a change of theirs may move a last bit."""
    package = Path(__file__).parents[1]
    return source_digest([*package.glob("engine/model/kernels/*.py"), *(package / name for name in CALLERS)])[:8]


def fused_kernels() -> dict[str, str]:
    """The library of kernels that a GPU uses where it is installed (:mod:`harness.engine.model.fused`)."""
    try:
        return {"liger-kernel": version("liger-kernel")}
    except PackageNotFoundError:
        return {}


def host(kind: str = "cpu") -> dict[str, Any]:
    """The machine, for people, and what a device of this ``kind`` can't do here; nothing is decided by it."""
    told = {
        "python": platform.python_version(),
        "system": platform.system(),
        "processor": _processor(),
        "cores": os.cpu_count(),
    }
    if kind == "cuda" and (why := tried()[1]):
        told["without_kernels"] = why
    return told if multiplies_bfloat16() else told | {"bfloat16": "through float32"}


@cache
def _processor() -> str:
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as file:  # noqa: PTH123 (not a file that pathlib helps with)
            return next(line.partition(":")[2].strip() for line in file if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()


def use_threads(threads: int) -> None:
    """The study's thread count for torch and every BLAS, in whatever process and under whichever executor."""
    torch.set_num_threads(threads)
    threadpool_limits(threads)


def peak_memory_gib(device: torch.device) -> float:
    """Peak since :func:`reset_peak_memory`: device memory on a GPU, resident memory of the process on a CPU.

    On a CPU that is since the process began where the system does not forget peaks (elsewhere than on Linux).
    """
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**30
    unit = 1 if sys.platform == "darwin" else 1024  # ru_maxrss: bytes on macOS, KiB on Linux
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 2**30


def reset_peak_memory(device: torch.device) -> None:
    """Forget what has been in use, by an earlier pack of this process."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        return
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")  # the peak of resident memory (man 5 proc)


def free_unused(device: torch.device) -> None:
    """Give memory of a GPU back that nothing is kept in: circles, blocks that torch holds, scratch of cuBLAS.

    cuBLAS holds scratch for every stream that it has worked on; no graph may be alive that was captured with it.
    """
    if device.type != "cuda":
        return
    gc.collect()
    with contextlib.suppress(RuntimeError):  # of a device that is lost: who goes on here is told by the next call
        torch.cuda.synchronize(device)
        getattr(torch._C, "_cuda_clearCublasWorkspaces", lambda: None)()
        torch.cuda.empty_cache()


def synchronize(device: torch.device) -> None:
    """Wait for the device, so that a wall clock means something."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def base_key(study: Study, stack: Mapping[str, Any], model_digest: str, task_digests: Mapping[str, str]) -> str:
    """Digest of everything the base model's scores depend on; ``stack`` is what :func:`versions` says of where."""
    asked = {"split", "items", "probe_items", "max_length", "num_fewshot", "chat_template", "answers"}
    scoring = {key: value for key, value in study.scoring.identity.items() if key in asked}
    return digest([stack["digest"], model_digest, dict(task_digests), scoring, list(study.tasks), list(study.probes)])
