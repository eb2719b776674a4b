"""Tokenizers that are written from their parts: read by transformers as they are meant, and the same bytes anywhere."""

from __future__ import annotations

import hashlib

import gguf
import pytest
from transformers import AutoTokenizer

from harness.data.models.tokenizer_files import write_gguf_tokenizer
from harness.errors import LorabenchError

#: "Ġ" stands for a space, "âĸģ" for the three bytes of "▁".
TOKENS = ["<unk>", "<begin>", "<end>", "a", "b", "c", "Ġ", "1", "2", "â", "ĸ", "ģ", "ab", "Ġab", "Ġa"]
MERGES = ["a b", "Ġ ab", "Ġ a"]
TEMPLATE = "{% for message in messages %}<begin>{{ message['content'] }}<end>{% endfor %}"


def make_gguf(file, kind: str = "gpt2", **named: int):
    writer = gguf.GGUFWriter(file, "llama")
    writer.add_tokenizer_model(kind)
    writer.add_token_list(TOKENS)
    writer.add_token_types([3, 3, 3] + [1] * (len(TOKENS) - 3))
    writer.add_token_merges(MERGES)
    for name, place in named.items():
        getattr(writer, f"add_{name}_token_id")(place)
    writer.add_chat_template(TEMPLATE)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.close()
    return file


@pytest.fixture
def folder(tmp_path):
    write_gguf_tokenizer(make_gguf(tmp_path / "some.gguf", bos=1, eos=2, pad=2, unk=0), tmp_path)
    return tmp_path


def test_transformers_reads_it_as_the_file_says(folder):
    read = AutoTokenizer.from_pretrained(folder)
    assert (read.bos_token, read.eos_token, read.pad_token, read.unk_token) == ("<begin>", "<end>", "<end>", "<unk>")
    text = "ab ab▁ac  12<end>b"
    # No merge goes over words: "ab", " ab", "▁", "ac", " ", " 12", and the token that stands for no text.
    ids = [12, 13, 9, 10, 11, 3, 5, 6, 6, 7, 8, 2, 4]
    assert read(text)["input_ids"] == ids, "and nothing is put before or behind a text"
    assert read.decode(ids) == text
    assert read.decode(ids, skip_special_tokens=True) == "ab ab▁ac  12b"
    chat = [{"role": "user", "content": "ab"}]
    assert read.apply_chat_template(chat, tokenize=False) == "<begin>ab<end>"


def test_its_bytes_are_those_of_any_other_machine(folder):
    """A change of them is another model: it needs a new revision in the catalogue."""
    names = ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja")
    found = hashlib.sha256(b"".join((folder / name).read_bytes() for name in names)).hexdigest()
    assert found == "ddda33b8bb7b352437f50659840010b3fcc5ed501d049380e507e7d08eb967dd"


def test_a_special_token_that_is_not_named_is_none(tmp_path):
    write_gguf_tokenizer(make_gguf(tmp_path / "some.gguf", eos=2), tmp_path)
    read = AutoTokenizer.from_pretrained(tmp_path)
    assert (read.bos_token, read.eos_token, read.pad_token) == (None, "<end>", None)


def test_another_kind_is_refused(tmp_path):
    with pytest.raises(LorabenchError, match="of the kind 'llama', and only byte-level BPE"):
        write_gguf_tokenizer(make_gguf(tmp_path / "some.gguf", "llama"), tmp_path)
