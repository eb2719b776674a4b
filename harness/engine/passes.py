"""What goes through the model in a step, from tensors to tensors.

Nothing here knows a trial: which row of the pack learns what is in the tensors of a :class:`Pass`, in the layout of the
adapters and in the loss, whose settings are tensors [K].  Nothing is read back to the host.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from harness.engine.adapters.layout import DenseLayout, Layout
from harness.engine.batches import Pass
from harness.engine.losses import cross_entropy_and_gradient, loss_and_gradient
from harness.engine.model.packed import PackedModel
from harness.engine.model.try_kernels import kernels_for
from harness.engine.trunk import Trunk
from harness.method import losses as formulas

#: (student's logits [n, V], teacher's logits [n, V] or None, target [n], row of the pack [n], position in the answer
#: [n]) -> loss of each token [n].
PassLoss = Callable[[Tensor, Tensor | None, Tensor, Tensor, Tensor], Tensor]


def cross_entropy(student: Tensor, teacher: Tensor | None, target: Tensor, row: Tensor, position: Tensor) -> Tensor:
    """The cross-entropy alone; on a GPU a kernel takes its place."""
    return formulas.cross_entropy(student, target)


def forward_backward(
    trunk: Trunk, layout: Layout | DenseLayout, loss: PassLoss, batch: Pass, values: Tensor, scaling: Tensor,
    teacher: Tensor | None = None,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """A pass's part of the losses [K] and of their gradient [K, P] with respect to ``values`` [K, P].

    The gradient lasts until that of the next pass, which may be written over it (``Trunk.forward``).
    ``teacher`` has the teachers' hidden states [N, d] at the same answer tokens, or is None where nobody teaches.
    """
    student, pull_back = trunk.forward(layout, batch.student, values, scaling)
    losses, downstream = _of_tokens(trunk.model, loss, batch, student, teacher)
    return losses.new_zeros(len(values)).index_add_(0, batch.row, losses * batch.weight), pull_back(downstream)


def _of_tokens(
    model: PackedModel, loss: PassLoss, batch: Pass, student: Tensor, teacher: Tensor | None
) -> tuple[Tensor, Tensor]:
    """Losses [N] and the gradient [N, d] of their weighted sum with respect to the ``student`` states [N, d]."""
    kernels = kernels_for(model.device)
    if kernels and loss is cross_entropy and model.output.softcap is None:
        return cross_entropy_and_gradient(kernels, student, model.output, batch.target, batch.weight)

    def token_loss(logits: Tensor, part: slice) -> Tensor:
        with torch.no_grad():
            taught = None if teacher is None else model.logits(teacher[part]).float()
        return loss(logits, taught, batch.target[part], batch.row[part], batch.position[part])

    return loss_and_gradient(student, model.logits, token_loss, batch.weight)
