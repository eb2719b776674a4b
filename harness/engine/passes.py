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
from harness.engine.losses import loss_and_gradient
from harness.engine.trunk import Trunk

#: (student's logits [n, V], teacher's logits [n, V] or None, target [n], row of the pack [n], position in the answer
#: [n]) -> loss of each token [n].
PassLoss = Callable[[Tensor, Tensor | None, Tensor, Tensor, Tensor], Tensor]


def forward_backward(
    trunk: Trunk, layout: Layout | DenseLayout, loss: PassLoss, batch: Pass, values: Tensor, scaling: Tensor,
    teacher: Tensor | None = None,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """A pass's part of the losses [K] and of their gradient [K, P] with respect to ``values`` [K, P].

    ``teacher`` has the teachers' hidden states [N, d] at the same answer tokens, or is None where nobody teaches.
    """
    head = trunk.model.logits
    student, pull_back = trunk.forward(layout, batch.student, values, scaling)

    def token_loss(logits: Tensor, part: slice) -> Tensor:
        with torch.no_grad():
            taught = None if teacher is None else head(teacher[part]).float()
        return loss(logits, taught, batch.target[part], batch.row[part], batch.position[part])

    losses, downstream = loss_and_gradient(student, head, token_loss, batch.weight)
    return losses.new_zeros(len(values)).index_add_(0, batch.row, losses * batch.weight), pull_back(downstream)
