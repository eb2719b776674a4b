"""PEFT adapter folders as the engine's stacked factors: several adapters, of any ranks, become the trials of one pack.

What is read is plain LoRA on linear projections, W0 + s B A with s = alpha / r (or alpha / sqrt r), whatever rank and
alpha each matrix has.  Everything that adds to that or changes W0 is refused by name: its scores would be of another
model than the one a person ships.
"""

from __future__ import annotations

import difflib
import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from harness.data.wheels import sha256_of
from harness.engine.adapters import Layout
from harness.engine.model import PackedModel
from harness.errors import InputError

CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
FACTOR = re.compile(r"base_model\.model\.(?P<module>.+)\.lora_(?P<name>[AB])\.weight")
#: Ways to start A and B that leave W0 as it was.
PLAIN_STARTS = (True, False, "gaussian", "orthogonal", "eva")
#: Keys that don't change what the saved factors compute: they say how it was trained, or which matrices have factors.
HARMLESS = {
    "task_type", "auto_mapping", "peft_version", "revision", "inference_mode", "target_modules", "exclude_modules",
    "layers_to_transform", "layers_pattern", "lora_dropout", "megatron_core", "qalora_group_size", "loftq_config",
    "eva_config", "corda_config", "lora_ga_config", "runtime_config", "ensure_weight_tying",
}  # fmt: skip


class PeftConfig(BaseModel):
    """What of ``adapter_config.json`` decides the numbers; every other key is in ``model_extra``."""

    model_config = ConfigDict(extra="allow", frozen=True, allow_inf_nan=False)

    peft_type: str
    base_model_name_or_path: str | None = None
    r: int = Field(8, ge=1)
    lora_alpha: float = 8
    rank_pattern: dict[str, int] = {}
    alpha_pattern: dict[str, float] = {}
    use_rslora: bool = False
    init_lora_weights: bool | str = True

    def rank(self, module: str) -> int:
        return self.rank_pattern.get(_key(self.rank_pattern, module), self.r)

    def scaling(self, module: str) -> float:
        """The factor of B A in W0 + s B A."""
        alpha = self.alpha_pattern.get(_key(self.alpha_pattern, module), self.lora_alpha)
        rank = self.rank(module)
        return alpha / math.sqrt(rank) if self.use_rslora else alpha / rank


@dataclass(frozen=True)
class PeftAdapter:
    """One adapter folder: A [r, n] and B [m, r] of every adapted module, fp32 and unscaled."""

    folder: Path
    config: PeftConfig
    factors: Mapping[str, tuple[Tensor, Tensor]]
    sha256: str  #: of the weights file
    bytes: int

    @cached_property
    def ranks(self) -> tuple[int, ...]:
        """The ranks that occur, rising."""
        return tuple(sorted({a.shape[0] for a, _ in self.factors.values()}))

    @cached_property
    def scalings(self) -> tuple[float, ...]:
        """The factors s that occur, rising."""
        return tuple(sorted({self.config.scaling(module) for module in self.factors}))

    @cached_property
    def targets(self) -> tuple[str, ...]:
        """Types of the adapted projections."""
        return tuple(sorted({module.rpartition(".")[2] for module in self.factors}))

    @cached_property
    def parameters(self) -> int:
        return sum(a.numel() + b.numel() for a, b in self.factors.values())


def read_peft(folder: Path) -> PeftAdapter:
    """Read a folder that ``PeftModel.save_pretrained`` wrote.

    Raises :class:`InputError` where it is not plain LoRA on linear projections in safetensors.
    """
    if not folder.is_dir():
        raise InputError("there is no such folder", where=str(folder), remedy="give a folder that PEFT wrote")
    config = _read_config(folder / CONFIG)
    weights = folder / WEIGHTS
    if not weights.is_file():
        pickles = sorted(path.name for path in folder.glob("adapter_model.*") if path.suffix in (".bin", ".pt", ".pth"))
        what = f"only {pickles[0]}: pickles run code when read and are not loaded" if pickles else "no weights"
        remedy = "save the adapter with safe_serialization=True, PEFT's default"
        raise InputError(f"no {WEIGHTS}, {what}", where=str(folder), remedy=remedy)
    return PeftAdapter(folder, config, _read_factors(weights, config), sha256_of(weights), weights.stat().st_size)


def names_base(adapter: PeftAdapter, model: str) -> bool | None:
    """Whether the adapter says that it was made for ``model``, by the last parts of the two names; none if it doesn't.

    A hub id, a folder and a name of the catalogue mean the same model where ``org/`` and the path are left out.
    """
    named = adapter.config.base_model_name_or_path
    return _last(named) == _last(model) if named else None


def check_base_name(adapter: PeftAdapter, model: str) -> None:
    """Refuse an adapter that names another base than ``model``."""
    named = adapter.config.base_model_name_or_path
    if names_base(adapter, model) is False:
        raise InputError(
            f"the adapter was made for '{named}', and --model is '{model}'",
            where=f"{adapter.folder / CONFIG}:base_model_name_or_path",
            remedy=f"give --model {named}, or --another-base if the two are the same weights",
        )


def check_fits(adapter: PeftAdapter, base: PackedModel) -> None:
    """Refuse factors of modules that the base lacks, that are no linear projections, or that have other shapes.

    ``base`` is loaded without targets: nothing of it is wrapped yet.
    """
    modules = dict(base.module.named_modules())
    linear = [name for name, module in modules.items() if type(module) is nn.Linear]
    family = type(base.module).__name__
    for name, (a, b) in adapter.factors.items():
        where = f"{adapter.folder / WEIGHTS}:{name}"
        module = modules.get(name)
        if module is None:
            near = difflib.get_close_matches(name, linear, n=1, cutoff=0.5)
            remedy = f"its nearest is {near[0]}; " if near else ""
            raise InputError(
                f"the base ({family}) has no such module",
                where=where,
                remedy=f"{remedy}give the base that the adapter was made for (--model)",
            )
        if module is base.head or type(module) is not nn.Linear:
            kind = "the output head" if module is base.head else f"a {type(module).__name__}"
            raise InputError(
                f"the adapted module is {kind}, and only adapters of linear projections are scored",
                where=where,
                remedy="audit an adapter without it, or merge it into the base first",
            )
        found, wanted = (b.shape[0], a.shape[1]), tuple(module.weight.shape)
        if found != wanted:
            raise InputError(
                f"B A is {found[0]} x {found[1]}, and the base's matrix is {wanted[0]} x {wanted[1]}",
                where=where,
                remedy="give the base that the adapter was made for (--model)",
            )


def stack_adapters(adapters: Sequence[PeftAdapter], model: PackedModel) -> tuple[Layout, Tensor, Tensor]:
    """(layout, values [K, P] in fp32, scaling [K]) of K adapters, on the model's device.

    Every matrix's own alpha / r is in its B, so scaling is 1.  Lower ranks are filled up with zero rows of A and zero
    columns of B, and matrices that an adapter does not touch are zero: neither changes a product.
    """
    layout = model.layout(max(adapter.ranks[-1] for adapter in adapters))
    values = torch.zeros(len(adapters), layout.size)
    for slot, (a, b) in zip(layout.slots, layout.split(values), strict=True):
        for k, adapter in enumerate(adapters):
            if slot.module in adapter.factors:
                own_a, own_b = adapter.factors[slot.module]
                rank = own_a.shape[0]
                a[k, :rank] = own_a
                b[k, :, :rank] = own_b * adapter.config.scaling(slot.module)
    return layout, values.to(model.device), torch.ones(len(adapters), device=model.device)


def _key(pattern: Mapping[str, Any], module: str) -> str:
    """The entry of a pattern that a module falls under, by PEFT's own rule."""
    from peft.utils.other import get_pattern_key

    return get_pattern_key(list(pattern), module)


def _last(name: str) -> str:
    return name.replace("\\", "/").rstrip("/").rpartition("/")[2].lower()


# -- adapter_config.json ----------------------------------------------------------------------------------------------


def _read_config(path: Path) -> PeftConfig:
    if not path.is_file():
        raise InputError(f"the folder has no {CONFIG}", where=str(path.parent), remedy="give a folder that PEFT wrote")
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise InputError(f"not readable as JSON: {error}", where=str(path), remedy="save the adapter again") from error
    if not isinstance(data, dict):
        raise InputError("must be a JSON object", where=str(path), remedy="save the adapter again")
    try:
        config = PeftConfig.model_validate({key: value for key, value in data.items() if value is not None})
    except ValidationError as error:
        problem = error.errors()[0]
        key = ".".join(str(part) for part in problem["loc"])
        raise InputError(problem["msg"], where=f"{path}:{key}", remedy="save the adapter again") from error
    _refuse_more_than_lora(config, path)
    return config


def _refuse_more_than_lora(config: PeftConfig, path: Path) -> None:
    """Only LoRA, only A and B, and only on top of the base as it was."""
    if config.peft_type.upper() != "LORA":
        raise InputError(
            f"this is an adapter of type {config.peft_type}, and only LORA is scored",
            where=f"{path}:peft_type",
            remedy="audit a LoRA adapter",
        )
    if config.init_lora_weights not in PLAIN_STARTS:
        raise InputError(
            f"'{config.init_lora_weights}' changed the base's weights when training began, so A and B alone don't say "
            "what was trained",
            where=f"{path}:init_lora_weights",
            remedy="save it again with PEFT's path_initial_model_for_weight_conversion, which makes it plain LoRA",
        )
    for key, value in (config.model_extra or {}).items():
        if value and key not in HARMLESS and not (key == "bias" and value == "none"):
            raise InputError(
                f"{key} is {json.dumps(value)[:60]}; only plain LoRA is scored, W0 + s B A on linear projections",
                where=f"{path}:{key}",
                remedy=f"train or save the adapter without {key}",
            )


# -- adapter_model.safetensors ----------------------------------------------------------------------------------------


def _read_factors(path: Path, config: PeftConfig) -> dict[str, tuple[Tensor, Tensor]]:
    """(A, B) in fp32 by module, in the order of the names."""
    found: dict[str, dict[str, Tensor]] = {}
    try:
        with safe_open(path, framework="pt") as file:
            for name in sorted(file.keys()):
                match = FACTOR.fullmatch(name)
                if match is None:
                    raise InputError(
                        "the tensor is not A or B of a linear projection",
                        where=f"{path}:{name}",
                        remedy="audit plain LoRA: no embeddings, biases, magnitudes or whole layers beside it",
                    )
                found.setdefault(match["module"], {})[match["name"]] = _factor(file.get_tensor(name), f"{path}:{name}")
    except (SafetensorError, OSError) as error:
        raise InputError(
            f"not a safetensors file: {error}", where=str(path), remedy="copy or fetch it again"
        ) from error
    if not found:
        raise InputError("the file has no tensors", where=str(path), remedy="save the adapter again")
    for module, pair in found.items():
        _check_pair(pair, config.rank(module), f"{path}:{module}")
    return {module: (pair["A"], pair["B"]) for module, pair in found.items()}


def _factor(tensor: Tensor, where: str) -> Tensor:
    if tensor.ndim != 2:
        raise InputError(
            f"the tensor has {tensor.ndim} dimensions, as adapters of convolutions do; a linear one has 2",
            where=where,
            remedy="audit an adapter of linear projections",
        )
    values = tensor.float()
    if not values.isfinite().all():
        raise InputError("the tensor holds values that are not finite", where=where, remedy="train the adapter again")
    return values


def _check_pair(pair: Mapping[str, Tensor], rank: int, where: str) -> None:
    if absent := {"A", "B"} - set(pair):
        raise InputError(f"lora_{absent.pop()} is missing", where=where, remedy="copy or save the adapter again")
    ranks = pair["A"].shape[0], pair["B"].shape[1]
    if ranks != (rank, rank):
        raise InputError(
            f"A has rank {ranks[0]} and B {ranks[1]}, and {CONFIG} says {rank}",
            where=where,
            remedy="save weights and configuration together (r, rank_pattern)",
        )
