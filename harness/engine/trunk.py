"""The decoder under the adapters of K trials, forward and back: eager, or replayed from CUDA graphs.

A step of a small model is bound by launches: on an H200, 10 trials of a 135M model with 8 rows of 41 tokens each keep
the card busy for 23 of 125 ms.  A graph launches the 5,000 kernels of a shape at once.  The decoder is all that is
captured: losses, optimizers and averages, which methods may write as they like, stay outside.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from harness.engine.adapters.layout import DenseLayout, Layout
from harness.engine.batches import Joined, Sequences
from harness.engine.captures import OWN_THREAD, aside, capturing, why_not
from harness.engine.model.packed import PackedModel

#: Passes of one shape that run eagerly before it is captured, which costs about as much as three more: a stream has few
#: shapes, and what has come twice comes again.
EAGER_PASSES = 1
#: Runs before a capture, on its stream, as torch asks for: libraries allocate there what they keep.  Which kernels they
#: take they have chosen in the passes before.
WARM_UP = 1
#: Share of the card's memory that must be free for graphs to be kept from one task to the next.
SPARE = 0.5

#: (hidden states [N, d] at the places asked for, what takes the gradient of those to that of the values, [K, P])
Forward = tuple[Tensor, Callable[[Tensor], Tensor]]


@dataclass(frozen=True)
class _Graph:
    """One shape: its inputs and outputs stay where they are."""

    ids: Tensor
    joined: Joined | None
    values: Tensor | None  # None: of the base alone
    hidden: Tensor
    downstream: Tensor | None  # gradient of ``hidden``; None without a backward graph
    gradient: Tensor | None
    forward: torch.cuda.CUDAGraph
    backward: torch.cuda.CUDAGraph | None

    def read(self, sequences: Sequences) -> None:
        """From now on the graphs run on these."""
        self.ids.copy_(sequences.ids)
        if self.joined is not None and sequences.joined is not None:
            self.joined.starts.copy_(sequences.joined.starts)
            self.joined.positions.copy_(sequences.joined.positions)


class Trunk:
    """Hidden states of the trials of one pack, and their gradients.

    On a GPU shapes that come again are captured.  Where that fails everything runs eagerly, and ``failed`` says why.
    """

    def __init__(self, model: PackedModel, *, capture: bool = True) -> None:
        self.model = model
        self.failed = ""
        self._captures = capture and model.device.type == "cuda"
        self._layout: Layout | DenseLayout | None = None
        self._seen: Counter[tuple[object, ...]] = Counter()
        self._graphs: dict[tuple[object, ...], _Graph] = {}
        self._pool: Any = None
        self._gradient: Tensor | None = None  # where all graphs leave it: one at a time is read

    def states(
        self, layout: Layout | DenseLayout, sequences: Sequences, values: Tensor | None, scaling: Tensor
    ) -> Tensor:
        """Hidden states [N, d] at the places from which answer tokens are predicted; no gradient.

        ``scaling`` is [K]; ``values`` are those of the adapters, [K, P]; None: the base.
        """
        source = sequences.source
        with torch.no_grad():
            graph = self._captured(layout, sequences, values, scaling, gradient=False)
            if graph is None:
                return _at(self._hidden(layout, sequences, values, scaling), source)
            graph.read(sequences)
            if graph.values is not None and values is not None:
                graph.values.copy_(values)
            graph.forward.replay()
            return _at(graph.hidden, source)

    def forward(self, layout: Layout | DenseLayout, sequences: Sequences, values: Tensor, scaling: Tensor) -> Forward:
        """The same with a way back, whose gradient lasts until that of the next pass.

        ``values`` must be the same tensor every time, written to in place.
        """
        source = sequences.source
        graph = self._captured(layout, sequences, values, scaling, gradient=True)
        if graph is not None:
            graph.read(sequences)
            graph.forward.replay()
            return _at(graph.hidden, source), lambda downstream: _replay_backward(graph, source, downstream)
        leaf = values.detach().requires_grad_()
        student = _at(self._hidden(layout, sequences, leaf, scaling), source)
        return student, lambda downstream: torch.autograd.grad(student, leaf, downstream)[0]

    def end_task(self) -> None:
        """Keep the graphs for the next task, which has some of the same shapes, unless others may need their memory."""
        if self._graphs:
            free, total = torch.cuda.mem_get_info(self.model.device)
            if free < SPARE * total:
                self.forget()

    def forget(self) -> None:
        """Free all graphs and their memory."""
        self._seen.clear()
        self._graphs.clear()
        self._pool, self._gradient, self._layout = None, None, None

    def _hidden(self, layout: Layout | DenseLayout, read: Sequences, values: Tensor | None, scaling: Tensor) -> Tensor:
        with self.model.adapted(layout, values, scaling):
            return self.model.hidden(read.ids, joined=read.joined, line=read.line)

    # -- capture --------------------------------------------------------------------------------------------------

    def _captured(
        self, layout: Layout | DenseLayout, read: Sequences, values: Tensor | None, scaling: Tensor, *, gradient: bool
    ) -> _Graph | None:
        """The graph of this shape; None where it runs eagerly, still or for good."""
        if not self._captures:
            return None
        if layout is not self._layout:
            self.forget()
            self._layout = layout
        # The students' values and the scaling are read where they are; teachers' are copied into the graph's own.
        place = values.data_ptr() if gradient and values is not None else 0
        rows = None if read.joined is None else (read.joined.starts.shape[1], read.joined.longest)
        key = (tuple(read.ids.shape), rows, values is None, gradient, place, scaling.data_ptr())
        if key not in self._graphs:
            self._seen[key] += 1
            if self._seen[key] <= EAGER_PASSES:
                return None
            try:
                with capturing():
                    self._graphs[key] = self._capture(layout, read, values, scaling, gradient=gradient)
            except RuntimeError as error:  # of which running out of memory is one
                self.forget()
                self.failed, self._captures = why_not(error), False
                return None
        return self._graphs[key]

    def _capture(
        self, layout: Layout | DenseLayout, read: Sequences, values: Tensor | None, scaling: Tensor, *, gradient: bool
    ) -> _Graph:
        joined = read.joined and Joined(read.joined.starts.clone(), read.joined.positions.clone(), read.joined.longest)
        read = Sequences(read.ids.clone(), read.source, joined)
        leaf = None if values is None else values.detach().requires_grad_() if gradient else values.clone()
        if self._pool is None:
            self._pool = torch.cuda.graph_pool_handle()
        if gradient and values is not None and self._gradient is None:
            self._gradient = torch.empty_like(values)
        with torch.set_grad_enabled(gradient):
            with aside(self.model.device):
                for _ in range(WARM_UP):
                    hidden = self._hidden(layout, read, leaf, scaling)
                    if gradient and leaf is not None:
                        torch.autograd.grad(hidden, leaf, torch.zeros_like(hidden))
                    del hidden
            forward = torch.cuda.CUDAGraph()
            with torch.cuda.graph(forward, pool=self._pool, capture_error_mode=OWN_THREAD):
                hidden = self._hidden(layout, read, leaf, scaling)
            if not gradient or leaf is None or self._gradient is None:
                return _Graph(read.ids, joined, leaf, hidden, None, None, forward, None)
            downstream = torch.zeros_like(hidden)
            backward = torch.cuda.CUDAGraph()
            with torch.cuda.graph(backward, pool=self._pool, capture_error_mode=OWN_THREAD):
                self._gradient.copy_(torch.autograd.grad(hidden, leaf, downstream)[0])
        return _Graph(read.ids, joined, leaf.detach(), hidden.detach(), downstream, self._gradient, forward, backward)


def _at(hidden: Tensor, source: Tensor) -> Tensor:
    return hidden.flatten(0, 1).index_select(0, source)


def _replay_backward(graph: _Graph, source: Tensor, downstream: Tensor) -> Tensor:
    assert graph.downstream is not None
    assert graph.backward is not None
    assert graph.gradient is not None
    graph.downstream.zero_().flatten(0, 1).index_add_(0, source, downstream)
    graph.backward.replay()
    return graph.gradient
