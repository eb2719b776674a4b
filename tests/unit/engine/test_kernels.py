"""Our own kernels against float64; where there is no GPU, that torch takes their place."""

from __future__ import annotations

import sys

import pytest
import torch
from helpers import relative
from torch import nn
from torch.nn import functional as F

from harness.engine import model
from harness.engine.model import linear, try_kernels
from harness.engine.model.linear import Change, PackedLinear
from harness.engine.model.readers import find_readers

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
    kernels.add_updates([y], x, a, [b])
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


def near(found: torch.Tensor, exact: torch.Tensor, size: torch.Tensor) -> bool:
    """Rounded once from a sum in float32: ``size`` is that of the terms."""
    return bool(((found.double() - exact).abs() <= 2.0**-8 * exact.abs() + 2.0**-18 * size).all())


@on_a_gpu
@pytest.mark.parametrize("shape", SHAPES)
def test_products_with_factors_are_those_of_float64(shape):
    from harness.engine.model import kernels

    trials, count, width, _, rank = shape
    x, b, y = (
        drawn(*sizes, seed=seed).bfloat16()
        for seed, sizes in enumerate([(trials, count, width), (trials, width, rank), (trials, count, width)])
    )
    # columns of something wider, and poison where nothing may be left
    wide = torch.full((trials, count, rank + 5), torch.nan, dtype=torch.bfloat16, device=GPU)
    down = wide[:, :, 3 : 3 + rank]
    kernels.reduce(x, b.mT, down)
    exact, size = x.double() @ b.double(), x.double().abs() @ b.double().abs()
    assert near(down, exact, size)
    assert bool(wide[:, :, :3].isnan().all() and wide[:, :, 3 + rank :].isnan().all())

    into = torch.full_like(b, torch.nan)
    kernels.outer(down, x, into.mT)
    assert near(into, x.double().mT @ down.double(), x.double().abs().mT @ down.double().abs())

    exact = y.double() + down.double() @ b.double().mT
    size = y.double().abs() + down.double().abs() @ b.double().abs().mT
    kernels.expand(y, down, b.mT)
    assert near(y, exact, size)


@on_a_gpu
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
@pytest.mark.parametrize("shape", [(1, 16), (70, 96), (5, 7, 576), (2, 3, 4, 64), (9, 1536), (3, 8192), (0, 32)])
def test_norms_are_those_of_float64(shape, dtype):
    from harness.engine.model import kernels

    x, weight = drawn(*shape, seed=0).to(dtype).requires_grad_(), drawn(shape[-1], seed=1).to(dtype)
    exact = x.detach().double().requires_grad_()
    found, wanted = kernels.rms_norm(x, weight, 1e-5), F.rms_norm(exact, weight.shape, weight.double(), 1e-5)
    dy = drawn(*shape, seed=2).to(dtype)
    (back,), (wanted_back,) = torch.autograd.grad(found, x, dy), torch.autograd.grad(wanted, exact, dy.double())
    off = 2.0**-7 if dtype is torch.bfloat16 else 1e-5
    torch.testing.assert_close(found.double(), wanted, atol=off, rtol=off)
    torch.testing.assert_close(back.double(), wanted_back, atol=off, rtol=off)


@on_a_gpu
def test_kernels_pass_their_trial():
    assert try_kernels.tried()[1] == ""


HEIGHTS = (130, 40, 40)


def readers_of(x: torch.Tensor, values: torch.Tensor, dtype: torch.dtype) -> list[torch.Tensor]:
    """Outputs of three layers that read ``x``, with factors of rank 8 that lie in ``values`` [2, P]."""
    layers = [PackedLinear(nn.Linear(96, m, bias=m > 40, dtype=x.dtype, device=GPU)) for m in HEIGHTS]
    sizes = [8 * 96] * 3 + [8 * m for m in HEIGHTS]
    parts = values.to(dtype).split(sizes, 1)
    for i, (layer, height) in enumerate(zip(layers, HEIGHTS, strict=True)):
        generator = torch.Generator(GPU).manual_seed(i)
        for parameter in layer.weight, layer.bias:
            if parameter is not None:
                parameter.requires_grad_(False).normal_(generator=generator)
        layer.take(Change(a=parts[i].unflatten(1, (8, 96)), b=parts[3 + i].unflatten(1, (height, 8))))
    for readers in find_readers(layers, lambda: [layer(x) for layer in layers]):
        for layer in readers.members:
            layer.readers = readers
    assert layers[0].readers.members == tuple(layers)
    return [layer(x) for layer in layers]


@on_a_gpu
@pytest.mark.parametrize("factors", [torch.float32, torch.bfloat16])
def test_layers_that_read_the_same_are_each_what_they_are_alone(factors, monkeypatch):
    x = drawn(6, 7, 96, seed=2).bfloat16().requires_grad_()
    values = drawn(2, 8 * (3 * 96 + sum(HEIGHTS)), seed=3).requires_grad_()

    def computed() -> list[torch.Tensor]:
        with torch.set_grad_enabled(factors is torch.bfloat16):
            ys = readers_of(x, values, factors)
        if not ys[0].requires_grad:
            return ys
        return [*ys, *torch.autograd.grad([y.square().sum() for y in ys], [x, values])]

    found = computed()
    monkeypatch.setattr(linear, "kernels_for", lambda device: None)
    for one, other in zip(found, computed(), strict=True):
        assert relative(one, other) < 2.0**-7


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


class Written:
    """What the kernels compute, in torch."""

    @staticmethod
    def add_updates(ys, x, a, bs):
        for y, b in zip(ys, bs, strict=True):
            y += x.float() @ a.mT @ b.mT

    @staticmethod
    def likelihoods(logits):
        peak = logits.amax(-1)
        return peak, logits.logsumexp(-1) - peak, logits.argmax(-1)

    @staticmethod
    def reduce(x, a, into):
        into.copy_(x @ a.mT)

    @staticmethod
    def expand(y, h, b):
        y.baddbmm_(h, b)

    @staticmethod
    def outer(h, x, into):
        into.copy_(h.mT @ x)

    @staticmethod
    def rms_norm(x, weight, eps):
        return F.rms_norm(x, weight.shape, weight, eps)


@pytest.mark.parametrize("name", ["add_updates", "reduce", "expand", "outer", "rms_norm"])
def test_a_kernel_that_is_wrong_is_not_used(name, monkeypatch):
    try_kernels._compare(Written, torch.device("cpu"))  # pyright: ignore[reportArgumentType]  # in place of a module
    written = getattr(Written, name)

    def wrong(*given):
        made = written(*given)
        if made is not None:
            return made * 1.1
        out = {"add_updates": given[0][0], "expand": given[0]}.get(name, given[-1])
        out[-1, -1, -1] += 100
        return None

    monkeypatch.setattr(Written, name, staticmethod(wrong))
    with pytest.raises(ArithmeticError, match="wrong on this device"):
        try_kernels._compare(Written, torch.device("cpu"))  # pyright: ignore[reportArgumentType]  # the same
