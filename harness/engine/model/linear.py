"""One adapted matrix: what K trials do to it, and the layer that computes it without ever writing to the base.

    W_k = diag(scale_k) (W0 + b_k a_k + dense_k)

``a`` and ``b`` are low-rank factors (LoRA and everything stacked on it), ``dense`` a full-size change (full
fine-tuning), ``scale`` a factor a row (DoRA); what a trial does not have is None.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from harness.engine.model.precision import LOW, in_three
from harness.engine.model.products import add_bmm, bmm, linear, matmul, put_bmm
from harness.engine.model.readers import Readers

#: (trials, tokens of each of them), one after the other (:class:`harness.engine.lines.Line`).
Neighbours = tuple[tuple[int, int], ...]
#: Rows of a pass that have float32 copies at a time: on a CPU they stay in its cache, which makes them three times as
#: fast as all rows at once.
PRECISE_ROWS = 1024


@dataclass(frozen=True)
class Change:
    """What K trials do to one W0 [m, n]: a [K, r, n], b [K, m, r] with its scaling, dense [K, m, n], scale [K, m].

    ``magnitude`` [K, m] is what the norms of the rows of W_k are to be; it becomes a scale where W0 is known.
    """

    a: Tensor | None = None
    b: Tensor | None = None
    dense: Tensor | None = None
    magnitude: Tensor | None = None
    scale: Tensor | None = None

    @property
    def low_rank(self) -> tuple[Tensor, Tensor] | None:
        """(a, b), where it is their product and nothing else."""
        plain = self.dense is None and self.magnitude is None and self.scale is None
        return self.factors if plain else None

    @property
    def factors(self) -> tuple[Tensor, Tensor] | None:
        return None if self.a is None or self.b is None else (self.a, self.b)

    def along_columns(self) -> Change:
        """The same with each column of b in one piece, as our kernels read factors in float32: once for all passes."""
        return self if self.b is None else replace(self, b=self.b.mT.contiguous().mT)

    def of(self, trials: slice) -> Change:
        """Of some of the trials."""
        return Change(*(None if part is None else part[trials] for part in vars(self).values()))

    def on(self, below: Change) -> Change:
        """This change on top of another: ranks add up, and vectors are those of the upper one."""
        return Change(
            a=_cat(below.a, self.a, 1),
            b=_cat(below.b, self.b, 2),
            dense=_sum(below.dense, self.dense),
            magnitude=self.magnitude,
            scale=self.scale,
        )

    def resolved(self, weight: Tensor, squares: Tensor | None = None) -> Change:
        """The same with a scale in place of the magnitude; ``squares`` [m] are those of the norms of W0's rows.

        The norm is a constant for the gradient, as DoRA's authors propose (section 4.3) and PEFT does.
        """
        if self.magnitude is None or self.factors is None:
            return self
        norms = row_norms(weight, *self.factors, squares)
        return replace(self, magnitude=None, scale=self.magnitude.float() / norms)

    def delta(self, weight: Tensor) -> Tensor:
        """W_k - W0 [K, m, n] in fp64."""
        resolved = self.resolved(weight)
        base = weight.double()
        changed = base.expand(1, -1, -1)
        if resolved.factors is not None:
            a, b = resolved.factors
            changed = changed + b.double() @ a.double()
        if resolved.dense is not None:
            changed = changed + resolved.dense.double()
        if resolved.scale is not None:
            changed = changed * resolved.scale.double()[:, :, None]
        return changed - base


def _cat(first: Tensor | None, second: Tensor | None, dim: int) -> Tensor | None:
    return second if first is None else first if second is None else torch.cat([first, second], dim)


def _sum(first: Tensor | None, second: Tensor | None) -> Tensor | None:
    return second if first is None else first if second is None else first + second


@torch.no_grad()
def row_norms(weight: Tensor, a: Tensor, b: Tensor, squares: Tensor | None = None) -> Tensor:
    """Norms [K, m] of the rows of W0 + b_k a_k, in fp32, without a matrix of W0's size for each trial.

    |w + b a|^2 = |w|^2 + 2 b (a w) + b (a a^T) b^T for a row w of W0 and the row b of b_k.
    """
    weight, a, b = weight.float(), a.float(), b.float()
    squares = weight.square().sum(1) if squares is None else squares
    inner = torch.matmul(a, weight.mT).mT + 0.5 * torch.bmm(b, torch.bmm(a, a.mT))
    return (squares + 2 * (inner * b).sum(2)).clamp(min=0).sqrt()


class _PackedLoRA(torch.autograd.Function):
    """Y = X W0^T + b + (X_k A_k^T) B_k^T for K trials; W0 and b are frozen.

    One function instead of the three it is made of: the sums go into the output of the base product (no copy of it),
    and the gradient of X is skipped where nothing needs it (the first layer).
    """

    @staticmethod
    def forward(
        ctx, x: Tensor, a: Tensor, b: Tensor, weight: Tensor, bias: Tensor | None, neighbours: Neighbours
    ) -> Tensor:
        """``neighbours`` says which rows of X are whose; empty: each trial has as many."""
        counts = [trials for trials, _ in neighbours] or [len(a)]
        rows, y = _by_neighbours(x.contiguous(), counts, neighbours), linear(x, weight, bias)
        outs, factors = _by_neighbours(y, counts, neighbours), (a.split(counts), b.split(counts))
        downs = [bmm(each, of_a.mT) for each, of_a in zip(rows, factors[0], strict=True)]
        for out, down, of_b in zip(outs, downs, factors[1], strict=True):
            out.copy_(add_bmm(out, down, of_b.mT))  # nothing is copied where it was added in place
        ctx.save_for_backward(x, a, b, weight, *downs)
        ctx.neighbours, ctx.counts = neighbours, counts
        return y

    @staticmethod
    def backward(ctx, dy: Tensor) -> tuple[Tensor | None, Tensor, Tensor, None, None, None]:
        x, a, b, weight, *downs = ctx.saved_tensors
        rows, grouped = (_by_neighbours(states.contiguous(), ctx.counts, ctx.neighbours) for states in (x, dy))
        d_downs = [bmm(each, of_b) for each, of_b in zip(grouped, b.split(ctx.counts), strict=True)]
        dx = None
        if ctx.needs_input_grad[0]:
            dx = matmul(dy, weight)
            outs = _by_neighbours(dx, ctx.counts, ctx.neighbours)
            for out, d_down, of_a in zip(outs, d_downs, a.split(ctx.counts), strict=True):
                out.copy_(add_bmm(out, d_down, of_a))
        d_a, d_b = a.new_empty(a.shape), b.new_empty(b.shape)
        for out, d_down, each in zip(d_a.split(ctx.counts), d_downs, rows, strict=True):
            put_bmm(out, d_down.mT, each)
        for out, each, down in zip(d_b.split(ctx.counts), grouped, downs, strict=True):
            put_bmm(out, each.mT, down)
        return dx, d_a, d_b, None, None, None


def _by_neighbours(states: Tensor, counts: Sequence[int], neighbours: Neighbours) -> list[Tensor]:
    """States [..., n] of all trials, in line or equally many, as [K, tokens, n] of each K that are neighbours: views,
    which are written to.
    """
    flat = states.view(-1, states.shape[-1])
    sizes = [trials * tokens for trials, tokens in neighbours] or [len(flat)]
    return [part.view(count, -1, flat.shape[1]) for part, count in zip(flat.split(sizes), counts, strict=True)]


def _precise_update(x: Tensor, a: Tensor, b: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """The same with factors in float32 on a base of lower precision, added to Y before it is rounded again.

    That is what PEFT computes outside autocast, and so what lm-eval scores, to the last bit.  Any other order of
    rounding ends up elsewhere after thirty layers: with factors in bfloat16 1.5 % of close predictions did.
    """
    y = linear(x, weight, bias)
    rows, out = x.reshape(a.shape[0], -1, a.shape[2]), y.view(a.shape[0], -1, b.shape[1])
    chunk = max(1, PRECISE_ROWS // a.shape[0])
    for part, into in zip(rows.split(chunk, dim=1), out.split(chunk, dim=1), strict=True):
        into.copy_(into.float().baddbmm_(torch.bmm(part.float(), a.mT), b.mT))
    return y


class PackedLinear(nn.Module):
    """A frozen linear layer that adds each trial's change to that trial's rows."""

    def __init__(self, base: nn.Linear) -> None:
        super().__init__()
        self.weight, self.bias = base.weight, base.bias
        self.change: Change | None = None  # None: the base
        self.neighbours: Neighbours = ()  # of the line that is read; empty: every trial has equally many tokens
        self.readers = Readers((self,))
        self.defers = False  #: whether the update is left to what reads the output, and the states kept that it is of
        self.states: Tensor | None = None
        self.cuts = False  #: whether a B in float32 on a base of 16 bits is wanted as three of bfloat16
        self.thirds: Tensor | None = None  #: and these [K, 3, r, m]
        self._squares: Tensor | None = None

    def take(self, change: Change | None) -> None:
        """From now on the forward pass is that of these trials; None: of the base."""
        if change is not None and change.magnitude is not None:
            if self._squares is None:  # of a frozen weight: once is enough
                self._squares = self.weight.float().square().sum(1)
            change = change.resolved(self.weight, self._squares)
        self.change = change
        self.thirds = None
        if self.cuts and change is not None and change.low_rank is not None and self.weight.dtype in LOW:
            b = change.low_rank[1]
            self.thirds = in_three(b.mT.contiguous(), 1) if b.dtype is torch.float32 else None
        self.readers.forget()

    def forward(self, x: Tensor) -> Tensor:
        change = self.change
        if self.defers:
            self.states = x
        if change is None or self.defers:
            return linear(x, self.weight, self.bias)
        if change.low_rank is None:
            return self._of_neighbours(x, change)
        a, b = change.low_rank
        if x.is_cuda:
            return self.readers.output(self, x)
        if a.dtype == x.dtype:
            out = _PackedLoRA.apply(x, a, b, self.weight, self.bias, self.neighbours)
            assert isinstance(out, Tensor)
            return out
        assert not self.neighbours, "only training reads lines"
        return _precise_update(x, a, b, self.weight, self.bias)

    def _of_neighbours(self, x: Tensor, change: Change) -> Tensor:
        if len(self.neighbours) < 2:
            return self._general(x, change)
        parts = x.split([trials * tokens for trials, tokens in self.neighbours], dim=1)
        stops = itertools.accumulate(trials for trials, _ in self.neighbours)
        each = zip(parts, itertools.pairwise((0, *stops)), strict=True)
        return torch.cat([self._general(part, change.of(slice(*trials))) for part, trials in each], 1)

    def _general(self, x: Tensor, change: Change) -> Tensor:
        """Every part of a change, in the precision of its factors; the scale multiplies in fp32, near 1 as it is."""
        part = next(tensor for tensor in (change.dense, change.a) if tensor is not None)
        out = linear(x, self.weight).view(part.shape[0], -1, self.weight.shape[0]).to(part.dtype)
        rows = x.reshape(part.shape[0], -1, part.shape[2]).to(part.dtype)
        if change.factors is not None:
            a, b = change.factors
            out = torch.baddbmm(out, torch.bmm(rows, a.mT), b.mT)
        if change.dense is not None:
            out = torch.baddbmm(out, rows, change.dense.mT)
        if change.scale is not None:
            out = out * change.scale[:, None]
        y = out.to(x.dtype).view(*x.shape[:-1], -1)
        return y if self.bias is None else y + self.bias
