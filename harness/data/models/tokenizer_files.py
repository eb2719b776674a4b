"""Tokenizers of models that are made on this machine, written from their parts alone, byte for byte.

What transformers makes of a GGUF's tokenizer depends on its version: 5.17 takes ``<|im_start|>`` for SmolLM2's end and
decodes ``▁`` as a space, 5.23 reads both as the file says.  The same model has to be the same everywhere.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harness.errors import LorabenchError

#: GGUF's number for a token that stands for no text.
CONTROL = 3
#: The field of a GGUF with the place of a special token -> what transformers calls it.
NAMED = {"bos": "bos_token", "eos": "eos_token", "padding": "pad_token", "unknown": "unk_token"}


@dataclass(frozen=True)
class Vocabulary:
    """A byte-level BPE: tokens in the order of their ids, merges in the order of their rank."""

    tokens: Sequence[str]
    merges: Sequence[tuple[str, str]]
    control: Sequence[str]  #: tokens that stand for no text, in the order of their ids
    words: bool  #: whether a text is split into words first, over which no merge goes


def write_tokenizer(folder: Path, vocabulary: Vocabulary, settings: Mapping[str, Any]) -> None:
    """``tokenizer.json``, in the format 1.0 of the tokenizers library, and ``tokenizer_config.json``."""
    bytes_ = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": vocabulary.words}
    number = {token: place for place, token in enumerate(vocabulary.tokens)}
    _write(folder / "tokenizer.json", {
        "version": "1.0", "truncation": None, "padding": None,
        "added_tokens": [_control(number[token], token) for token in vocabulary.control],
        "normalizer": None, "pre_tokenizer": bytes_, "post_processor": None, "decoder": bytes_,
        "model": {
            "type": "BPE", "dropout": None, "unk_token": None, "continuing_subword_prefix": None,
            "end_of_word_suffix": None, "fuse_unk": False, "byte_fallback": False, "ignore_merges": False,
            "vocab": number, "merges": list(map(list, vocabulary.merges)),
        },
    })  # fmt: skip
    _write(folder / "tokenizer_config.json", {
        "tokenizer_class": "PreTrainedTokenizerFast", "clean_up_tokenization_spaces": False, **settings,
    })  # fmt: skip


def write_gguf_tokenizer(gguf: Path, folder: Path) -> None:
    """The tokenizer of a GGUF, with its chat template.

    Raises LorabenchError for another kind than byte-level BPE (``gpt2``), which is all that the catalogue has.
    """
    from gguf import GGUFReader

    fields = {
        name.removeprefix("tokenizer.ggml."): field.contents()
        for name, field in GGUFReader(gguf).fields.items() if name.startswith("tokenizer.")
    }  # fmt: skip
    if fields["model"] != "gpt2":
        what = f"this file has a tokenizer of the kind '{fields['model']}', and only byte-level BPE ('gpt2') is read"
        raise LorabenchError(what, where=str(gguf), remedy="take another file of the model for the catalogue")
    tokens = fields["tokens"]
    control = [token for token, kind in zip(tokens, fields["token_type"], strict=True) if kind == CONTROL]
    merges = [(left, right) for left, _, right in (merge.partition(" ") for merge in fields["merges"])]
    named = {
        name: tokens[place] for field, name in NAMED.items()
        if (place := fields.get(f"{field}_token_id")) is not None
    }  # fmt: skip
    write_tokenizer(folder, Vocabulary(tokens, merges, control, words=True), named)
    (folder / "chat_template.jinja").write_text(fields["tokenizer.chat_template"], encoding="utf-8")


def _control(number: int, token: str) -> dict[str, Any]:
    alone = dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized"), False)
    return {"id": number, "content": token, **alone, "special": True}


def _write(file: Path, content: Mapping[str, Any]) -> None:
    file.write_text(json.dumps(content, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
