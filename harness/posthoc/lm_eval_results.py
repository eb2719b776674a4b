"""A trial's final scores as lm-eval writes its results: ``results_<when>.json``, which its own tools read.

The keys are those of lm-eval 0.4: ``results`` (``<metric>,<filter>`` and its standard error), ``configs``,
``versions``, ``n-shot``, ``higher_is_better``, ``n-samples``, ``config``.  What only lm-eval's run of a model has, such
as its batch sizes, is not made up.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from harness.data.tasks import PreparedTask
from harness.errors import InputError
from harness.store.files import write_json
from harness.store.records import TaskScores, TrialRecord
from harness.store.trial_files import trial_path


def write_lm_eval(
    record: TrialRecord, folder: Path, tasks: Mapping[str, PreparedTask], target: Path, *, replace: bool = False
) -> Path:
    """Write the scores after the last task into ``target``; returns the file.

    ``folder`` is that of the record, whose file says when, ``tasks`` are those that it was scored on.  Raises
    InputError for a file that is there, unless it may be ``replace``d.
    """
    when = datetime.fromtimestamp(trial_path(folder, record.fingerprint).stat().st_mtime, UTC)
    path = target / file_name(when)
    if path.exists() and not replace:
        raise InputError("this file is there", where=str(path), remedy="name another folder, or add --force")
    target.mkdir(parents=True, exist_ok=True)
    write_json(path, lm_eval_results(record, tasks, when))
    return path


def file_name(when: datetime) -> str:
    """As lm-eval names it: the time in ISO, without what a file system refuses."""
    return f"results_{when.replace(tzinfo=None).isoformat().replace(':', '-')}.json"


def lm_eval_results(record: TrialRecord, tasks: Mapping[str, PreparedTask], when: datetime) -> dict[str, Any]:
    """The content of that file."""
    scored = {
        name: scores for name, scores in (record.tasks | record.probes).items() if scores.score[-1] is not None
    }  # fmt: skip
    shots = {name: _shots(record, tasks[name]) for name in scored}
    stack = record.stack
    return {
        "results": {name: _result(name, tasks[name], scores) for name, scores in scored.items()},
        "group_subtasks": {name: [] for name in scored},
        "configs": {name: _config(tasks[name], shots[name]) for name in scored},
        "versions": {name: tasks[name].task.version for name in scored},
        "n-shot": shots,
        "higher_is_better": {name: {scores.metric: scores.higher_is_better} for name, scores in scored.items()},
        "n-samples": {
            name: {"original": _items(record, tasks[name], scores), "effective": scores.items}
            for name, scores in scored.items()
        },
        "config": {
            "model": "lorabench",
            "model_args": f"pretrained={record.spec.model},peft={record.fingerprint}",
            "model_dtype": record.spec.training["dtype"],
            "batch_size": None,
            "device": stack.get("device"),
            "limit": record.spec.scoring["items"],
            "bootstrap_iters": 0,
            "gen_kwargs": None,
            "fewshot_seed": None,
            "lorabench": {
                "study": record.study, "trial": record.fingerprint, "arm": record.spec.arm,
                "order": record.spec.order, "stream": list(record.spec.stream), "seed": record.spec.seed,
            },
        },
        "git_hash": record.commit,
        "date": when.timestamp(),
        "transformers_version": stack.get("transformers"),
        "lm_eval_version": stack.get("lm_eval"),
        "task_hashes": {},
        "model_source": "lorabench",
        "model_name": f"{record.spec.model}+{record.spec.arm}",
        "model_name_sanitized": f"{record.spec.model}+{record.spec.arm}".replace("/", "__"),
        "chat_template": None,
        "fewshot_as_multiturn": bool(record.spec.scoring["chat_template"]),
        "max_length": record.spec.scoring["max_length"],
        "total_evaluation_time_seconds": None if (t := record.costs.score_seconds) is None else str(t),
    }  # fmt: skip


def _result(name: str, task: PreparedTask, scores: TaskScores) -> dict[str, Any]:
    which = _filter(task)
    error = scores.stderr[-1]
    return {
        "alias": name,
        "sample_len": scores.items,
        f"{scores.metric},{which}": scores.score[-1],
        f"{scores.metric}_stderr,{which}": "N/A" if error is None else error,
    }


def _filter(task: PreparedTask) -> str:
    """The filter whose answers are scored, the first; lm-eval calls having none ``none``."""
    filters = task.config.get("filter_list")
    return str(filters[0]["name"]) if filters else "none"


def _config(task: PreparedTask, shots: int) -> dict[str, Any]:
    """lm-eval's configuration as far as it is plain data: functions are named."""
    return {key: _json(value) for key, value in task.config.items()} | {"num_fewshot": shots}


def _json(value: Any) -> Any:
    if isinstance(value, dict):
        return {str(key): _json(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [_json(each) for each in value]
    if value is None or isinstance(value, str | int | float | bool):
        return value
    return getattr(value, "__name__", None) or type(value).__name__


def _shots(record: TrialRecord, task: PreparedTask) -> int:
    if task.config["output_type"] == "loglikelihood_rolling":
        return 0
    asked = record.spec.scoring["num_fewshot"]
    wanted = asked.get(task.task.name) if isinstance(asked, dict) else asked
    return int(task.config.get("num_fewshot") or 0) if wanted is None else wanted


def _items(record: TrialRecord, task: PreparedTask, scores: TaskScores) -> int:
    """Of the whole split, where that is known."""
    return task.task.splits.get(record.spec.scoring["split"], scores.items)
