"""InfLoRA, by hand: what a new adapter reads, what is remembered of a task, and what goes on over a fresh start."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from helpers import RANK, batches, factors, packed_model, random_examples, relative, train, trainer

from baselines import inflora
from baselines.inflora import directions, grown
from harness.engine.activations import Activations
from harness.engine.batches import Example
from harness.engine.rows import Rows
from harness.errors import SettingError

RECIPE = inflora.compose(inflora.Settings(threshold=0.6))


def published(features: np.ndarray | None, moment: np.ndarray, threshold: float) -> np.ndarray:
    """The published update of one matrix's memory, where it removes (DualGPM's first case), with its own SVDs."""
    if features is None:
        u, s, _ = np.linalg.svd(moment)
        return u[:, : max(int((np.cumsum(s**2 / (s**2).sum()) < threshold).sum()), 1)]
    total = (np.linalg.svd(moment)[1] ** 2).sum()
    rest = moment - features @ features.T @ moment
    u, s, _ = np.linalg.svd(rest)
    held, count = (total - (s**2).sum()) / total, 0
    for share in s**2 / total:
        if held >= threshold:
            break
        held, count = held + share, count + 1
    return np.hstack([features, u[:, :count]])


def covariance(seed: int, size: int = 12) -> torch.Tensor:
    x = torch.randn(40, size, generator=torch.Generator().manual_seed(seed), dtype=torch.double)
    x *= torch.linspace(2, 0.1, size)
    return x.T @ x / len(x)


@pytest.mark.parametrize("threshold", [0.3, 0.6, 0.9, 0.99])
def test_memory_grows_as_published(threshold):
    basis, features = torch.zeros(12, 0), None
    for task in range(4):
        moment = covariance(task)
        basis, features = grown(basis, moment.float(), threshold), published(features, moment.numpy(), threshold)
        assert basis.shape == features.shape
        found, wanted = basis.double() @ basis.double().T, torch.from_numpy(features @ features.T)
        assert relative(found, wanted) <= 1e-3, "the same subspace"
    again = grown(basis, covariance(0).float(), threshold)
    assert again.shape[1] - basis.shape[1] <= 1, "what it holds it does not take again"


def test_one_large_direction_hides_others_from_a_low_threshold():
    """As a language model reads: by 0.95 of squares M is one direction, with half of the inputs' energy."""
    moment = torch.diag(torch.tensor([20.0, *[2.5 * 0.85**i for i in range(30)]]))
    sizes = [grown(torch.zeros(31, 0), moment, each).shape[1] for each in inflora.Settings.grid(64)["threshold"]]
    assert sizes[0] == 1
    assert sizes == sorted(set(sizes)), "every step of the grid holds more"
    assert 20 / float(moment.trace()) < 0.6


def test_a_new_adapter_reads_what_is_left_by_hand():
    moment = torch.diag(torch.tensor([5.0, 4.0, 3.0, 2.0, 1.0]))
    basis = torch.eye(5)[:, [0, 2]]
    vectors, squares = directions(basis, moment, len(moment))
    assert squares.tolist() == pytest.approx([16, 4, 1])
    assert vectors.abs().tolist() == torch.eye(5)[:, [1, 3, 4]].tolist()


def test_a_later_adapter_gives_nothing_for_what_was_remembered():
    examples = [[random_examples(40, 10 * task + row) for row in range(2)] for task in range(2)]
    engine = trainer(packed_model(), [RECIPE] * 2, [1e-2, 1e-3], examples=examples[0])
    for row in range(2):
        moments = on_the_base(engine, examples[0][row])
        for slot, moment, (a, _) in zip(
            engine.model.slots, moments, factors(engine, engine.bank.values, row).values(), strict=True
        ):
            top = torch.linalg.svd(moment.double())[0][:, :RANK]
            assert relative(3 * a.T.double() @ a.double(), top @ top.T) <= 1e-3, slot.module
    first = [factors(engine, engine.bank.values, row) for row in range(2)]
    train(engine, batches(examples[0], 4, 4))
    counted = engine.take_read_tokens()
    assert counted == [sum(len(e.ids) for e in examples[0][row]) for row in range(2)]
    engine.end_task()
    assert engine.take_read_tokens() == counted, "read again on the trained model"
    rule = engine.updates["FreeInputs"]
    engine.begin_task(1, examples[1])
    assert engine.updates["FreeInputs"] is rule, "what it remembers goes on over the fresh start"
    for row in range(2):
        for i, (module, (a, b)) in enumerate(factors(engine, engine.bank.values, row).items()):
            basis = rule.bases[row][i]
            assert 0 < basis.shape[1] < basis.shape[0]
            assert (a @ basis).abs().max() <= 1e-5 * a.abs().max() * basis.shape[0]
            assert torch.allclose(a @ a.T, torch.eye(RANK) / 3, atol=1e-5)
            assert not b.any()
            assert not torch.equal(a, first[row][module][0])
    held = {module: a for module, (a, _) in factors(engine, engine.bank.values, 0).items()}
    train(engine, batches(examples[1], 4, 4))
    for module, (a, b) in factors(engine, engine.bank.values, 0).items():
        assert torch.equal(a, held[module])
        assert b.any()


def on_the_base(engine: Rows, examples: list[Example]):
    """Second moments of what every slot reads there."""
    nothing = torch.zeros(1, engine.model.layout(RANK).size)
    inputs = Activations(engine.model, engine.model.layout(RANK), nothing, nothing[:, 0])
    found = {i: moment for readers, moment in inputs.moments(examples, 10**6)[0] for i in readers}
    return [found[i] for i in range(len(found))]


def test_matrices_that_read_the_same_share_one_memory():
    engine = trainer(packed_model(), [RECIPE], [1e-2])
    train(engine, batches([random_examples(16, 1)], 4, 4))
    engine.end_task()
    state = {name: tensor.clone() for name, tensor in engine.state().items()}
    fresh = trainer(packed_model(), [RECIPE], [1e-2], [9])
    fresh.load(state)
    ours, theirs = (each.updates["FreeInputs"].bases[0] for each in (fresh, engine))
    for mine, other in zip(ours, theirs, strict=True):
        assert torch.equal(mine, other)
    projections = [slot.projection for slot in engine.model.slots]
    q, k = projections.index("q_proj"), projections.index("k_proj")
    assert ours[q] is ours[k]
    stored = state["update.FreeInputs.bases"].numel()
    assert stored == sum(basis.numel() for basis in {id(basis): basis for basis in theirs}.values())


def test_where_nothing_is_left_a_matrix_learns_no_more():
    """The model's inputs of 32 are held whole after the first task: what is left of each A is rows of zeros."""
    recipe = inflora.compose(inflora.Settings(threshold=1.0))
    examples = [[random_examples(40, task)] for task in range(2)]
    engine = trainer(packed_model(), [recipe], [1e-2], examples=examples[0])
    train(engine, batches(examples[0], 4, 4))
    engine.end_task()
    rule = engine.updates["FreeInputs"]
    room = {slot.module: len(m) - m.shape[1] for slot, m in zip(engine.model.slots, rule.bases[0], strict=True)}
    assert min(room.values()) < RANK, "else this says nothing"
    engine.begin_task(1, examples[1])
    train(engine, batches(examples[1], 4, 4))
    live = 0
    for i, (module, (a, b)) in enumerate(factors(engine, engine.bank.values, 0).items()):
        free = min(room[module], RANK)
        assert torch.allclose(a @ a.T, torch.diag(torch.tensor([1 / 3] * free + [0.0] * (RANK - free))), atol=1e-5)
        assert (a @ rule.bases[0][i]).abs().max() <= 1e-5
        assert not b[:, free:].any()
        assert b[:, :free].any() or not free
        live += free * len(b)
    assert engine.trained_numbers(0) == live
    engine.end_task()
    for basis in rule.bases[0]:
        assert torch.allclose(basis.T @ basis, torch.eye(basis.shape[1]), atol=1e-5), "and stays a basis"


def test_a_nearly_full_memory_gives_only_free_directions():
    """What is left holds 1e-9 of the inputs, less than the basis's own rounding: still none of it is in the basis."""
    moment = torch.diag(torch.tensor([1.0, 0.5, 0.25, 1e-9, 1e-9, 1e-9]))
    turn = torch.linalg.qr(torch.randn(6, 6, generator=torch.Generator().manual_seed(0)))[0]
    moment = turn @ moment @ turn.T
    basis = turn[:, :3]
    vectors, _ = directions(basis, moment, len(moment))
    assert vectors.shape == (6, 3)
    assert (vectors.T @ basis).abs().max() <= 1e-6
    assert grown(turn, moment, 0.9).shape == (6, 6), "a full one grows no more"


def test_a_rank_larger_than_the_inputs_is_refused():
    recipe = inflora.compose(inflora.Settings())
    with pytest.raises(SettingError, match="rank 8 is larger than the 4 inputs of") as error:
        trainer(packed_model(hidden_size=4, num_attention_heads=2, num_key_value_heads=2), [recipe], [1e-3])
    assert error.value.key == "adapter.rank"
