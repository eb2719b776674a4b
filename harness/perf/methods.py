"""``lorabench perf methods``: what every method costs over plain LoRA: time of a step, and bytes of state.

One pack a method, in turns with a pack of plain LoRA with as many rows, on the same examples (full rows with a short
answer, or the bench's own lengths), in the second task of a stream, where a method has all that it keeps of the first.
Plain LoRA is in turns with itself as well, which shows how far to trust a ratio.  The file is written after every
method, and some methods may be timed at a time: a ratio needs no others.
"""

from __future__ import annotations

import statistics
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from harness.engine.environment import device_name
from harness.engine.model.packed import PackedModel
from harness.engine.state import state_bytes
from harness.errors import unknown_name
from harness.method.recipe import Method, MethodSettings
from harness.method.registry import methods
from harness.perf.common import measured_on, perf_model, result_file, this_device
from harness.perf.engine_pack import RATE, EnginePack, out_of_memory
from harness.reading import read_json
from harness.store.files import write_json
from harness.study.reference import DEFAULT

STEPS_OF_A_TASK = 64


@dataclass(frozen=True)
class Settings:
    """The model, rows of a pack, methods (none named: every one that trains), and how each is timed: the kind of steps,
    turns with plain LoRA, and seconds of a turn.
    """

    model: str
    trials: int
    names: tuple[str, ...]
    kind: str = "answer"
    rounds: int = 3
    seconds: float = 0.5


def main(asked: Settings, out: Path) -> None:
    """Time every method, print a table, write ``methods-<device>.json``.

    Where some are named, others that the file has of the same commit, device and settings stay.
    """
    known = methods()
    for name in asked.names:
        if name not in known:
            raise unknown_name("method", name, known, where="--methods")
    device = this_device()
    print(f"{device_name(device)}, {asked.model}, K={asked.trials}", flush=True)
    model = perf_model(asked.model, device)
    plain = _pack(model, known[DEFAULT], asked)
    about = {"model": asked.model, "trials": asked.trials, "kind": asked.kind, "seconds_of_a_turn": asked.seconds}
    rows = _kept(result_file(out, "methods", device), measured_on(device) | about) if asked.names else {}
    for name in asked.names or known:
        if known[name].compose(known[name].settings().resolved(STEPS_OF_A_TASK)).adapter is not None:
            rows[name] = _measured(model, name, plain, asked)
            print(_line(rows[name]), flush=True)
            _write(out, device, about, rows)
    if not rows:
        _write(out, device, about, rows)
    print(result_file(out, "methods", device))


def _kept(file: Path, about: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """Rows of the file by method, where they were measured on the same, from a clean checkout."""
    if not file.is_file():
        return {}
    there = read_json(file)
    same = about["clean"] and all(there.get(key) == value for key, value in about.items())
    return {row["method"]: row for row in there["rows"]} if same else {}


def _write(out: Path, device: torch.device, about: dict[str, Any], rows: dict[str, dict[str, Any]]) -> None:
    timed = [row for row in rows.values() if "skipped" not in row]
    headline = {f"step_over_lora_{row['method']}": row["over_lora"] for row in timed}
    headline |= {f"state_over_lora_{row['method']}": row["state_over_lora"] for row in timed}
    result = {"benchmark": "methods"} | measured_on(device) | about
    in_order = [rows[name] for name in methods() if name in rows]
    write_json(result_file(out, "methods", device), result | {"rows": in_order, "headline": headline})


def _pack(model: PackedModel, method: Method, asked: Settings) -> EnginePack:
    """A pack of this method with its defaults, in the second task of its stream."""
    settings = method.settings().resolved(STEPS_OF_A_TASK)
    rate = settings.learning_rate if isinstance(settings, MethodSettings) else RATE
    recipe = method.compose(settings).under("continue")
    return EnginePack(model, asked.trials, asked.kind, recipe, rate=rate, tasks=2)


def _measured(model: PackedModel, name: str, plain: EnginePack, asked: Settings) -> dict[str, Any]:
    """One method in turns with plain LoRA; where memory runs out it is skipped, and the row says so."""
    try:
        pack = _pack(model, methods()[name], asked)
        ratios = []
        for _ in range(asked.rounds):
            plain.run(asked.seconds)
            pack.run(asked.seconds)
            ratios.append(statistics.median(pack.rounds[-1]) / statistics.median(plain.rounds[-1]))
    except RuntimeError as error:
        if not out_of_memory(error):
            raise
        return {"method": name, "skipped": f"out of memory: {str(error).splitlines()[0]}"}
    state, of_plain = (state_bytes(each.rows, 0, each.recipe) for each in (pack, plain))
    row = {key: value for key, value in pack.row().items() if key not in ("trials", "kind")}
    return {
        "method": name, **row, "over_lora": statistics.median(ratios), "over_lora_of_rounds": ratios,
        "state_bytes": state, "state_over_lora": sum(state.values()) / sum(of_plain.values()),
    }  # fmt: skip


def _line(row: dict[str, Any]) -> str:
    if "skipped" in row:
        return f"{row['method']:20} skipped: {row['skipped']}"
    kept = ", ".join(f"{kind} {size / 1e6:.2f}" for kind, size in row["state_bytes"].items() if size)
    return (f"{row['method']:20}{row['step_ms']:9.1f} ms  {row['over_lora']:6.3f} of lora   "
            f"state {row['state_over_lora']:5.2f} of lora (MB: {kept})  {row.get('eager', '')}")  # fmt: skip
