"""Toy studies whose campaigns run in the test's process, on one CPU, within seconds."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from harness.executors.interface import Watcher
from harness.executors.local import LocalExecutor
from harness.running.campaign import Campaign, State, load_campaign
from harness.running.campaign import run as run_campaign
from harness.study.stack import Device, cpu_name

#: What studies of tests have in common; each adds its methods and sizes.
TOY: dict[str, Any] = {
    "model": "tiny-random-llama", "dtype": "float32", "threads": 1, "device": "cpu", "seeds": [0],
    "streams": {"order": ["toy_recall", "toy_digits"]},
}  # fmt: skip
CPU = Device("cpu", cpu_name())
QUIET = Watcher(lambda units: None, lambda job, units, what: None)


def write_study(folder: Path, study: Mapping[str, Any], name: str = "mine", **changes: Any) -> Path:
    """The file of ``study`` with these keys changed."""
    file = folder / f"{name}.yaml"
    file.write_text(yaml.safe_dump(dict(study) | changes))
    return file


def load(file: Path, out: Path, *, model: str | None = None, device: Device = CPU, **settings: Any) -> Campaign:
    return load_campaign(str(file), model=model, out=out, device=lambda wanted: device, **settings)


def run(campaign: Campaign, executor: Any = None, watcher: Watcher = QUIET) -> State:
    return run_campaign(campaign, executor or LocalExecutor(), CPU, watcher, {})
