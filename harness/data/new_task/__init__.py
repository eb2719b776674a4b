"""``lorabench new task``: a task's folder from the rows of a JSONL file."""

from harness.data.new_task.folder import new_task
from harness.data.new_task.rows import Columns

__all__ = ["Columns", "new_task"]
