"""Tasks: folders with an lm-eval YAML and a ``prepare.py`` (``own``), and lm-eval's tasks by name (``lm_eval``).

``spec`` says what a task is, ``cache`` keeps its splits; ``load`` and ``prepare`` are the front doors.
"""

from harness.data.tasks.load import load_task, task_names
from harness.data.tasks.prepare import prepare_task, read_split, task_ready
from harness.data.tasks.spec import SPLITS, PreparedTask, Task

__all__ = [
    "SPLITS",
    "PreparedTask",
    "Task",
    "load_task",
    "prepare_task",
    "read_split",
    "task_names",
    "task_ready",
]
