"""Arms that look at text before they start: CorDA and LoRA-Null, by hand; which text, and what is not taken."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from helpers import ALPHA, RANK, batches, factors, packed_model, random_examples, relative, train, trainer
from torch import Tensor

from baselines import corda, eva, lora_null
from harness.checks.toys import toy_text
from harness.engine import activations
from harness.engine.activations import Activations, together
from harness.engine.adapters.layout import Slot
from harness.engine.batches import Example
from harness.engine.rows import Rows
from harness.errors import SettingError
from harness.study.seeds import derive

CORDA = corda.compose(corda.Settings(text_tokens=10**6))
NULL = lora_null.compose(lora_null.Settings(text_tokens=10**6))


def varied(task: str, seed: int) -> list[Example]:
    """Random tokens: no direction is free of them."""
    return [Example(e.ids, 1) for e in random_examples(60, seed % 1000, shortest=20, longest=40)]


def read_by_hand(engine: Rows, documents: list[Example]) -> dict[str, list[Tensor]]:
    """What every matrix is given, [tokens, n] a document, one document at a time."""
    found: dict[str, list[Tensor]] = {slot.module: [] for slot in engine.model.slots}

    def look(module: str):
        return lambda _, given: found[module].append(given[0][0].double())

    layers = {module: engine.model.module.get_submodule(module) for module in found}
    handles = [layer.register_forward_pre_hook(look(module)) for module, layer in layers.items()]
    with torch.no_grad():
        for document in documents:
            engine.model.hidden(torch.from_numpy(document.ids)[None])
    for handle in handles:
        handle.remove()
    return found


def by_slot(found) -> list[Tensor]:
    """The moments of every slot, in their order; those who read the same share one."""
    return [
        moment
        for _, moment in sorted(((i, moment) for readers, moment in found for i in readers), key=lambda entry: entry[0])
    ]


# -- what is read -----------------------------------------------------------------------------------------------------


def test_moments_are_those_of_one_document_after_the_other(monkeypatch):
    model = packed_model()
    engine = trainer(model, [NULL], [1e-3])
    nothing = torch.zeros(1, model.layout(RANK).size)
    inputs = Activations(model, model.layout(RANK), nothing, nothing[:, 0])
    documents, passed = varied("", 3), []
    hidden = model.hidden
    monkeypatch.setattr(model, "hidden", lambda ids: passed.append(int((ids != 0).sum())) or hidden(ids))
    found, seen = inputs.moments(documents, 100)
    moments = by_slot(found)
    monkeypatch.undo()
    assert inputs.tokens == sum(passed) == seen, "no more is read than counts"
    next(iter(inputs(documents)))
    assert inputs.tokens > seen + 2 * len(documents[0].ids), "a pass counts whole, however little of it is used"
    wanted = []
    for document in documents:
        wanted.append(document)
        if sum(len(each.ids) for each in wanted) >= 100:
            break
    assert seen == sum(len(each.ids) for each in wanted)
    assert seen < 140, "no more than it takes"
    by_hand = read_by_hand(engine, wanted)
    for slot, moment in zip(model.slots, moments, strict=True):
        x = torch.cat(by_hand[slot.module])
        assert relative(moment.double(), x.T @ x / len(x)) <= 1e-5
    q, k, v = (next(m for s, m in zip(model.slots, moments, strict=True) if s.projection == p + "_proj") for p in "qkv")
    assert q is k is v, "they read the same"


@pytest.mark.parametrize("recipe", [CORDA, NULL], ids=["corda", "lora_null"])
def test_less_memory_costs_tokens_and_changes_no_bit(monkeypatch, recipe):
    whole = trainer(packed_model(), [recipe], [1e-3], [4])
    monkeypatch.setattr(activations, "MOMENT_BYTES", 1)  # a layer at a time
    parts = trainer(packed_model(), [recipe], [1e-3], [4])
    layers = len({slot.layer for slot in whole.model.slots})
    assert layers > 1
    assert torch.equal(whole.bank.values, parts.bank.values)
    assert parts.take_read_tokens() == [layers * tokens for tokens in whole.take_read_tokens()]


def test_layers_are_taken_together_as_far_as_they_fit():
    slots = [Slot(f"layers.{layer}.{name}", 8, width) for layer in range(4) for name, width in (("q", 10), ("up", 20))]
    assert list(together(slots, 2 * 4 * 500)) == [[0, 1, 2, 3], [4, 5, 6, 7]]
    assert list(together(slots, 2 * 4 * 500 - 1)) == [[0, 1], [2, 3], [4, 5], [6, 7]]
    assert list(together(slots, 10**9)) == [list(range(8))]


def test_eva_reads_the_answers_of_the_first_examples():
    """Principal directions of what is given at answer tokens, in the order of training."""
    examples = [random_examples(40, 5)]
    recipe = eva.compose(eva.Settings(rho=1, eva_tokens=20))
    engine = trainer(packed_model(), [recipe], [1e-3], examples=examples)
    by_hand, taken = read_by_hand(engine, examples[0]), {}
    for module, each in by_hand.items():
        answers = [x[e.answer_start :] for x, e in zip(each, examples[0], strict=True)]
        taken[module] = torch.cat(answers)[:20]
    for module, (a, _) in factors(engine, engine.bank.values, 0).items():
        x = taken[module] - taken[module].mean(0)
        cosines = torch.linalg.svdvals(a.double() @ torch.linalg.svd(x)[2][:RANK].T)
        assert (cosines[: RANK - 1] > 0.99).all(), module
    [counted] = engine.take_read_tokens()
    ends = np.cumsum([len(example.ids) - example.answer_start for example in examples[0]])
    taken = examples[0][: int((ends < 20).sum()) + 1]
    assert counted == sum(len(example.ids) for example in taken), "those that it takes, whole"
    assert engine.take_read_tokens() == [0], "each token counts once"


def test_text_comes_in_the_order_of_the_trials_seed():
    asked: list[tuple[str, int]] = []

    def text(task: str, seed: int) -> list[Example]:
        asked.append((task, seed))
        return toy_text(task, seed)

    engine = trainer(packed_model(), [NULL] * 2, [1e-3] * 2, [5, 6], texts=text)
    assert asked == [("plain_text", derive(5, "text")), ("plain_text", derive(6, "text"))]
    lengths = [sum(len(document.ids) for document in toy_text("", derive(seed, "text"))) for seed in (5, 6)]
    assert engine.take_read_tokens() == lengths
    assert not torch.equal(*engine.bank.values)


@pytest.mark.parametrize(("width", "wanted"), [(48, 8192), (1400, 8400)])
def test_by_default_it_reads_as_much_as_the_widest_matrix_needs(width, wanted):
    model = packed_model(intermediate_size=width)
    documents = [Example(e.ids, 1) for e in random_examples(400, 1, shortest=20, longest=40)]
    engine = trainer(model, [corda.compose(corda.Settings())], [1e-3], texts=lambda task, seed: documents)
    [read] = engine.take_read_tokens()
    assert wanted <= read < wanted + 40, "up to the end of a document"


# -- where they start -------------------------------------------------------------------------------------------------


def test_corda_starts_as_what_matters_least_for_text():
    engine = trainer(packed_model(), [CORDA], [1e-3], [4], texts=varied)
    by_hand = read_by_hand(engine, varied("", derive(4, "text")))
    for slot, weight in engine.model.weights():
        moment = torch.stack([(x / x.max().abs()).T @ (x / x.max().abs()) for x in by_hand[slot.module]]).mean(0)
        moment += 0.01 * moment.diagonal().mean() * torch.eye(len(moment), dtype=torch.double)
        u, d, v = torch.linalg.svd(weight.double() @ moment, full_matrices=False)
        least = (u[:, -RANK:] * d[-RANK:]) @ v[-RANK:] @ torch.linalg.inv(moment)
        a, b = (part.double() for part in factors(engine, engine.bank.values, 0)[slot.module])
        assert relative(ALPHA / RANK * b @ a, least) <= 1e-3, slot.module
        assert relative((b.T @ b).diagonal(), d[-RANK:].flip(0) / (ALPHA / RANK)) <= 1e-3, slot.module


@pytest.mark.parametrize("fix_a", [False, True])
def test_lora_null_starts_where_text_is_nothing(fix_a):
    recipe = lora_null.compose(lora_null.Settings(text_tokens=10**6, fix_a=fix_a))
    engine = trainer(packed_model(), [recipe], [1e-2], [4])
    by_hand = read_by_hand(engine, toy_text("", derive(4, "text")))
    start = factors(engine, engine.bank.values, 0)
    for slot, weight in engine.model.weights():
        x = torch.cat(by_hand[slot.module])
        a, b = (part.double() for part in start[slot.module])
        n = torch.linalg.eigh(x.T @ x)[1][:, :RANK]
        read = x @ a.T / a.norm()  # of a random A an eighth
        assert float(read.square().mean()) < 0.005 * float(x.square().mean()), "A0 X is near 0"
        assert (torch.linalg.svdvals(torch.linalg.qr(a.T)[0].T @ n) > 0.99).all(), "where text is least"
        assert relative(weight.double() @ a.pinverse() @ a, ALPHA / RANK * b @ a) <= 1e-4, "it is W0 there"
        assert relative(a.square().sum(1), b.square().sum(0)) <= 1e-4, "sizes are shared equally"
    train(engine, batches([random_examples(16, 4)], 4, 4))
    stayed = [torch.equal(a, start[module][0]) for module, (a, _) in factors(engine, engine.bank.values, 0).items()]
    assert all(stayed) if fix_a else not any(stayed)


def test_a_rank_larger_than_the_null_space_is_refused():
    strict = lora_null.compose(lora_null.Settings(text_tokens=10**6, null_level=0.01))
    with pytest.raises(
        SettingError, match=r"rank 8 is larger than the [1-7] directions that hold at most 0.01"
    ) as error:
        trainer(packed_model(), [strict], [1e-3])
    assert "set a rank of at most" in str(error.value.remedy)
    assert error.value.key == "adapter.rank"
    with pytest.raises(SettingError, match="larger than the 0 directions") as error:
        trainer(packed_model(), [NULL], [1e-3], texts=varied)
    assert error.value.remedy == "leave q_proj out of adapter.targets"


@pytest.mark.parametrize("recipe", [CORDA, NULL], ids=["corda", "lora_null"])
def test_text_too_short_for_a_covariance_is_refused(recipe):
    """The widest matrix has 48 inputs."""
    short = random_examples(1, 0, shortest=47, longest=47)
    with pytest.raises(SettingError, match=r"47 tokens of text are too short for the covariance of the 48 inputs") as e:
        trainer(packed_model(), [recipe], [1e-3], texts=lambda task, seed: short)
    assert e.value.key == "text_tokens"


# -- rows side by side ------------------------------------------------------------------------------------------------


def test_rows_of_one_seed_start_once_and_count_their_tokens(monkeypatch):
    """As in a study of rates: the same start, which each trial alone would have made."""
    made, least = [], corda.least
    monkeypatch.setattr(corda, "least", lambda *given: made.append(1) or least(*given))
    examples = [random_examples(40, seed) for seed in (4, 4, 5)]
    engine = trainer(packed_model(), [CORDA] * 3, [1e-3, 1e-4, 1e-3], [4, 4, 5], examples=examples)
    slots = len(engine.model.slots)
    assert len(made) == 2 * slots
    assert torch.equal(engine.bank.values[0], engine.bank.values[1])
    assert not torch.equal(engine.bank.values[0], engine.bank.values[2])
    alone = trainer(packed_model(), [CORDA], [1e-4], [4], examples=examples[:1])
    assert torch.equal(alone.bank.values[0], engine.bank.values[1])
    assert engine.take_read_tokens()[:2] == alone.take_read_tokens() * 2
    other = corda.compose(corda.Settings(text_tokens=100))
    trainer(packed_model(), [CORDA, other], [1e-3] * 2, [4, 4], examples=examples[:2])
    assert len(made) == 5 * slots, "another setting has another start"


@pytest.mark.parametrize("recipe", [CORDA, NULL, eva.compose(eva.Settings())], ids=["corda", "lora_null", "eva"])
def test_a_diverged_row_stops_no_other_at_the_next_task(recipe):
    """Whose model gives what is not finite: under ``reinit`` a start would look at that."""
    recipe = recipe.under("reinit")
    data = [random_examples(40, seed) for seed in range(2)]
    engine = trainer(packed_model(), [recipe] * 2, [1e36, 1e-3], examples=data)
    good = trainer(packed_model(), [recipe] * 2, [1e-3, 1e-3], examples=data)
    for each in (engine, good):
        train(each, batches(data, 4, 4))
        each.end_task()
        each.begin_task(1, data)
        train(each, batches(data, 4, 2))
    assert engine.alive.tolist() == [False, True]
    assert torch.equal(engine.bank.values[1], good.bank.values[1])
