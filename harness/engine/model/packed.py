"""The frozen base model with room for stacked adapters: load, wrap, forward.

The adapted projections of a transformers decoder, ``nn.Linear`` each, are replaced by :class:`PackedLinear`, which
share the base weight and take the factors of K trials from outside; a batch then holds the rows of trial 0, then those
of trial 1, and so on.  Whether a family bears that is tried when it is loaded (``harness.engine.model.family``).
"""

from __future__ import annotations

import hashlib
import inspect
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext, suppress
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import Cache, PreTrainedModel, masking_utils
from transformers.integrations import sdpa_attention

from harness.engine.adapters.bank import AdapterBank
from harness.engine.adapters.layout import DenseLayout, Layout, Slot
from harness.engine.batches import Joined
from harness.engine.captures import why_not
from harness.engine.lines import Line
from harness.engine.model import attention, products
from harness.engine.model.branching import keeps_branches_apart
from harness.engine.model.checksum import checksum
from harness.engine.model.fused import Swap, fuse
from harness.engine.model.head import Head, find_head
from harness.engine.model.joining import fits, longest_joined
from harness.engine.model.linear import PackedLinear
from harness.engine.model.precision import LOW
from harness.engine.model.readers import find_readers
from harness.errors import InputError

#: Projections that LoRA adapts by default: all linear layers of a Llama-like block, never the head.
ALL_LINEAR = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")


_use_gqa_in_sdpa = sdpa_attention.use_gqa_in_sdpa
#: transformers looks for several sequences in a row, which reads from the device in every forward; and where a graph is
#: captured it makes a mask of what attention does by itself.  Behind a mask it copies keys for heads that share them.
PLAIN_ROWS = (
    Swap(masking_utils, "find_packed_sequence_indices", lambda position_ids: None),
    Swap(masking_utils, "is_tracing", lambda tensor=None: False),
    Swap(sdpa_attention, "use_gqa_in_sdpa", lambda *given: attention.groups_heads(*given) or _use_gqa_in_sdpa(*given)),
)

#: Settings that limit how far attention sees, in the families of transformers.
_REACH = re.compile(r"^(sliding_|attention_|keep_)?window(_size)?$|^attention_chunk_size$|^local_attention$")


class PackedModel:
    """One frozen base model and the slots that its adapters fill."""

    def __init__(self, model: PreTrainedModel, targets: Sequence[str] = ALL_LINEAR, head: Head | None = None) -> None:
        """``head`` is the model's head where it is known already; else the model reads a few tokens, to show it."""
        projections(model, targets)  # refused before the model runs
        self.module = model.eval().requires_grad_(False)
        self.output = head or find_head(model)
        self.decoder, self.head = self.output.decoder, self.output.linear
        self._takes_positions = _takes(self.decoder, "position_ids")
        implementation = getattr(model.config, "_attn_implementation", "")
        # SDPA takes boolean masks; eager attention adds whatever it is given (as ours does, on a CPU)
        self._adds_masks = implementation == "eager"
        #: whether attention is ours (:mod:`harness.engine.model.attention`)
        self.attends_itself = implementation == "sdpa" and bool(targets)
        if self.attends_itself:
            model.set_attn_implementation(attention.NAME)
        self.slots = tuple(_wrap(model, targets))
        fused, self.why_plain = fuse(model)  #: what is not fused and why; empty where all is
        self._raised = _raised_products(model)
        self._swaps = (*PLAIN_ROWS, *fused, *self._raised)
        self._last = _last_feed_forward(self.decoder)
        self._linears = [cast(PackedLinear, model.get_submodule(slot.module)) for slot in self.slots]
        #: What the family bears (``harness.engine.model.family``): a mask that is not causal, prompts continued from
        #: one reading of what they begin with, a last feed-forward layer that computes only what is read.
        self.branches, self.shares, self.stays, self.skips = True, True, True, self._last is not None
        if self.device.type == "cuda":
            self._find_readers()
        self.captures, self.why_eager = False, ""  #: whether steps of decoding are captured, and why one could not be
        self.capture_again()
        self.joins = longest_joined(self)  #: longest rows that may stand behind each other; 0: none
        self.unmasked = fits(self)  #: whether our own kernel attends in rows with branches, without a mask
        self.unmasked = self.unmasked and keeps_branches_apart(self)

    @property
    def device(self) -> torch.device:
        return self.head.weight.device

    @property
    def dtype(self) -> torch.dtype:
        return self.head.weight.dtype

    @property
    def vocabulary(self) -> int:
        """Tokens that it has an embedding for."""
        return cast(nn.Embedding, self.module.get_input_embeddings()).weight.shape[0]

    @property
    def max_length(self) -> int:
        """Positions the model was made for."""
        return int(getattr(self.module.config.get_text_config(), "max_position_embeddings", 2048))

    @property
    def window(self) -> int | None:
        """The shortest reach of attention in any layer, or None: sliding windows, chunks, local attention."""
        config = self.module.config.get_text_config()
        used = {**config.to_dict(), "sliding_window": getattr(config, "sliding_window", None)}
        if not getattr(config, "use_sliding_window", True):
            del used["sliding_window"]
        reach = [value for name, value in used.items() if _REACH.search(name) and isinstance(value, int) and value > 0]
        return min(reach, default=None)

    def weights(self) -> Iterator[tuple[Slot, Tensor]]:
        """W0 of every slot."""
        for slot, linear in zip(self.slots, self._linears, strict=True):
            yield slot, linear.weight

    def layout(self, rank: int) -> Layout:
        return Layout(self.slots, rank)

    def _find_readers(self) -> None:
        """Where the model can't be read so, every layer stays by itself, and the trial of its family says why."""
        tokens = torch.zeros(1, 2, dtype=torch.long, device=self.device)
        with suppress(Exception):  # whatever a family's code raises
            for readers in find_readers(self._linears, lambda: self.hidden(tokens)):
                for member in readers.members:
                    member.readers = readers

    @contextmanager
    def adapted(
        self, layout: Layout | DenseLayout, values: Tensor | None, scaling: Tensor | None, *, precise: bool = False
    ) -> Iterator[None]:
        """Within this context the forward pass is that of the trials ``values`` [K, P]; ``None``: of the base.

        The factors are in the base's dtype, as in training under autocast; ``precise``: in float32, as PEFT infers.
        """
        if values is None or scaling is None:
            yield
            return
        dtype = torch.float32 if precise else self.dtype
        along = precise and self.device.type == "cuda"
        try:
            for linear, change in zip(self._linears, layout.changes(values, scaling, dtype), strict=True):
                linear.take(change.along_columns() if along else change)
            yield
        finally:
            for linear in self._linears:
                linear.take(None)

    def hidden(
        self, ids: Tensor, last: Tensor | None = None, positions: Tensor | None = None, *,
        joined: Joined | None = None, line: Line | None = None,
    ) -> Tensor:  # fmt: skip
        """Last hidden states [B, T, d] of token ids [B, T].

        Attention is causal; rows are padded on the right, where nothing that counts looks.  With ``last`` [n, T], of n
        rows over and over, query i looks at key j where ``j <= i < last[j]``.  ``joined`` rows, of at most ``joins``
        tokens, don't look at each other; nor do those of a ``line`` [1, N].
        """
        if line is not None:
            with _swapped(self._swaps), _neighbours(self._linears, line):
                return self.decoder(
                    input_ids=ids, position_ids=line.positions, use_cache=False, line=line
                ).last_hidden_state
        if joined is not None:
            with _swapped(self._swaps):
                return self.decoder(
                    input_ids=ids, position_ids=joined.positions, use_cache=False, joined=joined
                ).last_hidden_state
        with _swapped(self._swaps):
            return self.decoder(
                input_ids=ids, use_cache=False, **self._branched(ids, last), **self._placed(positions)
            ).last_hidden_state

    def hidden_at(self, at: Tensor, ids: Tensor, last: Tensor | None = None, positions: Tensor | None = None) -> Tensor:
        """Last hidden states [N, d] at places ``at`` [N] of the flattened [B * T], equally many a trial and in order.

        Attention needs every token, but behind the last attention only what is read counts: its feed-forward layer
        skips the rest, 2 % of a pass where a third of the tokens is read.
        """
        with _only(self._last, at) if self._last is not None and self.skips else nullcontext():
            return self.hidden(ids, last, positions).flatten(0, 1)[at]

    def decode(self, ids: Tensor, mask: Tensor, positions: Tensor, cache: Cache) -> Tensor:
        """Last hidden states [B, t, d] of the next tokens [B, t]; ``cache`` holds the past and takes them in.

        ``mask`` [B, past + t] is 0 on padding; or it is what is added to scores, [B, 1, t, places of the cache].
        """
        with _swapped(self._swaps):
            return self.decoder(
                input_ids=ids, attention_mask=mask, past_key_values=cache, use_cache=True, **self._placed(positions)
            ).last_hidden_state

    def capture_again(self) -> None:
        """On a GPU steps of decoding are captured, whatever went wrong in the job before."""
        self.captures, self.why_eager = self.device.type == "cuda", ""

    def capture_failed(self, error: RuntimeError) -> None:
        """From now on steps of decoding run eagerly."""
        self.captures, self.why_eager = False, why_not(error)

    def logits(self, hidden: Tensor) -> Tensor:
        """Logits [N, V] of hidden states [N, d].

        ``hidden`` must be 2-D: with a 3-D one the head goes through bmm with a copy of itself for every row.
        """
        with _swapped(self._raised):
            return self.output.logits(hidden)

    def _branched(self, ids: Tensor, last: Tensor | None) -> dict[str, Tensor | None]:
        """What each token sees, as an argument: ``last`` for the kernel, which is one of 16 bits and has no gradient,
        or a mask [B, 1, T, T].
        """
        if last is None:
            return {"attention_mask": None}
        if self.unmasked and self.dtype in LOW and not torch.is_grad_enabled():
            return {"last": last}
        mask = attention.tree_mask(last)
        if self._adds_masks or attention.takes_numbers(mask):
            mask = torch.zeros_like(mask, dtype=self.dtype).masked_fill_(~mask, torch.finfo(self.dtype).min)
        return {"attention_mask": mask.repeat(len(ids) // len(last), 1, 1, 1)}

    def _placed(self, positions: Tensor | None) -> dict[str, Tensor]:
        """Positions as an argument, for a decoder that takes them: those with ALiBi count what the mask shows."""
        return {} if positions is None or not self._takes_positions else {"position_ids": positions}

    def digest(self) -> str:
        """Of every frozen weight: the base must have the same digest after a trial as before."""
        weights = [(name, weight.detach().contiguous()) for name, weight in sorted(self.module.state_dict().items())]
        if self.device.type == "cuda":
            return checksum([weight for _, weight in weights])
        sha = hashlib.sha256()
        for name, weight in weights:
            sha.update(name.encode())
            sha.update(weight.view(torch.uint8).numpy().data)
        return sha.hexdigest()


def _raised_products(model: PreTrainedModel) -> Sequence[Swap]:
    """For the layers that no adapter is put on, and the head."""
    weight = next(model.parameters())
    return () if products.widened(weight[:0]).dtype is weight.dtype else (Swap(F, "linear", products.linear),)


@contextmanager
def _swapped(swaps: Sequence[Swap]) -> Iterator[None]:
    """Within this context these functions stand in the places of others, as far as there are any."""
    kept = [(swap, getattr(swap.module, swap.name)) for swap in swaps if hasattr(swap.module, swap.name)]
    for swap, _ in kept:
        setattr(swap.module, swap.name, swap.function)
    try:
        yield
    finally:
        for swap, original in kept:
            setattr(swap.module, swap.name, original)


def _last_feed_forward(decoder: nn.Module) -> nn.Module | None:
    """The last layer's, where it is the usual one: a tensor in, a tensor out (experts and their routers are not)."""
    last = getattr(next(reversed(getattr(decoder, "layers", [])), None), "mlp", None)
    return last if isinstance(getattr(last, "down_proj", None), nn.Linear | PackedLinear) else None


@contextmanager
def _neighbours(linears: Sequence[PackedLinear], line: Line) -> Iterator[None]:
    """Within this context the layers read this line."""
    for linear in linears:
        linear.neighbours = line.neighbours
    try:
        yield
    finally:
        for linear in linears:
            linear.neighbours = ()


@contextmanager
def _only(module: nn.Module, at: Tensor) -> Iterator[None]:
    """Within this context a module that treats every token by itself does so at these places, and gives 0 elsewhere."""
    own, whole = module.__dict__.get("forward"), module.forward

    def forward(x: Tensor) -> Tensor:
        out = whole(x.flatten(0, 1)[None, at])[0]
        return torch.zeros_like(x).flatten(0, 1).index_copy(0, at, out).view_as(x)

    module.forward = forward
    try:
        yield
    finally:
        del module.forward  # uncovers the forward of the class
        if own is not None:  # a fused one
            module.forward = own


def _takes(module: nn.Module, argument: str) -> bool:
    parameters = inspect.signature(module.forward).parameters
    return argument in parameters or any(p.kind is p.VAR_KEYWORD for p in parameters.values())


def projections(model: PreTrainedModel, targets: Sequence[str]) -> dict[str, nn.Linear]:
    """The modules whose last name is a target, by name.  Raises InputError for one that is not ``nn.Linear``, and for a
    target that names none.
    """
    family, linears = type(model).__name__, {}
    for name, module in model.named_modules():
        if name.rpartition(".")[2] not in targets:
            continue
        if type(module) is not nn.Linear:
            raise InputError(
                f"{family}: {name} is a {type(module).__name__}, and only nn.Linear projections are adapted",
                remedy="choose a model of a family that docs/models.md has as taken, with unquantised weights",
            )
        if module is model.get_output_embeddings():
            raise InputError(
                f"{family}: {name} is its head, and adapters are put on projections below it",
                remedy="leave it out of adapter.targets",
            )
        linears[name] = module
    if missing := sorted(set(targets) - {name.rpartition(".")[2] for name in linears}):
        names = {name.rpartition(".")[2] for name, module in model.named_modules() if type(module) is nn.Linear}
        raise InputError(
            f"{family} has no projection named {', '.join(missing)}",
            remedy="name its own projections in the study (adapter.targets); "
            f"it has {', '.join(sorted(names - {'lm_head'})) or 'no nn.Linear layer'}",
        )
    return linears


def _wrap(model: PreTrainedModel, targets: Sequence[str]) -> Iterator[Slot]:
    for name, module in projections(model, targets).items():
        parent, _, last = name.rpartition(".")
        setattr(model.get_submodule(parent), last, PackedLinear(module))
        yield Slot(name, module.out_features, module.in_features)


def make_bank(
    model: PackedModel, layout: Layout | DenseLayout, seeds: Sequence[int], scaling: Sequence[float]
) -> AdapterBank:
    """Fresh adapters for one trial a seed, on the model's device."""
    return AdapterBank(layout, seeds, scaling, model.device)
