"""Attention that writes its scores out, against torch's own kernel."""

import pytest
import torch
from torch.nn import functional as F

from harness.engine.model import attention, short_rows
from harness.engine.model.attention import tree_mask


def inputs(rows: int, heads: int, groups: int, length: int, dtype=torch.float32):
    generator = torch.Generator().manual_seed(0)
    query = torch.randn(rows, heads, length, 16, generator=generator).to(dtype)
    key, value = (torch.randn(rows, groups, length, 16, generator=generator).to(dtype) for _ in range(2))
    return query, key, value


def branches(rows: int, length: int) -> torch.Tensor:
    """A context of half the row, and two answers that do not see each other."""
    last = torch.full((rows, length), length)
    last[:, length // 2 : 3 * length // 4] = 3 * length // 4
    return tree_mask(last)


def added(mask: torch.Tensor, dtype=torch.float32) -> torch.Tensor:
    """A boolean mask as numbers to add, as the model makes them."""
    return torch.zeros(mask.shape, dtype=dtype).masked_fill_(~mask, torch.finfo(dtype).min)


class Module(torch.nn.Module):
    num_key_value_groups = 3
    is_causal = True


@pytest.mark.parametrize(("dtype", "rounding"), [(torch.float32, 2.0**-20), (torch.bfloat16, 2.0**-8)])
@torch.no_grad()
def test_it_is_torch_s_attention(dtype, rounding, monkeypatch):
    query, key, value = inputs(3, 6, 2, 40, dtype)
    mask = branches(3, 40)
    exact = (tensor.float() for tensor in (query, key, value))
    wanted = F.scaled_dot_product_attention(*exact, attn_mask=mask, scale=0.3, enable_gqa=True)
    monkeypatch.setattr(attention, "sdpa_attention_forward", None)  # it is not asked
    found, weights = attention.attention(Module(), query, key, value, added(mask, dtype), scaling=0.3)
    assert weights is None
    assert found.dtype == dtype
    assert torch.allclose(found.float(), wanted.transpose(1, 2), rtol=rounding, atol=1e-6)


@torch.no_grad()
def test_a_query_that_sees_nothing_is_finite():
    """Padding on the left, before a decoder's first step."""
    query, key, value = inputs(1, 6, 2, 4)
    nothing = added(torch.zeros(1, 1, 4, 4, dtype=torch.bool))
    found, _ = attention.attention(Module(), query, key, value, nothing, scaling=0.3)
    assert found.isfinite().all()


@pytest.mark.parametrize("case", ["gradient", "no mask", "boolean mask", "long"])
def test_otherwise_torch_s_kernel_is_asked(case, monkeypatch):
    asked = []

    def asked_for(module, query, *rest, **kwargs):
        asked.append(query)
        return query, None

    monkeypatch.setattr(attention, "sdpa_attention_forward", asked_for)
    query, key, value = inputs(1, 6, 2, attention.LONGEST + 1 if case == "long" else 8)
    mask = None if case == "no mask" else branches(1, query.shape[2])
    if mask is not None and case != "boolean mask":
        mask = added(mask)
    with torch.set_grad_enabled(case == "gradient"):
        attention.attention(Module(), query, key, value, mask, scaling=0.3)
    assert len(asked) == 1


def with_gradient(attend, inputs, down):
    """What is computed of ``inputs``, and the gradients of those, in float64."""
    leaves = [x.detach().requires_grad_() for x in inputs]
    mixed = attend(*leaves)
    return [x.double() for x in (mixed.detach(), *torch.autograd.grad(mixed, leaves, down.to(mixed.dtype)))]


def causal(query, key, value):
    return F.scaled_dot_product_attention(query, key, value, is_causal=True, scale=0.3, enable_gqa=True)


@pytest.mark.parametrize("length", [1, 40])
@pytest.mark.parametrize("groups", [2, 6])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_products_err_no_more_than_torch_s_kernel(dtype, groups, length):
    query, key, value = (2 * x for x in inputs(3, 6, groups, length, dtype))
    down = torch.randn(query.shape, generator=torch.Generator().manual_seed(1))
    exact = with_gradient(causal, [x.double() for x in (query, key, value)], down.to(dtype))
    kernel = with_gradient(causal, (query, key, value), down)
    found = with_gradient(lambda q, k, v: short_rows.causal_attention(q, k, v, 0.3), (query, key, value), down)
    least = torch.finfo(dtype).eps
    for ours, theirs, right in zip(found, kernel, exact, strict=True):
        assert (ours - right).norm() <= max(1.2 * (theirs - right).norm(), least * right.norm(), 1e-12)


@pytest.mark.parametrize("case", ["short", "long", "float32", "emulated"])
def test_products_are_asked_where_they_are_faster(case, monkeypatch):
    products = []
    monkeypatch.setattr(attention, "multiplies_bfloat16", lambda: case != "emulated")
    monkeypatch.setattr(attention, "causal_attention", lambda *given: products.append(given) or causal(*given[:3]))
    length = short_rows.FASTER + 1 if case == "long" else 8
    query, key, value = inputs(1, 6, 2, length, torch.float32 if case == "float32" else torch.bfloat16)
    found = attention.attention(Module(), query, key, value, None, scaling=0.3)[0].transpose(1, 2)
    assert len(products) == (case == "short")
    assert torch.allclose(found, causal(query, key, value), rtol=2.0**-6, atol=2.0**-8)
