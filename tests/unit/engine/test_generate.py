"""How answers are continued; the texts themselves are held to lm-eval's in tests/parity."""

from __future__ import annotations

import pytest
import torch
from helpers import relative, tiny_model

from harness.engine import generate as generating
from harness.engine.adapters import AdapterBank, Layout
from harness.engine.generate import generate, rows_together
from harness.engine.model import attention
from harness.engine.model.packed import PackedModel

#: Of 135M: a row of 35 tokens takes 0.81 MB of keys and values, and 0.79 MB of logits.
WIDTH, BUDGET, TOKEN_BYTES, VOCABULARY = 35, 65536, 23040, 49152


@pytest.mark.parametrize(
    ("memory", "rows"),
    [
        (0, 1872),  # a CPU: the budget alone
        (8e9, 1872),  # a 16th holds 313, and the budget is kept
        (80e9, 3139),
        (1e13, 4 * 1872),
    ],
)
def test_a_gpu_continues_more_rows_where_it_holds_them(memory, rows):
    assert rows_together(WIDTH, BUDGET, memory, TOKEN_BYTES, VOCABULARY) == rows


@pytest.mark.parametrize("memory", [0, 80e9])
def test_a_row_that_is_longer_than_the_budget_is_continued(memory):
    assert rows_together(2048, 64, memory, TOKEN_BYTES, VOCABULARY) >= 1


PROMPTS = [[5, 6, 7, 8, 9], [3, 4], [11, 12, 13]]


class Continued:
    """Three prompts of two trials, which end at different lengths: what was said, and the logits of every turn."""

    def __init__(self, model: PackedModel, most: int) -> None:
        bank = AdapterBank(Layout(model.slots, 3), [0, 1], [2.0, 0.5], model.device)
        bank.values += 0.3 * torch.randn(bank.values.shape, generator=torch.Generator().manual_seed(0)).to(model.device)
        self.logits: list[torch.Tensor] = []
        with model.adapted(bank.layout, bank.values, bank.scaling):
            self.said, finite = generate(model, [PROMPTS] * 2, most, self.finished, pick=self.pick)
        assert finite == [True, True]

    def pick(self, logits, places, said):
        self.logits.append(logits.float().clone())
        return logits.argmax(-1)

    @staticmethod
    def finished(spoken, said):
        return [len(tokens) == 3 + 10 * i + k for (k, i), tokens in zip(spoken, said, strict=True)]


def same(found: Continued, wanted: Continued) -> None:
    assert found.said == wanted.said
    for one, other in zip(found.logits, wanted.logits, strict=False):
        if one.shape == other.shape:  # of fewer rows only where that pays
            assert relative(one, other) < 1e-5


@pytest.mark.parametrize("most", [12, 80])  # of 80 there are enough to come for rows to be dropped
@pytest.mark.parametrize("family", ["llama", "qwen2"])
def test_with_room_for_all_it_says_the_same(family, most, monkeypatch):
    model = PackedModel(tiny_model(family))
    grows = Continued(model, most)
    monkeypatch.setattr(generating, "_stays", lambda model, cache: True)
    stays = Continued(model, most)
    same(stays, grows)
    sizes = [len(logits) for logits in stays.logits]
    assert (sizes == [len(logits) for logits in grows.logits]) if most == 80 else (set(sizes) == {6})


@pytest.mark.skipif(torch.cuda.is_available(), reason="there a step is captured")
def test_what_can_not_be_captured_runs_eagerly_and_says_why(monkeypatch):
    model = PackedModel(tiny_model("llama"))
    wanted = Continued(model, 12)
    monkeypatch.setattr(generating, "_stays", lambda model, cache: True)
    model.captures = True
    same(Continued(model, 12), wanted)
    assert not model.captures
    assert model.why_eager.startswith("RuntimeError: ")


@pytest.mark.skipif(not torch.cuda.is_available(), reason="graphs need a GPU")
@pytest.mark.parametrize("most", [12, 80])
def test_a_captured_step_says_what_an_eager_one_does(most, monkeypatch):
    model = PackedModel(tiny_model("llama").to("cuda"))
    model.captures = False
    eager = Continued(model, most)
    model.captures = True
    captured = Continued(model, most)
    assert not model.why_eager
    same(captured, eager)
    monkeypatch.setattr(generating, "_stays", lambda model, cache: False)
    same(captured, Continued(model, most))


@pytest.mark.parametrize("masked", [True, False])
def test_heads_that_share_keys_ask_together(masked):
    rows, heads, groups, places, width = 3, 6, 2, 8, 16
    draw = torch.Generator().manual_seed(0)
    query = torch.randn(rows, heads, 1, width, generator=draw)
    key, value = torch.randn(2, rows, groups, places, width, generator=draw)
    mask = torch.where(torch.rand(rows, 1, 1, places, generator=draw) < 0.3, -1e9, 0.0) if masked else None
    scores = query @ key.repeat_interleave(heads // groups, 1).mT / 4 + (0 if mask is None else mask)
    wanted = scores.softmax(-1) @ value.repeat_interleave(heads // groups, 1)
    found = attention.one_query(query, key, value, mask, 0.25)
    assert relative(found, wanted.transpose(1, 2)) < 1e-6
