"""What a configuration says: which modules, ranks and alphas as PEFT's functions say, and what changes no number."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers import packed_model, random_factors, tiny_model, write_peft
from hypothesis import given, settings
from hypothesis import strategies as st
from peft import LoraConfig, PeftModel
from peft.tuners.tuners_utils import check_target_module_exists
from peft.utils.other import get_pattern_key
from safetensors.torch import load_file, save_file

from harness.engine.adapters.peft import read_peft, stack_adapters, unchanged
from harness.engine.adapters.peft_config import PeftConfig

MODULES = [slot.module for slot in packed_model().slots] + [
    "lm_head", "model.layers.12.mlp.experts.1.up_proj", "model.visual.blocks.1.attn.qkv", "h.1.attn.c_attn",
    "transformer.h.10.mlp.fc_in", "q_proj", "model.layers.0.xq_proj",
]  # fmt: skip
PATTERNS = [
    "q_proj", "self_attn.q_proj", "layers.1.self_attn.q_proj", "model.layers.1.mlp.down_proj", "proj", "", ".", ".*",
    r".*\.q_proj", "^q_proj", "^model.layers.0.self_attn.q_proj", "q_proj$", "^.*q_proj$", r"model\.layers\.0\..*",
    r"layers\.(0|1)\.mlp\..*", "(q|k|v)_proj", "q_proj|v_proj", "q_proj)|(up_proj", "[qk]_proj", "[^qk]_proj",
    r"layers\.\d+\.self_attn\.(q_proj|v_proj)", r".*layers\.[01].*(gate|up)_proj", r"\w+_proj", "(?i:Q_PROJ)",
    "(?=q)q_proj", "(?!q).*_proj", r"(?<=self_attn\.)k_proj", r"^(?!.*visual).*(?:q_proj|up_proj).*", "h.1.attn.c_attn",
    r"(?:.*?(?:language|text).*?(?:self_attn|mlp).*?(?:q_proj|v_proj).*?)|(?:\bmodel\.layers\.\d{1,}\.self_attn\.q_proj)",
    r"(model)(?=\.layers).*\.1\..*down_proj", r"([a-z_]+)\.\1", "x{2}", "q_proj{1,2}", "q_proj{e<=1}", "[[:alpha:]]_p",
    r"layers\.1[0-9]\..*", "model.layers.12.mlp.experts.1.up_proj", r"\Aq_proj\Z", "q_pro[j]+", "ｑ_proj", "q_proj\\n?",
]  # fmt: skip


def ours(**values: Any) -> PeftConfig:
    return PeftConfig(path=Path("adapter_config.json"), ignored=(), peft_type="LORA", **values)


@pytest.mark.parametrize("pattern", PATTERNS)
def test_ranks_and_alphas_are_peft_s(pattern):
    own = ours(r=4, lora_alpha=6, rank_pattern={pattern: 2}, alpha_pattern={pattern: 5})
    ranks = own.ranks(MODULES)
    hit = {m for m in MODULES if get_pattern_key([pattern], m) == pattern}
    assert ranks == {m: 2 if m in hit else 4 for m in MODULES}
    assert own.scalings(ranks) == {m: 5 / 2 if m in hit else 6 / 4 for m in MODULES}
    root = ours(lora_alpha=6, use_rslora=True).scalings({"q_proj": 4, "v_proj": 2})
    assert root == {"q_proj": 3, "v_proj": 6 / math.sqrt(2)}


@settings(max_examples=30)
@given(st.lists(st.sampled_from(PATTERNS), unique=True, min_size=2, max_size=6))
def test_of_several_patterns_the_first_counts(patterns):
    entries = {pattern: number for number, pattern in enumerate(patterns, 1)}
    found = ours(r=99, rank_pattern=entries).ranks(MODULES)
    assert found == {m: entries.get(get_pattern_key(list(entries), m), 99) for m in MODULES}


def peft_adapts(**values: Any) -> list[str]:
    config = LoraConfig(**values)
    return [m for m in MODULES if check_target_module_exists(config, m)]


@pytest.mark.parametrize("pattern", [p for p in PATTERNS if p and p != "q_proj)|(up_proj"])
def test_an_expression_of_targets_or_exclusions_is_peft_s(pattern):
    assert ours(target_modules=pattern).adapted(MODULES) == peft_adapts(target_modules=pattern)
    named = {"target_modules": ["q_proj", "up_proj"], "exclude_modules": pattern}
    assert ours(**named).adapted(MODULES) == peft_adapts(**named)


@pytest.mark.parametrize(
    "values",
    [
        {"target_modules": ["q_proj", "mlp.up_proj", "lm_head", "c_attn"]},
        {"target_modules": ["model.layers.0.self_attn.q_proj"]},
        {"target_modules": ["_proj"]},
        {"target_modules": ["q_proj"], "exclude_modules": ["layers.1.self_attn.q_proj", "q_proj_"]},
        {"target_modules": ["q_proj", "fc_in"], "layers_to_transform": 1},
        {"target_modules": ["q_proj", "fc_in"], "layers_to_transform": [0, 10]},
        {"target_modules": ["up_proj", "qkv"], "layers_to_transform": [1]},
        {"target_modules": ["up_proj"], "layers_to_transform": [12], "layers_pattern": "layers"},
        {"target_modules": ["up_proj"], "layers_to_transform": [1], "layers_pattern": ["experts"]},
        {"target_modules": ["up_proj", "c_attn"], "layers_to_transform": [1], "layers_pattern": ["h", "layers"]},
        {"target_modules": ["up_proj"], "layers_to_transform": [1], "layers_pattern": []},
        {"target_modules": ["q_proj"], "layers_to_transform": []},
    ],
)
def test_lists_and_layers_are_peft_s(values):
    assert ours(**values).adapted(MODULES) == peft_adapts(**values)


# -- what changes no number -------------------------------------------------------------------------------------------

NULLS = ("alora_invocation_tokens", "arrow_config", "auto_mapping", "corda_config", "eva_config", "exclude_modules",
         "kasa_config", "layer_replication", "layers_pattern", "layers_to_transform", "lora_ga_config",
         "megatron_config", "modules_to_save", "monteclora_config", "revision", "target_parameters",
         "trainable_token_indices", "use_bdlora", "velora_config")  # fmt: skip
#: Keys that tools write beside, or instead of, those of ``write_peft``.
WRITTEN: dict[str, dict[str, Any]] = {
    "PEFT 0.2": {"enable_lora": None, "fan_in_fan_out": False, "inference_mode": True, "merge_weights": False},
    "PEFT 0.2 of one target": {"fan_in_fan_out": True, "enable_lora": [True, False, True], "merge_weights": True},
    "PEFT 0.5": {"auto_mapping": None, "fan_in_fan_out": False, "layers_pattern": None, "revision": None},
    "PEFT 0.21": {**dict.fromkeys(NULLS), "peft_version": "0.21.2", "lora_bias": False, "use_qalora": False,
                  "ensure_weight_tying": False, "fan_in_fan_out": False, "inference_mode": True},
    "LLaMA-Factory": {"modules_to_save": [], "task_type": "CAUSAL_LM", "target_modules": "^(?!.*visual).*_proj$"},
    "Unsloth": {"auto_mapping": {"base_model_class": "LlamaForCausalLM", "unsloth_fixed": True},
                "unsloth_fixed": True, "unsloth_version": "2025.6.2", "loftq_config": {"loftq_bits": 4}},
    "Axolotl": {"fan_in_fan_out": None, "loftq_config": {}, "use_dora": False, "lora_dropout": 0.05},
    "a start that leaves the base alone": {"init_lora_weights": "mica"},
    "EVA": {"init_lora_weights": "eva", "eva_config": {"rho": 1.0, "tau": 0.99}},
    "all linear": {"target_modules": "all-linear"},
    "weights tied": {"ensure_weight_tying": True},
    "nothing else is trained": {"layer_replication": [], "target_parameters": [], "trainable_token_indices": {},
                                "megatron_config": {}, "exclude_modules": []},
    "trained on": {"inference_mode": False, "runtime_config": {"ephemeral_gpu_offload": True}},
    "a scaling by pattern": {"use_rslora": True, "alpha_pattern": {r"layers\.1\..*": 3}, "lora_alpha": 2.5},
}  # fmt: skip


@pytest.mark.parametrize("tool", WRITTEN)
@pytest.mark.filterwarnings("ignore")
def test_what_tools_write_is_read_as_peft_reads_it(tool, tmp_path):
    """PEFT's logits from the folder are those of its base with our products s B A added to the matrices."""
    model = packed_model()
    folder = write_peft(tmp_path, random_factors(model, 4), **WRITTEN[tool])
    layout, values, scaling = stack_adapters([read_peft(folder)], model)
    assert scaling.tolist() == [1]
    ours: Any = tiny_model()
    with torch.no_grad():
        for slot, (a, b) in zip(layout.slots, layout.split(values), strict=True):
            ours.get_submodule(slot.module).weight += b[0] @ a[0]
        ids = torch.arange(3, 15)[None]
        wanted = PeftModel.from_pretrained(tiny_model(), folder).eval()(ids).logits
        assert torch.allclose(ours(ids).logits, wanted, rtol=1e-4, atol=1e-4)
        assert not torch.allclose(tiny_model()(ids).logits, wanted, rtol=1e-1, atol=1e-1)


@pytest.mark.filterwarnings("ignore")
def test_dora_is_what_peft_computes(tmp_path):
    """Of some of the matrices; those without factors keep the norms of their rows, and stay as they are."""
    factors = dict(list(random_factors(packed_model(), 3).items())[::2])
    folder = write_peft(tmp_path, factors, use_dora=True, lora_alpha=6)
    tensors = load_file(folder / "adapter_model.safetensors")
    generator = torch.Generator().manual_seed(1)
    for module, (_, b) in factors.items():
        tensors[f"base_model.model.{module}.lora_magnitude_vector"] = torch.rand(b.shape[0], generator=generator) + 0.2
    save_file(tensors, folder / "adapter_model.safetensors", metadata={"format": "pt"})
    model, adapter = packed_model(), read_peft(folder)
    layout, values, scaling = stack_adapters([adapter], model)
    assert adapter.parameters == sum(tensor.numel() for tensor in tensors.values())
    ids = torch.arange(3, 15)[None]
    with torch.no_grad():
        wanted = PeftModel.from_pretrained(tiny_model(), folder).eval()(ids).logits
        plain = tiny_model()(ids).logits
        with model.adapted(layout, values, scaling):
            found = model.module(ids).logits
        with model.adapted(layout, unchanged(layout, model), scaling):
            same = model.module(ids).logits
    assert torch.allclose(found, wanted, rtol=1e-4, atol=1e-4)
    assert torch.allclose(same, plain, rtol=1e-5, atol=1e-5)
    assert not torch.allclose(plain, wanted, rtol=1e-1, atol=1e-1)
