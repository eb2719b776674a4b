"""Does the packed engine compute what the model computes?  A few random tokens tell, against the model's forward.

The engine takes a model apart: it calls the decoder and the head by themselves, pads rows, lays the answers to one
question side by side behind a mask, keeps a cache, and puts the adapters of several trials on the rows of one batch.
Where a family does not bear one of these (a convolution or a recurrence reads the neighbour in the row, not the past
that the mask leaves), its numbers would be wrong without a word.  So every model that is loaded is tried, before any
work: what it can't bear is left out where the engine has another way, and else it is refused by name.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from harness.engine.generate import generate
from harness.engine.model.head import Head, distance, find_head
from harness.engine.model.material import LENGTH, RANK, SEQUENCES, TRIALS, Material, prepare, put
from harness.engine.model.packed import PackedModel, projections
from harness.engine.model.precision import in_float32
from harness.engine.model.verdict import Verdict

#: Logits that are compared at a place.
COLUMNS = 1024


def wrapped(verdict: Verdict, model: Any, targets: Sequence[str]) -> PackedModel:
    """``model`` with room for adapters, limited to what ``verdict`` says that it bears."""
    head = Head(model.get_submodule(verdict.decoder), model.get_output_embeddings(), verdict.factor, verdict.softcap)
    packed = PackedModel(model, targets, head)
    packed.branches, packed.shares, packed.stays = verdict.branches, verdict.shares, verdict.stays
    packed.skips = packed.skips and verdict.skips
    return packed


def check(model: Any, targets: Sequence[str]) -> Verdict:
    """Try what the engine will do with a model; afterwards it is as it was, but on ``eval`` and without gradients.

    Raises InputError for a model whose head or projections can't be taken apart; any other refusal is in the verdict.
    """
    linears, head = projections(model, targets), find_head(model)
    implementation = model.config._attn_implementation
    decoder = next(name for name, module in model.named_modules() if module is head.decoder)
    verdict = Verdict(type(model).__name__, decoder, head.factor, head.softcap)
    with _narrow(model, head) as narrow:
        material = prepare(PackedModel(model, (), narrow), linears)
        if not material.wanted.isfinite().all():
            return replace(verdict, refused="its logits are not finite")
        try:
            return _try_out(PackedModel(model, targets, narrow), material, verdict)
        finally:
            put(model, linears)
            model.set_attn_implementation(implementation)


@contextmanager
def _narrow(model: Any, head: Head) -> Iterator[Head]:
    """Within this context the model says logits of some tokens only: all of them take longer than all its layers."""
    size, width = head.linear.weight.shape
    chosen = np.sort(np.random.default_rng(1).choice(size, min(COLUMNS, size), replace=False))
    rows = torch.from_numpy(chosen).to(head.linear.weight.device)
    linear = nn.Linear(width, len(chosen), bias=head.linear.bias is not None, device="meta")
    for name, parameter in head.linear.named_parameters():
        setattr(linear, name, nn.Parameter(parameter.detach()[rows], requires_grad=False))
    name = next(name for name, module in model.named_modules() if module is head.linear)
    put(model, {name: linear})
    try:
        yield replace(head, linear=linear)
    finally:
        put(model, {name: head.linear})


# -- what is tried ----------------------------------------------------------------------------------------------------


class _Candidate:
    """The packed model with the adapters of the material in place."""

    def __init__(self, packed: PackedModel, material: Material) -> None:
        self.packed, self.material = packed, material
        layout = packed.layout(RANK)
        values = torch.zeros(TRIALS, layout.size, device=packed.device)
        for slot, (a, b) in zip(layout.slots, layout.split(values), strict=True):
            a[1], b[1] = material.factors[slot.module]
        self._adapters = (layout, values, torch.ones(TRIALS, device=packed.device))

    def adapted(self) -> Any:
        return self.packed.adapted(*self._adapters, precise=True) if self.packed.slots else nullcontext()

    def off(self, hidden: Tensor, sequence: Sequence[int], position: Sequence[int]) -> float:
        """Distance of the logits of ``hidden`` [K * n, d] from the model's, at n places of each row."""
        wanted = self.material.wanted[:, list(sequence), list(position)].flatten(0, 1)
        return distance(self.packed.logits(hidden), wanted)


#: A failed try: how far off, or what was raised.
Failure = str | None


def _attempt(candidate: _Candidate, what: Callable[[_Candidate], float]) -> Failure:
    try:
        with in_float32(), torch.no_grad(), candidate.adapted():
            off = what(candidate)
    except (MemoryError, torch.OutOfMemoryError):
        raise
    except Exception as error:  # whatever a family's code raises when it is called so
        said = (str(error).splitlines() or [""])[0]
        return f"it raises {type(error).__name__}: {said[:200]}"
    most = candidate.material.tolerance
    return None if off <= most else f"its logits are off by {off:.2g} of their spread, where rounding makes {most:.1g}"


def _try_out(packed: PackedModel, material: Material, verdict: Verdict) -> Verdict:
    candidate = _Candidate(packed, material)
    if failed := _attempt(candidate, _padded):
        packed.skips = False
        if again := _attempt(candidate, _padded):
            whole = _attempt(candidate, _whole)
            return replace(verdict, refused=f"with adapters {whole}" if whole else f"in a padded batch {again}")
        verdict = replace(verdict, skips=False, why=failed)
    if failed := _attempt(candidate, _branched):
        verdict = replace(verdict, branches=False, why=failed)
    if failed := _attempt(candidate, _generated):
        packed.stays = False
        verdict = replace(verdict, stays=False)
        if failed := _attempt(candidate, _generated):
            packed.shares = False
            if again := _attempt(candidate, _generated):
                return replace(verdict, refused=f"in generation with a cache {again}")
            verdict = replace(verdict, shares=False, why=verdict.why or failed)
    return verdict


def _whole(candidate: _Candidate) -> float:
    """Rows of one length."""
    material = candidate.material
    hidden = candidate.packed.hidden(material.ids.repeat(TRIALS, 1))
    places = list(itertools.product(range(SEQUENCES), range(material.ids.shape[1])))
    return candidate.off(hidden.flatten(0, 1), [s for s, _ in places], [p for _, p in places])


def _padded(candidate: _Candidate) -> float:
    """Rows of unequal lengths, padded on the right, and read at some places only."""
    ids, at, places = _right_padded(candidate.material)
    hidden = candidate.packed.hidden_at(at, ids.repeat(TRIALS, 1))
    return candidate.off(hidden, [s for s, _ in places], [p for _, p in places])


def _right_padded(material: Material) -> tuple[Tensor, Tensor, list[tuple[int, int]]]:
    """Sequences cut to unequal lengths [S, T], every other place of the flattened [K * S * T], and what is there."""
    count, length = material.ids.shape
    lengths = [max(1, length - s * (length - material.shared) // 2) for s in range(count)]
    ids = material.ids.clone()
    for s, cut in enumerate(lengths):
        ids[s, cut:] = 0
    places = [(s, p) for s in range(count) for p in range(s, lengths[s], 2)]
    at = torch.tensor([(k * count + s) * length + p for k in range(TRIALS) for s, p in places], device=ids.device)
    return ids, at, places


def _branched(candidate: _Candidate) -> float:
    """Two rows, each a common beginning with two ends side by side, as in scoring."""
    material, window = candidate.material, candidate.packed.window
    room = min(LENGTH, window or LENGTH, candidate.packed.max_length)
    rows = [_tree(material, (3, 3), room), _tree(material, (1, 2), room)]
    length = max(len(row) for row, _ in rows)
    shape = (len(rows), length)
    ids, positions, last = (np.zeros(shape, dtype=np.int64) for _ in range(3))
    last[:] = length
    sequences = material.ids.cpu().numpy()
    for r, (row, ends) in enumerate(rows):
        for j, (s, p) in enumerate(row):
            ids[r, j], positions[r, j], last[r, j] = sequences[s, p], p, ends[j]
    places = [(r, j) for r, (row, _) in enumerate(rows) for j in range(material.shared - 1, len(row))]
    at = [(k * len(rows) + r) * length + j for k in range(TRIALS) for r, j in places]
    on, packed = candidate.material.ids.device, candidate.packed
    ids, positions, last = (torch.from_numpy(array).to(on) for array in (ids, positions, last))
    hidden = packed.hidden_at(torch.tensor(at, device=on), ids.repeat(TRIALS, 1), last, positions.repeat(TRIALS, 1))
    known = [rows[r][0][j] for r, j in places]
    return candidate.off(hidden, [s for s, _ in known], [p for _, p in known])


def _tree(material: Material, ends: Sequence[int], room: int) -> tuple[list[tuple[int, int]], list[int]]:
    """A row of (sequence, position), and where what continues each token ends; at most ``room`` tokens where it can."""
    shared, free = material.shared, max(2, room - material.shared)
    row = [(0, p) for p in range(shared)]
    last = [0] * shared
    for s, want in enumerate(ends):
        size = min(want, material.ids.shape[1] - shared, free // len(ends) or 1)
        row += [(s, shared + p) for p in range(size)]
        last += [len(row)] * size
    last[:shared] = [len(row)] * shared
    return row, last


def _generated(candidate: _Candidate) -> float:
    """Prompts of unequal lengths that begin alike, continued by known tokens; one ends early."""
    material = candidate.material
    sequences, length = material.ids.tolist(), material.ids.shape[1]
    room = length - material.shared
    lengths = [material.shared + max(1, min(cut, room - 3)) for cut in (1, 4)]
    prompts = [sequence[:cut] for sequence, cut in zip(sequences, lengths, strict=True)]
    worst = 0.0

    def pick(logits: Tensor, places: list[int], said: int) -> Tensor:
        nonlocal worst
        at = [lengths[i] - 1 + said for i in places]
        wanted = material.wanted[:, places, at].flatten(0, 1)
        worst = max(worst, distance(logits, wanted))
        after = [sequences[i][min(lengths[i] + said, length - 1)] for i in places]
        return torch.tensor(after * TRIALS, device=logits.device)

    def finished(spoken: list[tuple[int, int]], said: list[list[int]]) -> list[bool]:
        return [i < SEQUENCES - 1 for _, i in spoken]

    generate(candidate.packed, [prompts] * TRIALS, min(2, room), finished, pick=pick)
    return worst
