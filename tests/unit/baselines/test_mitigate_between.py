"""LoRA whose intruders are scaled after each task: against PEFT's and the bench's own mitigation of one adapter."""

from __future__ import annotations

import pytest
import torch
from helpers import ALPHA, RANK, batches, factors, packed_model, random_examples, relative, tiny_model, train, trainer
from peft import LoraConfig, get_peft_model
from peft.tuners.lora.intruders import reduce_intruder_dimension
from torch import Tensor

from baselines import lora, mitigate_between
from baselines.mitigate_between import refitted
from harness.engine.adapters.files import StoredAdapter
from harness.engine.model.packed import ALL_LINEAR
from harness.engine.rows import Rows
from harness.engine.spectra import Spectra
from harness.method import MethodSettings
from harness.posthoc.variants import Variants

LORA = lora.compose(MethodSettings())


def mitigated(keep: float, which: str = "all"):
    return mitigate_between.compose(mitigate_between.Settings(keep=keep, which=which))


def with_intruders(rows: list, size: float = 0.35, ranks: int = RANK) -> Rows:
    """Rows whose adapters are random and large enough for a few intruders; only the first ``ranks`` are used."""
    engine = trainer(packed_model(), rows, [1e-3] * len(rows))
    for row in range(len(rows)):
        values = torch.randn(engine.bank.layout.size, generator=torch.Generator().manual_seed(row)) * size
        engine.bank.values[row] = values
    for a, b in engine.bank.layout.split(engine.bank.values):
        a[:, ranks:], b[:, :, ranks:] = 0, 0
    return engine


def deltas(engine: Rows, row: int) -> dict[str, Tensor]:
    scaling = float(engine.bank.scaling[row])
    pairs = factors(engine, engine.bank.values, row)
    return {module: scaling * b.double() @ a.double() for module, (a, b) in pairs.items()}


@pytest.mark.parametrize("keep", [0.0, 0.25, 0.75])
def test_of_one_adapter_it_is_pefts_reduction(keep):
    """In fp64: PEFT's lambda is the part that is kept, whatever its docstring says."""
    engine = with_intruders([mitigated(keep), LORA], size=0.12)
    before = factors(engine, engine.bank.values, 0)
    config = LoraConfig(r=RANK, lora_alpha=int(ALPHA), target_modules=list(ALL_LINEAR))
    model = get_peft_model(tiny_model().double(), config, autocast_adapter_dtype=False)
    for module, (a, b) in before.items():
        layer = model.get_submodule(f"base_model.model.{module}")
        layer.lora_A["default"].weight.data, layer.lora_B["default"].weight.data = a.double(), b.double()
    said: list[str] = []
    reduce_intruder_dimension(model, mitigation_lambda=keep, logging_sink=said.append)
    plain = deltas(engine, 1)
    engine.end_task()
    moved = 0
    for module, found in deltas(engine, 0).items():
        layer = model.get_submodule(f"base_model.model.{module}")
        wanted = layer.get_delta_weight("intruder_reduced").detach()
        assert (found - wanted).abs().max() <= 1e-6, module
        old = ALPHA / RANK * before[module][1].double() @ before[module][0].double()
        moved += relative(found, old) > 1e-3
    assert moved == sum("Intruders:" in line for line in said) > 3
    assert moved < len(before), "and some have none"
    for module, found in deltas(engine, 1).items():
        assert torch.equal(found, plain[module]), "the row without the rule"


@pytest.mark.parametrize("which", ["first", "all"])
def test_of_one_adapter_it_is_what_mitigate_makes(which, tmp_path):
    """Where the rank can hold what is scaled, nothing is cut: the same weights to rounding."""
    engine = with_intruders([mitigated(0.5, which)], size=0.6, ranks=2)
    stored = stored_of(engine)
    variants = Variants(engine.model, Spectra(engine.model, tmp_path), which)
    directions = variants.chosen(stored)
    values = variants.make(stored, directions, "mitigated", 0.5).values
    fits = {m for m, (left, _) in directions.items() if left.shape[1] <= RANK - 2}
    assert fits
    engine.end_task()
    found = deltas(engine, 0)
    layout = variants.layout(stored.rank)
    for slot, (a, b) in zip(layout.slots, layout.split(values[None]), strict=True):
        if slot.module in fits or slot.module not in directions:
            assert relative(found[slot.module], b[0].double() @ a[0].double()) <= 1e-5, slot.module


def stored_of(engine: Rows) -> StoredAdapter:
    tensors = {}
    for module, (a, b) in factors(engine, engine.bank.values, 0).items():
        tensors[f"{module}.lora_A"], tensors[f"{module}.lora_B"] = a, b
    return StoredAdapter(tensors, ALPHA / RANK, "m", ALL_LINEAR)


def test_factors_stay_near_those_there_were():
    """The product is the cut change; A moves only out of directions that are cut."""
    draw = torch.Generator().manual_seed(1)
    a, b = torch.randn(3, 9, generator=draw).double(), torch.randn(7, 3, generator=draw).double()
    new_a, new_b = refitted(2 * b @ a, a, 2.0)
    assert relative(new_a, a) <= 1e-9
    assert relative(new_b, b) <= 1e-9
    change = 2 * b @ a + 0.1 * torch.randn(7, 9, generator=draw).double()
    new_a, new_b = refitted(change, a, 2.0)
    u, d, v = torch.linalg.svd(change)
    assert relative(2 * new_b @ new_a, (u[:, :3] * d[:3]) @ v[:3]) <= 1e-9
    assert relative(new_a, a) < 0.2
    lost = a.clone()
    lost[2] = lost[1]  # two rows alike: A has lost a direction
    new_a, new_b = refitted(change, lost, 2.0)
    assert relative(2 * new_b @ new_a, (u[:, :3] * d[:3]) @ v[:3]) <= 1e-9


def test_kept_whole_it_is_plain_lora():
    engine = trainer(packed_model(), [mitigated(1.0), LORA], [1e-1] * 2, [3, 3])
    for task in range(2):
        if task:
            engine.end_task()
            engine.begin_task(task, [random_examples(40, task)] * 2)
        train(engine, batches([random_examples(16, task)] * 2, 4, 4))
    assert relative(engine.bank.values[0], engine.bank.values[1]) <= 1e-3


def test_under_reinit_what_lies_below_counts_as_learnt():
    """The intruders are those of all that was learnt, and the new adapter alone takes the scaling."""
    recipe = mitigated(0.25).under("reinit")
    engine = trainer(packed_model(), [recipe], [1e-1])
    train(engine, batches([random_examples(16, 1)], 4, 4))
    engine.end_task()
    engine.begin_task(1, [random_examples(40, 2)])
    frozen = engine.bank.layout.frozen
    below = frozen.values.clone()
    train(engine, batches([random_examples(16, 2)], 4, 4))
    own = deltas(engine, 0)
    engine.end_task()
    assert torch.equal(engine.bank.layout.frozen.values, below)
    under = frozen.layout.split(below)
    found, scaled = deltas(engine, 0), 0
    for (slot, weight), (down, up) in zip(engine.model.weights(), under, strict=True):
        w0, before = weight.double(), own[slot.module]
        u, d, v = torch.linalg.svd(w0 + up[0].double() @ down[0].double() + before, full_matrices=False)
        cosines = (torch.linalg.svd(w0)[0].T @ u[:, :10]).abs().max(0).values
        intruders = (cosines < 0.5).nonzero()[:, 0]
        cut_u, cut_d, cut_v = torch.linalg.svd(before - 0.75 * (u[:, intruders] * d[intruders]) @ v[intruders])
        wanted = (cut_u[:, :RANK] * cut_d[:RANK]) @ cut_v[:RANK] if len(intruders) else before
        assert relative(found[slot.module], wanted) <= 1e-5, slot.module
        scaled += bool(len(intruders)) and relative(wanted, before) > 0.05
    assert scaled > 0
