"""How long a person waits for the verbs that train nothing: each in a separate process, as a shell starts it."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median

import torch

from harness.errors import InputError
from harness.perf.common import save
from harness.study.folders import results_folder


@dataclass(frozen=True)
class Cost:
    """Of one command: what it took, and the most memory that it had."""

    seconds: float
    cpu_seconds: float
    peak_gib: float


def main(study: str, results: Path | None, repeats: int, out: Path) -> None:
    """Time the lists, and ``plan``, ``status`` and a ``run`` that has nothing to do of a study; write the medians.

    ``results`` are the study's, ``results/<study>`` by default.  Where they are not complete, ``run`` is left out.
    """
    there = results_folder(study, None, results)
    of_study = [study, f"--out={there}"]
    commands = {name: [name] for name in ("methods", "tasks", "studies")}
    commands |= {name: [name, *of_study] for name in ("plan", "status")}
    if _complete(of_study):
        commands["run"] = ["run", *of_study]
    times = {}
    for name, words in commands.items():
        costs = [cost(words) for _ in range(repeats)]
        times[name] = {key: median(getattr(each, key) for each in costs) for key in asdict(costs[0])}
        print(f"{name:8}" + "  ".join(f"{key} {value:.2f}" for key, value in times[name].items()))
    records = len(list((there / "trials").glob("*.json")))
    save(out, "verbs", torch.device("cpu"), {"study": study, "records": records, "repeats": repeats, "verbs": times})


#: Runs a command and says on its last line what it took.  Linux counts the memory of whoever starts a process as that
#: process's own, so a small process starts it, not this one with its torch.
_LAUNCHER = """
import json, resource, subprocess, sys, time
start = time.perf_counter()
status = subprocess.run(sys.argv[1:], stdout=subprocess.DEVNULL).returncode
seconds = time.perf_counter() - start
used = resource.getrusage(resource.RUSAGE_CHILDREN)
print(json.dumps([status, seconds, used.ru_utime + used.ru_stime, used.ru_maxrss]))
"""


def cost(words: Sequence[str]) -> Cost:
    """Of ``lorabench`` with these words.  Raises InputError where that fails."""
    launcher = [sys.executable, "-I", "-S", "-c", _LAUNCHER]
    done = subprocess.run([*launcher, *_command(words)], capture_output=True, text=True, check=True)
    status, seconds, cpu_seconds, peak = json.loads(done.stdout)
    if status:
        raise InputError(
            f"it ended with status {status}: {done.stderr.strip()}",
            where=f"lorabench {' '.join(words)}",
            remedy="see to that first, then time it",
        )
    unit = 1 if sys.platform == "darwin" else 1024  # ru_maxrss: bytes on macOS, KiB on Linux
    return Cost(seconds, cpu_seconds, peak * unit / 2**30)


def _complete(of_study: Sequence[str]) -> bool:
    """Whether every trial is finished, so that a run trains nothing."""
    done = subprocess.run(_command(["status", *of_study, "--json"]), capture_output=True, text=True, check=False)
    if done.returncode:
        return False
    told = json.loads(done.stdout)
    counts = [row[key] for row in told["methods"] for key in ("missing", "error", "oom", "timeout")]
    return bool(told["methods"]) and not any(counts) and not told["changes"] and not told["damaged"]


def _command(words: Sequence[str]) -> list[str]:
    return [sys.executable, "-m", "harness", *words]
