"""Does the packed engine compute what the model computes?  A few random tokens tell, against the model's own forward.

The engine takes a model apart: it calls the decoder and the head by themselves, pads rows, lays the answers to one
question side by side behind a mask, keeps a cache, and puts the adapters of several trials on the rows of one batch.
Where a family does not bear one of these (a convolution or a recurrence reads the neighbour in the row, not the past
that the mask leaves), its numbers would be wrong without a word.  So every model that is loaded is tried, before any
work: what it can't bear is left out where the engine has another way, and else it is refused by name.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from harness.engine.generate import LEAST_SHARED, generate
from harness.engine.model.attention import tree_mask
from harness.engine.model.head import REMEDY, Head, distance, find_head
from harness.engine.model.packed import PackedModel, projections
from harness.engine.model.precision import in_float32
from harness.errors import InputError

#: The base, and one adapter on it: rows that get the other's adapter show.
TRIALS, RANK = 2, 2
#: The entries of an adapter's B A, in units of those of the weight it changes: enough to be seen, in a model that still
#: works; one of half the size of the weights makes a real model multiply its rounding errors by fifty.
SIZE = 0.1
#: Two sequences, with a beginning that is worth sharing: 5 s of one CPU core for 135M parameters, once a model.
SEQUENCES, LENGTH, SHARED = 2, LEAST_SHARED + 8, LEAST_SHARED + 1
#: Logits that are compared at a place.
COLUMNS = 1024
#: What rounding does in a model is measured: its embeddings are moved by this share of themselves, up or down.
SHAKE = 2.0**-20
#: Logits may be off by so many times what that does, within bounds.  In eighty families and SmolLM2 honest ones are off
#: by 0.1 to 0.8 times, those of a token read from a wrong place by 200 in an untrained model and by 20,000 in others.
TIMES, LEAST, MOST = 6.0, 1e-5, 1e-2


@dataclass(frozen=True)
class Verdict:
    """What a family bears, beside padded batches, adapters and a cache; ``refused`` says why it is not taken."""

    family: str
    decoder: str = ""  #: its name among the modules
    factor: float = 1.0  #: of the logits
    softcap: float | None = None  #: of the logits
    branches: bool = True  #: rows with a mask that is not causal: answers side by side behind their question
    shares: bool = True  #: a cache whose rows can be repeated, for prompts that begin alike, and dropped when done
    skips: bool = True  #: a last feed-forward layer that computes only the places that are read
    refused: str = ""
    why: str = ""  #: of what it does not bear

    def remark(self) -> str | None:
        """What a person should know of a family that is taken with less."""
        if self.branches:
            return None
        return (
            f"{self.family} is scored one request a row, which takes longer: answers side by side behind one question "
            f"would read each other ({self.why})"
        )

    def raise_if_refused(self, where: str) -> None:
        """Raises InputError, which names the family, what failed and by how much."""
        if self.refused:
            raise InputError(f"{self.family} is not taken: {self.refused}", where=where, remedy=REMEDY)

    def wrapped(self, model: Any, targets: Sequence[str]) -> PackedModel:
        """A model of which this is the verdict, with room for adapters and held to what it bears."""
        head = Head(model.get_submodule(self.decoder), model.get_output_embeddings(), self.factor, self.softcap)
        packed = PackedModel(model, targets, head)
        packed.branches, packed.shares, packed.skips = self.branches, self.shares, packed.skips and self.skips
        return packed


def check(model: Any, targets: Sequence[str]) -> Verdict:
    """Try what the engine will do with a model; afterwards it is as it was, but on ``eval`` and without gradients.

    Raises InputError for a model whose head or projections can't be taken apart; any other refusal is in the verdict.
    """
    found, head = projections(model, targets), find_head(model)
    implementation = model.config._attn_implementation
    decoder = next(name for name, module in model.named_modules() if module is head.decoder)
    verdict = Verdict(type(model).__name__, decoder, head.factor, head.softcap)
    with _narrow(model, head) as narrow:
        material = prepare(PackedModel(model, (), narrow), found)
        if not material.own.isfinite().all():
            return replace(verdict, refused="its logits are not finite")
        try:
            return _try_out(PackedModel(model, targets, narrow), material, verdict)
        finally:
            _put(model, found)
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
    _put(model, {name: linear})
    try:
        yield replace(head, linear=linear)
    finally:
        _put(model, {name: head.linear})


def _put(model: nn.Module, modules: Mapping[str, nn.Module]) -> None:
    for name, module in modules.items():
        parent, _, last = name.rpartition(".")
        setattr(model.get_submodule(parent), last, module)


# -- material ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Material:
    """Random sequences with a common beginning, an adapter, and what the model itself says to them."""

    ids: Tensor  # [S, T]
    shared: int  # tokens that all sequences begin with
    factors: Mapping[str, tuple[Tensor, Tensor]]  # A [r, in] and B [out, r] by module
    own: Tensor  # [K, S, T, C]: logits of the base, and with the adapter in the weights
    tolerance: float  # largest distance of logits that are its own


@torch.no_grad()
def prepare(packed: PackedModel, found: Mapping[str, nn.Linear]) -> Material:
    """Draw tokens and an adapter, and ask the model itself; its projections must not be wrapped yet."""
    rng = np.random.default_rng(0)
    length = min(LENGTH, packed.max_length)
    reach = min(length, packed.window or length)
    shared = SHARED if reach == LENGTH else max(1, reach // 2)  # rows with branches are within a window
    tokens = _plain_tokens(packed)
    ids = rng.choice(tokens, (SEQUENCES, length))
    ids[:, :shared] = ids[0, :shared]
    ids[:, shared] = rng.choice(tokens, SEQUENCES, replace=len(tokens) < SEQUENCES)
    sequences = torch.from_numpy(ids).to(packed.device)
    factors = _draw(found, torch.Generator().manual_seed(0))

    def own() -> Tensor:
        with in_float32():
            return packed.module(input_ids=sequences, use_cache=False).logits

    base = own()
    with _shaken(packed.module):
        noise = distance(own().flatten(0, 1), base.flatten(0, 1))
    tolerance = min(max(LEAST, TIMES * noise), MOST)
    with _merged(packed.module, found, factors):
        return Material(sequences, shared, factors, torch.stack([base, own()]), tolerance)


@contextmanager
def _shaken(model: Any) -> Iterator[None]:
    """Within this context the embeddings are off in their last bits, in a way that is the same every time."""
    generator = torch.Generator().manual_seed(2)

    def shake(_: nn.Module, given: Any, output: Tensor) -> Tensor:
        signs = torch.randint(0, 2, output.shape, generator=generator) * 2 - 1
        return output * (1 + SHAKE * signs.to(output.device))

    hook = model.get_input_embeddings().register_forward_hook(shake)
    try:
        yield
    finally:
        hook.remove()


def _plain_tokens(packed: PackedModel) -> np.ndarray:
    """Tokens without a meaning of their own to the model, such as the one that pads."""
    config = packed.module.config.get_text_config().to_dict()
    named = [value for key, value in config.items() if key.endswith("_token_id")]
    special = {token for value in named for token in (value if isinstance(value, list) else [value])}
    plain = np.array([token for token in range(packed.vocabulary) if token not in special])
    return plain if len(plain) else np.arange(packed.vocabulary)


def _draw(found: Mapping[str, nn.Linear], generator: torch.Generator) -> dict[str, tuple[Tensor, Tensor]]:
    """A and B of one adapter by module."""
    factors = {}
    for name, linear in found.items():
        out, into = linear.weight.shape
        a, b = torch.randn(RANK, into, generator=generator), torch.randn(out, RANK, generator=generator)
        size = linear.weight[:64].float().std() * SIZE / RANK**0.5
        factors[name] = (a.to(linear.weight.device), b.to(linear.weight.device) * size)
    return factors


class _Merged(nn.Module):
    """A linear layer with an adapter in its weight, for whoever calls it and for whoever reads its weight."""

    def __init__(self, linear: nn.Linear, a: Tensor, b: Tensor) -> None:
        super().__init__()
        self.in_features, self.out_features = linear.in_features, linear.out_features
        self._parts = (linear.weight, linear.bias, a, b)

    @property
    def weight(self) -> Tensor:
        weight, _, a, b = self._parts
        return weight + b @ a

    @property
    def bias(self) -> Tensor | None:
        return self._parts[1]

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x, self.weight, self.bias)


@contextmanager
def _merged(
    model: nn.Module, found: Mapping[str, nn.Linear], factors: Mapping[str, tuple[Tensor, Tensor]]
) -> Iterator[None]:
    """Within this context the model has the adapter in its weights; the base is not written to."""
    _put(model, {name: _Merged(linear, *factors[name]) for name, linear in found.items()})
    try:
        yield
    finally:
        _put(model, found)


# -- what is tried ----------------------------------------------------------------------------------------------------


class _Trial:
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
        """Distance of the logits of ``hidden`` [K * n, d] from the model's own, n places of each trial."""
        found = self.packed.logits(hidden)
        return distance(found, self.material.own[:, list(sequence), list(position)].flatten(0, 1))


#: A failed try: how far off, or what was raised.
Failure = str | None


def _attempt(trial: _Trial, what: Callable[[_Trial], float]) -> Failure:
    try:
        with in_float32(), torch.no_grad(), trial.adapted():
            off = what(trial)
    except (MemoryError, torch.OutOfMemoryError):
        raise
    except Exception as error:  # whatever a family's code raises when it is called so
        said = (str(error).splitlines() or [""])[0]
        return f"it raises {type(error).__name__}: {said[:200]}"
    most = trial.material.tolerance
    return None if off <= most else f"its logits are off by {off:.2g} of their spread, where rounding makes {most:.1g}"


def _try_out(packed: PackedModel, material: Material, verdict: Verdict) -> Verdict:
    trial = _Trial(packed, material)
    if failed := _attempt(trial, _padded):
        packed.skips = False
        if again := _attempt(trial, _padded):
            whole = _attempt(trial, _whole)
            return replace(verdict, refused=f"with adapters {whole}" if whole else f"in a padded batch {again}")
        verdict = replace(verdict, skips=False, why=failed)
    if failed := _attempt(trial, _branched):
        verdict = replace(verdict, branches=False, why=failed)
    if failed := _attempt(trial, _generated):
        packed.shares = False
        if again := _attempt(trial, _generated):
            return replace(verdict, refused=f"in generation with a cache {again}")
        verdict = replace(verdict, shares=False, why=verdict.why or failed)
    return verdict


def _whole(trial: _Trial) -> float:
    """Rows of one length."""
    material = trial.material
    hidden = trial.packed.hidden(material.ids.repeat(TRIALS, 1))
    places = list(itertools.product(range(SEQUENCES), range(material.ids.shape[1])))
    return trial.off(hidden.flatten(0, 1), [s for s, _ in places], [p for _, p in places])


def _padded(trial: _Trial) -> float:
    """Rows of unequal lengths, padded on the right, and read at some places only."""
    ids, at, places = _right_padded(trial.material)
    hidden = trial.packed.hidden_at(at, ids.repeat(TRIALS, 1))
    return trial.off(hidden, [s for s, _ in places], [p for _, p in places])


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


def _branched(trial: _Trial) -> float:
    """Two rows, each a common beginning with two ends side by side, as in scoring."""
    material, window = trial.material, trial.packed.window
    room = min(LENGTH, window or LENGTH, trial.packed.max_length)
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
    on, packed = trial.material.ids.device, trial.packed
    ids, positions, last = (torch.from_numpy(array).to(on).repeat(TRIALS, 1) for array in (ids, positions, last))
    hidden = packed.hidden_at(torch.tensor(at, device=on), ids, tree_mask(last), positions)
    known = [rows[r][0][j] for r, j in places]
    return trial.off(hidden, [s for s, _ in known], [p for _, p in known])


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


def _generated(trial: _Trial) -> float:
    """Prompts of unequal lengths that begin alike, continued by known tokens; one ends early."""
    material = trial.material
    sequences, length = material.ids.tolist(), material.ids.shape[1]
    room = length - material.shared
    lengths = [material.shared + max(1, min(cut, room - 3)) for cut in (1, 4)]
    prompts = [sequence[:cut] for sequence, cut in zip(sequences, lengths, strict=True)]
    worst = 0.0

    def pick(logits: Tensor, places: list[int], said: int) -> Tensor:
        nonlocal worst
        at = [lengths[i] - 1 + said for i in places]
        own = material.own[:, places, at].flatten(0, 1)
        worst = max(worst, distance(logits, own))
        after = [sequences[i][min(lengths[i] + said, length - 1)] for i in places]
        return torch.tensor(after * TRIALS, device=logits.device)

    def finished(spoken: list[tuple[int, int]], said: list[list[int]]) -> list[bool]:
        return [i < SEQUENCES - 1 for _, i in spoken]

    generate(trial.packed, [prompts] * TRIALS, min(2, room), finished, pick=pick)
    return worst
