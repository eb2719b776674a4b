"""Tiny random models, toy data and rows of a pack for the engine's tests; everything is seeded."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from harness.checks.toys import toy_text
from harness.engine.batches import Batch, Example, make_batch
from harness.engine.model.packed import ALL_LINEAR, PackedModel
from harness.engine.optimizer import OptimizerSettings
from harness.engine.rows import Rows, RowSpec
from harness.engine.step import take_step
from harness.method.recipe import Recipe
from harness.study.seeds import derive

torch.set_num_threads(1)  # these models are so small that a second thread only waits

CPU = torch.device("cpu")
VOCABULARY = 97
RANK, ALPHA = 8, 16.0

#: What a family has beside the common tiny shape; windows are shorter than the examples, so that they matter.
FAMILIES: dict[str, dict[str, Any]] = {
    "llama": {},
    "qwen2": {},  # with biases on q, k and v
    "gemma": {"head_dim": 8},
    "gemma2": {"head_dim": 8, "final_logit_softcapping": 3.0, "attn_logit_softcapping": 50.0, "sliding_window": 4,
               "query_pre_attn_scalar": 8},
    "mistral": {"sliding_window": 4, "head_dim": 8},
}  # fmt: skip


def tiny_model(
    family: str = "llama", *, seed: int = 0, dtype: torch.dtype = torch.float32, **changes: Any
) -> nn.Module:
    """A random transformers model with large enough weights for its attention and its logits to matter."""
    from transformers import AutoConfig, AutoModelForCausalLM

    shape = {
        "vocab_size": VOCABULARY, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2,
        "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 64, "initializer_range": 0.15,
        "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2, "tie_word_embeddings": family.startswith("gemma"),
    }  # fmt: skip
    config = AutoConfig.for_model(family, **{**shape, **FAMILIES[family], **changes})
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        attention = "eager" if family == "gemma2" else "sdpa"  # transformers has no sdpa for Gemma 2
        model = AutoModelForCausalLM.from_config(config, attn_implementation=attention)
        with torch.no_grad():
            for name, parameter in model.named_parameters():
                if name.endswith("bias"):  # transformers starts them at zero, where nothing could be seen
                    parameter.normal_(0, 0.2)
    return model.to(dtype).eval()


def packed_model(family: str = "llama", **changes: Any) -> PackedModel:
    return PackedModel(tiny_model(family, **changes), ALL_LINEAR)


def random_examples(count: int, seed: int, *, shortest: int = 5, longest: int = 13) -> list[Example]:
    """Random tokens with answers of one to three tokens."""
    rng = np.random.default_rng(seed)
    found = []
    for _ in range(count):
        length = int(rng.integers(shortest, longest + 1))
        found.append(Example(rng.integers(3, VOCABULARY, size=length), length - int(rng.integers(1, 4))))
    return found


def with_demonstrations(examples: Sequence[Example]) -> list[Example]:
    """The same, for a teacher that reads prompt, answer and prompt again."""
    return [
        Example(e.ids, e.answer_start, np.concatenate([e.prompt, e.answer, e.prompt]).astype(np.int64))
        for e in examples
    ]


def batches(
    data: Sequence[Sequence[Example]], size: int, steps: int, budget: int = 2**31, seeds: Sequence[int] | None = None,
    join: int = 0,
) -> list[Batch]:  # fmt: skip
    """Step s takes the examples s * size ... of every row; row k draws from ``seeds[k]``, by default k."""
    seeds = range(len(data)) if seeds is None else seeds
    return [
        make_batch(
            [examples[s * size : (s + 1) * size] for examples in data], 0, CPU, budget,
            seeds=[derive(seed, s) for seed in seeds], join=join,
        )
        for s in range(steps)
    ]  # fmt: skip


def trainer(
    model: PackedModel, recipes: Sequence[Recipe], rates: Sequence[float], seeds: Sequence[int] | None = None,
    *, also: Sequence[tuple] | None = None, examples: Sequence[Sequence[Example]] | None = None,
    texts: Callable[[str, int], Sequence[Example]] | None = None, **settings: Any,
) -> Rows:  # fmt: skip
    seeds = seeds if seeds is not None else range(len(recipes))
    also = also if also is not None else [()] * len(recipes)
    rows = [RowSpec(*row) for row in zip(recipes, rates, seeds, also, strict=True)]
    engine = Rows(model, rows, RANK, ALPHA, OptimizerSettings(**settings), texts=texts or toy_text)
    engine.begin_task(0, examples if examples is not None else [random_examples(40, seed) for seed in seeds])
    return engine


def warmup(step: int) -> float:
    return min(1.0, (step + 1) / 5)


def train(engine: Rows, data: Sequence[Batch], *, first: int = 0, progress: float = 0.5) -> Tensor:
    """Losses [steps, K] of the steps given."""
    return torch.stack([take_step(engine, step, warmup(first + s), progress)[0] for s, step in enumerate(data)])


def relative(found: Tensor, wanted: Tensor) -> float:
    """Relative Frobenius distance; 0 for two zeros."""
    distance, size = (found - wanted).norm(), wanted.norm()
    return float(distance / size) if size else float(distance)


class Operations(TorchDispatchMode):
    """How often each (operation, shape of a result that has memory of its size) is computed, whoever asks for it."""

    def __init__(self) -> None:
        super().__init__()
        self.found: Counter[tuple[str, tuple[int, ...]]] = Counter()

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        results = function(*args, **(kwargs or {}))
        tensors = [result for result in tree_leaves(results) if isinstance(result, Tensor)]
        whole = [tuple(t.shape) for t in tensors if t.untyped_storage().nbytes() >= t.numel() * t.element_size()]
        self.found.update((function.overloadpacket.__name__, shape) for shape in (whole if tensors else [()]))
        return results


class PeftRun:
    """The same trial by itself, with nothing of ours: PEFT, HF's labels, ``clip_grad_norm_`` and torch's AdamW."""

    def __init__(
        self,
        base: nn.Module,
        start: dict[str, tuple[Tensor, Tensor]] | Sequence[str],
        rate: float,
        *,
        a_decay: float = 0.0,
        b_ratio: float | None = None,
        prepare: Callable[[nn.Module], Any] = lambda model: None,
        optimize: Callable[[nn.Module], torch.optim.Optimizer] | None = None,
        **config: Any,
    ) -> None:
        """``base`` is changed in place; ``start`` holds A and B by module, or their names, where PEFT's start is kept.

        ``b_ratio`` is that of PEFT's LoRA+; ``prepare`` does what PEFT wants done to its model before training;
        ``optimize`` makes another optimizer than AdamW, and says what trains.
        """
        from peft import LoraConfig, get_peft_model
        from peft.optimizers import create_loraplus_optimizer

        settings = LoraConfig(
            r=RANK, lora_alpha=int(ALPHA), target_modules=list(ALL_LINEAR), lora_dropout=0.0, **config
        )
        self.model = get_peft_model(base, settings).eval()
        prepare(self.model)
        parameters = dict(self.model.named_parameters())
        self.factors = {
            module: tuple(parameters[f"base_model.model.{module}.lora_{x}.default.weight"] for x in "AB")
            for module in start
        }
        with torch.no_grad():
            for module, values in start.items() if isinstance(start, dict) else ():
                for parameter, value in zip(self.factors[module], values, strict=True):
                    parameter.copy_(value)
        other = optimize and optimize(self.model)
        self.trained = [p for p in parameters.values() if p.requires_grad]
        if other is not None:
            self.optimizer = other
        elif b_ratio is None:
            a = [pair[0] for pair in self.factors.values() if pair[0].requires_grad]
            others = [p for p in self.trained if all(p is not q for q in a)]
            groups = [{"params": a, "weight_decay": a_decay}, {"params": others}]
            self.optimizer = torch.optim.AdamW(groups, rate, weight_decay=0.0)
        else:
            self.optimizer = create_loraplus_optimizer(
                self.model, torch.optim.AdamW, lr=rate, loraplus_lr_ratio=b_ratio
            )
        self.rates = [group["lr"] for group in self.optimizer.param_groups]

    def backward(self, examples: Sequence[Example]) -> float:
        """The loss of a padded batch, with clipped gradients left on the factors."""
        length = max(len(e.ids) for e in examples)
        ids = torch.zeros(len(examples), length, dtype=torch.long)
        mask, labels = torch.zeros_like(ids), torch.full_like(ids, -100)
        for i, example in enumerate(examples):
            tokens = torch.from_numpy(example.ids)
            ids[i, : len(tokens)], mask[i, : len(tokens)] = tokens, 1
            labels[i, example.answer_start : len(tokens)] = tokens[example.answer_start :]
        self.optimizer.zero_grad()
        loss = self.model(input_ids=ids, attention_mask=mask, labels=labels).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.trained, 1.0)
        return loss.item()

    def update(self, warm: float = 1.0) -> None:
        for group, rate in zip(self.optimizer.param_groups, self.rates, strict=True):
            group["lr"] = rate * warm
        self.optimizer.step()


def factors(engine: Rows, values: Tensor, row: int) -> dict[str, tuple[Tensor, Tensor]]:
    """(A, B) by module of one row of ``values`` [K, P], as copies."""
    layout = engine.bank.layout
    pairs = layout.split(values.detach())
    return {s.module: (a[row].clone(), b[row].clone()) for s, (a, b) in zip(layout.slots, pairs, strict=True)}


def random_factors(model: PackedModel, rank: int, seed: int = 0, size: float = 0.2) -> dict[str, tuple[Tensor, Tensor]]:
    """A and B of every slot, both away from zero."""
    generator = torch.Generator().manual_seed(seed)
    return {
        slot.module: (
            torch.randn(rank, slot.in_features, generator=generator) * size,
            torch.randn(slot.out_features, rank, generator=generator) * size,
        )
        for slot in model.slots
    }


def write_peft(folder: Path, factors: Mapping[str, tuple[Tensor, Tensor]], **config: Any) -> Path:
    """An adapter folder as PEFT writes it; ``config`` replaces keys of its configuration."""
    folder.mkdir(parents=True, exist_ok=True)
    tensors = {
        f"base_model.model.{module}.lora_{name}.weight": tensor.contiguous()
        for module, pair in factors.items()
        for name, tensor in zip("AB", pair, strict=True)
    }
    save_file(tensors, folder / "adapter_model.safetensors", metadata={"format": "pt"})
    rank = next(iter(factors.values()))[0].shape[0] if factors else 8
    written = {
        "peft_type": "LORA", "task_type": "CAUSAL_LM", "base_model_name_or_path": None, "r": rank, "lora_alpha": 16,
        "bias": "none", "use_dora": False, "use_rslora": False, "init_lora_weights": True, "rank_pattern": {},
        "alpha_pattern": {}, "modules_to_save": None, "layers_to_transform": None, "target_modules": sorted(factors),
        "lora_dropout": 0.1, "loftq_config": {}, "megatron_core": "megatron.core", "qalora_group_size": 16,
    }  # fmt: skip
    (folder / "adapter_config.json").write_text(json.dumps(written | config))
    return folder
