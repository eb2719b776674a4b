"""What numbers depend on beside a study's trials, as far as that can be told without torch."""

from __future__ import annotations

import platform
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib.metadata import version
from typing import Any

from harness.study.config import CommonSettings

LIBRARIES = ("lorabench", "torch", "transformers", "peft", "lm_eval", "datasets", "numpy", "scipy")


def cpu_name(processor: str = "") -> str:
    """The kind of device that a CPU is; ``processor`` is as ``platform.machine`` says it, empty for this machine's."""
    return f"cpu ({processor or platform.machine()})"


def installed() -> dict[str, str]:
    """The versions of the libraries that numbers depend on, as they are installed here."""
    return {library: version(library) for library in LIBRARIES}


@dataclass(frozen=True)
class Device:
    """What packs run on, as far as plans and forecasts depend on it: of this machine, or of the nodes of a cluster."""

    kind: str  #: ``cpu``, or ``cuda``: a GPU
    name: str  #: a GPU's, or :func:`cpu_name`; empty where it is ``assumed``
    gigabytes: float | None = None  #: memory of a GPU, the smallest where there are several
    libraries: Mapping[str, str] = field(default_factory=installed)  #: their versions where the packs run
    main_gigabytes: float | None = None  #: main memory of a CPU; None where it is not known, as of a cluster's nodes

    @property
    def assumed(self) -> bool:
        """Whether it is a GPU that nobody has seen, so that its memory is a guess: there is none on this machine."""
        return not self.name


def plain_stack(study: CommonSettings, device: Device) -> dict[str, Any]:
    """Of a record's ``stack``: versions, device kind, dtype, threads and scoring batch; without a GPU's kernels."""
    return {
        **device.libraries,
        "device": device.name,
        "dtype": study.dtype,
        "threads": study.threads,
        "batch_tokens": study.scoring.batch_tokens,
    }


def agrees(stack: Mapping[str, Any], plain: Mapping[str, Any]) -> bool:
    """Whether a record's ``stack`` is that of :func:`plain_stack`, as far as that goes."""
    return all(stack.get(key) == value for key, value in plain.items())
