"""The tasks and probes of a study, ready to be asked, and which of their rows are scored."""

from __future__ import annotations

import json
import random
from collections.abc import Mapping, Sequence
from typing import Any

from harness.errors import InputError
from harness.scoring import examples
from harness.scoring.encoding import Encoder
from harness.scoring.lm_eval_task import FEWSHOT_SEED, Prompting, TaskData, make_scored_task


class Suite:
    """Every task and probe of a study, ready to be asked.

    ``split`` names the rows that are scored (``test`` or ``validation``) and ``items`` how many of them at most.
    Raises InputError for a task without such rows, and as :func:`make_scored_task`.
    """

    def __init__(
        self,
        data: Sequence[TaskData],
        *,
        split: str,
        items: Mapping[str, int | None],
        prompting: Prompting | None = None,
    ) -> None:
        self._prompting = prompting or Prompting()
        self._trained = {task.name for task in data if task.splits.get("train")}
        self.tasks = {
            task.name: make_scored_task(task, chosen_rows(task, split, items.get(task.name)), self._prompting)
            for task in data
        }

    def training_examples(
        self, name: str, encoder: Encoder, demonstration: str | None = None
    ) -> examples.TrainingExamples:
        """The training rows of a task (:func:`examples.training_examples`).  Raises InputError where it lacks them."""
        if name not in self._trained:
            raise InputError(f"task '{name}' has no training split", remedy="use it as a probe, not in a stream")
        return examples.training_examples(self.tasks[name], self._prompting, encoder, demonstration)


def chosen_rows(data: TaskData, split: str, items: int | None) -> dict[str, list[Mapping[str, Any]]]:
    """The rows of every split that lm-eval gets to see; what is scored is its ``test``.

    ``split`` names the rows that are scored and ``items`` how many of them at most.
    """
    rows = list(data.splits.get(split) or ())
    if not rows:
        raise InputError(f"task '{data.name}' has no rows in its {split} split", remedy="choose another split")
    if items is not None and items < len(rows):
        fair = range(items) if data.shuffled else sorted(random.Random(FEWSHOT_SEED).sample(range(len(rows)), items))
        rows = [rows[i] for i in fair]
    others = {name: list(docs) for name, docs in data.splits.items() if docs and name != "test"}
    if split == "validation":  # no scored row may be an example: lm-eval looks for them in these splits
        scored = {json.dumps(row, sort_keys=True) for row in rows}
        for name in ("fewshot", "validation"):
            kept = [row for row in others.pop(name, ()) if json.dumps(row, sort_keys=True) not in scored]
            others |= {name: kept} if kept else {}
    return {**others, "test": rows}
