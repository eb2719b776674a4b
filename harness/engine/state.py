"""What a trial keeps on the device from one step to the next, in bytes, by what it is.

Counted is what :meth:`harness.engine.rows.Rows.state` would put into a checkpoint for this trial alone: not the base
model, nor activations, nor what a neighbour in its pack keeps.
"""

from __future__ import annotations

from collections.abc import Iterable

from torch import Tensor

from harness.engine.rows import Rows
from harness.method.recipe import Recipe

#: The adapter itself; the optimizer's moments; its average, from which it may learn too; where the task began, where it
#: learns from that; what its update rules hold (latches, anchors); what is frozen below it.
KINDS = ("adapter", "optimizer", "average", "snapshot", "rules", "below")


def state_bytes(rows: Rows, index: int, recipe: Recipe) -> dict[str, int]:
    """Bytes by ``KINDS`` of the trial with this recipe that trains in row ``index``."""
    bank, trials = rows.bank, rows.bank.trials
    average = rows.averages[type(recipe.average).__name__] if recipe.average else None
    rules = [rows.updates[type(rule).__name__] for rule in recipe.updates]
    frozen = bank.layout.frozen
    return {
        "adapter": bank.values[index].nbytes,
        "optimizer": _share(rows.optimizer.state().values(), trials),
        "average": _share(average.state().values(), len(average.values)) if average else 0,
        "snapshot": rows.starts[index].nbytes if rows.starts is not None and recipe.loss.teacher == "snapshot" else 0,
        "rules": sum(_share(rule.state().values(), trials) for rule in rules),
        "below": _share((frozen.values, *frozen.scales), trials) if frozen else 0,
    }


def _share(tensors: Iterable[Tensor], trials: int) -> int:
    """Of one of ``trials`` in tensors [trials, ...]; a single number, such as a count of steps, is each one's own."""
    return sum(tensor.nbytes // trials if tensor.dim() else tensor.nbytes for tensor in tensors)
