"""Records of older schemas as the present one: pure functions on plain data, one for each step from n to n + 1."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from harness.store.intruders import packed
from harness.store.packed import Floats
from harness.store.records import SCHEMA_VERSION, unpack_bits


def migrate(record: dict[str, Any]) -> dict[str, Any]:
    """A trial record of this schema or an older one, in the present schema; the argument is not changed."""
    while record["schema_version"] < SCHEMA_VERSION:
        record = _STEPS[record["schema_version"]](record)
    return record


def _standard_errors(record: dict[str, Any]) -> dict[str, Any]:
    """1 -> 2: the standard error of every score, where the items' correctness was kept."""

    def column(scores: dict[str, Any]) -> dict[str, Any]:
        kept = scores.get("correct") or [None] * len(scores["score"])
        return {**scores, "stderr": [_of_bits(bits, scores["items"]) for bits in kept]}

    groups = {
        group: {name: column(task_scores) for name, task_scores in record.get(group, {}).items()} for group in _GROUPS
    }
    return {**record, **groups, "schema_version": 2}


def _timeouts(record: dict[str, Any]) -> dict[str, Any]:
    """2 -> 3: a trial may have the status ``timeout``; nothing that was written before changes."""
    return {**record, "schema_version": 3}


def _facts(record: dict[str, Any]) -> dict[str, Any]:
    """3 -> 4: what kind of arm it is; before, only the names of the project's methods told."""
    spec = record["spec"]
    method = spec["method"]
    trains = method != "frozen"
    chosen = _CHOSEN_BETWEEN.get(method)
    facts = {
        "trains": trains,
        "sequential": method not in ("multitask", "single_task"),
        "control": method in _CONTROLS,
        "has_rank": method not in ("full_finetune", "frozen"),
        "between": (chosen or spec["training"].get("between_tasks", "continue")) if trains else None,
        "chooses_between": chosen is not None,
        "scored": "average" if method in _AVERAGED else "student" if trains else "base",
    }
    return {**record, **_compact(record), "facts": facts, "schema_version": 4}


def _compact(record: dict[str, Any]) -> dict[str, Any]:
    """3 -> 4: losses and intruders by place in packed arrays, as far as anything shows them."""
    taken, stages = record.get("intruders", ()), len(record["spec"]["stream"])
    return {
        "train_loss": [Floats.of(losses).text for losses in record.get("train_loss", ())],
        "intruders": [
            intruders and packed(intruders, by_layer=at == stages) for at, intruders in enumerate(taken, start=1)
        ],
    }


def _students(record: dict[str, Any]) -> dict[str, Any]:
    """4 -> 5: curves of an average have the student's scores as well, where they were taken; before, they were not."""
    return {**record, "schema_version": 5}


def _state_bytes(record: dict[str, Any]) -> dict[str, Any]:
    """5 -> 6: costs have the bytes of state that a trial keeps; before, nobody counted them."""
    return {**record, "schema_version": 6}


def _sources(record: dict[str, Any]) -> dict[str, Any]:
    """6 -> 7: where the rows of tasks came from, and how often their items have one answer; before, nobody noted it."""
    return {**record, "schema_version": 7}


def _of_bits(bits: str | None, items: int) -> float | None:
    """lm-eval's ``mean_stderr`` of zeros and ones."""
    return float(unpack_bits(bits, items).std(ddof=1) / items**0.5) if bits is not None and items > 1 else None


_GROUPS = ("tasks", "probes")
_STEPS: dict[int, Callable[[dict[str, Any]], dict[str, Any]]] = {
    1: _standard_errors, 2: _timeouts, 3: _facts, 4: _students, 5: _state_bytes, 6: _sources,
}  # fmt: skip

# The methods there were when records had no facts.
_CONTROLS = ("frozen", "full_finetune", "lora_small_a", "multitask", "single_task")
_CHOSEN_BETWEEN = {"lora_ewc": "continue", "multitask": "continue", "o_lora": "reinit", "single_task": "fresh"}
_AVERAGED = ("combined", "combined_on_policy", "lora_ema", "lora_ema_product")
