"""Packed clip and AdamW against torch's, row by row."""

from __future__ import annotations

import math

import pytest
import torch

from harness.engine.optimizer import AdamWSettings, PackedAdamW

RATES = [1e-2, 1e-3, 3e-4, 0.0]
ON = torch.ones(4, dtype=torch.bool)


def gradients(steps: int, seed: int = 0) -> torch.Tensor:
    """Of very different sizes, so that the clip bites in some rows and steps only."""
    generator = torch.Generator().manual_seed(seed)
    sizes = torch.tensor([10.0, 0.3, 1e-3, 1.0])[:, None]
    return torch.randn(steps, 4, 30, generator=generator) * sizes * torch.rand(steps, 1, 1, generator=generator)


def start() -> torch.Tensor:
    return torch.randn(4, 30, generator=torch.Generator().manual_seed(9))


@pytest.mark.parametrize("settings", [
    AdamWSettings(), AdamWSettings(weight_decay=0.1), AdamWSettings((0.8, 0.95), 1e-4, 0.01, 0.5)
])  # fmt: skip
def test_every_row_is_torch_s(settings):
    values, steps = start(), gradients(25)
    packed = PackedAdamW(values, settings)
    norms = []
    for step, gradient in enumerate(steps):
        norms.append(packed.step(values, gradient, torch.tensor(RATES) * (step + 1) / 25, ON))
    for row, rate in enumerate(RATES):
        alone = start()[row].requires_grad_()
        optimizer = torch.optim.AdamW(
            [alone], rate, betas=settings.betas, eps=settings.eps, weight_decay=settings.weight_decay
        )
        for step, gradient in enumerate(steps):
            alone.grad = gradient[row].clone()
            norm = torch.nn.utils.clip_grad_norm_([alone], settings.clip)
            assert torch.allclose(norm, norms[step][row])
            optimizer.param_groups[0]["lr"] = rate * (step + 1) / 25
            optimizer.step()
        assert torch.allclose(values[row], alone, rtol=2e-6, atol=1e-6)
    clipped = torch.stack(norms) > settings.clip
    assert clipped.any()
    assert not clipped.all()


@pytest.mark.parametrize("what", ["inactive", "nan gradient", "inf gradient", "nan rate", "inf rate"])
def test_a_row_that_is_off_stays_and_changes_nobody(what):
    values, wanted = start(), start()
    packed, plain = (PackedAdamW(v, AdamWSettings(weight_decay=0.1)) for v in (values, wanted))
    for gradient in gradients(5):
        plain.step(wanted, gradient, torch.tensor(RATES), ON)
        active, rate, broken = ON.clone(), torch.tensor(RATES), gradient.clone()
        if what == "inactive":
            active[1] = False
        elif what.endswith("rate"):
            rate[1] = float(what.split()[0])
        else:
            broken[1, 3] = float(what.split()[0])
        norm = packed.step(values, broken, rate, active)
        assert norm[1].isfinite() == (not what.endswith("gradient"))
    others = [0, 2, 3]
    assert torch.equal(values[others], wanted[others])
    assert torch.equal(values[1], start()[1])
    assert packed.mean.isfinite().all()
    assert packed.square.isfinite().all()


def test_a_zero_gradient_and_a_zero_rate_are_fine():
    values = start()
    packed = PackedAdamW(values, AdamWSettings())
    norm = packed.step(values, torch.zeros(4, 30), torch.tensor(RATES), ON)
    assert norm.tolist() == [0, 0, 0, 0]
    assert torch.equal(values, start())


def test_the_clip_is_of_the_whole_row():
    values = torch.zeros(1, 2)
    packed = PackedAdamW(values, AdamWSettings(betas=(0.0, 0.0), clip=1.0))
    packed.step(values, torch.tensor([[3.0, 4.0]]), torch.tensor([1.0]), ON[:1])
    assert packed.mean[0].tolist() == pytest.approx([0.6, 0.8], rel=1e-6)
    assert math.isclose(packed.mean.norm().item(), 1.0, rel_tol=1e-6)


def test_state_goes_on_bit_for_bit():
    values, steps = start(), gradients(8)
    first = PackedAdamW(values, AdamWSettings())
    for gradient in steps[:4]:
        first.step(values, gradient, torch.tensor(RATES), ON)
    saved, again = {k: v.clone() for k, v in first.state().items()}, values.clone()
    second = PackedAdamW(again, AdamWSettings())
    second.load(saved)
    for gradient in steps[4:]:
        first.step(values, gradient, torch.tensor(RATES), ON)
        second.step(again, gradient, torch.tensor(RATES), ON)
    assert torch.equal(values, again)


@pytest.mark.parametrize("betas", [(0.9, 0.999), (0.8, 0.95)])
def test_a_step_count_on_the_device_gives_pythons_bits(betas):
    """The corrections of the bias are made of a tensor; a float of Python's makes the same ones."""
    settings, values, wanted = AdamWSettings(betas), start(), start()
    packed, rates = PackedAdamW(values, settings), torch.tensor(RATES)[:, None]
    mean, square = torch.zeros_like(values), torch.zeros_like(values)
    for count, gradient in enumerate(gradients(120), start=1):
        norm = packed.step(values, gradient, torch.tensor(RATES), ON)
        clipped = gradient * (settings.clip / (norm + 1e-6)).clamp(max=1.0)[:, None]
        mean.lerp_(clipped, 1 - betas[0])
        square.mul_(betas[1]).addcmul_(clipped, clipped, value=1 - betas[1])
        below = square.sqrt() / (1 - betas[1] ** count) ** 0.5 + settings.eps
        wanted -= rates / (1 - betas[0] ** count) * mean / below
        assert torch.equal(values, wanted)
    assert packed.step_count.item() == 120
