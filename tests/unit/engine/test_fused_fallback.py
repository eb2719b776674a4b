"""Where a fused kernel can't be compiled the model keeps its own operations, and says why."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn

from harness.engine.model import fused


class OnGpu(nn.Module):
    """A family that has kernels, with a parameter that says it is on a GPU."""

    config = SimpleNamespace(model_type="llama")

    def parameters(self, recurse: bool = True) -> Any:
        return iter([SimpleNamespace(device=SimpleNamespace(type="cuda"), dtype=torch.float32)])


def liger(monkeypatch, norm: type[nn.Module]) -> list[str]:
    """A library whose norm is this one; what of it was put into a model."""
    applied: list[str] = []
    library = SimpleNamespace(LigerRMSNorm=norm, apply_liger_kernel_to_llama=lambda **_: applied.append("llama"))
    rope = SimpleNamespace(liger_rotary_pos_emb=lambda q, k: (q, k))
    modules = {"liger_kernel.transformers": library, "liger_kernel.transformers.rope": rope}
    monkeypatch.setattr(fused, "import_module", lambda name: modules.get(name, SimpleNamespace()))
    monkeypatch.setattr(fused, "_like", lambda model: torch.zeros(1))
    return applied


class Compiles(nn.Module):
    def __init__(self, size: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(size))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x * self.weight


class LacksCompiler(Compiles):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        raise RuntimeError("Failed to find C compiler. Please specify via CC environment variable.\nmore")


@pytest.mark.parametrize(
    ("norm", "why", "applied"),
    [
        (LacksCompiler, "RuntimeError: Failed to find C compiler. Please specify via CC environment variable.", []),
        (Compiles, "", ["llama"]),
    ],
)
def test_a_kernel_is_tried_before_it_is_used(monkeypatch, norm, why, applied):
    seen = liger(monkeypatch, norm)
    swaps, told = fused.fuse(OnGpu())
    assert told == (why and f"liger-kernel: {why}")
    assert (seen, len(swaps)) == (applied, len(applied))


def test_without_the_library_it_says_so(monkeypatch):
    def absent(name: str) -> Any:
        if name.startswith("liger_kernel"):
            raise ImportError("No module named 'triton'")
        return SimpleNamespace()

    monkeypatch.setattr(fused, "import_module", absent)
    assert fused.fuse(OnGpu()) == ((), "liger-kernel: No module named 'triton'")
