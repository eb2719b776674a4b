"""A tiny random Llama whose greedy text sometimes ends, three random adapters, and lm-eval's HFLM on each of them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from harness.engine.adapters.files import export_peft, save_adapters
from harness.engine.adapters.layout import Layout
from harness.engine.model.load import load_model
from harness.engine.model.packed import ALL_LINEAR, PackedModel
from harness.study.config import AdapterSettings

TRIALS, RANK, ALPHA = 3, 4, 8.0


@dataclass(frozen=True)
class World:
    """A model folder with K trials: packed (``values`` [K, P], ``scaling`` [K]) and as PEFT folders."""

    path: Path
    model: PackedModel
    layout: Layout
    values: Tensor
    scaling: Tensor
    adapters: tuple[Path, ...]

    def hf(self, tokenizer: Any, trial: int | None, **settings: Any):
        """lm-eval's HFLM on trial ``trial``; ``None``: on the untouched model."""
        from lm_eval.models.huggingface import HFLM
        from peft import PeftModel
        from transformers import AutoModelForCausalLM

        model = AutoModelForCausalLM.from_pretrained(self.path, dtype=torch.float32)
        if trial is not None:
            model = PeftModel.from_pretrained(model, self.adapters[trial])
        return HFLM(pretrained=model.eval(), tokenizer=tokenizer, **({"batch_size": 4} | settings))


def make_world(path: Path, folder: Path, size: float = 0.3, targets: Sequence[str] = ALL_LINEAR) -> World:
    """Random adapters, A and B both far from zero, for the model in ``path``."""
    model = load_model(path, dtype=torch.float32, device=torch.device("cpu"), targets=targets)
    layout = model.layout(RANK)
    values = torch.randn(TRIALS, layout.size, generator=torch.Generator().manual_seed(5)) * size
    settings = AdapterSettings(rank=RANK, alpha=ALPHA, targets=tuple(targets))
    entries = [(f"trial{k}", values[k]) for k in range(TRIALS)]
    save_adapters(folder / "pack.safetensors", layout, entries, str(path), settings)
    exported = tuple(folder / f"trial{k}" for k in range(TRIALS))
    for k, target in enumerate(exported):
        export_peft(folder / "pack.safetensors", k, target)
    return World(path, model, layout, values, torch.full((TRIALS,), ALPHA / RANK), exported)


@pytest.fixture(scope="session")
def llama(shared_cache, tmp_path_factory) -> Path:
    """The catalogue's tiny model, with a head in which <eos> wins now and then: texts end at different lengths."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from harness.data.models import resolve_model

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LORABENCH_CACHE", str(shared_cache))
        source = resolve_model("tiny-random-llama").path
    target = tmp_path_factory.mktemp("llama")
    model = AutoModelForCausalLM.from_pretrained(source, dtype=torch.float32)
    with torch.no_grad():
        model.lm_head.weight[257] *= 1.6
    model.save_pretrained(target)
    AutoTokenizer.from_pretrained(source).save_pretrained(target)
    return target


@pytest.fixture(scope="session")
def world(llama, tmp_path_factory) -> World:
    return make_world(llama, tmp_path_factory.mktemp("adapters"))


@pytest.fixture(scope="session", params=["no BOS", "BOS"])
def tokenizer(request, llama):
    """A byte tokenizer; with BOS it puts one before every text, as Llama's does."""
    from tokenizers.processors import TemplateProcessing
    from transformers import AutoTokenizer

    found = AutoTokenizer.from_pretrained(llama)
    if request.param == "BOS":
        found.backend_tokenizer.post_processor = TemplateProcessing(single="<bos> $A", special_tokens=[("<bos>", 256)])
        assert found.encode("a")[0] == 256
    return found


@pytest.fixture(scope="session")
def hflm(world) -> Callable:
    """``hflm(tokenizer, trial, max_length=...)``, each made once."""
    made: dict[tuple, Any] = {}

    def get(tokenizer: Any, trial: int | None, **settings: Any):
        key = (id(tokenizer), trial, *sorted(settings.items()))
        if key not in made:
            made[key] = world.hf(tokenizer, trial, **settings)
        return made[key]

    return get


@pytest.fixture(scope="session")
def other_world() -> Callable[..., World]:
    """``make_world`` for a test that brings its own model."""
    return make_world
