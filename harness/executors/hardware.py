"""The GPU of this machine.  torch, which takes seconds to import, is asked only where there may be one."""

from __future__ import annotations

import ctypes
import os
import runpy
import sys
from contextlib import suppress
from importlib.util import find_spec
from pathlib import Path

from harness.study.stack import Device, cpu_name


def has_gpu() -> bool:
    """Whether torch sees a GPU here."""
    if "torch" not in sys.modules and _certainly_without():
        return False
    import torch

    return torch.cuda.is_available()


def likely_kind(wanted: str) -> str:
    """``cpu`` or ``cuda``: where a study that wants ``cpu``, ``cuda`` or ``any`` runs on this machine; no refusal."""
    return "cuda" if wanted == "cuda" or (wanted == "any" and has_gpu()) else "cpu"


def likely_device(wanted: str) -> Device:
    """What such a study runs on, on this machine."""
    return device_here(likely_kind(wanted))


def device_here(kind: str) -> Device:
    """This machine's CPU (``cpu``), or its first GPU (``cuda``)."""
    if kind == "cuda":
        return Device("cuda", gpu_name(), gpu_gigabytes())
    memory = main_memory()
    return Device("cpu", cpu_name(), main_gigabytes=memory / 1e9 if memory else None)


def main_memory() -> int | None:
    """Bytes of this machine's main memory, or of its share where it is a container's; None where nobody says."""
    found = []
    with suppress(AttributeError, OSError, ValueError):  # not on Windows
        found.append(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"))
    for path in ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"):
        with suppress(OSError, ValueError):  # "max": there is none
            found.append(int(Path(path).read_text(encoding="ascii")))
    return min((each for each in found if each > 0), default=None)


def usable_cores(share: Path = Path("/sys/fs/cgroup/cpu.max")) -> int:
    """CPU cores that this process may use; of a container those of its share, unlike ``os.cpu_count``."""
    found: list[float] = [os.cpu_count() or 1]
    with suppress(AttributeError):  # not on macOS
        found.append(len(os.sched_getaffinity(0)))
    with suppress(OSError, ValueError):  # "max": there is none
        quota, period = share.read_text(encoding="ascii").split()
        found.append(int(quota) / int(period))
    return max(1, int(min(found)))


def gpu_gigabytes() -> float:
    """Memory of this machine's first GPU; 8 where there is none, for a plan of what runs elsewhere."""
    if not has_gpu():
        return 8.0
    import torch

    return torch.cuda.get_device_properties(0).total_memory / 1e9


def gpu_name() -> str:
    """The kind of this machine's first GPU; empty where there is none."""
    if not has_gpu():
        return ""
    import torch

    return torch.cuda.get_device_name(0)


def emulates_bfloat16(told: Path = Path("/proc/cpuinfo")) -> bool:
    """Whether this CPU certainly has no instructions for bfloat16: then products go through float32.

    ``harness.engine.model.products`` asks torch, which this does not import.
    """
    try:
        flags = set(told.read_text(encoding="utf-8").split())
    except OSError:  # not Linux
        return False
    return "avx2" in flags and not flags & {"avx512_bf16", "amx_bf16", "avx512f"}


def _certainly_without() -> bool:
    """Whether torch, if it were asked, could only say that there is no GPU.

    That is so of a build for CPUs, and on Linux of a build for CUDA where the driver's library can't be loaded.  Device
    files tell nothing: the driver makes them when it is first used, and WSL has others.
    """
    build = _build()
    if build is None:
        return False
    cuda, hip = build
    if hip:
        return False
    return not cuda or (sys.platform == "linux" and not _loads("libcuda.so.1"))


def _build() -> tuple[str | None, str | None] | None:
    """The versions of CUDA and HIP that torch was built for, from the file in which it keeps them; None if unknown."""
    try:
        spec = find_spec("torch")
        if spec is None or spec.origin is None:
            return None
        told = runpy.run_path(str(Path(spec.origin).with_name("version.py")))
        return told["cuda"], told["hip"]
    except Exception:  # another layout than that of today's torch: then torch is asked
        return None


def _loads(library: str) -> bool:
    try:
        ctypes.CDLL(library)
    except OSError:
        return False
    return True
