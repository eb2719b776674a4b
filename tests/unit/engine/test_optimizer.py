"""The clip of a pack and AdamW against torch's, row by row."""

from __future__ import annotations

import math
from types import SimpleNamespace

import pytest
import torch

from harness.engine.optimizer import OptimizerSettings, clip, norms, update
from harness.method import AdamW, adamw

ADAMW, STUDY = AdamW(), OptimizerSettings()
RATES = [1e-2, 1e-3, 3e-4, 0.0]
ON = torch.ones(4, dtype=torch.bool)


def gradients(steps: int, seed: int = 0) -> torch.Tensor:
    """Of very different sizes, so that the clip bites in some rows and steps only."""
    generator = torch.Generator().manual_seed(seed)
    sizes = torch.tensor([10.0, 0.3, 1e-3, 1.0])[:, None]
    return torch.randn(steps, 4, 30, generator=generator) * sizes * torch.rand(steps, 1, 1, generator=generator)


def start() -> torch.Tensor:
    return torch.randn(4, 30, generator=torch.Generator().manual_seed(9))


class Run:
    """Rows of ``values`` [K, P] and their AdamW, stepped as the engine does."""

    def __init__(self, values: torch.Tensor, part: AdamW = ADAMW, study: OptimizerSettings = STUDY, sections=()):
        self.bank = SimpleNamespace(values=values, layout=SimpleNamespace(sections=sections or (values.shape[1],)))
        self.adamw, self.clip = AdamW.bind([part] * len(values), self.bank, study.weight_decay), study.clip

    def step(self, gradient: torch.Tensor, rate: torch.Tensor, active: torch.Tensor) -> torch.Tensor:
        rates = rate[:, None] * self.adamw.ratios
        clipped = clip(gradient, rates, active, self.clip)
        update(self.adamw, self.bank, gradient.clone(), clipped)
        return clipped.norm


@pytest.mark.parametrize(("part", "study"), [
    (AdamW(), OptimizerSettings()), (AdamW(), OptimizerSettings(weight_decay=0.1)),
    (AdamW(betas=(0.8, 0.95), eps=1e-4), OptimizerSettings(0.01, 0.5)),
])  # fmt: skip
def test_every_row_is_torch_s(part, study):
    values, steps = start(), gradients(25)
    packed = Run(values, part, study)
    norms = []
    for step, gradient in enumerate(steps):
        norms.append(packed.step(gradient, torch.tensor(RATES) * (step + 1) / 25, ON))
    for row, rate in enumerate(RATES):
        alone = start()[row].requires_grad_()
        optimizer = torch.optim.AdamW([alone], rate, betas=part.betas, eps=part.eps, weight_decay=study.weight_decay)
        for step, gradient in enumerate(steps):
            alone.grad = gradient[row].clone()
            norm = torch.nn.utils.clip_grad_norm_([alone], study.clip)
            assert torch.allclose(norm, norms[step][row])
            optimizer.param_groups[0]["lr"] = rate * (step + 1) / 25
            optimizer.step()
        assert torch.allclose(values[row], alone, rtol=2e-6, atol=1e-6)
    bites = torch.stack(norms) > study.clip
    assert bites.any()
    assert not bites.all()


def test_blocks_change_no_bit(monkeypatch):
    generator, found = torch.Generator().manual_seed(3), []
    values, given = torch.randn(4, 5000, generator=generator), torch.randn(3, 4, 5000, generator=generator)
    for block in (2**20, 4 * 2048, 1):
        monkeypatch.setattr(adamw, "BLOCK", block)
        run = Run(values.clone(), AdamW(b_ratio=4.0), OptimizerSettings(0.1), sections=(2600, 2400))
        for gradient in given:
            run.step(gradient, torch.tensor(RATES), ON)
        found.append(run.bank.values)
    assert torch.equal(found[0], found[1])
    assert torch.equal(found[0], found[2])


@pytest.mark.parametrize("what", ["inactive", "nan gradient", "inf gradient", "nan rate", "inf rate"])
def test_a_row_that_is_off_stays_and_changes_nobody(what):
    values, wanted = start(), start()
    packed, plain = (Run(v, study=OptimizerSettings(weight_decay=0.1)) for v in (values, wanted))
    for gradient in gradients(5):
        plain.step(gradient, torch.tensor(RATES), ON)
        active, rate, broken = ON.clone(), torch.tensor(RATES), gradient.clone()
        if what == "inactive":
            active[1] = False
        elif what.endswith("rate"):
            rate[1] = float(what.split()[0])
        else:
            broken[1, 3] = float(what.split()[0])
        norm = packed.step(broken, rate, active)
        assert norm[1].isfinite() == (not what.endswith("gradient"))
    others = [0, 2, 3]
    assert torch.equal(values[others], wanted[others])
    assert torch.equal(values[1], start()[1])
    assert packed.adamw.mean.isfinite().all()
    assert packed.adamw.square.isfinite().all()


def test_a_zero_gradient_and_a_zero_rate_are_fine():
    values = start()
    packed = Run(values)
    norm = packed.step(torch.zeros(4, 30), torch.tensor(RATES), ON)
    assert norm.tolist() == [0, 0, 0, 0]
    assert torch.equal(values, start())


@pytest.mark.parametrize("size", [0, 3, 4096, 2_400_007, 20_000_000])
def test_norms_of_long_rows_lose_no_digits(size):
    rows = torch.randn(2, size, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(norms(rows).double(), rows.double().norm(dim=1), rtol=2e-6, atol=0)


def test_the_clip_is_of_the_whole_row():
    values = torch.zeros(1, 2)
    packed = Run(values, AdamW(betas=(0.0, 0.0)))
    packed.step(torch.tensor([[3.0, 4.0]]), torch.tensor([1.0]), ON[:1])
    assert packed.adamw.mean[0].tolist() == pytest.approx([0.6, 0.8], rel=1e-6)
    assert math.isclose(packed.adamw.mean.norm().item(), 1.0, rel_tol=1e-6)


def test_state_goes_on_bit_for_bit():
    values, steps = start(), gradients(8)
    first = Run(values)
    for gradient in steps[:4]:
        first.step(gradient, torch.tensor(RATES), ON)
    saved, again = {k: v.clone() for k, v in first.adamw.state().items()}, values.clone()
    second = Run(again)
    second.adamw.load(saved)
    for gradient in steps[4:]:
        first.step(gradient, torch.tensor(RATES), ON)
        second.step(gradient, torch.tensor(RATES), ON)
    assert torch.equal(values, again)


@pytest.mark.parametrize("betas", [(0.9, 0.999), (0.8, 0.95)])
def test_a_step_count_on_the_device_gives_pythons_bits(betas):
    """The corrections of the bias are made of a tensor; a float of Python's makes the same ones."""
    part, values, wanted = AdamW(betas=betas), start(), start()
    packed, rates = Run(values, part), torch.tensor(RATES)[:, None]
    mean, square = torch.zeros_like(values), torch.zeros_like(values)
    for count, gradient in enumerate(gradients(120), start=1):
        norm = packed.step(gradient, torch.tensor(RATES), ON)
        cut = gradient * (1.0 / (norm + 1e-6)).clamp(max=1.0)[:, None]
        mean.lerp_(cut, 1 - betas[0])
        square.mul_(betas[1]).addcmul_(cut, cut, value=1 - betas[1])
        below = square.sqrt() / (1 - betas[1] ** count) ** 0.5 + part.eps
        wanted -= rates / (1 - betas[0] ** count) * mean / below
        assert torch.equal(values, wanted)
    assert packed.adamw.step_count.item() == 120
