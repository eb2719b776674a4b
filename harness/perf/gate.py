"""Parity before speed: a few steps of the engine against PEFT, HF's loss and torch's AdamW, on this device."""

from __future__ import annotations

from operator import truediv
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor, nn

from harness.engine.batches import Example, make_batch
from harness.engine.model.packed import ALL_LINEAR, PackedModel
from harness.engine.optimizer import OptimizerSettings
from harness.engine.rows import Rows, RowSpec
from harness.engine.step import take_step
from harness.errors import LorabenchError
from harness.method.recipe import Recipe

#: Enough steps for a GPU to have captured the shape (:mod:`harness.engine.trunk`) and to replay it.
RATES, SIZE, STEPS = (1e-3, 3e-4), 4, 6
RANK, ALPHA, CLIP = 4, 8, 1.0
#: Of |loss - PEFT's| / (1 + |PEFT's|), and of the relative distance of the factors.  On a GPU other kernels add in
#: other orders, and AdamW's first steps have the size of the rate whatever the gradient's.
ALLOWED = {"cpu": (2e-5, 1e-4), "cuda": (1e-4, 1e-3)}
SHAPE: dict[str, Any] = {
    "vocab_size": 128, "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2, "max_position_embeddings": 64, "initializer_range": 0.15, "pad_token_id": 0,
    "tie_word_embeddings": True,
}  # fmt: skip


def check_parity(device: torch.device) -> dict[str, float]:
    """The largest distances in units of what is allowed.  Raises :class:`LorabenchError` above 1."""
    (our_losses, ours), (losses, factors) = _trained(device)
    off = {
        "losses": float(((our_losses - losses).abs() / (1 + losses.abs())).max()),
        "factors": float(((ours - factors).norm(dim=1) / factors.norm(dim=1)).max()),
    }
    found = dict(zip(off, map(truediv, off.values(), ALLOWED.get(device.type, ALLOWED["cpu"])), strict=True))
    for name, value in found.items():
        if not value <= 1:  # nor where it is not a number
            raise LorabenchError(
                f"{name} differ from PEFT's by {value:.1f} times what is allowed in float32",
                where=f"parity on {device.type}",
                remedy="nothing was timed; `make test` says which part computes something else",
            )
    return {f"{name}_of_allowed": value for name, value in found.items()}


def _trained(device: torch.device) -> tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor]]:
    """(losses [steps, K], factors [K, P]) of the engine, and of PEFT from the same start."""
    examples = [_examples(seed) for seed in range(len(RATES))]
    rows = [RowSpec(Recipe(), rate, seed) for seed, rate in enumerate(RATES)]
    engine = Rows(PackedModel(_base(device), ALL_LINEAR), rows, RANK, ALPHA, OptimizerSettings(clip=CLIP))
    engine.begin_task(0, examples)
    start = engine.bank.values.clone()
    losses = []
    for step in range(STEPS):
        batch = make_batch([each[step * SIZE : (step + 1) * SIZE] for each in examples], 0, device)
        losses.append(take_step(engine, batch, 1.0, 0.5)[0])
    ours = torch.stack(losses), engine.bank.values
    alone = [_with_peft(_base(device), engine, start[k], rate, examples[k]) for k, rate in enumerate(RATES)]
    return ours, (torch.stack([each for each, _ in alone], 1), torch.stack([each for _, each in alone]))


def _with_peft(base: Any, engine: Rows, start: Tensor, rate: float, examples: list[Example]) -> tuple[Tensor, Tensor]:
    """(losses [steps], factors [P]) of one trial by itself, with nothing of ours but where it starts."""
    from peft import LoraConfig, get_peft_model

    layout, device = engine.bank.layout, start.device
    model = get_peft_model(base, LoraConfig(r=RANK, lora_alpha=ALPHA, target_modules=list(ALL_LINEAR))).eval()
    parameters = dict(model.named_parameters())
    factors = [
        [parameters[f"base_model.model.{slot.module}.lora_{x}.default.weight"] for x in "AB"] for slot in layout.slots
    ]
    with torch.no_grad():
        for pair, values in zip(factors, layout.split(start[None]), strict=True):
            for parameter, value in zip(pair, values, strict=True):
                parameter.copy_(value[0])
    trained = [parameter for pair in factors for parameter in pair]
    optimizer = torch.optim.AdamW(trained, rate, weight_decay=0.0)
    losses = []
    for step in range(STEPS):
        optimizer.zero_grad()
        loss = model(**_inputs(examples[step * SIZE : (step + 1) * SIZE], device)).loss
        loss.backward()
        nn.utils.clip_grad_norm_(trained, CLIP)
        optimizer.step()
        losses.append(loss.detach())
    flat = torch.empty_like(start)
    for pair, views in zip(factors, layout.split(flat[None]), strict=True):
        for parameter, view in zip(pair, views, strict=True):
            view[0].copy_(parameter.detach())
    return torch.stack(losses), flat


def _base(device: torch.device) -> Any:
    from transformers import AutoModelForCausalLM, LlamaConfig

    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = AutoModelForCausalLM.from_config(LlamaConfig(**SHAPE), attn_implementation="sdpa")
    return cast(Any, model).to(device).eval()  # whose `to` is wrapped without its types


def _examples(seed: int) -> list[Example]:
    generator = np.random.default_rng(seed)
    lengths = generator.integers(6, 16, SIZE * STEPS)
    return [Example(generator.integers(1, SHAPE["vocab_size"], n), n - 3) for n in lengths.tolist()]


def _inputs(examples: list[Example], device: torch.device) -> dict[str, Tensor]:
    longest = max(len(example.ids) for example in examples)
    ids, labels = torch.zeros(len(examples), longest, dtype=torch.long), torch.full((len(examples), longest), -100)
    for i, example in enumerate(examples):
        tokens = torch.from_numpy(example.ids)
        ids[i, : len(tokens)] = tokens
        labels[i, example.answer_start : len(tokens)] = tokens[example.answer_start :]
    mask = (torch.arange(longest) < torch.tensor([len(example.ids) for example in examples])[:, None]).long()
    return {"input_ids": ids.to(device), "attention_mask": mask.to(device), "labels": labels.to(device)}
