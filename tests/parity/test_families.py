"""Families of transformers: each gives the numbers of lm-eval's HF model, or is refused by name.

The models are random, and tiny; their windows are shorter than the requests.  ``docs/models.md`` has the table of what
is taken, and a row of it is checked with each family.
"""

from __future__ import annotations

import json
import random
import re
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from lm_eval.api.instance import Instance
from places import ROOT
from torch import nn

from harness.engine import generate as generating
from harness.engine.model.family import check
from harness.engine.model.load import load_model
from harness.errors import InputError
from harness.scoring.lm import PackedLM

CASES = json.loads(Path(__file__).with_name("families.json").read_text())
TABLE = ROOT / "docs" / "models.md"
#: Run on every change; the others with the slow tests.
FAST = {
    "bloom", "cohere", "gemma2", "gemma3_text", "gpt2", "gpt_neox", "granite", "hyperclovax", "lfm2", "llama4_text",
    "mamba", "modernbert-decoder", "opt", "phi3", "qwen2", "qwen3", "qwen3_next", "starcoder2",
}  # fmt: skip
FAMILIES = [name if name in FAST else pytest.param(name, marks=pytest.mark.slow) for name in CASES["families"]]
TAKEN, ONE, REFUSED = "taken", "one request a row", "refused"
LONG = 120


@cache
def table() -> dict[str, tuple[str, str]]:
    """``model_type`` -> (what the documentation says of it, and why)."""
    rows = re.findall(
        r"^\| `([\w-]+)` \|[^|]*\| (taken|one request a row|refused) \| ([^|]*?) \|$", TABLE.read_text(), re.MULTILINE
    )
    return {name: (said, why) for name, said, why in rows}


def tiny(family: str) -> Any:
    """A random model; its weights are large enough for its scores to differ."""
    from transformers import CONFIG_MAPPING, AutoModelForCausalLM

    own = CASES["families"][family]
    values = CASES["base"] | own
    while True:
        try:
            config = CONFIG_MAPPING[family](**values)
            break
        except Exception as error:  # a setting of the common ones that this family does not take
            unknown = [key for key in values if key in str(error) and key not in own]
            if not unknown:
                raise
            for key in unknown:
                del values[key]
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = AutoModelForCausalLM.from_config(config)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim >= 2:
                parameter.mul_(4)
    return model.eval()


def projections(model: Any) -> tuple[str, ...]:
    """The names of its own linear layers, but for the head and those that are numbers in a list.

    Of a family that has no ``nn.Linear`` those of what it has instead.
    """
    layers = {name: module for name, module in model.named_modules() if module is not model.get_output_embeddings()}
    plain = [name for name, module in layers.items() if type(module) is nn.Linear]
    other = [name for name, module in layers.items() if type(module).__name__ in ("Conv1D", "FalconLinear")]
    names = {name.rpartition(".")[2] for name in plain or other}
    return tuple(sorted(name for name in names if not name.isdigit()))


def requests(kind: str, arguments: list[list[tuple]]) -> list[Instance]:
    return [
        Instance(request_type=kind, doc={}, arguments=given, idx=idx, metadata=("t", doc, 1))  # type: ignore[arg-type]
        for doc, group in enumerate(arguments)
        for idx, given in enumerate(group)
    ]


def words(seed: int, count: int) -> str:
    return " ".join(random.Random(seed).choices(["the", "cat", "sat", "on", "a", "mat", "and", "ran", "over"], k=count))


SHORT = [[("the cat", answer) for answer in (" a", " ab", " cd")] for _ in range(2)]  # less than the windows
LONGER = [[(words(d, 8), " " + words(10 * d + c, 2 + c)) for c in range(4)] for d in range(3)]
LETTERS = [[(words(d, 3 + d) + "\nAnswer:", letter) for letter in "ABCD"] for d in range(3)]
EXAMPLES = words(99, 6) + "\n\n"  # that questions share
FEWSHOT = [[(EXAMPLES + words(d, 2), " " + words(7 * d + c, 1 + c)) for c in range(2)] for d in range(3)]
LIMITS = {"until": ["\n"], "max_gen_toks": 8, "do_sample": False}


def hflm(world: Any, tokenizer: Any, trial: int) -> Any:
    """lm-eval's HF model with one trial's adapter in its weights; PEFT puts some families' adapters elsewhere."""
    from lm_eval.models.huggingface import HFLM
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(world.path, dtype=torch.float32)
    with torch.no_grad():
        for slot, (a, b) in zip(world.layout.slots, world.layout.split(world.values[trial][None]), strict=True):
            model.get_submodule(slot.module).weight += float(world.scaling[trial]) * b[0] @ a[0]
    return HFLM(pretrained=model.eval(), tokenizer=tokenizer, batch_size=1, max_length=LONG)


@pytest.fixture(scope="module")
def tokenizer(llama) -> Any:
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(llama)


@pytest.mark.parametrize("family", FAMILIES)
def test_it_gives_the_numbers_of_lm_eval_or_is_refused(family, tmp_path, tokenizer, other_world, monkeypatch):
    monkeypatch.setenv("LORABENCH_CACHE", str(tmp_path / "cache"))
    said, why = table()[family]
    model = tiny(family)
    model.save_pretrained(tmp_path / "model")
    targets = projections(model)
    if said == REFUSED:
        with pytest.raises(InputError) as caught:
            load_model(tmp_path / "model", dtype=torch.float32, device=torch.device("cpu"), targets=targets)
        assert type(model).__name__ in caught.value.what
        assert why.strip(".") in caught.value.what
        return
    world = other_world(tmp_path / "model", tmp_path / "adapters", 0.1, targets)
    assert said == (TAKEN if world.model.branches else ONE)
    scored = requests("loglikelihood", [*SHORT, *LONGER, *LETTERS, *FEWSHOT])
    spoken = requests("generate_until", [[(EXAMPLES + words(d, 1 + 2 * d), LIMITS)] for d in range(3)])
    lm = PackedLM(world.model, tokenizer, max_length=LONG, batch_tokens=1024)
    with torch.no_grad(), world.model.adapted(world.layout, world.values, world.scaling):
        lm.answer([*scored, *spoken], len(world.values), lambda tokens: None)
    for lm.trial in (0, 2):
        theirs = hflm(world, tokenizer, lm.trial)
        for (mine, greedy), (other, their_greedy), instance in zip(
            lm.loglikelihood(scored), theirs.loglikelihood(scored, disable_tqdm=True), scored, strict=True
        ):
            assert mine == pytest.approx(other, rel=1e-5, abs=1e-3), instance.args
            assert greedy == their_greedy
        assert lm.generate_until(spoken) == theirs.generate_until(spoken, disable_tqdm=True)


def test_every_family_is_in_the_table():
    assert set(table()) == set(CASES["families"])
    assert len(FAST) >= 18


@pytest.mark.parametrize(("family", "stays"), [("bloom", False), ("gpt_neox", True), ("qwen3", True)])
def test_a_cache_without_room_ahead_is_shared_still(family, stays, monkeypatch):
    """BLOOM makes its biases of a mask of two dimensions.  On a GPU room is made as here."""
    monkeypatch.setattr(generating, "_stays", lambda model, cache: model.stays and model.shares)
    model = tiny(family)
    verdict = check(model, projections(model))
    assert (verdict.stays, verdict.shares, verdict.refused) == (stays, True, "")
