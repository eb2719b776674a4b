"""What starts and rules may look at as a task begins or has ended, and the tokens that are read for it."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from harness.analysis.intruders import Spectrum
from harness.engine.activations import Activations
from harness.engine.adapters.bank import AdapterBank
from harness.engine.batches import Example, make_batch
from harness.engine.passes import cross_entropy, forward_backward
from harness.engine.trunk import Trunk
from harness.method.bound import CurrentTask, Start
from harness.method.parts import Adapter
from harness.study.seeds import derive

if TYPE_CHECKING:
    from harness.engine.rows import RowSpec

#: (task, seed) -> its unscored text, in the order of the seed.
Texts = Callable[[str, int], Sequence[Example]]


class TaskEnds:
    """Both ends of a task for the rows of a bank: where their adapters start, and what their rules are given.

    Nothing here is part of a checkpoint: what is read is counted before one is written.
    """

    def __init__(
        self, trunk: Trunk, bank: AdapterBank, spectra: Callable[[], Sequence[Spectrum]], texts: Texts | None
    ) -> None:
        self.model, self.trunk, self.bank, self.spectra, self.texts = trunk.model, trunk, bank, spectra, texts
        self.read_tokens = [0] * bank.trials  #: by each row's parts, since these were last taken
        self._reading: list[tuple[int, Activations]] = []

    # -- starts ---------------------------------------------------------------------------------------------------

    def start(
        self, specs: Sequence[RowSpec], position: int, examples: Sequence[Sequence[Example]], alive: Sequence[bool]
    ) -> Tensor | None:
        """Put fresh adapters into the bank; [K, P]: what lies below them, where they put something there."""
        bank = self.bank
        before = bank.values.clone() if position else None
        bank.draw([derive(row.init_seed, "task", position) if position else row.init_seed for row in specs])
        below, found = [], {}
        for index, row in enumerate(specs):
            if not alive[index]:  # it is not scored, and what it reads may not be finite
                below += [torch.zeros_like(bank.values[index])] if row.adapter.puts_below else []
                continue
            left = None if before is None else before[index]
            # With the first task, trials of one seed that differ in rate or rules alone start alike.
            same = index if position else (row.init_seed, row.adapter, repr(row.adapter), _digest(examples[index]))
            if same not in found:
                found[same] = self._started(index, row, examples[index], left)
            bank.values[index], under, read = found[same]
            self.read_tokens[index] += read
            below += [] if under is None else [under]
        return torch.stack(below) if below else None

    def _started(
        self, index: int, row: RowSpec, examples: Sequence[Example], before: Tensor | None
    ) -> tuple[Tensor, Tensor | None, int]:
        """Where a row starts [P], what lies below that [P], and the tokens that were read for it."""
        bank = self.bank
        frozen = bank.layout.frozen.row(index) if bank.layout.frozen else None
        layout, scaling = replace(bank.layout, frozen=frozen), float(bank.scaling[index])
        nothing = torch.zeros(1, layout.size, device=bank.values.device)
        inputs = Activations(self.model, layout, nothing, nothing[:, 0])
        at = Start(layout, scaling, self.model, self.spectra, examples, before, inputs, partial(self._text, row))
        values, below = _started(row.adapter, bank.values[index].clone(), at)
        return values, below, inputs.tokens

    def _text(self, row: RowSpec) -> Sequence[Example]:
        """The text that a row's start looks at, in the order of its seed."""
        task = row.adapter.reads_text
        assert task is not None, "who starts from text says of which task"
        assert self.texts is not None, "and is given it"
        return self.texts(task, derive(row.init_seed, "text"))

    # -- rules ----------------------------------------------------------------------------------------------------

    def task(self, position: int, examples: Sequence[Sequence[Example]]) -> CurrentTask:
        """The task at this ``position``, as rules see it; ``examples`` of each row in the order of training."""
        return CurrentTask(position, examples, self._likelihood_gradient, self._inputs_of, self.spectra)

    def _inputs_of(self, row: int) -> Activations:
        """What the matrices of a row read, at its present values."""
        bank, one = self.bank, slice(row, row + 1)
        layout = replace(bank.layout, frozen=bank.layout.frozen.row(row) if bank.layout.frozen else None)
        inputs = Activations(self.model, layout, bank.values[one], bank.scaling[one])
        self._reading.append((row, inputs))
        return inputs

    def _likelihood_gradient(self, examples: Sequence[Sequence[Example]], asking: Sequence[int]) -> Tensor:
        """[K, P]: the gradient of -log p(answers) of ``examples[k]``, summed over tokens, at the values of row k.

        Rows that are not ``asking`` are read as well, since a pack's rows go side by side, but alone would not be.
        """
        bank, total = self.bank, None
        for row in asking:
            self.read_tokens[row] += sum(len(example.ids) for example in examples[row])
        for each in make_batch(examples, 0, self.model.device).passes:
            unweighted = replace(each, weight=torch.ones_like(each.weight))
            _, gradient = forward_backward(
                self.trunk, bank.layout, cross_entropy, unweighted, bank.values, bank.scaling
            )
            total = gradient.clone() if total is None else total.add_(gradient)  # else the next overwrites it
        assert total is not None
        return total

    # -- tokens ---------------------------------------------------------------------------------------------------

    def count_read(self) -> None:
        """Count what rules have read at this end; what they were given is not asked any more."""
        for row, inputs in self._reading:
            self.read_tokens[row] += inputs.tokens
        self._reading = []

    def take_read_tokens(self) -> list[int]:
        """Tokens that the parts of each row have read, since this was last asked."""
        found, self.read_tokens = self.read_tokens, [0] * len(self.read_tokens)
        return found


def _started(adapter: Adapter, drawn: Tensor, at: Start) -> tuple[Tensor, Tensor | None]:
    """(values [P], what lies below them [P]) of one trial at its start."""
    start = adapter.start(drawn, at)
    if isinstance(start, tuple) != adapter.puts_below:
        raise TypeError(
            f"{type(adapter).__name__}.start returns (values, what lies below them) where puts_below is true, and "
            "values alone where it is not"
        )
    return start if isinstance(start, tuple) else (start, None)


def _digest(examples: Sequence[Example]) -> bytes:
    """Of what is trained on, and in which order."""
    sha = hashlib.sha256()
    for example in examples:
        shown = b"" if example.shown is None else example.shown.tobytes()
        sha.update(f"{len(example.ids)} {example.answer_start} {len(shown)} ".encode() + example.ids.tobytes() + shown)
    return sha.digest()
