"""Adapter folders that are damaged, of another kind, or made to harm: one short message each, within bounded time."""

from __future__ import annotations

import json
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers import packed_model, random_factors, tiny_model, write_peft
from safetensors.torch import load_file, save_file

from harness.engine.adapters import patterns
from harness.engine.adapters.peft import check_base_name, check_fits, read_peft, stack_adapters
from harness.engine.model.packed import PackedModel
from harness.errors import InputError

Q0 = "model.layers.0.self_attn.q_proj"
A0, B0 = (f"base_model.model.{Q0}.lora_{name}.weight" for name in "AB")
CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
Change = Callable[[Path], object]


@pytest.fixture(scope="module")
def base() -> PackedModel:
    plain: Any = tiny_model()
    return PackedModel(plain, ())


@pytest.fixture(scope="module")
def model() -> PackedModel:
    return packed_model()


@pytest.fixture
def folder(model, tmp_path) -> Path:
    return write_peft(tmp_path / "one", random_factors(model, 4), base_model_name_or_path="org/base")


def keys(**values: Any) -> Change:
    """Set keys of the configuration."""

    def change(folder: Path) -> None:
        path = folder / CONFIG
        path.write_text(json.dumps(json.loads(path.read_text()) | values))

    return change


def config(text: str | bytes) -> Change:
    """Put this where the configuration is."""
    return lambda folder: (folder / CONFIG).write_bytes(text if isinstance(text, bytes) else text.encode())


def tensors(edit: Callable[[dict[str, torch.Tensor]], object]) -> Change:
    def change(folder: Path) -> None:
        found = load_file(folder / WEIGHTS)
        edit(found)
        save_file(found, folder / WEIGHTS)

    return change


def tensor(name: str, value: torch.Tensor) -> Change:
    return tensors(lambda found: found.update({name: value}))


def rename(old: str, new: str) -> Change:
    def edit(found: dict[str, torch.Tensor]) -> None:
        for name in list(found):
            found[name.replace(old, new)] = found.pop(name)

    return tensors(edit)


def weights(edit: Callable[[bytes], bytes]) -> Change:
    """Edit the bytes of the weights file."""
    return lambda folder: (folder / WEIGHTS).write_bytes(edit((folder / WEIGHTS).read_bytes()))


def header(found: dict[str, Any], size: int = 0) -> Change:
    text = json.dumps(found).encode()
    return weights(lambda _: struct.pack("<Q", len(text)) + text + bytes(size))


def into_subfolder(*names: str) -> Change:
    def change(folder: Path) -> None:
        for name in names:
            (folder / name).mkdir(parents=True)
            for file in (CONFIG, WEIGHTS):
                (folder / name / file).write_bytes((folder / file).read_bytes())
        (folder / CONFIG).unlink()

    return change


def replaced_by_folder(name: str) -> Change:
    def change(folder: Path) -> None:
        (folder / name).unlink()
        (folder / name).mkdir()

    return change


SLOW = "(([a-z_.0-9])+)+$X"
LONG = "x" * 1_000_000
DEEP = "[" * 100_000
BAD: dict[str, tuple[Change, str]] = {
    # the configuration's text
    "empty": (config(""), "not JSON"),
    "cut off": (config('{"peft_type": "LO'), "not JSON"),
    "nested deeply": (config(DEEP), "nested too deeply"),
    "nested deeply in a key": (config('{"peft_type": "LORA", "x": ' + DEEP + "]" * 100_000 + "}"), "nested too deeply"),
    "nested a little": (config('{"peft_type": "LORA", "x": ' + "[" * 150 + "]" * 150 + "}"), "only plain LoRA"),
    "no UTF-8": (config(b"\xff\xfe{}"), "not UTF-8"),
    "UTF-16": (config('{"peft_type": "LORA"}'.encode("utf-16")), "not UTF-8"),
    "zeros": (config(bytes(1000)), "not JSON"),
    "a pickle": (config(b"\x80\x04\x95\x10\x00\x00\x00."), "not UTF-8"),
    "a list": (config("[1]"), "must be a JSON object"),
    "null": (config("null"), "must be a JSON object"),
    "a number": (config("1" * 5000), "not JSON that can be read"),
    "nothing in it": (config("{}"), "no peft_type"),
    "MLX's": (config('{"fine_tune_type": "lora", "lora_parameters": {"rank": 8, "scale": 20.0}}'), "MLX"),
    "a model's": (config('{"model_type": "llama", "hidden_size": 32}'), "no peft_type"),
    # its values
    "peft_type a number": (keys(peft_type=3), "valid string"),
    "peft_type a list": (keys(peft_type=["LORA"]), "valid string"),
    "another type": (keys(peft_type="ADALORA"), "only LORA"),
    "a long type": (keys(peft_type=LONG), "only LORA"),
    "r a text": (keys(r="4"), "valid integer"),
    "r true": (keys(r=True), "valid integer"),
    "r a fraction": (keys(r=4.5), "valid integer"),
    "r a list": (keys(r=[4]), "valid integer"),
    "r zero": (keys(r=0), "greater than 0"),
    "r negative": (keys(r=-4), "greater than 0"),
    "r another": (keys(r=8), "says 8"),
    "r huge": (keys(r=10**400), "rank"),
    "alpha a text": (keys(lora_alpha="16"), "valid number"),
    "alpha true": (keys(lora_alpha=True), "valid number"),
    "alpha a mapping": (keys(lora_alpha={}), "valid number"),
    "alpha NaN": (keys(lora_alpha=float("nan")), "finite number"),
    "alpha infinite": (keys(lora_alpha=float("-inf")), "finite number"),
    "alpha beyond fp32": (keys(lora_alpha=1e300), "out of the range"),
    "alpha an integer beyond floats": (keys(lora_alpha=10**400), "number"),
    "rslora a text": (keys(use_rslora="false"), "valid boolean"),
    "dora a text": (keys(use_dora="false"), "valid boolean"),
    "start a list": (keys(init_lora_weights=["pissa"]), "valid"),
    "start pissa": (keys(init_lora_weights="pissa_niter_4"), "changed the base"),
    "KaSA with its defaults": (keys(kasa_config={}), "only plain LoRA"),
    "Arrow with its defaults": (keys(arrow_config={}), "only plain LoRA"),
    "block-diagonal": (keys(use_bdlora={"nblocks": 2}), "only plain LoRA"),
    "a key of next year": (keys(something_new={"on": True}), "only plain LoRA"),
    "a key without end": (keys(**{LONG: 1}), "only plain LoRA"),
    "a value without end": (keys(something_new=LONG), "only plain LoRA"),
    "base a number": (keys(base_model_name_or_path=7), "valid string"),
    "base without end": (keys(base_model_name_or_path=LONG), "at most 4096"),
    "another base": (keys(base_model_name_or_path="org/other"), "made for 'org/other'"),
    "another base in the hub's cache": (
        keys(base_model_name_or_path="/root/.cache/huggingface/hub/models--org--other/snapshots/0123abc"),
        "made for 'org/other', by its folder in the hub's cache",
    ),
    # which modules it names
    "no targets": (keys(target_modules=None), "no projections are named"),
    "targets empty": (keys(target_modules=[]), "no projections are named"),
    "targets a number": (keys(target_modules=3), "a text or a list of texts"),
    "targets a list of lists": (keys(target_modules=[["q_proj"]]), "a text or a list of texts"),
    "targets a mapping": (keys(target_modules={"q_proj": 1}), "a text or a list of texts"),
    "targets too few": (keys(target_modules=["q_proj"]), "PEFT would not load"),
    "targets an expression of too few": (keys(target_modules=r".*\.q_proj"), "PEFT would not load"),
    "targets excluded": (keys(exclude_modules=["q_proj"]), "PEFT would not load"),
    "targets of one layer": (keys(target_modules=["q_proj"], layers_to_transform=[1]), "PEFT would not load"),
    "layers a text": (keys(layers_to_transform="0"), "number of a layer"),
    "layers' pattern an expression": (keys(layers_to_transform=[0], layers_pattern=SLOW), "plain name"),
    # expressions
    "rank pattern slow": (keys(rank_pattern={SLOW: 8}), "takes more than"),
    "alpha pattern slow": (keys(alpha_pattern={"(.*)*" * 9 + "X": 8}), "takes more than"),
    "targets slow": (keys(target_modules=f"(a?){{30}}{SLOW}"), "takes more than"),
    "exclusion slow": (keys(exclude_modules=SLOW), "takes more than"),
    "rank pattern invalid": (keys(rank_pattern={"(": 8}), "not a regular expression"),
    "alpha pattern invalid": (keys(alpha_pattern={"*": 8}), "not a regular expression"),
    "targets invalid": (keys(target_modules="[z-a]"), "not a regular expression"),
    "flags in the middle": (keys(rank_pattern={"(?i)Q_PROJ": 4}), "not a regular expression"),
    "a repeat too large": (keys(rank_pattern={"a{99999999999999999999}": 4}), "not a regular expression"),
    "parentheses without end": (keys(rank_pattern={"(" * 4000 + ")" * 4000: 4}), "not a regular expression"),
    "a pattern too long": (keys(rank_pattern={LONG: 4}), "at most 10000 are matched"),
    "too many patterns": (keys(rank_pattern={f"m{n}": 4 for n in range(20_001)}), "20001 patterns"),
    "a rank of zero": (keys(rank_pattern={"q_proj": 0}), "greater than 0"),
    "a rank that is a text": (keys(rank_pattern={"q_proj": "4"}), "valid integer"),
    "ranks in a list": (keys(rank_pattern=["q_proj"]), "valid dictionary"),
    "an alpha that is a list": (keys(alpha_pattern={"q_proj": [1]}), "valid number"),
    "an alpha that is NaN": (keys(alpha_pattern={"q_proj": float("nan")}), "finite number"),
    "ranks of other weights": (keys(rank_pattern={"q_proj": 2}), "says 2"),
    # folders
    "a folder for the configuration": (replaced_by_folder(CONFIG), f"no {CONFIG}"),
    "a folder for the weights": (replaced_by_folder(WEIGHTS), f"no {WEIGHTS}"),
    "one in a subfolder": (into_subfolder("default"), "its subfolders have: default"),
    "checkpoints": (into_subfolder("checkpoint-10", "checkpoint-20"), "checkpoint-10, checkpoint-20"),
    "a repository of the hub's cache": (into_subfolder("snapshots/0123abc"), "its subfolders have: snapshots/0123abc"),
    "a pickle for the weights": (lambda folder: (folder / WEIGHTS).rename(folder / "adapter_model.bin"), "pickles"),
    "MLX's weights": (lambda folder: (folder / WEIGHTS).rename(folder / "adapters.safetensors"), "adapters.safetens"),
    # the weights' file
    "weights empty": (weights(lambda _: b""), "not a safetensors file"),
    "weights cut in the header": (weights(lambda data: data[:100]), "not a safetensors file"),
    "weights cut in the data": (weights(lambda data: data[:-8]), "not a safetensors file"),
    "weights with more at the end": (weights(lambda data: data + b"PK"), "not a safetensors file"),
    "a header without end": (weights(lambda data: b"\xff" * 8 + data[8:]), "not a safetensors file"),
    "a header of garbage": (weights(lambda data: data[:8] + b"{" * 64 + data[72:]), "not a safetensors file"),
    "weights a pickle": (weights(lambda _: b"\x80\x04\x95" + bytes(100)), "not a safetensors file"),
    "weights a zip": (weights(lambda _: b"PK\x03\x04" + bytes(100)), "not a safetensors file"),
    "weights a pointer of git-lfs": (weights(lambda _: b"version https://git-lfs.github.com/spec/v1\n"), "not a safet"),
    "tensors over one another": (
        header({A0: {"dtype": "F32", "shape": [2, 2], "data_offsets": [0, 16]},
                B0: {"dtype": "F32", "shape": [2, 2], "data_offsets": [8, 24]}}, 24), "not a safetensors file",
    ),
    "a shape that overflows": (
        header({A0: {"dtype": "F32", "shape": [2**62, 4], "data_offsets": [0, 16]}}, 16), "not a safetensors file",
    ),
    "a type that is not known": (
        header({A0: {"dtype": "Q4", "shape": [2, 2], "data_offsets": [0, 16]}}, 16), "not a safetensors file",
    ),
    "a type of four bits": (header({A0: {"dtype": "F4", "shape": [4, 32], "data_offsets": [0, 64]}}, 64), "no floats"),
    # its tensors
    "no tensors": (tensors(dict.clear), "no tensors"),
    "an adapter's name in it": (rename(".weight", ".default.weight"), "adapter's name in it, 'default'"),
    "without PEFT's beginning": (rename("base_model.model.", ""), "not named as PEFT names it"),
    "MLX's names": (rename("lora_A.weight", "lora_a"), "not named as PEFT names it"),
    "kohya's names": (rename("lora_A.weight", "lora_down.weight"), "not named as PEFT names it"),
    "magnitudes": (tensor(f"base_model.model.{Q0}.lora_magnitude_vector", torch.ones(32)), "lacks use_dora"),
    "an embedding": (tensor("base_model.model.model.embed_tokens.lora_embedding_A", torch.ones(4, 97)), "not A or B"),
    "the head": (tensor("base_model.model.lm_head.weight", torch.ones(97, 32)), "not A or B"),
    "a name without end": (tensor(LONG, torch.ones(1)), "not A or B"),
    "a module without end": (
        lambda folder: [
            tensor(f"base_model.model.{LONG}.lora_{name}.weight", torch.ones(4, 4))(folder) for name in "AB"
        ] + [keys(target_modules=f"model.*|{'x' * 10}.*")(folder)],
        "no such module",
    ),
    "half a pair": (tensors(lambda found: found.pop(B0)), "lora_B is missing"),
    "a convolution's": (tensor(A0, torch.ones(4, 32, 1, 1)), "4 dimensions"),
    "one dimension": (tensor(A0, torch.ones(128)), "1 dimensions"),
    "a rank of none": (tensor(A0, torch.ones(0, 32)), "A has rank 0"),
    "NaN": (tensor(A0, torch.full((4, 32), float("nan"))), "not finite"),
    "one infinity": (tensors(lambda found: found[B0].view(-1)[5].fill_(float("inf"))), "not finite"),
    "beyond fp32": (tensor(A0, torch.full((4, 32), 1e300, dtype=torch.float64)), "not finite"),
    "whole numbers": (tensor(A0, torch.ones(4, 32, dtype=torch.int8)), "torch.int8, no floats"),
    "truth values": (tensor(A0, torch.ones(4, 32, dtype=torch.bool)), "torch.bool, no floats"),
    "other shapes": (tensor(A0, torch.ones(4, 33)), "32 x 33"),
}  # fmt: skip


def take(folder: Path, base: PackedModel, model: PackedModel) -> list[str]:
    """What an audit does with a folder before it scores."""
    adapter = read_peft(folder)
    check_base_name(adapter, "some/base")
    bare = check_fits(adapter, base)
    stack_adapters([adapter], model)
    return bare


@pytest.mark.parametrize("what", BAD)
def test_a_bad_adapter_gets_one_short_message(folder, base, model, what, monkeypatch):
    change, near = BAD[what]
    if near == "takes more than":  # exponential time: any limit will do
        monkeypatch.setattr(patterns, "SECONDS", 2.0)
    change(folder)
    with pytest.raises(InputError) as error:
        take(folder, base, model)
    said = str(error.value)
    assert near in said
    assert len(said) < 10_000
    assert str(folder) in str(error.value.where)
    assert error.value.remedy


def test_of_many_patterns_the_slow_one_is_named(folder, monkeypatch):
    monkeypatch.setattr(patterns, "SECONDS", 2.0)
    keys(rank_pattern={"q_proj": 4, "mlp": 4, SLOW: 8, "up_proj": 4})(folder)
    with pytest.raises(InputError) as error:
        read_peft(folder)
    assert error.value.where == f"{folder / CONFIG}:rank_pattern.{SLOW}"


def test_an_unchanged_one_is_taken(folder, base, model):
    assert take(folder, base, model) == []


def test_a_path_that_no_file_system_takes(tmp_path):
    with pytest.raises(InputError, match="can't be read"):
        read_peft(tmp_path / ("a" * 300))


def test_a_file_for_a_folder_says_which_folder(folder):
    for name in (CONFIG, WEIGHTS):
        with pytest.raises(InputError, match="this is a file") as error:
            read_peft(folder / name)
        assert str(folder) in str(error.value.remedy)
