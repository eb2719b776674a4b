"""Score one adapter with lm-eval's HF model in a separate process, as a script around lm-eval does it.

Run by its path with a JSON file of settings; it imports nothing of ours, and prints lm-eval's results.
"""

import json
import os
import sys
from typing import Any, cast

os.environ.update(HF_HUB_OFFLINE="1", HF_DATASETS_OFFLINE="1", TQDM_DISABLE="1")


def main(path: str) -> None:
    import datasets
    import torch
    from lm_eval.evaluator import evaluate
    from lm_eval.models.huggingface import HFLM
    from lm_eval.tasks import TaskManager

    with open(path, encoding="utf-8") as file:  # noqa: PTH123
        settings = json.load(file)
    torch.set_num_threads(settings["threads"])

    def loader(splits: dict[str, Any]) -> Any:  # lm-eval calls it with what the task's metadata has
        return lambda **_: {name: datasets.Dataset.from_list(rows) for name, rows in splits.items()}

    configs = [
        {**task["config"], "task": name, "custom_dataset": loader(task["splits"])}
        for name, task in settings["tasks"].items()
    ]
    # Without the 14,000 tasks of lm-eval, whose index alone takes 10 to 17 s.
    tasks = TaskManager(include_defaults=False).load(configs)
    lm = HFLM(**settings["hflm"])
    results = cast(Any, evaluate(lm=lm, task_dict=tasks, bootstrap_iters=0, log_samples=False))
    print(json.dumps(results["results"]))


main(sys.argv[1])
