"""The factors and magnitudes of ``adapter_model.safetensors``, as PEFT names them; all else is refused by name."""

from __future__ import annotations

import re
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from harness.errors import InputError

WEIGHTS = "adapter_model.safetensors"
FACTOR = re.compile(r"base_model\.model\.(?P<module>.+)\.lora_(?P<name>[AB])\.weight")
MAGNITUDE = re.compile(r"base_model\.model\.(?P<module>.+)\.lora_magnitude_vector(\.weight)?")  #: DoRA's
NAMED = re.compile(r".+\.lora_(?P<name>[AB])\.(?P<adapter>[^.]+)\.weight")  #: as in a model that is being trained
OTHERS = re.compile(r"\.lora_(a|b|A|B|down|up)(\.weight)?$")  #: MLX's, kohya's, and PEFT's without their beginning
#: Types of tensors whose values stand for themselves.
FLOATS = (torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.float8_e4m3fn, torch.float8_e5m2)


#: (A [r, in], B [out, r]) by module.
Factors = dict[str, tuple[Tensor, Tensor]]


def read_weights(path: Path) -> tuple[Factors, dict[str, Tensor]]:
    """The factors in fp32, in the order of the names, and DoRA's magnitudes [out], both by module.

    Raises :class:`InputError` for a tensor that is neither of a linear projection, and for a file that is none.
    """
    pairs: dict[str, dict[str, Tensor]] = {}
    magnitudes: dict[str, Tensor] = {}
    try:
        with safe_open(path, framework="pt") as file:
            for name in sorted(file.keys()):
                if match := MAGNITUDE.fullmatch(name):
                    magnitudes[match["module"]] = _values(file.get_tensor(name), 1, f"{path}:{name}")
                    continue
                match = FACTOR.fullmatch(name)
                if match is None:
                    raise _no_factor(name, f"{path}:{name}")
                pair = pairs.setdefault(match["module"], {})
                pair[match["name"]] = _values(file.get_tensor(name), 2, f"{path}:{name}")
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
    return {module: (pair["A"], pair["B"]) for module, pair in pairs.items()}, magnitudes


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
        remedy="audit LoRA or DoRA: no embeddings, biases or whole layers beside it",
    )


def _values(tensor: Tensor, dimensions: int, where: str) -> Tensor:
    if tensor.ndim != dimensions:
        raise InputError(
            f"the tensor has {tensor.ndim} dimensions, as adapters of convolutions do; a linear one has {dimensions}",
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
