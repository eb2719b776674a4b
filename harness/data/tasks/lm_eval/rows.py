"""The rows of a task of lm-eval's: read from its data set, and put into the cache as our splits."""

from __future__ import annotations

import random

from harness.data.sources import hub_data
from harness.data.tasks import cache
from harness.data.tasks.lm_eval.yaml_files import split_names, training_split
from harness.data.tasks.spec import FEWSHOT, SPLITS, Task

VALIDATION_ROWS = 200  # taken out of train where there is no validation split, and at most a tenth of it


def build(task: Task) -> dict:
    """Read the data set's splits, put them into the cache, return the manifest.  Raises InputError."""
    assert task.hub is not None, "load gives every task its data set"
    where = task.where("dataset_path")
    loaded = hub_data.load(task.hub, where)
    rows = {
        ours: list(hub_data.rows(task.hub, loaded, theirs, where)) for ours, theirs in split_names(task.config).items()
    }
    if "train" in rows and "validation" not in rows:
        if task.config.get("fewshot_split") in (None, training_split(task.config)):
            rows[FEWSHOT] = rows["train"]  # whole: lm-eval's examples are drawn from all of it
        count = min(VALIDATION_ROWS, len(rows["train"]) // 10)
        drawn = set(random.Random(0).sample(range(len(rows["train"])), count))
        rows["validation"] = [row for number, row in enumerate(rows["train"]) if number in drawn]
        rows["train"] = [row for number, row in enumerate(rows["train"]) if number not in drawn]
    return cache.write(task, {split: rows[split] for split in (*SPLITS, FEWSHOT) if split in rows})
