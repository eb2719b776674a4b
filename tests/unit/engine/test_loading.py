"""Folders whose weights or tokenizer are not what their configuration says: refused, by name, before anything runs."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from harness.data.models import resolve_model
from harness.engine.model.load import load_model, load_tokenizer
from harness.errors import InputError
from harness.scoring.lm import PackedLM


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> Path:
    """The catalogue's tiny model, as built."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LORABENCH_CACHE", str(tmp_path_factory.mktemp("cache")))
        return resolve_model("tiny-random-llama").path


@pytest.fixture
def folder(whole, tmp_path, monkeypatch) -> Path:
    monkeypatch.setenv("LORABENCH_CACHE", str(tmp_path / "cache"))
    return Path(shutil.copytree(whole, tmp_path / "model"))


def load(path: Path, dtype: torch.dtype = torch.float32):
    return load_model(path, dtype=dtype, device=torch.device("cpu"))


def refused(path: Path, read: Callable[[Path], Any] = load) -> InputError:
    with pytest.raises(InputError) as caught:
        read(path)
    assert caught.value.where
    assert caught.value.remedy
    assert len(str(caught.value)) < 2000
    return caught.value


def edit(file: Path, **changes: Any) -> None:
    file.write_text(json.dumps(json.loads(file.read_text()) | changes))


def change_weights(folder: Path, change: Callable[[dict[str, torch.Tensor]], Any]) -> None:
    tensors = load_file(folder / "model.safetensors")
    change(tensors)
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})


DOWN = "model.layers.1.mlp.down_proj.weight"


def test_a_whole_folder_is_loaded(folder):
    model = load(folder)
    assert len(model.slots) == 14
    assert load(folder, torch.bfloat16).dtype == torch.bfloat16
    assert load_tokenizer(folder).eos_token_id == 257


@pytest.mark.parametrize("key", [DOWN, "model.norm.weight", "lm_head.weight", "model.embed_tokens.weight"])
def test_a_missing_weight_is_named(folder, key):
    change_weights(folder, lambda tensors: tensors.pop(key))
    error = refused(folder)
    assert error.where == f"{folder}:{key}"
    assert "is missing from the weights" in error.what


def test_a_layer_too_many_is_not_made_up(folder):
    edit(folder / "config.json", num_hidden_layers=3)
    error = refused(folder)
    assert error.where == f"{folder}:model.layers.2.input_layernorm.weight"
    assert "and 8 more" in error.what


def test_a_layer_that_is_left_over_is_named(folder):
    edit(folder / "config.json", num_hidden_layers=1)
    error = refused(folder)
    assert error.where == f"{folder}:model.layers.1.input_layernorm.weight"
    assert "has no place in the model" in error.what


def test_a_weight_of_another_shape_is_named(folder):
    change_weights(folder, lambda tensors: tensors.update({DOWN: torch.zeros(64, 127)}))
    error = refused(folder)
    assert error.where == f"{folder}:{DOWN}"
    assert "(64, 127)" in error.what
    assert "(64, 128)" in error.what


def test_a_config_of_another_width_is_refused(folder):
    edit(folder / "config.json", vocab_size=300)
    error = refused(folder)
    assert error.where == f"{folder}:lm_head.weight"
    assert "(259, 64)" in error.what
    edit(folder / "config.json", vocab_size=200)  # without room for its own special tokens
    assert "padding_idx" in refused(folder).what.lower()


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_weights_that_are_not_finite_are_named(folder, value):
    def damage(tensors: dict[str, torch.Tensor]) -> None:
        tensors[DOWN][3, 5] = value

    change_weights(folder, damage)
    error = refused(folder)
    assert error.where == f"{folder}:{DOWN}"
    assert "not finite" in error.what


def test_a_sum_that_overflows_is_no_infinity(folder):
    change_weights(folder, lambda tensors: tensors[DOWN].fill_(1e37))
    from harness.engine.model.load import load_module, refuse_not_finite

    refuse_not_finite(load_module(folder, torch.float32), folder)


def test_tied_weights_are_not_missing(tmp_path):
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        vocab_size=64, hidden_size=16, intermediate_size=32, num_hidden_layers=1, num_attention_heads=2,
        tie_word_embeddings=True,
    )  # fmt: skip
    LlamaForCausalLM(config).save_pretrained(tmp_path)
    assert "lm_head.weight" not in load_file(tmp_path / "model.safetensors")
    assert load(tmp_path).slots


def test_a_head_that_was_not_saved_is_missing(tmp_path):
    """A model saved without its head: transformers would draw one."""
    from transformers import LlamaConfig, LlamaModel

    size = {"vocab_size": 64, "hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1}
    LlamaModel(LlamaConfig(**size, num_attention_heads=2, tie_word_embeddings=False)).save_pretrained(tmp_path)
    assert refused(tmp_path).where == f"{tmp_path}:lm_head.weight"


@pytest.mark.parametrize(
    "changes",
    [
        {"model_type": "nothing-like-it"}, {"model_type": None}, {"model_type": 7}, {"model_type": ["llama"]},
        {"hidden_size": "wide"}, {"hidden_size": None}, {"hidden_size": -64}, {"hidden_size": 0}, {"hidden_size": 1.5},
        {"num_attention_heads": 0}, {"num_attention_heads": "4"}, {"num_attention_heads": 5},
        {"num_hidden_layers": -1}, {"num_hidden_layers": 10**9}, {"num_hidden_layers": "two"},
        {"num_key_value_heads": 3}, {"num_key_value_heads": 0},
        {"vocab_size": -1}, {"vocab_size": 10**12}, {"hidden_act": "no-such-function"}, {"hidden_act": None},
        {"rope_parameters": {"rope_type": "no-such-type"}}, {"rope_parameters": "x"}, {"rope_parameters": []},
        {"model_type": "t5"}, {"model_type": "clip"}, {"model_type": "gpt2"},
    ],
    ids=repr,
)  # fmt: skip
def test_a_config_that_makes_no_sense_is_refused(folder, changes):
    edit(folder / "config.json", **changes)
    refused(folder)


@pytest.mark.parametrize(
    "content",
    [b"", b"{", b"[]", b"7", b"null", b"\xff\xfe\x00", b"{}", b'{"model_type": "llama"}', b"[" * 100_000,
     b'{"a":' * 100_000],
    ids=lambda content: repr(content[:20]),
)  # fmt: skip
def test_a_config_that_is_garbage_is_refused(folder, content):
    (folder / "config.json").write_bytes(content)
    refused(folder)
    if b"}" not in content:  # no object, which is seen without transformers
        assert "config.json" in str(refused(folder, lambda path: resolve_model(str(path))).where)


@pytest.mark.parametrize("content", [b"", b"12345", b"\xff" * 64, b"\x08\0\0\0\0\0\0\0{}      "])
def test_weights_that_are_garbage_are_refused(folder, content):
    (folder / "model.safetensors").write_bytes(content)
    refused(folder)


def test_weights_that_are_cut_short_are_refused(folder):
    content = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(content[: len(content) // 2])
    assert "not a safetensors file" in refused(folder).what


@pytest.mark.parametrize("file", ["config.json", "model.safetensors"])
def test_a_folder_in_the_place_of_a_file_is_refused(folder, file):
    (folder / file).unlink()
    (folder / file).mkdir()
    refused(folder)


def test_an_adapter_in_the_folder_is_not_put_on_the_base(folder):
    (folder / "adapter_config.json").write_text("{}")
    assert "holds an adapter" in refused(folder).what


# -- tokenizers -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "content",
    ["", "{", "[]", "null", "{}", '{"model": {}}', '{"version": "1.0", "model": {"type": "BPE"}}', "\0", "[" * 100_000],
    ids=lambda content: repr(content[:20]),
)
def test_a_broken_tokenizer_is_refused(folder, content):
    (folder / "tokenizer.json").write_text(content)
    error = refused(folder, load_tokenizer)
    assert str(folder) in str(error.where)


@pytest.mark.parametrize(
    "content",
    ["", "{", "[]", '"x"', '{"tokenizer_class": "NoSuchTokenizer", "eos_token": 7}', '{"eos_token": {"a": 1}}',
     '{"tokenizer_class": 3}', '{"added_tokens_decoder": [1]}', "[" * 100_000],
    ids=lambda content: repr(content[:40]),
)  # fmt: skip
def test_a_broken_tokenizer_config_is_refused(folder, content):
    (folder / "tokenizer_config.json").write_text(content)
    refused(folder, load_tokenizer)


def test_a_folder_without_a_tokenizer_is_refused(folder):
    for file in ("tokenizer.json", "tokenizer_config.json"):
        (folder / file).unlink()
    refused(folder, load_tokenizer)
    assert "no tokenizer" in refused(folder, lambda path: resolve_model(str(path))).what


def test_a_tokenizer_without_an_end_is_refused(folder):
    edit(folder / "tokenizer_config.json", eos_token=None)
    assert "no end token" in refused(folder, load_tokenizer).what


def test_a_token_that_the_model_has_not_is_refused(folder):
    """A tokenizer of another model: on a GPU an index beyond the embedding ends the process."""
    tokenizer = load_tokenizer(folder)
    model = load(folder)
    lm = PackedLM(model, tokenizer, max_length=64, batch_tokens=64)
    assert lm.tok_encode("ab")
    tokenizer.add_tokens(["<new>"])
    with pytest.raises(InputError, match="token 259 '<new>'"):
        lm.tok_encode("ab<new>")
    tokenizer.add_special_tokens({"eos_token": "<another>"})
    with pytest.raises(InputError, match="token 260 '<another>'"):
        PackedLM(model, tokenizer, max_length=64, batch_tokens=64)
