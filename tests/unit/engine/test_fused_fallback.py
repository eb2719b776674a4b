"""Where a fused kernel can't be compiled the model keeps its own operations, and says why."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn
from transformers.models.llama.modeling_llama import apply_rotary_pos_emb

from harness.engine.model import fused


class OnGpu(nn.Module):
    """A family that has kernels, with a parameter that says it is on a GPU."""

    def __init__(self, activation: str = "silu") -> None:
        super().__init__()
        self.config = SimpleNamespace(model_type="llama", hidden_act=activation)

    def parameters(self, recurse: bool = True) -> Any:
        return iter([SimpleNamespace(device=SimpleNamespace(type="cuda"), dtype=torch.float32)])


def liger(monkeypatch, norm: type[nn.Module]) -> list[dict[str, Any]]:
    """A library whose norm is this one; what of it was asked to be put into models."""
    applied: list[dict[str, Any]] = []
    library = SimpleNamespace(LigerRMSNorm=norm, apply_liger_kernel_to_llama=lambda **asked: applied.append(asked))
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
        (LacksCompiler, "RuntimeError: Failed to find C compiler. Please specify via CC environment variable.", 0),
        (Compiles, "", 1),
    ],
)
def test_a_kernel_is_tried_before_it_is_used(monkeypatch, norm, why, applied):
    seen = liger(monkeypatch, norm)
    swaps, told = fused.fuse(OnGpu())
    assert told == (why and f"liger-kernel: {why}")
    assert len(seen) == len(swaps) == applied


@pytest.mark.parametrize("ours", [True, False])
@pytest.mark.parametrize(
    ("activation", "why"), [("silu", ""), ("swish", ""), ("relu", "no fused gates for the activation relu")]
)
def test_gates_are_fused_where_their_activation_is_silu(activation, why, ours, monkeypatch):
    seen, used = liger(monkeypatch, Compiles), []
    monkeypatch.setattr(fused, "kernels_for", lambda device: ours)
    for name in ("_use_norms", "use_gates", "use_sums"):
        monkeypatch.setattr(fused, name, lambda model, kernels, name=name: used.append(name))
    swaps, told = fused.fuse(OnGpu(activation))
    assert told == why
    assert [(asked["swiglu"], asked["rms_norm"]) for asked in seen] == [(not why, not ours)]
    wanted = {"_use_norms", "use_sums"} if why else {"_use_norms", "use_sums", "use_gates"}
    assert set(used) == (wanted if ours else set())
    assert len(swaps) == 1  # rotary embeddings


def test_without_the_library_it_says_so(monkeypatch):
    def absent(name: str) -> Any:
        if name.startswith("liger_kernel"):
            raise ImportError("No module named 'triton'")
        return SimpleNamespace()

    monkeypatch.setattr(fused, "import_module", absent)
    assert fused.fuse(OnGpu()) == ((), "liger-kernel: No module named 'triton'")


@pytest.mark.parametrize("own", [True, False])
def test_rows_with_positions_of_their_own_are_turned_as_one(own):
    rows, heads, groups, length, width = 3, 4, 2, 5, 8
    draw = torch.Generator().manual_seed(0)
    angles = torch.rand(rows if own else 1, length, width // 2, generator=draw).repeat(1, 1, 2)
    q, k = (torch.randn(rows, length, n, width, generator=draw).transpose(1, 2) for n in (heads, groups))
    seen = []

    def rotate(*given):
        seen.append(given[0].shape)
        return apply_rotary_pos_emb(*given)

    wanted = apply_rotary_pos_emb(q, k, angles.cos(), angles.sin())
    for found, same in zip(fused.rotated(rotate, q, k, angles.cos(), angles.sin()), wanted, strict=True):
        assert torch.equal(found, same)
    assert seen == [(1, heads, rows * length, width) if own else q.shape]
