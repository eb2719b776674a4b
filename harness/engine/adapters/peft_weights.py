"""The factors in ``adapter_model.safetensors``, named as PEFT names them; whatever else is there is refused by name."""

from __future__ import annotations

import re
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from harness.errors import InputError

WEIGHTS = "adapter_model.safetensors"
FACTOR = re.compile(r"base_model\.model\.(?P<module>.+)\.lora_(?P<name>[AB])\.weight")
NAMED = re.compile(r".+\.lora_(?P<name>[AB])\.(?P<adapter>[^.]+)\.weight")  #: as in a model that is being trained
OTHERS = re.compile(r"\.lora_(a|b|A|B|down|up)(\.weight)?$")  #: MLX's, kohya's, and PEFT's without their beginning
#: Types of tensors whose values stand for themselves.
FLOATS = (torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.float8_e4m3fn, torch.float8_e5m2)


def read_factors(path: Path) -> dict[str, tuple[Tensor, Tensor]]:
    """(A [r, in], B [out, r]) in fp32 by module, in the order of the names.

    Raises :class:`InputError` for a tensor that is no factor of a linear projection, and for a file that is none.
    """
    pairs: dict[str, dict[str, Tensor]] = {}
    try:
        with safe_open(path, framework="pt") as file:
            for name in sorted(file.keys()):
                match = FACTOR.fullmatch(name)
                if match is None:
                    raise _no_factor(name, f"{path}:{name}")
                pairs.setdefault(match["module"], {})[match["name"]] = _factor(file.get_tensor(name), f"{path}:{name}")
    except (SafetensorError, OSError) as error:
        raise InputError(
            f"not a safetensors file: {error}", where=str(path), remedy="copy or fetch it again"
        ) from error
    if not pairs:
        raise InputError("the file has no tensors", where=str(path), remedy="save the adapter again")
    for module, pair in pairs.items():
        if absent := {"A", "B"} - set(pair):
            raise InputError(
                f"lora_{absent.pop()} is missing", where=f"{path}:{module}", remedy="copy or save the adapter again"
            )
    return {module: (pair["A"], pair["B"]) for module, pair in pairs.items()}


def _no_factor(name: str, where: str) -> InputError:
    """Why a tensor with this name is not read."""
    if match := NAMED.fullmatch(name):
        return InputError(
            f"the tensor's name has an adapter's name in it, '{match['adapter']}', as it has while a model is trained",
            where=where,
            remedy="save the adapter with PEFT's save_pretrained, or rename its tensors: "
            f"lora_{match['name']}.{match['adapter']}.weight to lora_{match['name']}.weight",
        )
    if OTHERS.search(name):
        return InputError(
            "the tensor is not named as PEFT names it, base_model.model.<module>.lora_A.weight",
            where=where,
            remedy="save the adapter with PEFT's save_pretrained, or convert it to PEFT's format",
        )
    return InputError(
        "the tensor is not A or B of a linear projection",
        where=where,
        remedy="audit plain LoRA: no embeddings, biases, magnitudes or whole layers beside it",
    )


def _factor(tensor: Tensor, where: str) -> Tensor:
    if tensor.ndim != 2:
        raise InputError(
            f"the tensor has {tensor.ndim} dimensions, as adapters of convolutions do; a linear one has 2",
            where=where,
            remedy="audit an adapter of linear projections",
        )
    if tensor.dtype not in FLOATS:
        raise InputError(
            f"the tensor holds {tensor.dtype}, no floats", where=where, remedy="save the adapter in floats"
        )
    values = tensor.float()
    if not values.isfinite().all():
        raise InputError("the tensor holds values that are not finite", where=where, remedy="train the adapter again")
    return values
