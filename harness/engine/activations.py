"""What the adapted matrices read on given examples, for starts and rules that look at it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial
from itertools import accumulate, groupby
from typing import Any

import numpy as np
import torch
from torch import Tensor

from harness.engine.adapters.layout import DenseLayout, Layout, Slot
from harness.engine.batches import Example
from harness.engine.model.packed import PackedModel
from harness.study.inspection import MOMENT_BYTES

#: Padded tokens that go through the model at once, at least and at most, and the bytes of what the slots read at those
#: that lie in memory then: 0.2 MB a token of 135M, 1.7 of 8B.  On a CPU more of them are no faster.
FEWEST_TOKENS, MOST_TOKENS, PASS_BYTES = 1024, {"cpu": 1024, "cuda": 8192}, 2 * 10**9


class Activations:
    """The inputs of one trial's slots, with ``values`` [1, P] in place.

    ``tokens`` counts what has gone through the model, without padding: also what nobody looks at, so who needs but
    the first examples gives no others (:func:`first`).
    """

    def __init__(self, model: PackedModel, layout: Layout | DenseLayout, values: Tensor, scaling: Tensor) -> None:
        self.model, self.layout, self.values, self.scaling = model, layout, values, scaling
        self.layers = [model.module.get_submodule(slot.module) for slot in model.slots]
        self.tokens = 0

    def __call__(
        self, examples: Sequence[Example], *, whole: bool = False, slots: Sequence[int] | None = None
    ) -> Iterator[list[Tensor]]:
        """For every example, in order, what each slot is given, [tokens, n] in fp32, in slot order.

        At its answer's tokens, or at all tokens (``whole``).  Slots that read the very same input share one tensor.
        ``slots`` are those that are looked at; None: all.
        """
        for part, given in self._passes(examples, range(len(self.layers)) if slots is None else slots):
            for row, example in enumerate(part):
                at = slice(0 if whole else example.answer_start, len(example.ids))
                found: dict[int, Tensor] = {}
                yield [found.setdefault(id(x), x[row, at].float()) for x in given]
            del given  # before the next pass

    def moments(
        self, examples: Sequence[Example], tokens: int, *, levelled: bool = False
    ) -> tuple[Iterator[tuple[tuple[int, ...], Tensor]], int]:
        """(the slots that read one input, its second moments [n, n]) of every input; and how many tokens they are of.

        The tokens are all those of the first examples, until there are at least so many.  A moment is the mean of x x^T
        over them; with ``levelled`` the mean over examples of X^T X, each X over its largest entry, as PEFT's CorDA
        takes it.  Moments come layer after layer, as they are asked for, and no more than ``MOMENT_BYTES`` of them are
        held at a time: what is read again for that counts among ``tokens`` again.
        """
        read = first(examples, tokens, whole=True)
        seen = sum(len(example.ids) for example in read)
        parts = together(self.model.slots, MOMENT_BYTES)
        return (found for slots in parts for found in self._moments(read, slots, levelled)), seen

    def _moments(
        self, examples: Sequence[Example], slots: Sequence[int], levelled: bool
    ) -> Iterator[tuple[tuple[int, ...], Tensor]]:
        """Those of these slots alone: one product a pass and input.

        One of every example is 75,000 launches for 8,000 tokens of 135M, 3.6 s on an H200.
        """
        sums: dict[tuple[int, ...], Tensor] = {}
        for part, given in self._passes(examples, slots):
            lengths = torch.tensor([len(example.ids) for example in part], device=given[0].device)
            inside = torch.arange(given[0].shape[1], device=lengths.device) < lengths[:, None]
            there = inside.flatten().nonzero()[:, 0]
            readers: dict[int, list[int]] = {}
            for i, x in enumerate(given):
                readers.setdefault(id(x), []).append(i)
            for places in readers.values():
                x = given[places[0]].float()
                if levelled:
                    highest = x.masked_fill(~inside[..., None], -torch.inf).amax((1, 2), keepdim=True)
                    x = x / highest.abs()
                x = x.flatten(0, 1)[there]
                key, own = tuple(slots[i] for i in places), x.mT @ x
                sums[key] = sums[key].add_(own) if key in sums else own
            del given, x  # before the next pass, and before moments are decomposed
        count = len(examples) if levelled else sum(len(example.ids) for example in examples)
        for key in list(sums):
            yield key, sums.pop(key).div_(count)

    def _passes(
        self, examples: Sequence[Example], slots: Sequence[int]
    ) -> Iterator[tuple[Sequence[Example], list[Tensor]]]:
        """(examples of a pass, what each of the slots is given in it [examples, longest, n])."""
        for part in _parts(examples, self._most(slots)):
            self.tokens += sum(len(example.ids) for example in part)
            yield part, self._forward(part, slots)

    def _most(self, slots: Sequence[int]) -> int:
        """Padded tokens of a pass, as if no two of the slots read the same."""
        size = sum(self.model.slots[i].in_features for i in slots) * self.model.dtype.itemsize
        most = MOST_TOKENS.get(self.model.device.type, MOST_TOKENS["cpu"])
        return max(FEWEST_TOKENS, min(most, PASS_BYTES // max(1, size)))

    @torch.no_grad()
    def _forward(self, examples: Sequence[Example], slots: Sequence[int]) -> list[Tensor]:
        """What each of the slots is given, [examples, longest, n]; behind an example's end it means nothing."""
        ids = np.zeros((len(examples), max(len(e.ids) for e in examples)), dtype=np.int64)
        for row, example in enumerate(examples):
            ids[row, : len(example.ids)] = example.ids
        given: dict[int, Tensor] = {}

        def look(place: int, _: Any, inputs: tuple[Tensor, ...]) -> None:
            given[place] = inputs[0]

        handles = [self.layers[i].register_forward_pre_hook(partial(look, i)) for i in slots]
        try:
            with self.model.adapted(self.layout, self.values, self.scaling):
                self.model.hidden(torch.from_numpy(ids).to(self.model.device))
        finally:
            for handle in handles:
                handle.remove()
        return [given[place] for place in slots]


def together(slots: Sequence[Slot], most: float) -> Iterator[list[int]]:
    """The slots of neighbouring layers whose second moments, in fp32, are no more than so many bytes; of one at least.

    Matrices of one layer are not parted: they may read the same.
    """
    part: list[int] = []
    held = 0
    for _, layer in groupby(enumerate(slots), key=lambda entry: entry[1].layer):
        own = [i for i, _ in layer]
        size = sum(4 * slots[i].in_features ** 2 for i in own)
        if part and held + size > most:
            yield part
            part, held = [], 0
        part, held = part + own, held + size
    if part:
        yield part


def first(examples: Sequence[Example], tokens: int, *, whole: bool = False) -> Sequence[Example]:
    """The first examples, up to that with which their answers have so many ``tokens``, or all of them (``whole``)."""
    lengths = [len(example.ids) - (0 if whole else example.answer_start) for example in examples]
    return examples[: next((i for i, n in enumerate(accumulate(lengths), 1) if n >= tokens), len(examples))]


def _parts(examples: Sequence[Example], most: int) -> Iterator[list[Example]]:
    """Examples one after the other, as many at once as make a pass of at most so many padded tokens."""
    part: list[Example] = []
    longest = 0
    for i in range(len(examples)):
        longest = max(longest, len(examples[i].ids))
        if part and longest * (len(part) + 1) > most:
            yield part
            part, longest = [], len(examples[i].ids)
        part.append(examples[i])
    if part:
        yield part
