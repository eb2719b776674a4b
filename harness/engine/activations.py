"""What the adapted matrices read on given examples, for starts and rules that look at it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial
from itertools import accumulate
from typing import Any

import numpy as np
import torch
from torch import Tensor

from harness.engine.adapters.layout import DenseLayout, Layout
from harness.engine.batches import Example
from harness.engine.model.packed import PackedModel

#: Padded tokens that go through the model at once: what all slots read at so many lies in memory, some 0.4 GB of 135M.
PASS_TOKENS = 1024


class Activations:
    """The inputs of one trial's slots, with ``values`` [1, P] in place.

    ``tokens`` counts what has gone through the model, without padding: also what nobody looks at, so who needs but
    the first examples gives no others (:func:`first`).
    """

    def __init__(self, model: PackedModel, layout: Layout | DenseLayout, values: Tensor, scaling: Tensor) -> None:
        self.model, self.layout, self.values, self.scaling = model, layout, values, scaling
        self.layers = [model.module.get_submodule(slot.module) for slot in model.slots]
        self.tokens = 0

    def __call__(self, examples: Sequence[Example], *, whole: bool = False) -> Iterator[list[Tensor]]:
        """For every example, in order, what each slot is given, [tokens, n] in fp32, in slot order.

        At its answer's tokens, or at all tokens (``whole``).  Slots that read the very same input share one tensor.
        """
        for part in _parts(examples):
            given = self._forward(part)
            self.tokens += sum(len(example.ids) for example in part)
            for row, example in enumerate(part):
                at = slice(0 if whole else example.answer_start, len(example.ids))
                found: dict[int, Tensor] = {}
                yield [found.setdefault(id(x), x[row, at].float()) for x in given]

    def moments(self, examples: Sequence[Example], tokens: int, *, levelled: bool = False) -> tuple[list[Tensor], int]:
        """(second moments [n, n] of what each slot reads at all tokens of the first examples, how many they are).

        Examples are read until there are at least so many ``tokens``.  A moment is the mean of x x^T over tokens; with
        ``levelled`` the mean over examples of X^T X, each X over its largest entry, as PEFT's CorDA takes it.  Slots
        that read the very same input share one tensor.
        """
        sums: list[Tensor] = []
        seen = count = 0
        for each in self(first(examples, tokens, whole=True), whole=True):
            found: dict[int, Tensor] = {}
            for i, x in enumerate(each):
                if id(x) not in found:
                    x_ = x / x.max().abs() if levelled else x
                    found[id(x)] = x_.mT @ x_
                    if len(sums) > i:
                        sums[i] += found[id(x)]
                if len(sums) <= i:
                    sums.append(found[id(x)])
            seen, count = seen + len(each[0]), count + 1
        over: dict[int, Tensor] = {}
        return [over.setdefault(id(s), s / (count if levelled else seen)) for s in sums], seen

    @torch.no_grad()
    def _forward(self, examples: Sequence[Example]) -> list[Tensor]:
        """What each slot is given, [examples, longest, n]; behind an example's end it means nothing."""
        ids = np.zeros((len(examples), max(len(e.ids) for e in examples)), dtype=np.int64)
        for row, example in enumerate(examples):
            ids[row, : len(example.ids)] = example.ids
        given: dict[int, Tensor] = {}

        def look(place: int, _: Any, inputs: tuple[Tensor, ...]) -> None:
            given[place] = inputs[0]

        handles = [layer.register_forward_pre_hook(partial(look, i)) for i, layer in enumerate(self.layers)]
        try:
            with self.model.adapted(self.layout, self.values, self.scaling):
                self.model.hidden(torch.from_numpy(ids).to(self.model.device))
        finally:
            for handle in handles:
                handle.remove()
        return [given[place] for place in range(len(self.layers))]


def first(examples: Sequence[Example], tokens: int, *, whole: bool = False) -> Sequence[Example]:
    """The first examples, up to that with which their answers have so many ``tokens``, or all of them (``whole``)."""
    lengths = [len(example.ids) - (0 if whole else example.answer_start) for example in examples]
    return examples[: next((i for i, n in enumerate(accumulate(lengths), 1) if n >= tokens), len(examples))]


def _parts(examples: Sequence[Example]) -> Iterator[list[Example]]:
    """Examples one after the other, as many at once as make a pass."""
    part: list[Example] = []
    longest = 0
    for i in range(len(examples)):
        longest = max(longest, len(examples[i].ids))
        if part and longest * (len(part) + 1) > PASS_TOKENS:
            yield part
            part, longest = [], len(examples[i].ids)
        part.append(examples[i])
    if part:
        yield part
