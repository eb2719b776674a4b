"""Running a model of any dtype in float32, without a second copy of its weights: every operation casts what it reads.

Two ways to the same numbers differ by 1e-6 in float32 and by 1e-2 in bfloat16, where a router may even choose other
experts; a wrong way differs by about 1.  So what is compared is computed in float32.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_map

#: Dtypes of 16 bits, in which tensor cores multiply, and our own kernels with them.
LOW = (torch.bfloat16, torch.float16)


def in_three(x: Tensor, dim: int) -> Tensor:
    """``x`` in float32 as a sum of three of bfloat16, which stand beside each other in a new dimension ``dim``."""
    high = x.bfloat16()
    rest = x - high
    middle = rest.bfloat16()
    return torch.stack((high, middle, (rest - middle).bfloat16()), dim)


def _raised(value: Any) -> Any:
    return value.float() if isinstance(value, Tensor) and value.dtype in LOW else value


class _Upcast(TorchFunctionMode):
    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if getattr(func, "__name__", "") == "__get__":  # an attribute: nothing is computed, and dtypes are as they seem
            dtype = func(*args, **kwargs)
            return torch.float32 if dtype in LOW else dtype
        if func is F.embedding:  # it picks rows: cast those, not all
            return _raised(func(*args, **kwargs))
        args, kwargs = tree_map(_raised, (args, kwargs))
        return func(*args, **kwargs)


@contextmanager
def in_float32() -> Iterator[None]:
    """Within this context operations on bfloat16 and float16 are done, and give, float32; TF32 is off."""
    matmul, convolution = torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    try:
        with _Upcast():
            yield
    finally:
        torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32 = matmul, convolution
