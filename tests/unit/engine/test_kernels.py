"""Our own kernels against float64; where there is no GPU, that torch takes their place."""

from __future__ import annotations

import importlib
import itertools
import sys
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from helpers import relative
from torch import nn
from torch.nn import functional as F

from harness.engine import losses, model
from harness.engine.model import try_kernels
from harness.engine.model.attention import tree_mask
from harness.engine.model.gated import use_gates
from harness.engine.model.head import Head
from harness.engine.model.linear import Change, PackedLinear
from harness.engine.model.precision import LOW, in_three

GPU = torch.device("cuda")
on_a_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="kernels run on a GPU")
#: Trials, rows of each, columns in and out, rank: ragged everywhere, tiles met exactly, one row, none.
SHAPES = [
    (1, 1, 16, 16, 1), (2, 70, 96, 130, 3), (3, 64, 64, 64, 8), (15, 333, 576, 192, 8), (2, 129, 1536, 576, 16),
    (4, 65, 130, 66, 33), (2, 100, 576, 1536, 64), (2, 31, 48, 80, 100), (3, 0, 32, 32, 8),
]  # fmt: skip


def drawn(*shape: int, seed: int) -> torch.Tensor:
    device = GPU if torch.cuda.is_available() else "cpu"
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)).to(device)


@on_a_gpu
@pytest.mark.parametrize("dtype", [*LOW, torch.float32])
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
    rounding = torch.finfo(dtype).eps / 2 * exact.abs()
    assert bool(((y.double() - exact).abs() <= rounding + 2.0**-20 * size).all())


@on_a_gpu
@pytest.mark.parametrize("width", [1, 5, 4096, 4097, 49152, 151936])
@pytest.mark.parametrize("dtype", [*LOW, torch.float32])
def test_likelihoods_are_those_of_float64(width, dtype):
    from harness.engine.model import kernels

    logits = (5 * drawn(37, width, seed=width)).to(dtype)
    logits[3, :] = 2.0  # all alike: the first is likeliest
    logits[5, width // 2] = torch.nan
    logits[7, : min(4096, width - 1)] = -torch.inf  # all that is looked at first
    peak, log_sum, likeliest = kernels.likelihoods(logits)
    kept = torch.arange(37, device=GPU) != 5
    exact = logits[kept].double()
    torch.testing.assert_close((peak + log_sum)[kept].double(), exact.logsumexp(-1), atol=1e-5, rtol=1e-6)
    assert bool((likeliest[kept] == exact.argmax(-1)).all())
    assert likeliest[3] == 0
    assert not (peak + log_sum)[5].isfinite()


@on_a_gpu
@pytest.mark.parametrize("width", [1, 5, 4096, 4097, 49152, 151936])
@pytest.mark.parametrize("dtype", [*LOW, torch.float32])
def test_a_cross_entropy_and_its_gradient_are_those_of_float64(width, dtype):
    from harness.engine.model import kernels

    logits = (5 * drawn(37, width, seed=width)).to(dtype)
    logits[5, width // 2] = torch.nan
    logits[7, : min(4096, width - 1)] = -torch.inf  # all that is looked at first
    target, weight = torch.arange(37, device=GPU) * 7919 % width, drawn(37, seed=1).abs()
    target[[3, 7]] = width - 1
    kept = torch.arange(37, device=GPU) != 5
    exact = logits[kept].double().requires_grad_()
    wanted = F.cross_entropy(exact, target[kept], reduction="none")
    (back,) = torch.autograd.grad((wanted * weight[kept]).sum(), exact)
    losses = kernels.cross_entropy(logits, target, weight)
    torch.testing.assert_close(losses[kept].double(), wanted.detach(), atol=1e-5, rtol=1e-6)
    rounding = torch.finfo(dtype).eps / 2 * back.abs()
    assert bool(((logits[kept].double() - back).abs() <= rounding + 1e-5 * weight[kept, None]).all())
    assert not losses[5].isfinite()


@on_a_gpu
@pytest.mark.parametrize(("width", "first"), [(1, 1), (4099, 4099), (4099, 2048), (5000, 17)])
@pytest.mark.parametrize("decay", [0.0, 0.1])
def test_a_step_of_adamw_is_that_of_float64(width, first, decay):
    from harness.engine import optimizer
    from harness.method import AdamW

    def bound(dtype):
        bank = SimpleNamespace(values=drawn(3, width, seed=0).to(dtype), layout=SimpleNamespace(sections=sections))
        return bank, AdamW(b_ratio=4.0).bind([AdamW(b_ratio=4.0)] * 3, bank, decay)

    sections = (width,) if first == width else (first, width - first)
    (bank, adamw), (exact, wanted) = bound(torch.float32), bound(torch.double)
    active = torch.tensor([True, False, True], device=GPU)
    for seed in range(1, 6):
        gradient = drawn(3, width, seed=seed) * 10.0 ** (seed - 3)
        gradient[1, width // 2] = torch.nan
        rate = torch.tensor([[1e-2], [1e-3], [1e-4]], device=GPU) * adamw.ratios
        clipped = optimizer.clip(gradient, rate, active, 1.0)
        optimizer.update(adamw, bank, gradient, clipped)
        taken = clipped.coefficient[:, None].double()
        wanted.step(exact, torch.where(taken > 0, gradient.double() * taken, 0.0), clipped.rate.double())
    for found, other in ((bank.values, exact.values), (adamw.mean, wanted.mean)):
        torch.testing.assert_close(found.double(), other, atol=1e-6 * float(other.abs().max()), rtol=0)
    torch.testing.assert_close(adamw.square.double(), wanted.square, atol=0, rtol=3e-6)  # a thousandth, of the first
    assert bool((bank.values[1] == drawn(3, width, seed=0)[1]).all())


@on_a_gpu
@pytest.mark.parametrize("width", [65_535 * 2048 + 5, 2**31 + 5])
def test_a_step_of_adamw_reaches_every_number_of_a_model(width):
    """Of more than a grid's second dimension has room for, and of more than 32 bits count."""
    from harness.engine.model import kernels

    if torch.cuda.mem_get_info()[0] < 18 * width:
        pytest.skip(f"it needs {18 * width / 2**30:.0f} GiB of the GPU's memory")
    value, mean, square, gradient = (torch.full((1, width), start, device=GPU) for start in (0.0, 0.0, 0.0, 0.5))
    one = torch.ones(1, device=GPU)
    kernels.adamw(value, mean, square, gradient, one, one[:, None] / 8, one[:, None], one[0], width, (0.9, 0.999), 1e-8)
    for found, right in ((mean, 0.05), (square, 2.5e-4), (value, -0.05 / 8 / (2.5e-4**0.5 + 1e-8))):
        parts = found[0].split(2**28)
        ends = torch.stack([end for part in parts for end in (part.min(), part.max())])
        torch.testing.assert_close(ends, torch.full_like(ends, right), atol=0, rtol=2e-6)


class FeedForward(nn.Module):
    """A Llama's feed-forward layer."""

    def __init__(self, width: int, height: int, dtype: torch.dtype, device: str = "cuda") -> None:
        super().__init__()
        self.gate_proj, self.up_proj, self.down_proj = (
            PackedLinear(nn.Linear(*sizes, bias=False, dtype=dtype, device=device).requires_grad_(False))
            for sizes in ((width, height), (width, height), (height, width))
        )

    def members(self) -> tuple[PackedLinear, ...]:
        return self.gate_proj, self.up_proj, self.down_proj

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.down_proj(F.silu(self.gate_proj(x)) * self.up_proj(x))


@on_a_gpu
@pytest.mark.parametrize("factors", [torch.bfloat16, torch.float32])
@pytest.mark.parametrize("shape", [shape for shape in SHAPES if shape[1]])
def test_a_feed_forward_layer_is_that_of_float64(shape, factors):
    from harness.engine.model import kernels

    trials, count, width, height, rank = shape
    torch.manual_seed(0)
    layers = [FeedForward(width, height, dtype) for dtype in (torch.bfloat16, torch.bfloat16, torch.double)]
    for other in layers[1:]:
        other.load_state_dict(layers[0].state_dict())
    use_gates(layers[0], kernels)
    given = [drawn(trials, count, width, seed=0).bfloat16() / width**0.5]
    sizes = [((rank, width), (height, rank))] * 2 + [((rank, height), (width, rank))]
    for seed, size in enumerate(size for pair in sizes for size in pair):
        given.append(drawn(trials, *size, seed=seed + 1).to(factors) / rank**0.5)
    found = []
    for layer in layers:
        exact = layer.gate_proj.weight.dtype is torch.double
        leaves = [(x.double() if exact else x.clone()).requires_grad_(factors is torch.bfloat16) for x in given]
        for place, member in enumerate(layer.members()):
            member.take(Change(leaves[2 * place + 1], leaves[2 * place + 2]))
        with torch.set_grad_enabled(factors is torch.bfloat16):  # factors in float32 infer
            out = layer(leaves[0])
        down = drawn(*out.shape, seed=9).to(out.dtype)
        found.append([out, *(torch.autograd.grad(out, leaves, down) if out.requires_grad else ())])
    for one, plain, wanted in zip(*found, strict=True):
        assert relative(one.detach().double(), wanted) < 1.2 * relative(plain.detach().double(), wanted) + 2.0**-7


@on_a_gpu
@pytest.mark.parametrize("shape", [shape for shape in SHAPES if shape[1]])
def test_a_gate_keeps_its_factors_in_float32(shape):
    from harness.engine.model import kernels

    trials, count, _, height, rank = shape
    gate, up = (drawn(trials, count, height, seed=seed) for seed in (0, 1))
    x, a = drawn(trials, count, 64, seed=2).bfloat16(), drawn(trials, 2 * rank, 64, seed=5) / 8
    b_gate, b_up = (drawn(trials, height, rank, seed=seed) / rank**0.5 for seed in (3, 4))
    cut = [in_three(b.mT.contiguous(), 1) for b in (b_gate, b_up)]
    found = kernels.gated_in_three(gate, up, kernels.down_in_three(x, a), *cut)
    down = x.double() @ a.double().mT
    opening, passed = (
        of.double() + part.double() @ b.double().mT
        for of, part, b in zip((gate, up), down.chunk(2, 2), (b_gate, b_up), strict=True)
    )
    wanted = F.silu(opening) * passed
    assert found.dtype is torch.float32  # what is written in 16 bits looks the same with factors of 16 bits
    assert float((found - wanted).abs().max()) < 1e-5 * float(wanted.abs().max())


def test_three_of_bfloat16_are_one_of_float32():
    x = drawn(3, 500, seed=0) * torch.logspace(-20, 20, 500, device=drawn(1, seed=0).device)
    parts = in_three(x, 1)
    assert parts.dtype is torch.bfloat16
    assert parts.shape == (3, 3, 500)
    assert bool(((parts.double().sum(1) - x.double()).abs() <= 2.0**-24 * x.double().abs()).all())


def test_a_layer_that_is_watched_runs_by_itself():
    layer = FeedForward(16, 24, torch.bfloat16, str(drawn(1, seed=0).device))
    kernels = SimpleNamespace(gated=None)  # asking it for anything raises
    use_gates(layer, kernels)  # pyright: ignore[reportArgumentType]  # in place of a module
    for seed, member in enumerate(layer.members()):
        height, width = member.weight.shape
        member.take(Change(drawn(2, 3, width, seed=seed).bfloat16(), drawn(2, height, 3, seed=seed).bfloat16()))
    x, seen = drawn(4, 5, 16, seed=2).bfloat16(), []
    with pytest.raises(TypeError):
        layer(x)
    for member in layer.members():
        member.register_forward_pre_hook(lambda module, given: seen.append(module))
    layer(x)
    assert seen == list(layer.members())


@torch.no_grad()
def test_a_feed_forward_layer_infers_through_the_kernels():
    """In 300 draws of the weights at most 0.0044 from float64, and 0.0072 where the kernels are not used."""
    device = str(drawn(1, seed=0).device)
    layer, exact = (FeedForward(16, 24, dtype, device) for dtype in (torch.bfloat16, torch.double))
    exact.load_state_dict(layer.state_dict())
    use_gates(layer, Written)  # pyright: ignore[reportArgumentType]  # in place of a module
    x, found = drawn(4, 5, 16, seed=9).bfloat16(), []
    for each, x_of_it in ((layer, x), (exact, x.double())):
        factors = x_of_it.dtype if each is exact else torch.float32
        for seed, member in enumerate(each.members()):
            height, width = member.weight.shape
            pair = (drawn(2, *size, seed=seed).to(factors) for size in ((3, width), (height, 3)))
            member.take(Change(*pair))
        found.append(each(x_of_it).double())
    assert relative(*found) < 2.0**-7
    layer.gate_proj.take(None)
    assert layer.gate_proj.thirds is None, "parts go with the factors"


def test_a_feed_forward_layer_goes_through_the_kernels():
    """With what they compute written out: which gradient is whose does not depend on the device."""
    device = str(drawn(1, seed=0).device)
    layer, plain = (FeedForward(16, 24, torch.bfloat16, device) for _ in range(2))
    plain.load_state_dict(layer.state_dict())
    use_gates(layer, Written)  # pyright: ignore[reportArgumentType]  # in place of a module
    found = []
    for each in (layer, plain):
        leaves = [drawn(4, 5, 16, seed=9).bfloat16().requires_grad_()]
        for seed, member in enumerate(each.members()):
            height, width = member.weight.shape
            pair = (drawn(2, *size, seed=seed).bfloat16() / 4 for size in ((3, width), (height, 3)))
            leaves += [factor.requires_grad_() for factor in pair]
            member.take(Change(*leaves[-2:]))
        out = each(leaves[0])
        found.append([out, *torch.autograd.grad(out, leaves, drawn(*out.shape, seed=5).bfloat16())])
    for one, other in zip(*found, strict=True):
        assert relative(one.detach().double(), other.detach().double()) < 0.02


def poison(*like: torch.Tensor) -> None:
    """Leave NaN where the allocator takes room of these sizes from."""
    blocks = [torch.full_like(x, torch.nan) for x in like for _ in range(2)]
    del blocks


@on_a_gpu
@pytest.mark.parametrize("longest", [1, 16, 58, 64, 100, 128])
@pytest.mark.parametrize(("heads", "groups", "width"), [(9, 3, 64), (4, 4, 16), (2, 1, 128)])
def test_attention_within_rows_is_that_of_float64(longest, heads, groups, width):
    from harness.engine.model import kernels

    generator = np.random.default_rng(longest)
    lengths = generator.integers(0, longest + 1, (3, 5))
    lengths[:, 0] = longest
    starts = torch.from_numpy(np.pad(lengths.cumsum(1), ((0, 0), (1, 0)))).to(GPU)
    count = int(lengths.sum(1).max()) + 3  # the last tokens are in no row
    query, key, value = (
        drawn(3, count, n, width, seed=seed).bfloat16().transpose(1, 2).requires_grad_()
        for seed, n in enumerate((heads, groups, groups))
    )
    exact = [tensor.detach().double().requires_grad_() for tensor in (query, key, value)]
    poison(query, key, value)
    found = kernels.row_attention(query, key, value, starts, longest, width**-0.5)
    wanted = torch.zeros_like(found, dtype=torch.double)
    for trial, row in itertools.product(range(3), range(5)):
        at = slice(int(starts[trial, row]), int(starts[trial, row + 1]))
        parts = [tensor[trial : trial + 1, :, at] for tensor in exact]
        if lengths[trial, row]:
            wanted[trial : trial + 1, :, at] = F.scaled_dot_product_attention(*parts, is_causal=True, enable_gqa=True)
    down = drawn(*found.shape, seed=7).bfloat16()
    poison(query, key, value)
    backs = torch.autograd.grad(found, (query, key, value), down)
    for one, other in zip((found, *backs), (wanted, *torch.autograd.grad(wanted, exact, down.double())), strict=True):
        assert relative(one.double(), other) < 2.0**-7
        assert bool((one[other == 0] == 0).all()), "nothing comes from or goes to tokens that are in no row"


def trees(rows: int, length: int) -> torch.Tensor:
    """``last`` [R, T] of random rows: a beginning, and branches of branches; the last quarter of some is padding."""
    rng = np.random.default_rng(length)
    last = np.full((rows, length), length)

    def grow(row: int, start: int, stop: int) -> None:
        trunk = start + int(rng.integers(1, stop - start + 1))
        last[row, start:trunk] = stop
        while trunk < stop:
            end = trunk + int(rng.integers(1, stop - trunk + 1))
            grow(row, trunk, end)
            trunk = end

    for row in range(rows):
        grow(row, 0, max(1, length - row % 2 * length // 4))
    return torch.from_numpy(last)


@on_a_gpu
@pytest.mark.parametrize("dtype", LOW)
@pytest.mark.parametrize("length", [1, 16, 33, 64, 100, 511, 1030])
@pytest.mark.parametrize(
    ("heads", "groups", "width"), [(9, 3, 64), (4, 4, 16), (2, 1, 128), (3, 1, 32), (14, 2, 64), (17, 1, 16)]
)
def test_attention_among_branches_is_that_of_float64(length, heads, groups, width, dtype):
    from harness.engine.model import kernels

    last, trials = trees(3, length).to(GPU), 2
    query, key, value = (
        drawn(3 * trials, length, n, width + 1, seed=seed).to(dtype)[..., :width].transpose(1, 2)
        for seed, n in enumerate((heads, groups, groups))
    )
    mask = tree_mask(last).repeat(trials, 1, 1, 1)
    exact = (tensor.double() for tensor in (query, key, value))
    wanted = F.scaled_dot_product_attention(*exact, attn_mask=mask, scale=0.3, enable_gqa=True)
    for given in ((query, key, value), [tensor.contiguous() for tensor in (query, key, value)]):
        poison(query, key, value)
        found = kernels.tree_attention(*given, last, 0.3)
        assert found.dtype is dtype
        assert found.transpose(1, 2).is_contiguous()
        assert relative(found.double(), wanted) < 2.0**-7
        assert float((found - wanted).abs().max()) < 2.0**-6 * float(wanted.abs().max())


@on_a_gpu
def test_attention_among_branches_looks_at_nothing_else():
    """Not at other rows, at keys of other branches, or at what lies between the keys."""
    from harness.engine.model import kernels

    length, last = 100, torch.full((1, 100), 100, device=GPU)
    last[:, 20:70] = 70
    query, key, value = (drawn(2, length, n, 64, seed=n).bfloat16().transpose(1, 2) for n in (6, 2, 2))
    wanted = kernels.tree_attention(query, key, value, last, 0.1)
    key, value = key.clone(), value.clone()
    key[0, 0, 20:70] = 1e30  # the first answer, in one row and for one group
    found = kernels.tree_attention(query, key, value, last, 0.1)
    assert torch.equal(found[:, :, 70:], wanted[:, :, 70:])
    assert not torch.equal(found[:1, :3, 20:70], wanted[:1, :3, 20:70])
    value[0, 0, 5] = torch.nan
    found = kernels.tree_attention(query, key, value, last, 0.1)
    assert bool(found[0, :3, 5:].isnan().all())
    assert torch.equal(found[1], wanted[1])
    assert torch.equal(found[0, 3:], wanted[0, 3:])


@on_a_gpu
def test_what_sees_nothing_is_nothing():
    from harness.engine.model import kernels

    query = drawn(1, 2, 40, 32, seed=0).half()
    last = torch.full((1, 40), 40, device=GPU)
    last[:, :5] = 0
    found = kernels.tree_attention(query, query, query, last, 1.0)
    assert bool((found[:, :, :5] == 0).all())
    assert bool(found.isfinite().all())
    assert kernels.tree_attention(query[:0], query[:0], query[:0], last, 1.0).shape == (0, 2, 40, 32)


@on_a_gpu
def test_attention_among_branches_is_compiled_once():
    tree_attention = importlib.import_module("harness.engine.model.kernels.tree_attention")
    cached = tree_attention._forward.device_caches[torch.cuda.current_device()][0]
    sizes = []
    for rows, length in ((3, 100), (1, 1), (16, 48), (5, 257), (7, 64)):
        query, key = (drawn(rows, length, n, 64, seed=0).bfloat16().transpose(1, 2) for n in (9, 3))
        tree_attention.tree_attention(query, key, key, trees(rows, length).to(GPU), 0.125)
        sizes.append(len(cached))
    assert sizes == sizes[:1] * len(sizes)


@on_a_gpu
@pytest.mark.parametrize("dtype", [*LOW, torch.float32])
@pytest.mark.parametrize("shape", [(1, 16), (70, 96), (5, 7, 576), (2, 3, 4, 64), (9, 1536), (3, 8192), (0, 32)])
def test_norms_are_those_of_float64(shape, dtype):
    from harness.engine.model import kernels

    x, weight = drawn(*shape, seed=0).to(dtype).requires_grad_(), drawn(shape[-1], seed=1).to(dtype)
    exact = x.detach().double().requires_grad_()
    found, wanted = kernels.rms_norm(x, weight, 1e-5), F.rms_norm(exact, weight.shape, weight.double(), 1e-5)
    dy = drawn(*shape, seed=2).to(dtype)
    (back,), (wanted_back,) = torch.autograd.grad(found, x, dy), torch.autograd.grad(wanted, exact, dy.double())
    off = 2.0**-7 if dtype in LOW else 1e-5
    torch.testing.assert_close(found.double(), wanted, atol=off, rtol=off)
    torch.testing.assert_close(back.double(), wanted_back, atol=off, rtol=off)


@on_a_gpu
@pytest.mark.parametrize("dtype", [*LOW, torch.float32])
@pytest.mark.parametrize("shape", [(1, 16), (70, 96), (5, 7, 576), (2, 3, 4, 64), (9, 1536), (3, 8192), (0, 32)])
def test_norms_of_sums_are_those_of_float64(shape, dtype):
    from harness.engine.model import kernels

    given = [drawn(*shape, seed=seed).to(dtype).requires_grad_() for seed in (0, 1)]
    weight = drawn(shape[-1], seed=2).to(dtype)
    found = kernels.add_norm(*given, weight, 1e-5)
    total = given[0].detach() + given[1].detach()
    assert torch.equal(found[1], total)
    assert torch.equal(found[0], kernels.rms_norm(total, weight, 1e-5))
    exact = total.double().requires_grad_()
    wanted = F.rms_norm(exact, weight.shape, weight.double(), 1e-5), exact * 1
    down = [drawn(*shape, seed=seed).to(dtype) for seed in (3, 4)]
    off = 2.0**-7 if dtype in LOW else 1e-5
    for through in (slice(2), slice(1), slice(1, 2)):  # the norm and the sum, the norm alone, the sum alone
        backs = torch.autograd.grad(found[through], given, down[through], retain_graph=True)
        (wanted_back,) = torch.autograd.grad(
            wanted[through], exact, [dy.double() for dy in down[through]], retain_graph=True
        )
        for back in backs:
            torch.testing.assert_close(back.double(), wanted_back, atol=off, rtol=off)


@on_a_gpu
@pytest.mark.parametrize("dtype", [*LOW, torch.float32])
@pytest.mark.parametrize("shape", [(1, 1, 16, 1), (2, 70, 96, 3), (15, 33, 576, 8), (3, 5, 8192, 16), (2, 0, 32, 8)])
def test_norms_of_sums_with_updates_are_as_when_apart(shape, dtype):
    """Of trials as they lie in a bank, and rounded where each of the three steps would be."""
    from harness.engine.model import kernels

    trials, count, width, rank = shape
    y, residual = (drawn(trials, count, width, seed=seed).to(dtype) for seed in (0, 1))
    x, weight = drawn(trials, count, 64, seed=2).to(dtype), drawn(width, seed=3).to(dtype)
    a, b = drawn(trials, rank, 64, seed=4), drawn(trials, width, rank, seed=5)
    down = kernels.down_states(x, a)
    poisoned = torch.full((trials, rank * width + 7), torch.nan, device=GPU)
    along = poisoned[:, : rank * width].view(trials, rank, width).copy_(b.mT).mT
    found = [kernels.add_updated_norm(y, down, factor, residual, weight, 1e-5) for factor in (b, along)]
    apart = y.clone()
    kernels.add_updates([apart], x, a, [b])
    wanted = kernels.add_norm(apart, residual, weight, 1e-5)
    exact = y.double() + down.double() @ b.double().mT + residual.double()
    exact = F.rms_norm(exact, weight.shape, weight.double(), 1e-5), exact
    off = 2.0**-6 if dtype in LOW else 1e-5
    for one, other, separate, right in zip(*found, wanted, exact, strict=True):
        assert torch.equal(one, other)
        torch.testing.assert_close(one.double(), right, atol=off, rtol=off)
        if count and dtype in LOW:  # they may differ where an update was halfway between two numbers
            assert (one != separate).double().mean() < 0.01


@on_a_gpu
def test_kernels_pass_their_trial():
    assert try_kernels.tried()[1] == ""


def loaded() -> list[str]:
    """The modules of the kernels that are imported."""
    return [name for name in sys.modules if name.startswith("harness.engine.model.kernels")]


def test_where_they_do_not_load_torch_computes(monkeypatch):
    monkeypatch.setitem(sys.modules, "triton", None)
    for name in loaded():
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.delattr(model, "kernels", raising=False)
    try_kernels.tried.cache_clear()
    kernels, why = try_kernels.tried()
    try_kernels.tried.cache_clear()
    assert kernels is None
    assert "triton" in why
    assert try_kernels.kernels_for(torch.device("cpu")) is None


#: Of each kernel, how many tensors it returns or changes.
OUTPUTS = {
    "adamw": 3, "add_norm": 2, "add_updated_norm": 2, "add_updates": 1, "cross_entropy": 2, "down_in_three": 1,
    "down_states": 1, "gated": 1, "gated_back": 2, "gated_in_three": 1, "likelihoods": 3, "rms_norm": 1,
    "row_attention": 1, "tree_attention": 1,
}  # fmt: skip


class Launch:
    """A kernel that is not compiled and does nothing; grids that it is launched on are kept."""

    grids: list[tuple[int, ...]]

    def __init__(self, function: Any) -> None:
        pass

    def __getitem__(self, grid: tuple[int, ...]) -> Any:
        self.grids.append(grid)
        return lambda *given, **options: None


@pytest.fixture
def launching(monkeypatch):
    """The kernels without Triton, so that tensors need no memory and no GPU."""
    triton, language = ModuleType("triton"), ModuleType("triton.language")
    vars(language).update(constexpr=float)
    vars(triton).update(
        jit=lambda function=None, **options: Launch(function) if function else Launch,
        language=language,
        cdiv=lambda a, b: -(-a // b),
        next_power_of_2=lambda n: 1 << (n - 1).bit_length(),
    )
    monkeypatch.setitem(sys.modules, "triton", triton)
    monkeypatch.setitem(sys.modules, "triton.language", language)
    monkeypatch.setattr(Launch, "grids", [], raising=False)
    for name in loaded():
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.delattr(model, "kernels", raising=False)
    yield importlib.import_module("harness.engine.model.kernels")
    for name in loaded():  # not by monkeypatch, which would put them back
        del sys.modules[name]
    del model.kernels


def test_no_grid_is_larger_than_cuda_takes(launching):
    """65,535 in its second and third dimension: for a model of 8 billion, many trials, and many tokens at once."""

    def sized(*shape: int, dtype: torch.dtype = torch.float32) -> torch.Tensor:
        return torch.empty(shape, dtype=dtype, device="meta", requires_grad=dtype is torch.bfloat16)

    for trials, width in ((1, 2**33), (4096, 2**24)):
        of_trial = [sized(trials, width)] * 4
        launching.adamw(*of_trial, sized(trials), *[sized(trials, 2)] * 2, sized(), width // 2, (0.9, 0.999), 1e-8)
    logits, target = sized(2**22, 2**18), sized(2**22, dtype=torch.int64)
    launching.likelihoods(logits)
    launching.cross_entropy(logits, target, sized(2**22))
    for trials, count in ((1, 2**22), (4096, 2**12)):
        x, wide, rank = sized(trials, count, 2**14, dtype=torch.bfloat16), sized(trials, count, 2**17), 2**10
        down, b, a_next = sized(trials, count, 2 * rank), sized(trials, 2**17, rank), sized(trials, rank, 2**17)
        launching.add_updates([wide], x, sized(trials, rank, 2**14), [b])
        launching.gated(wide, wide, down, b, b)
        thirds = sized(trials, 3, rank, 2**17, dtype=torch.bfloat16)
        launching.gated_in_three(wide, wide, launching.down_in_three(x, sized(trials, 2 * rank, 2**14)), *[thirds] * 2)
        launching.gated_back(wide, sized(trials, count, rank), a_next, wide, wide, down, b, b)
        weight, starts = sized(2**14), sized(trials, count // 64, dtype=torch.int64)
        launching.add_updated_norm(x, down, sized(trials, 2**14, 16), x, weight, 1e-6)
        query = sized(trials, 128, count, 128, dtype=torch.bfloat16)
        for given, made in (
            (x, (launching.rms_norm(x, weight, 1e-6),)),
            (x, launching.add_norm(x, x, weight, 1e-6)),
            (query, (launching.row_attention(query, query, query, starts, 64, 1.0),)),
        ):
            torch.autograd.grad(made, given, made)
        launching.tree_attention(query, query, query, starts.new_empty(trials, count), 1.0)
    assert set(OUTPUTS) == set(launching.__all__)
    assert len(Launch.grids) == 2 + 2 + 2 * (2 + 2 + 2 + 4 + 2 + 1 + 1)
    assert all(grid[0] < 2**31 and max(grid[1:], default=1) <= 65_535 for grid in Launch.grids), Launch.grids


class Written:
    """What the kernels compute, in torch."""

    @staticmethod
    def add_updates(ys, x, a, bs):
        for y, b in zip(ys, bs, strict=True):
            y += x.float() @ a.mT @ b.mT

    @staticmethod
    def likelihoods(logits):
        logits = logits.float()
        peak = logits.amax(-1)
        return peak, logits.logsumexp(-1) - peak, logits.argmax(-1)

    @staticmethod
    def adamw(value, mean, square, gradient, clip, rate, keep, root, first, betas, eps):
        gradient = torch.where(clip[:, None] > 0, gradient * clip[:, None], 0.0)
        mean.lerp_(gradient, 1 - betas[0])
        square.mul_(betas[1]).addcmul_(gradient, gradient, value=1 - betas[1])
        of_column = (torch.arange(value.shape[1]) >= first).long()
        value.mul_(keep[:, of_column]).sub_(rate[:, of_column] * mean / (square.sqrt() / root + eps))

    @staticmethod
    def cross_entropy(logits, target, weight):
        with torch.enable_grad():
            leaf = logits.float().clone().requires_grad_()
            losses = F.cross_entropy(leaf, target, reduction="none")
            logits.copy_(torch.autograd.grad((losses * weight).sum(), leaf)[0])
        return losses.detach()

    @staticmethod
    def down_states(x, a):
        return x.float() @ a.mT

    @staticmethod
    def down_in_three(x, a):
        return in_three(Written.down_states(x, a), 2)

    @staticmethod
    def gated_in_three(gate, up, down, b_gate, b_up):
        down, b_gate, b_up = down.float().sum(2), b_gate.float().sum(1).mT, b_up.float().sum(1).mT
        return Written.gated(gate.float(), up.float(), down, b_gate, b_up).to(gate.dtype)

    @staticmethod
    def gated(gate, up, down, b_gate, b_up):
        of_gate, of_up = down.chunk(2, 2)
        return (F.silu(gate + of_gate @ b_gate.mT) * (up + of_up @ b_up.mT)).to(gate.dtype)

    @staticmethod
    def gated_back(d_out, d_next, a_next, gate, up, down, b_gate, b_up):
        of_gate, of_up = down.chunk(2, 2)
        with torch.enable_grad():
            leaves = [(gate + of_gate @ b_gate.mT).requires_grad_(), (up + of_up @ b_up.mT).requires_grad_()]
            return torch.autograd.grad(F.silu(leaves[0]) * leaves[1], leaves, d_out + d_next @ a_next)

    @staticmethod
    def rms_norm(x, weight, eps):
        return F.rms_norm(x, weight.shape, weight, eps)

    @staticmethod
    def add_norm(x, residual, weight, eps):
        return F.rms_norm(x + residual, weight.shape, weight, eps), x + residual

    @staticmethod
    def add_updated_norm(y, down, b, residual, weight, eps):
        return Written.add_norm((y + down @ b.mT).to(y.dtype), residual, weight, eps)

    @staticmethod
    def row_attention(query, key, value, starts, longest, scale):
        assert (starts[:, 1:] - starts[:, :-1]).max() == longest
        rows = [slice(int(start), int(stop)) for start, stop in itertools.pairwise(starts[0])]
        parts = [[tensor[:, :, row] for tensor in (query, key, value)] for row in rows]
        mixed = [F.scaled_dot_product_attention(*part, is_causal=True, scale=scale, enable_gqa=True) for part in parts]
        return torch.cat(mixed, 2)

    @staticmethod
    def tree_attention(query, key, value, last, scale):
        mask = tree_mask(last).repeat(len(query) // len(last), 1, 1, 1)
        return F.scaled_dot_product_attention(query, key, value, attn_mask=mask, scale=scale, enable_gqa=True)


@pytest.mark.parametrize("factor", [1.0, 0.25])
def test_the_gradient_of_a_cross_entropy_reaches_the_states(factor, monkeypatch):
    linear = nn.Linear(8, 30, bias=False, device=drawn(1, seed=0).device)
    head, hidden = Head(nn.Identity(), linear, factor), drawn(50, 8, seed=1)
    target, weight = torch.arange(50, device=hidden.device) % 30, drawn(50, seed=2).abs()
    monkeypatch.setattr(losses, "CHUNK_LOGITS", dict.fromkeys(("cpu", "cuda"), 100))  # three tokens, and twelve

    def loss(logits: torch.Tensor, part: slice) -> torch.Tensor:
        return F.cross_entropy(logits, target[part], reduction="none")

    wanted = losses.loss_and_gradient(hidden, head.logits, loss, weight)
    kernels: Any = Written
    found = losses.cross_entropy_and_gradient(kernels, hidden, head, target, weight)
    for one, other in zip(found, wanted, strict=True):
        torch.testing.assert_close(one, other.detach())


def tried_on_a_cpu() -> None:
    try_kernels._compare(Written, torch.device("cpu"))  # pyright: ignore[reportArgumentType]  # in place of a module


def spoiled(tensor: torch.Tensor) -> torch.Tensor:
    """Its last number off by a tenth of the largest, or by one where it counts."""
    off = torch.zeros_like(tensor)
    off[(-1,) * off.dim()] = tensor.detach().abs().max() / 10 if tensor.is_floating_point() else 1
    return tensor + off


def test_kernels_that_are_right_are_used():
    tried_on_a_cpu()


@pytest.mark.parametrize(
    ("name", "place"), [(name, place) for name, count in OUTPUTS.items() for place in range(count)]
)
def test_a_kernel_that_is_wrong_is_not_used(name, place, monkeypatch):
    written = getattr(Written, name)

    def wrong(*given):
        made = written(*given)
        returned = [*made] if isinstance(made, tuple) else [] if made is None else [made]
        if place < len(returned):
            returned[place] = spoiled(returned[place])
            return tuple(returned) if isinstance(made, tuple) else returned[0]
        changed = given[0] if name == "add_updates" else given
        changed[place - len(returned)].copy_(spoiled(changed[place - len(returned)]))
        return made

    monkeypatch.setattr(Written, name, staticmethod(wrong))
    with pytest.raises(ArithmeticError, match="wrong on this device"):
        tried_on_a_cpu()


@pytest.mark.parametrize("name", ["add_norm", "rms_norm", "row_attention"])
def test_a_kernel_whose_way_back_is_wrong_is_not_used(name, monkeypatch):
    written = getattr(Written, name)

    def wrong(*given):
        made = written(*given)
        made = [1.1 * each - 0.1 * each.detach() for each in (made if isinstance(made, tuple) else (made,))]
        return made if len(made) > 1 else made[0]

    monkeypatch.setattr(Written, name, staticmethod(wrong))
    with pytest.raises(ArithmeticError, match="wrong on this device"):
        tried_on_a_cpu()


def test_a_step_that_takes_nan_from_a_trial_is_not_used(monkeypatch):
    def wrong(value, mean, square, gradient, clip, *about):
        written(value, mean, square, gradient * clip[:, None], torch.ones_like(clip), *about)

    written = Written.adamw
    monkeypatch.setattr(Written, "adamw", staticmethod(wrong))
    with pytest.raises(ArithmeticError, match="wrong on this device"):
        tried_on_a_cpu()
