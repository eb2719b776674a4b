"""The student's own answers: greedy at temperature 0, drawn from its distribution else, and nobody's but its own."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from helpers import ALPHA, CPU, RANK, VOCABULARY, packed_model, random_examples, tiny_model, with_demonstrations
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.func import functional_call

from harness.engine.batches import Example, make_batch
from harness.engine.generate import Draws
from harness.engine.model.packed import PackedModel
from harness.engine.rollouts import own_answers
from harness.errors import InputError
from harness.method import Sampling

END = 0
SCALING = ALPHA / RANK


def adapters(model: PackedModel, trials: int) -> Tensor:
    """Random factors that change what is said."""
    return 0.3 * torch.randn(trials, model.layout(RANK).size, generator=torch.Generator().manual_seed(5))


def open_ended(count: int, seed: int, end: int = END) -> list[Example]:
    """Prompts of different lengths, with answers that end."""
    return [Example(np.append(e.ids[:-1], end), e.answer_start) for e in random_examples(count, seed, shortest=6)]


def roll_out(model, rows, values, sampling, *, seeds=None, budget=2**31, end=END):
    batch = make_batch(rows, end, CPU, budget, seeds=range(len(rows)) if seeds is None else seeds)
    with model.adapted(model.layout(RANK), values, torch.full((len(rows),), SCALING)):
        return own_answers(model, batch, sampling)


def answers(rollout) -> list[list[list[int]]]:
    return [[example.answer.tolist() for example in trial] for trial in rollout.rows]


class Plain:
    """One trial by itself: the base model with its adapter merged, one sequence at a time, no cache and no padding."""

    def __init__(self, model: nn.Module, packed: PackedModel, values: Tensor) -> None:
        pairs = zip(packed.slots, packed.layout(RANK).split(values[None]), strict=True)
        self.model = model
        self.weights = {
            f"{slot.module}.weight": model.get_submodule(slot.module).weight + SCALING * b[0] @ a[0]
            for slot, (a, b) in pairs
        }

    def logits(self, ids) -> Tensor:
        return functional_call(self.model, self.weights, (torch.as_tensor(ids)[None],)).logits[0]

    @torch.no_grad()
    def answer(self, prompt: list[int], most: int, end: int, numbers=None, temperature: float = 0.0) -> list[int]:
        """Greedy, or the tokens that ``numbers`` pick on the cumulative distribution."""
        said: list[int] = []
        for turn in range(most):
            last = self.logits([*prompt, *said])[-1]
            if temperature:
                sums = np.cumsum(torch.softmax(last.double() / temperature, 0).numpy())
                said.append(int(np.searchsorted(sums, numbers[turn] * sums[-1], side="right")))
            else:
                said.append(int(last.argmax()))
            if said[-1] == end:
                break
        return said


@pytest.mark.parametrize("family", ["llama", "mistral"])  # a window sees no padding, either
@pytest.mark.parametrize("temperature", [0.0, 1.0, 0.6])
def test_answers_are_those_of_a_plain_loop(family, temperature):
    model, base = packed_model(family), tiny_model(family)
    values, sampling = adapters(model, 2), Sampling(temperature, 9)
    first = roll_out(model, [open_ended(6, seed) for seed in (1, 2)], values, sampling)
    inner = [token for trial in answers(first) for answer in trial for token in answer[1:6]]
    end = max(set(inner), key=inner.count)  # one that comes up, so that answers end by themselves
    rows = [open_ended(6, seed, end) for seed in (1, 2)]
    found = roll_out(model, rows, values, sampling, end=end)
    lengths = set()
    for k, trial in enumerate(rows):
        numbers, plain = np.random.default_rng(k).random((6, 9)), Plain(base, model, values[k])
        for i, (example, own) in enumerate(zip(trial, found.rows[k], strict=True)):
            wanted = plain.answer(example.prompt.tolist(), 9, end, numbers[i], temperature)
            assert own.answer.tolist() == wanted
            assert own.prompt.tolist() == example.prompt.tolist()
            lengths.add(len(wanted))
    assert 9 in lengths
    assert len(lengths) > 1, "no answer ends by itself"
    assert found.prompt_tokens == tuple(sum(e.answer_start for e in trial) for trial in rows)
    assert found.sampled_tokens == tuple(sum(len(e.answer) for e in trial) for trial in found.rows)


def test_alone_is_packed_whatever_the_budget():
    model, values = packed_model(), adapters(packed_model(), 3)
    rows = [open_ended(5, 1), open_ended(5, 2), [Example(np.arange(3, 30), 20), *open_ended(4, 3)]]
    packed = answers(roll_out(model, rows, values, Sampling(), seeds=[11, 12, 13]))
    for k in range(3):
        assert answers(roll_out(model, [rows[k]], values[[k]], Sampling(), seeds=[11 + k]))[0] == packed[k]
    assert answers(roll_out(model, rows, values, Sampling(), seeds=[11, 12, 13], budget=60)) == packed
    order = [2, 0, 1]
    turned = roll_out(model, [rows[k] for k in order], values[order], Sampling(), seeds=[13, 11, 12])
    assert answers(turned) == [packed[k] for k in order]


def test_a_seed_is_a_draw_and_places_draw_differently():
    model = packed_model()
    values, example = torch.zeros(2, model.layout(RANK).size), open_ended(1, 0)[0]
    rows = [[example] * 4] * 2
    same = answers(roll_out(model, rows, values, Sampling(), seeds=[3, 3]))
    other = answers(roll_out(model, rows, values, Sampling(), seeds=[4, 3]))
    assert same[0] == same[1] == other[1] != other[0]
    assert len({tuple(answer) for answer in same[0]}) > 1


def test_an_answer_without_an_end_is_as_long_as_the_given_one():
    """Multiple choice: the given answer does not end, and what follows it is never scored."""
    rows = [[Example(np.array([5, 6, 7, *range(10, 10 + n)]), 3) for n in (1, 3, 5)]]
    model = packed_model()
    found = roll_out(model, rows, adapters(model, 1), Sampling(0.0, 4))
    assert all(END not in answer for answer in answers(found)[0])
    assert [len(answer) for answer in answers(found)[0]] == [1, 3, 4]


def test_long_prompts_lose_their_beginning_but_for_the_teachers():
    model = packed_model()  # 64 positions
    long = Example(np.append(np.arange(3, 66) % VOCABULARY, END), 62)
    (example,) = with_demonstrations([long])
    rollout = roll_out(model, [[example]], adapters(model, 1), Sampling(1.0, 10))
    own = rollout.rows[0][0]
    assert own.prompt.tolist() == long.prompt.tolist()[-54:]
    assert own.shown.tolist() == example.shown.tolist()[-54:]
    assert own.teacher_ids.tolist() == [*own.shown.tolist(), *own.answer.tolist()]
    with pytest.raises(InputError) as error:
        roll_out(model, [[example]], adapters(model, 1), Sampling(1.0, 64))
    assert error.value.where == "sample_tokens"


# -- one draw ---------------------------------------------------------------------------------------------------------


def draw(logits: Tensor, numbers, temperature: float = 1.0) -> list[int]:
    uniform = torch.as_tensor(numbers, dtype=torch.float64).reshape(1, -1, 1)
    return Draws(uniform, temperature)(logits.expand(uniform.numel(), -1), list(range(uniform.numel())), 0).tolist()


@given(st.lists(st.floats(-8, 8), min_size=2, max_size=12), st.floats(0.2, 3))
@settings(max_examples=50)
def test_draws_follow_the_softmax(logits, temperature):
    """Numbers spread evenly over [0, 1) pick every token as often as it is likely."""
    count = 2000
    tokens = draw(torch.tensor(logits), (np.arange(count) + 0.5) / count, temperature)
    wanted = torch.softmax(torch.tensor(logits, dtype=torch.float64) / temperature, 0)
    found = np.bincount(tokens, minlength=len(logits)) / count
    assert np.abs(found - wanted.numpy()).max() <= 1.01 / count


def test_impossible_tokens_are_never_drawn():
    nothing = -float("inf")
    ends = [0.0, np.nextafter(1, 0), 0.5]
    assert draw(torch.tensor([nothing, 0.0, nothing, 0.0, nothing]), ends) == [1, 3, 3]
    # A trial that has left the numbers still gets tokens that exist: the loss on them is what says so.
    assert all(0 <= token < 2 for token in draw(torch.full((2,), float("nan")), ends))


def test_temperature_zero_is_the_limit():
    logits = torch.randn(50, generator=torch.Generator().manual_seed(0))
    assert set(draw(logits, np.linspace(0, 0.999, 40), 1e-3)) == {int(logits.argmax())}


def test_rows_that_are_done_leave_the_batch(monkeypatch):
    """Long and short answers side by side: every row still draws its own numbers after others have left."""
    model, values = packed_model(), adapters(packed_model(), 2)
    rows = [[*(Example(np.array([3, 4, 5 + i, 9]), 3) for i in range(6)), *open_ended(2, seed)] for seed in (1, 2)]
    passes = []
    decode = model.decode
    monkeypatch.setattr(model, "decode", lambda ids, *rest: passes.append(len(ids)) or decode(ids, *rest))
    packed = answers(roll_out(model, rows, values, Sampling(1.0, 12)))
    assert passes[0] == 16 > passes[-1] == 4
    for k, i in itertools.product(range(2), range(6, 8)):
        plain = Plain(tiny_model(), model, values[k])
        numbers = np.random.default_rng(k).random((8, 12))[i]
        assert packed[k][i] == plain.answer(rows[k][i].prompt.tolist(), 12, END, numbers, 1.0)
