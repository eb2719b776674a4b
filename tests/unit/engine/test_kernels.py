"""Our own kernels against float64; where there is no GPU, that torch takes their place."""

from __future__ import annotations

import sys

import pytest
import torch
from torch.nn import functional as F

from harness.engine import model
from harness.engine.model import linear, try_kernels
from harness.engine.model.linear import Change, PackedLinear

GPU = torch.device("cuda")
on_a_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="kernels run on a GPU")
#: Trials, rows of each, columns in and out, rank: ragged everywhere, tiles met exactly, one row, none.
SHAPES = [
    (1, 1, 16, 16, 1), (2, 70, 96, 130, 3), (3, 64, 64, 64, 8), (15, 333, 576, 192, 8), (2, 129, 1536, 576, 16),
    (4, 65, 130, 66, 33), (2, 100, 576, 1536, 64), (2, 31, 48, 80, 100), (3, 0, 32, 32, 8),
]  # fmt: skip


def drawn(*shape: int, seed: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)).to(GPU)


@on_a_gpu
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
@pytest.mark.parametrize("shape", SHAPES)
def test_an_update_is_that_of_float64(shape, dtype):
    from harness.engine.model import kernels

    trials, count, width, height, rank = shape
    x, y = drawn(trials, count, width, seed=0).to(dtype), drawn(trials, count, height, seed=1).to(dtype)
    # factors as they lie in a bank: trials apart, something else between them that must not be read
    a = torch.full((trials, rank * width + 7), torch.nan, device=GPU)[:, : rank * width].view(trials, rank, width)
    a.copy_(drawn(trials, rank, width, seed=2))
    b = drawn(trials, height, rank, seed=3)
    exact = y.double() + x.double() @ a.double().mT @ b.double().mT
    size = y.double().abs() + x.double().abs() @ a.double().abs().mT @ b.double().abs().mT
    kernels.add_update(y, x, a, b)
    rounding = 2.0**-8 * exact.abs() if dtype is torch.bfloat16 else 0
    assert bool(((y.double() - exact).abs() <= rounding + 2.0**-20 * size).all())


@on_a_gpu
@pytest.mark.parametrize("width", [1, 5, 4096, 4097, 49152, 151936])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_likelihoods_are_those_of_float64(width, dtype):
    from harness.engine.model import kernels

    logits = (5 * drawn(37, width, seed=width)).to(dtype)
    logits[3, :] = 2.0  # all alike: the first is likeliest
    logits[5, width // 2] = torch.nan
    peak, log_sum, likeliest = kernels.likelihoods(logits)
    kept = torch.arange(37, device=GPU) != 5
    exact = logits[kept].double()
    torch.testing.assert_close((peak + log_sum)[kept].double(), exact.logsumexp(-1), atol=1e-5, rtol=1e-6)
    assert bool((likeliest[kept] == exact.argmax(-1)).all())
    assert likeliest[3] == 0
    assert not (peak + log_sum)[5].isfinite()


@on_a_gpu
def test_kernels_pass_their_trial():
    assert try_kernels.tried()[1] == ""


@on_a_gpu
def test_a_layer_with_kernels_is_that_without(monkeypatch):
    base = torch.nn.Linear(96, 130, bias=True, dtype=torch.bfloat16, device=GPU)
    layer = PackedLinear(base)
    layer.take(Change(a=drawn(2, 8, 96, seed=0), b=drawn(2, 130, 8, seed=1)))
    x = drawn(6, 7, 96, seed=2).bfloat16()
    with torch.no_grad():
        found = layer(x)
        monkeypatch.setattr(linear, "kernels_for", lambda device: None)
        wanted = layer(x)
    torch.testing.assert_close(found, wanted, atol=2.0**-7, rtol=2.0**-7)
    assert bool((F.linear(x, base.weight, base.bias) != wanted).any())


def test_where_they_do_not_load_torch_computes(monkeypatch):
    monkeypatch.setitem(sys.modules, "triton", None)
    monkeypatch.delitem(sys.modules, "harness.engine.model.kernels", raising=False)
    monkeypatch.delattr(model, "kernels", raising=False)
    try_kernels.tried.cache_clear()
    kernels, why = try_kernels.tried()
    try_kernels.tried.cache_clear()
    assert kernels is None
    assert "triton" in why
    assert try_kernels.kernels_for(torch.device("cpu")) is None


def test_a_kernel_that_is_wrong_is_not_used(monkeypatch):
    class Wrong:
        @staticmethod
        def add_update(y, x, a, b):
            y += 1

        @staticmethod
        def likelihoods(logits):
            return logits.amax(-1), torch.zeros_like(logits[:, 0]), logits.argmax(-1)

    with pytest.raises(ArithmeticError, match="wrong on this device"):
        try_kernels._compare(Wrong, torch.device("cpu"))
