"""PEFT folders: read as they are meant, and refused by name where they are more than plain LoRA."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers import packed_model, random_factors, tiny_model, write_peft
from safetensors.torch import load_file, save_file

from harness.engine.adapters.peft import check_base_name, check_fits, names_base, read_peft, stack_adapters
from harness.engine.model.packed import PackedModel
from harness.errors import InputError

Q0, Q1, UP = "model.layers.0.self_attn.q_proj", "model.layers.1.self_attn.q_proj", "model.layers.0.mlp.up_proj"


@pytest.fixture(scope="module")
def model() -> PackedModel:
    return packed_model()


@pytest.fixture(scope="module")
def base() -> PackedModel:
    """The same, with nothing wrapped yet."""
    plain: Any = tiny_model()
    return PackedModel(plain, ())


@pytest.fixture
def folder(model, tmp_path) -> Path:
    return write_peft(tmp_path / "one", random_factors(model, 4))


def configure(folder: Path, **changes: object) -> None:
    path = folder / "adapter_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def retensor(folder: Path, change) -> None:
    """Rewrite the weights by ``change(tensors)``."""
    path = folder / "adapter_model.safetensors"
    tensors = load_file(path)
    change(tensors)
    save_file(tensors, path)


# -- what is read -----------------------------------------------------------------------------------------------------


def test_a_folder_is_its_factors_and_its_scaling(model, folder):
    found = read_peft(folder)
    wanted = random_factors(model, 4)
    assert found.factors.keys() == wanted.keys()
    for module, (a, b) in wanted.items():
        assert torch.equal(found.factors[module][0], a)
        assert torch.equal(found.factors[module][1], b)
    assert (found.ranks, found.scalings) == ((4,), (4.0,))
    assert found.parameters == sum(a.numel() + b.numel() for a, b in wanted.values())
    assert found.bytes == (folder / "adapter_model.safetensors").stat().st_size


def test_bf16_factors_are_taken_exactly(model, tmp_path):
    factors = {name: (a.bfloat16(), b.bfloat16()) for name, (a, b) in random_factors(model, 2).items()}
    for module, (a, b) in read_peft(write_peft(tmp_path, factors)).factors.items():
        assert a.dtype == b.dtype == torch.float32
        assert torch.equal(a, factors[module][0].float())


def test_scaling_is_that_of_each_matrix(model, tmp_path):
    full = random_factors(model, 4)
    factors = {Q0: full[Q0], Q1: tuple(t[:2] if t.shape[0] == 4 else t[:, :2] for t in full[Q1]), UP: full[UP]}
    settings = {"r": 4, "lora_alpha": 8, "rank_pattern": {"layers.1.self_attn.q_proj": 2},
                "alpha_pattern": {r".*\.0\..*q_proj": 6, "up_proj": 1}}  # fmt: skip
    plain = read_peft(write_peft(tmp_path / "plain", factors, **settings))
    assert [plain.scaling[m] for m in (Q0, Q1, UP)] == [6 / 4, 8 / 2, 1 / 4]
    assert plain.ranks == (2, 4)
    root = read_peft(write_peft(tmp_path / "root", factors, **settings, use_rslora=True))
    assert [root.scaling[m] for m in (Q0, Q1, UP)] == [6 / 2, 8 / math.sqrt(2), 1 / 2]


def test_stacked_products_are_those_of_each_adapter(model, tmp_path):
    """Different ranks, alphas and matrices in one pack."""
    all_of = random_factors(model, 3, seed=1)
    first = read_peft(write_peft(tmp_path / "a", all_of, lora_alpha=6))
    second = read_peft(write_peft(tmp_path / "b", {Q1: random_factors(model, 5, seed=2)[Q1]}, use_rslora=True))
    layout, values, scaling = stack_adapters([first, second], model)
    assert layout.rank == 5
    assert values.dtype == torch.float32
    assert scaling.tolist() == [1, 1]
    for slot, (a, b) in zip(layout.slots, layout.split(values), strict=True):
        for k, adapter in enumerate((first, second)):
            wanted = torch.zeros(slot.out_features, slot.in_features)
            if slot.module in adapter.factors:
                own_a, own_b = adapter.factors[slot.module]
                wanted = adapter.scaling[slot.module] * own_b @ own_a
            assert torch.allclose(b[k] @ a[k], wanted, atol=1e-6), (slot.module, k)


@pytest.mark.parametrize("start", [True, False, "gaussian", "orthogonal", "eva", "mica"])
def test_starts_that_leave_the_base_alone_are_fine(folder, start):
    configure(folder, init_lora_weights=start)
    read_peft(folder)


def test_a_null_is_a_default(folder):
    configure(folder, rank_pattern=None, alpha_pattern=None, init_lora_weights=None, use_rslora=None, r=None)
    with pytest.raises(InputError, match="says 8"):  # PEFT's default rank, and the factors have 4
        read_peft(folder)


@pytest.mark.parametrize(
    ("keys", "ignored"),
    [
        ({}, ()),
        ({"fan_in_fan_out": False, "merge_weights": False, "enable_lora": None, "unsloth_version": None}, ()),
        ({"fan_in_fan_out": True, "merge_weights": True}, ("fan_in_fan_out", "merge_weights")),
        ({"unsloth_version": "2025.6.2", "transformers_version": "5.0", "peft_version": "0.17"},
         ("transformers_version", "unsloth_version")),
    ],
)  # fmt: skip
def test_what_peft_ignores_is_taken_and_named(folder, keys, ignored):
    configure(folder, **keys)
    assert read_peft(folder).config.ignored == ignored


def test_projections_without_factors_are_counted(base, model, tmp_path):
    """As PEFT's missing keys: those that target_modules names, of the base's projections."""
    factors = random_factors(model, 2)
    some = {name: pair for name, pair in factors.items() if name not in (Q1, UP)}
    adapter = read_peft(write_peft(tmp_path / "a", some, target_modules=["q_proj", "k_proj", *sorted(some)]))
    assert check_fits(adapter, base) == [Q1]
    every = read_peft(write_peft(tmp_path / "b", some, target_modules="all-linear"))
    assert sorted(check_fits(every, base)) == sorted([Q1, UP])


# -- refusals: the folder ---------------------------------------------------------------------------------------------


def refused(folder: Path, *near: str, where: str) -> None:
    with pytest.raises(InputError) as error:
        read_peft(folder)
    assert all(part in str(error.value) for part in near), str(error.value)
    assert str(error.value.where).endswith(where), error.value.where
    assert error.value.remedy


def test_no_folder(tmp_path):
    refused(tmp_path / "nowhere", "no such folder", where="nowhere")


def test_no_configuration(folder):
    (folder / "adapter_config.json").unlink()
    refused(folder, "no adapter_config.json", where="one")


def test_a_broken_configuration(folder):
    (folder / "adapter_config.json").write_text("{")
    refused(folder, "not JSON", where="adapter_config.json:1")


@pytest.mark.parametrize(
    ("key", "value", "where"),
    [("r", 0, "r"), ("r", "many", "r"), ("lora_alpha", "x", "lora_alpha"), ("rank_pattern", [1], "rank_pattern"),
     ("alpha_pattern", {"q_proj": "x"}, "alpha_pattern.q_proj"), ("lora_alpha", float("nan"), "lora_alpha")],
)  # fmt: skip
def test_values_of_the_wrong_kind(folder, key, value, where):
    configure(folder, **{key: value})
    refused(folder, where=f"adapter_config.json:{where}")


def test_pickled_weights_are_never_read(folder):
    (folder / "adapter_model.safetensors").rename(folder / "adapter_model.bin")
    refused(folder, "adapter_model.bin", "pickles run code when read", where="one")


def test_no_weights(folder):
    (folder / "adapter_model.safetensors").unlink()
    refused(folder, "no weights", where="one")


# -- refusals: more than plain LoRA -----------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["IA3", "LOHA", "PREFIX_TUNING"])
def test_other_kinds_of_adapter(folder, kind):
    configure(folder, peft_type=kind)
    refused(folder, kind, "only LORA", where="adapter_config.json:peft_type")


@pytest.mark.parametrize("start", ["pissa", "pissa_niter_16", "olora", "corda", "loftq", "lora_ga"])
def test_starts_that_changed_the_base(folder, start):
    configure(folder, init_lora_weights=start)
    refused(folder, start, "path_initial_model_for_weight_conversion", where="adapter_config.json:init_lora_weights")


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("modules_to_save", ["lm_head"]), ("bias", "all"), ("bias", "lora_only"),
        ("lora_bias", True),
        ("trainable_token_indices", [1, 2]), ("target_parameters", ["experts.gate_up_proj"]),
        ("layer_replication", [[0, 4], [2, 5]]), ("alora_invocation_tokens", [1]),
        ("use_qalora", True), ("megatron_config", {"a": 1}), ("something_of_next_year", 1),
    ],
)  # fmt: skip
def test_settings_that_add_to_lora(folder, key, value):
    configure(folder, **{key: value})
    refused(folder, key, "only plain LoRA", where=f"adapter_config.json:{key}")


@pytest.mark.parametrize(
    "name",
    ["base_model.model.model.embed_tokens.lora_embedding_A", "base_model.model.lm_head.weight", "something.else"],
)
def test_tensors_beside_the_factors(folder, name):
    retensor(folder, lambda tensors: tensors.update({name: torch.zeros(2, 2)}))
    refused(folder, "not A or B of a linear projection", where=f"adapter_model.safetensors:{name}")


LENGTHS = f"base_model.model.{Q0}.lora_magnitude_vector"
STRAY = Q0.replace("0", "1")


@pytest.mark.parametrize(
    ("use_dora", "tensors", "said", "place"),
    [
        (True, {}, "lora_magnitude_vector is missing", f":{Q0}"),
        (False, {LENGTHS: torch.ones(32)}, "lacks use_dora", f":{Q0}"),
        (True, {LENGTHS: torch.ones(31)}, "31 magnitudes for 32 rows", f":{Q0}"),
        (True, {LENGTHS: torch.ones(32, 1)}, "2 dimensions", f":{LENGTHS}"),
        (True, {LENGTHS: torch.full((32,), math.nan)}, "not finite", f":{LENGTHS}"),
        (
            True,
            {LENGTHS: torch.ones(32), LENGTHS.replace("0", "1"): torch.ones(32)},
            "without factors",
            Q0.replace("0", "1"),
        ),
    ],
    ids=["none", "not asked for", "too few", "a matrix", "not finite", "stray"],
)
def test_magnitudes_that_do_not_fit(tmp_path, model, use_dora, tensors, said, place):
    folder = write_peft(tmp_path, {Q0: random_factors(model, 2)[Q0]}, use_dora=use_dora)
    retensor(folder, lambda own: own.update(tensors))
    refused(folder, said, "together" if "dim" not in said and "finite" not in said else "adapter", where=place)


def test_adapters_of_convolutions(folder):
    name = f"base_model.model.{Q0}.lora_A.weight"
    retensor(folder, lambda tensors: tensors.update({name: torch.zeros(4, 32, 1, 1)}))
    refused(folder, "4 dimensions", where=f":{name}")


# -- refusals: the numbers --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_values_that_are_not_finite(folder, value):
    name = f"base_model.model.{Q0}.lora_B.weight"
    retensor(folder, lambda tensors: tensors[name].view(-1)[3:4].fill_(value))
    refused(folder, "not finite", where=f":{name}")


def test_half_a_pair(folder):
    retensor(folder, lambda tensors: tensors.pop(f"base_model.model.{Q0}.lora_B.weight"))
    refused(folder, "lora_B is missing", where=f":{Q0}")


def test_a_rank_that_is_not_the_configuration_s(folder):
    configure(folder, rank_pattern={Q0: 3})
    refused(folder, "A has rank 4", "says 3", where=f":{Q0}")


def test_a_damaged_file(folder):
    path = folder / "adapter_model.safetensors"
    path.write_bytes(path.read_bytes()[:200])
    refused(folder, "not a safetensors file", where="adapter_model.safetensors")


def test_an_empty_file(folder):
    save_file({}, folder / "adapter_model.safetensors")
    refused(folder, "no tensors", where="adapter_model.safetensors")


# -- refusals: the base -----------------------------------------------------------------------------------------------


def fitting(base: PackedModel, factors: dict, folder: Path) -> InputError:
    with pytest.raises(InputError) as error:
        check_fits(read_peft(write_peft(folder, factors)), base)
    assert error.value.remedy
    return error.value


def test_all_matrices_of_the_base_fit(base, folder):
    check_fits(read_peft(folder), base)


def test_a_module_that_the_base_lacks(base, tmp_path):
    error = fitting(base, {"model.layers.7.self_attn.q_proj": (torch.zeros(2, 32), torch.zeros(32, 2))}, tmp_path)
    assert "LlamaForCausalLM" in str(error)
    assert str(error.where).endswith("model.layers.7.self_attn.q_proj")
    assert "q_proj" in str(error.remedy)


def test_other_shapes_name_both(base, tmp_path):
    error = fitting(base, {Q0: (torch.zeros(2, 48), torch.zeros(64, 2))}, tmp_path)
    assert "64 x 48" in error.what
    assert "32 x 32" in error.what
    assert str(error.where).endswith(Q0)


@pytest.mark.parametrize(
    ("module", "shape", "near"),
    [("lm_head", (97, 32), "output head"), ("model.embed_tokens", (32, 97), "Embedding"),
     ("model.layers.0.input_layernorm", (32, 32), "LlamaRMSNorm")],
)  # fmt: skip
def test_modules_that_are_no_projections(base, tmp_path, module, shape, near):
    factors = {module: (torch.zeros(2, shape[1]), torch.zeros(shape[0], 2))}
    assert near in fitting(base, factors, tmp_path).what


@pytest.mark.parametrize(
    ("named", "model_name", "same"),
    [
        ("HuggingFaceTB/SmolLM2-135M-Instruct", "smollm2-135m-instruct", True),
        ("/models/a/Base/", "some/where/base", True),
        ("C:\\models\\base", "base", True),
        ("/root/.cache/huggingface/hub/models--org--base/snapshots/0123abc", "org/base", True),
        ("/root/.cache/huggingface/hub/models--org--base/snapshots/0123abc/", "base", True),
        ("C:\\hub\\models--org--base\\snapshots\\0123abc", "base", True),
        ("/cache/models--base", "org/base", True),
        ("org/base", "/cache/hub/models--org--base/snapshots/0123abc", True),
        ("/cache/hub/models--org--other/snapshots/0123abc", "org/base", False),
        ("/cache/models--org--base/checkpoint", "org/base", False),
        ("org/base-2", "org/base", False),
        (None, "base", None),
        ("", "base", None),
    ],
)
def test_which_base_is_named(folder, named, model_name, same):
    configure(folder, base_model_name_or_path=named)
    adapter = read_peft(folder)
    assert names_base(adapter, model_name) is same
    if same is not False:
        check_base_name(adapter, model_name)
        return
    with pytest.raises(InputError, match="--another-base") as error:
        check_base_name(adapter, model_name)
    assert str(error.value.where).endswith("adapter_config.json:base_model_name_or_path")
