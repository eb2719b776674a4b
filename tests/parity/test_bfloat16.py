"""Scores in bfloat16 are as near to those in float32 as lm-eval's HF model comes on the same adapter.

Float32 is the yardstick, not the other's bfloat16: a path that rounds less often may differ from that, and be better.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from lm_eval.api.instance import Instance
from lm_eval.models.huggingface import HFLM
from peft import LoraConfig, PeftModel
from peft.tuners.lora import Linear as LoraLinear
from scipy.stats import binomtest
from torch import Tensor
from transformers import AutoModelForCausalLM, AutoTokenizer

from harness.engine.adapters.files import export_peft, save_adapters
from harness.engine.batches import Example, make_batch
from harness.engine.model.linear import Change, PackedLinear
from harness.engine.model.load import load_model
from harness.engine.model.products import linear
from harness.engine.optimizer import OptimizerSettings
from harness.engine.rows import Rows, RowSpec
from harness.engine.step import take_step
from harness.method import Recipe
from harness.scoring.lm import PackedLM
from harness.study.config import AdapterSettings

CPU = torch.device("cpu")
ADAPTER = AdapterSettings()
LETTERS = [f" {letter}" for letter in "abcdefghijklmnopqrstuvwxyz"]
WORDS = ["the", "cat", "sat", "on", "a", "mat", "and", "ran", "over", "hills", "in", "rain", "until", "night"]
STEPS, SIZE = 60, 16  # of training

#: (requests, dtype) -> their log-probabilities, with the adapter in float32.
Answers = Callable[[list[Instance], torch.dtype], np.ndarray]


def sentence(seed: int) -> str:
    return " ".join(random.Random(seed).choices(WORDS, k=4 + seed % 4))


def questions(count: int) -> list[Instance]:
    """Sentences, each with two letters to choose from."""
    return [
        Instance(request_type="loglikelihood", doc={}, arguments=(sentence(d), letter), idx=i, metadata=("t", d, 1))
        for d in range(count)
        for i, letter in enumerate(random.Random(d).sample(LETTERS, 2))
    ]


@pytest.fixture(scope="module")
def tokenizer(llama):
    return AutoTokenizer.from_pretrained(llama)


@pytest.fixture(scope="module")
def trained(llama, tokenizer) -> Tensor:
    """[P]: an adapter that has learnt which letter a sentence's last word asks for."""

    def example(seed: int) -> Example:
        prompt = tokenizer.encode(sentence(seed))
        answer = tokenizer.encode(LETTERS[WORDS.index(sentence(seed).split()[-1])])
        return Example(np.array([*prompt, *answer]), len(prompt))

    engine = Rows(
        load_model(llama, dtype=torch.float32, device=CPU), [RowSpec(Recipe(), 1e-2, 0)], ADAPTER.rank, ADAPTER.alpha,
        OptimizerSettings(),
    )  # fmt: skip
    engine.begin_task(0, [()])
    losses = []
    for step in range(STEPS):
        rows = [[example(10**6 + SIZE * step + i) for i in range(SIZE)]]
        losses.append(float(take_step(engine, make_batch(rows, 0, CPU), min(1.0, (step + 1) / 5), 0.5)[0]))
    assert np.mean(losses[-10:]) < 0.7 * losses[0]
    return engine.bank.values[0].clone()


@pytest.fixture(scope="module")
def ours(llama, tokenizer, trained) -> Answers:
    def answers(instances: list[Instance], dtype: torch.dtype) -> np.ndarray:
        model = load_model(llama, dtype=dtype, device=CPU)
        lm = PackedLM(model, tokenizer, max_length=96, batch_tokens=4096)
        scaling = torch.tensor([ADAPTER.alpha / ADAPTER.rank])
        with model.adapted(model.layout(ADAPTER.rank), trained[None], scaling, precise=True):
            lm.answer(instances, 1, lambda tokens: None)
        return np.array([value for value, _ in lm.loglikelihood(instances)])

    return answers


@pytest.fixture(scope="module")
def theirs(llama, tokenizer, trained, tmp_path_factory) -> Answers:
    """HFLM as lm-eval loads a PEFT adapter, in float32 on whatever base; its softmax in float32, as ours is."""
    folder: Path = tmp_path_factory.mktemp("trained")
    layout = load_model(llama, dtype=torch.float32, device=CPU).layout(ADAPTER.rank)
    save_adapters(folder / "pack.safetensors", layout, [("trained", trained)], str(llama), ADAPTER)
    export_peft(folder / "pack.safetensors", 0, folder / "peft")

    def answers(instances: list[Instance], dtype: torch.dtype) -> np.ndarray:
        base = AutoModelForCausalLM.from_pretrained(llama, dtype=dtype)
        lm = HFLM(
            pretrained=PeftModel.from_pretrained(base, folder / "peft").eval(), tokenizer=tokenizer, batch_size=64,
            max_length=96, softmax_dtype=torch.float32,
        )  # fmt: skip
        return np.array([value for value, _ in lm.loglikelihood(instances, disable_tqdm=True)])

    return answers


def predictions(values: np.ndarray) -> np.ndarray:
    return values.reshape(-1, 2).argmax(1)


def distance(found: np.ndarray, wanted: np.ndarray) -> float:
    return float(np.sqrt(np.mean((found - wanted) ** 2)))


def test_in_bfloat16_ours_is_as_near_to_float32_as_hflm(ours, theirs):
    """Root mean square over 400 log-probabilities, which two runs of one arithmetic have alike within some percent."""
    instances = questions(200)
    exact = theirs(instances, torch.float32)
    assert np.abs(ours(instances, torch.float32) - exact).max() < 1e-3
    near = distance(theirs(instances, torch.bfloat16), exact)
    assert 1e-3 < distance(ours(instances, torch.bfloat16), exact) < 1.1 * near


class Base(torch.nn.Linear):
    """A layer whose product is rounded once: torch's own in bfloat16 is not on every CPU."""

    def forward(self, x: Tensor) -> Tensor:
        return linear(x, self.weight)


def test_a_layer_rounds_as_pefts_with_its_factors_in_float32():
    """All but a few numbers are equal, whose sums are in another order; with the factors in bfloat16 many are not."""
    torch.manual_seed(0)
    rank, base = ADAPTER.rank, Base(96, 80, bias=False, dtype=torch.bfloat16)
    peft = LoraLinear(base, "ours", LoraConfig(r=rank, lora_alpha=rank), r=rank, lora_alpha=rank)
    a, b = torch.randn(rank, 96) / 10, torch.randn(80, rank) / 10
    peft.lora_A["ours"].weight.data, peft.lora_B["ours"].weight.data = a, b
    layer, x = PackedLinear(base), torch.randn(1, 64, 96).bfloat16()

    @torch.no_grad()
    def alike(dtype: torch.dtype) -> float:
        layer.take(Change(a[None].to(dtype), b[None].to(dtype)))
        return float((layer(x) == peft(x)).float().mean())

    assert alike(torch.float32) > 0.99
    assert alike(torch.bfloat16) < 0.9


@pytest.mark.slow
def test_in_bfloat16_no_more_predictions_change_than_hflms(ours, theirs):
    """McNemar's exact test on 5,000 questions: those answered otherwise than in float32, by ours and by HFLM."""
    instances = questions(5000)
    exact, near = (theirs(instances, dtype) for dtype in (torch.float32, torch.bfloat16))
    found = ours(instances, torch.bfloat16)
    assert distance(found, exact) < 1.05 * distance(near, exact)
    changed = [predictions(each) != predictions(exact) for each in (found, near)]
    more, less = int((changed[0] & ~changed[1]).sum()), int((changed[1] & ~changed[0]).sum())
    assert changed[1].sum() >= 5, "without any this says nothing"
    assert more + less == 0 or binomtest(more, more + less, 0.5, alternative="greater").pvalue >= 0.05
