"""lm-eval's HF model on one checkpoint, in a fresh process, as a script around lm-eval does it."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from harness.errors import LorabenchError
from harness.scoring.lm_eval_task import TaskData

PROGRAM = Path(__file__).with_name("one_checkpoint.py")
#: Seconds after which it is given up.
LONGEST = 900.0


def in_a_fresh_process(tasks: Sequence[TaskData], hflm: Mapping[str, Any], folder: Path) -> float:
    """Seconds of scoring the ``test`` rows of these tasks, from the start of the process to its end.

    ``hflm`` has the arguments of lm-eval's ``HFLM``.  Raises :class:`LorabenchError` where lm-eval fails.
    """
    asked = {task.name: {"config": _plain(task), "splits": task.splits} for task in tasks}
    file = folder / "checkpoint.json"
    told = {"tasks": asked, "hflm": hflm, "threads": torch.get_num_threads()}
    file.write_text(json.dumps(told, default=list), encoding="utf-8")
    command = [sys.executable, "-P", str(PROGRAM), str(file)]  # -P: our statistics.py is not Python's
    start = time.perf_counter()
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=LONGEST)
    except subprocess.TimeoutExpired as error:
        raise LorabenchError(f"lm-eval took more than {LONGEST:.0f} s", where=str(PROGRAM)) from error
    if done.returncode:
        raise LorabenchError(f"lm-eval failed: {done.stderr[-500:]}", where=str(PROGRAM))
    return time.perf_counter() - start


def _plain(task: TaskData) -> dict[str, Any]:
    """A task's configuration with the splits that there are."""
    keys = {"training_split": "train", "validation_split": "validation", "test_split": "test"}
    config = {key: value for key, value in task.config.items() if key not in keys}
    return config | {key: name for key, name in keys.items() if name in task.splits}
