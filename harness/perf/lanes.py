"""``lorabench perf lanes``: equal packs one at a time, and several at a time: how much sooner the several are through.

Both are ``lorabench run`` with a Ray of its own.  A lane is a GPU: several have more than one has.  On a CPU both have
the same cores: one lane has a thread a core, each of several an equal share of the threads (a rest of them idles), so
that the ratio says which use of the machine is sooner.  Timed is from when the first pack reaches a process, with all
that this loads, to the end of the last.  Scores and decompositions of the base are in the cache by then, from packs
that are not timed: one a number of threads, which scores are kept apart by.
"""

from __future__ import annotations

import json
import os
import statistics
import sys
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
import yaml

from harness.engine.environment import device_name
from harness.errors import InputError
from harness.executors.hardware import emulates_bfloat16, usable_cores
from harness.perf.common import run_apart, save, this_device
from harness.store.lanes import read_lanes

VISIBLE = "CUDA_VISIBLE_DEVICES"
#: Ray counts what ``os.cpu_count`` says, in a container too: then it has room for as many packs as there are lanes.
ALL_CORES = "RAY_USE_MULTIPROCESSING_CPU_COUNT"


@dataclass(frozen=True)
class Settings:
    """``lanes`` are compared with one; a pack has ``rows`` trials, each of which trains on ``examples`` a task."""

    model: str
    lanes: int
    packs: int
    rows: int
    examples: int
    repeats: int = 1


def main(asked: Settings, out: Path) -> None:
    """Run the packs in one lane and in several, in turns; print both; write ``lanes-<device>.json``."""
    device = this_device()
    _check_room(asked.lanes, device)
    print(f"{device_name(device)}, {asked.model}, {asked.packs} packs of {asked.rows}", flush=True)
    runs: dict[int, list[dict[str, Any]]] = {1: [], asked.lanes: []}
    with tempfile.TemporaryDirectory(prefix="lorabench-lanes-") as name:
        for lanes in runs if device.type == "cpu" else [1]:  # whose threads differ
            _run(asked, lanes, device, Path(name, f"{lanes}-warm"), packs=1)
        for turn in range(asked.repeats):
            for lanes, done in runs.items():
                done.append(_run(asked, lanes, device, Path(name, f"{lanes}-{turn}"), packs=asked.packs))
                print(json.dumps({"lanes": lanes, **done[-1]}), flush=True)
    seconds = {lanes: statistics.median(run["seconds"] for run in done) for lanes, done in runs.items()}
    headline = {f"lanes_{asked.lanes}_over_1": seconds[1] / seconds[asked.lanes]}
    save(out, "lanes", device, {"settings": asdict(asked), "runs": runs, "headline": headline})
    print(json.dumps(headline))


def _check_room(lanes: int, device: torch.device) -> None:
    there = len(_cards()) if device.type == "cuda" else usable_cores()
    if there < lanes:
        what = "GPUs" if device.type == "cuda" else "CPU cores"
        raise InputError(
            f"{lanes} lanes need as many {what}, and there are {there}", where="--lanes", remedy="ask for fewer"
        )


def _cards() -> list[str]:
    """The GPUs that this process may use, as ``CUDA_VISIBLE_DEVICES`` names them."""
    given = os.environ.get(VISIBLE)
    return given.split(",") if given else [str(number) for number in range(torch.cuda.device_count())]


def _run(asked: Settings, lanes: int, device: torch.device, folder: Path, packs: int) -> dict[str, Any]:
    """Seconds of so many packs, and of each lane."""
    folder.mkdir()
    environment, file = dict(os.environ), folder / "lanes.yaml"
    if device.type == "cuda":
        environment[VISIBLE] = ",".join(_cards()[:lanes])
    environment[ALL_CORES] = "1"
    file.write_text(yaml.safe_dump(_study(asked, lanes, device, packs)), encoding="utf-8")
    words = ["run", str(file), "--no-report", "--out", str(folder / "out")]
    log = folder / "log"
    status = run_apart([sys.executable, "-m", "harness", *words], environment, log)
    try:
        found = read_lanes(folder / "out")
    except (OSError, ValueError):
        found = []
    if status or sum(lane.packs for lane in found) != packs:
        raise InputError(
            f"it ended with status {status}: {log.read_text(encoding='utf-8', errors='replace').strip()[-500:]}",
            where=f"lorabench {' '.join(words)}",
            remedy="see to that first, then time it",
        )
    return {"seconds": max(lane.seconds for lane in found), "of_lanes": [lane.model_dump() for lane in found]}


def _study(asked: Settings, lanes: int, device: torch.device, packs: int) -> dict[str, Any]:
    cpu = device.type == "cpu"
    threads = usable_cores() // lanes if cpu else 1
    cpus = 100 * (os.cpu_count() or 1) // lanes / 100  # rounded up, the last lane would not fit
    return {
        "model": asked.model, "device": device.type, "dtype": "float32" if cpu and emulates_bfloat16() else "bfloat16",
        "threads": threads, "streams": {"order": ["toy_recall", "toy_digits"]}, "methods": {"lora": {}},
        "pack": asked.rows, "seeds": list(range(packs * asked.rows)),
        "training": {"examples": asked.examples, "batch": 8}, "keep_adapters": "none",
        "resources": {"num_cpus": cpus} if cpu else {},
    }  # fmt: skip
