"""Training data of a pack: encoded examples, what a row draws of them, and batches of the examples of all rows.

A row draws its examples from its own seed and its own task, whatever its neighbours do: packing changes which examples
go through the model beside its own and how far they are padded, never which form a step.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from harness.engine.lines import LINE_OVERHEAD, Line, cheapest, line_up

#: Devices where the examples of all trials are one line, so that nothing is padded.
IN_LINE = ("cpu",)
#: What a pass costs beside its tokens, in tokens: 300 ms on 2 CPU cores, where a token takes 2.3 ms (135M, bf16).  On a
#: GPU a pass that runs eagerly is 130 ms of launches, the time of about 16,000 tokens, and every new shape that is
#: captured costs 0.7 s: a step is one pass where it fits.
PASS_OVERHEAD = {"cpu": 128, "cuda": 16384}


@dataclass(frozen=True)
class Example:
    """Token ids of one training example; the answer is everything from ``answer_start`` on.

    ``shown`` is the prompt of a teacher that sees more than the student does; None for one that sees the same.
    """

    ids: np.ndarray  # [length], int64
    answer_start: int
    shown: np.ndarray | None = None  # [its length], int64

    @property
    def prompt(self) -> np.ndarray:
        return self.ids[: self.answer_start]

    @property
    def answer(self) -> np.ndarray:
        return self.ids[self.answer_start :]

    @property
    def teacher_ids(self) -> np.ndarray:
        """What a teacher reads: its own prompt, with the same answer behind it."""
        return self.ids if self.shown is None else np.concatenate([self.shown, self.answer])

    @property
    def teacher_length(self) -> int:
        return len(self.ids) if self.shown is None else len(self.shown) + len(self.answer)

    def truncated(self, max_length: int, teacher_length: int | None = None) -> Example:
        """Cut from the left, as lm-eval does, so that the answer stays; a teacher reads at most ``teacher_length``."""
        cut = max(0, len(self.ids) - max_length)
        short = Example(self.ids[cut:], max(1, self.answer_start - cut), self.shown) if cut else self
        if self.shown is None or teacher_length is None or short.teacher_length <= teacher_length:
            return short
        room = max(1, teacher_length - len(short.answer))
        return Example(short.ids, short.answer_start, self.shown[-room:])


def few_words(documents: int, seed: int) -> list[Example]:
    """Made-up running text, 25 tokens a document: three words and, one token in 25, any other of the first hundred.

    So a model reads mostly the same, and directions are left that it hardly reads in (checks, benchmarks).
    """
    rng = np.random.default_rng(seed)
    common, others = rng.integers(3, 97, size=3), rng.integers(3, 97, size=(documents, 24))
    ids = np.where(rng.random(others.shape) < 0.04, others, rng.choice(common, size=others.shape))
    return [Example(np.array([1, *row]), 1) for row in ids]


def draw(examples: int, available: int, seed: int) -> np.ndarray:
    """The indices [examples] that a row sees of a task with ``available`` examples, in order; one pass."""
    return np.random.default_rng(seed).permutation(available)[:examples]


@dataclass(frozen=True)
class Joined:
    """Examples behind each other, R of a row in one sequence [M], for attention that keeps them apart."""

    starts: Tensor  # [K, R + 1]: where each example begins, and the last one ends; what follows is padding
    positions: Tensor  # [K, M], from 0 in every example
    longest: int  # tokens that an example has at most: a power of two


@dataclass(frozen=True)
class Sequences:
    """What goes through the model: [K * R, T], R examples of row 0 first, then R of row 1; ``joined``, [K, M]; or in a
    ``line``, [1, L].
    """

    ids: Tensor
    source: Tensor  # [N], index into the flattened hidden states: where the tokens of the answers are predicted
    joined: Joined | None = None
    line: Line | None = None


@dataclass(frozen=True)
class Pass:
    """Examples of K rows that go through the model together, equally many of each.

    The tensors have one entry an answer token: what its logits should say, whose it is, its place in the answer, and
    its weight in the mean of its row's step.  A teacher reads the same as the student where no prompt differs.
    """

    student: Sequences
    teacher: Sequences
    target: Tensor
    row: Tensor
    position: Tensor
    weight: Tensor


@dataclass(frozen=True)
class Batch:
    """The examples of one optimizer step of K rows, in as many passes as its token budget asks for."""

    rows: Sequence[Sequence[Example]]  # of each row
    passes: tuple[Pass, ...]
    end: int  # pads, and ends an answer that the student gives itself
    budget: int  # padded tokens that go through the model at once; in line unequal neighbours may add a few
    seeds: Sequence[int]  # of each row's draws in this step; empty where no row samples

    @property
    def tokens(self) -> tuple[int, ...]:
        """Real tokens of each row."""
        return tuple(sum(len(example.ids) for example in examples) for examples in self.rows)

    @property
    def teacher_tokens(self) -> tuple[int, ...]:
        """The same as a teacher reads them."""
        return tuple(sum(example.teacher_length for example in examples) for examples in self.rows)

    @property
    def real_tokens(self) -> int:
        return sum(self.tokens)


def make_batch(
    rows: Sequence[Sequence[Example]], pad: int, device: torch.device, budget: int = 2**31,
    *, seeds: Sequence[int] = (), by_answer: bool = False, join: int = 0,
) -> Batch:  # fmt: skip
    """The batch of ``rows[k]``, the examples of row k of the pack; every row has the same number of them.

    Examples are padded on the right, and cut into passes of similar lengths where that is cheaper than padding them all
    to the longest, or where they do not fit the ``budget`` of tokens; the passes' gradients add up to the same.
    Those of a pass with at most ``join`` tokens each stand behind each other instead: those of a row (:class:`Joined`).
    On a CPU those of all rows do, where no example is longer and it is cheaper (:class:`~harness.engine.lines.Line`).
    An answer token weighs 1 / (answer tokens of its row), or 1 / (tokens of its answer * examples) if ``by_answer``.
    """
    weights = [_weights(examples, by_answer) for examples in rows]
    ordered = [
        sorted(zip(examples, shares, strict=True), key=lambda pair: -_width(pair[0]))
        for examples, shares in zip(rows, weights, strict=True)
    ]
    widths = [[_width(pairs[i][0]) for pairs in ordered] for i in range(len(ordered[0]))]
    overhead = PASS_OVERHEAD.get(device.type, PASS_OVERHEAD["cpu"])
    cost, cuts = cheapest([max(each) * len(each) for each in widths], budget, overhead)
    if device.type in IN_LINE:
        in_line = cheapest(list(map(sum, widths)), budget, overhead + LINE_OVERHEAD, padded=False)
        if in_line[0] < cost and max(map(max, widths)) <= join:
            cuts = in_line[1]
        else:
            join = 0
    passes = tuple(
        _collate([pairs[start:stop] for pairs in ordered], pad, device, join)
        for start, stop in itertools.pairwise(cuts)
    )
    return Batch(rows, passes, pad, budget, seeds)


def _width(example: Example) -> int:
    return max(len(example.ids), example.teacher_length)


def _weights(examples: Sequence[Example], by_answer: bool) -> list[float]:
    """What one token of each example's answer weighs."""
    lengths = [len(example.answer) for example in examples]
    return [1 / (n * len(lengths)) for n in lengths] if by_answer else [1 / sum(lengths)] * len(lengths)


def _collate(rows: Sequence[Sequence[tuple[Example, float]]], pad: int, device: torch.device, join: int) -> Pass:
    """One pass of examples, each with what a token of its answer weighs."""
    flat = [pair for pairs in rows for pair in pairs]
    examples, size = [example for example, _ in flat], len(rows[0])
    bucketed = device.type == "cuda"  # whose shapes are captured (harness.engine.trunk)
    if device.type in IN_LINE and join:
        return _in_line(examples, [share for _, share in flat], len(rows), pad)

    def laid_out(sequences: Sequence[np.ndarray]) -> tuple[list[np.ndarray], int]:
        longest = max(map(len, sequences))
        if longest <= join:
            return _joined(sequences, examples, size, pad, bucketed=bucketed), 1 << (longest - 1).bit_length()
        return _padded(sequences, examples, pad, bucketed=bucketed), 0

    student, longest = laid_out([example.ids for example in examples])
    teacher, longest_of_teacher = [], 0
    if any(example.shown is not None for example in examples):
        teacher, longest_of_teacher = laid_out([example.teacher_ids for example in examples])
    parts = [*_answers(examples, size), *student, *teacher]
    # One transfer for all of it: a step of a small model is bound by launches, not by bytes.
    moved = torch.from_numpy(np.concatenate([part.ravel() for part in parts])).to(device, non_blocking=True)
    views = [view.view(part.shape) for view, part in zip(moved.split([p.size for p in parts]), parts, strict=True)]
    weight = _of_answers(examples, [share for _, share in flat])
    target, row, position, *read = views
    ours = _sequences(read[: len(student)], longest)
    theirs = _sequences(read[len(student) :], longest_of_teacher) if teacher else ours
    return Pass(ours, theirs, target, row, position, weight.to(device, non_blocking=True))


def _in_line(examples: Sequence[Example], shares: Sequence[float], trials: int, pad: int) -> Pass:
    """The same of examples in one line."""

    def laid_out(sequences: Sequence[np.ndarray]) -> Sequences:
        ids, ends, line = line_up(sequences, trials, pad)
        return Sequences(torch.from_numpy(ids), torch.from_numpy(_before_answers(examples, ends)), line=line)

    student = teacher = laid_out([example.ids for example in examples])
    if any(example.shown is not None for example in examples):
        teacher = laid_out([example.teacher_ids for example in examples])
    target, row, position = torch.from_numpy(_answers(examples, len(examples) // trials))
    return Pass(student, teacher, target, row, position, _of_answers(examples, shares))


def _answers(examples: Sequence[Example], size: int) -> np.ndarray:
    """[3, N]: the answers' tokens, their rows of the pack and their positions; ``size`` examples are of one row."""
    columns = [
        np.stack([example.answer, np.full(len(example.answer), i // size), np.arange(len(example.answer))])
        for i, example in enumerate(examples)
    ]
    return np.concatenate(columns, axis=1)


def _of_answers(examples: Sequence[Example], shares: Sequence[float]) -> Tensor:
    """The share of each example, once for every token of its answer."""
    return torch.from_numpy(np.repeat(shares, [len(example.answer) for example in examples])).float()


def _sequences(parts: Sequence[Tensor], longest: int) -> Sequences:
    ids, source, *placed = parts
    if not placed:
        return Sequences(ids, source)
    starts, positions = placed
    return Sequences(ids, source, Joined(starts, positions, longest))


def bucket(length: int) -> int:
    """The length to pad to where shapes are to come again: at most an eighth more, or up to a multiple of 16."""
    step = max(16, 1 << max(0, (length - 1).bit_length() - 4))
    return -(-length // step) * step


def _padded(
    sequences: Sequence[np.ndarray], examples: Sequence[Example], pad: int, *, bucketed: bool
) -> list[np.ndarray]:
    """Sequences that end in the examples' answers, [N, T], and where in [N * T] the answers are predicted from."""
    length = bucket(max(map(len, sequences))) if bucketed else max(map(len, sequences))
    ids = np.full((len(sequences), length), pad, dtype=np.int64)
    for i, sequence in enumerate(sequences):
        ids[i, : len(sequence)] = sequence
    ends = np.arange(len(sequences)) * length + list(map(len, sequences))
    return [ids, _before_answers(examples, ends)]


def _joined(
    sequences: Sequence[np.ndarray], examples: Sequence[Example], size: int, pad: int, *, bucketed: bool
) -> list[np.ndarray]:
    """The same, ``size`` behind each other: [K, M], where in [K * M] answers are predicted from, the starts
    [K, size + 1] and the positions [K, M].
    """
    lengths = np.array(list(map(len, sequences))).reshape(-1, size)
    starts = np.pad(lengths.cumsum(1), ((0, 0), (1, 0)))
    length = bucket(int(starts[:, -1].max())) if bucketed else int(starts[:, -1].max())
    ids = np.full((len(lengths), length), pad, dtype=np.int64)
    positions = np.zeros_like(ids)
    for i, sequence in enumerate(sequences):
        trial, row = divmod(i, size)
        at = slice(starts[trial, row], starts[trial, row + 1])
        ids[trial, at], positions[trial, at] = sequence, np.arange(len(sequence))
    ends = starts[:, 1:] + np.arange(len(lengths))[:, None] * length
    return [ids, _before_answers(examples, ends.ravel()), starts, positions]


def _before_answers(examples: Sequence[Example], ends: np.ndarray) -> np.ndarray:
    """The places before the tokens of the answers, where the sequences with them end at ``ends``."""
    return np.concatenate(
        [np.arange(end - len(example.answer), end) - 1 for example, end in zip(examples, ends, strict=True)]
    )
