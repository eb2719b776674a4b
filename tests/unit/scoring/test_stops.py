"""When an answer is over: what reading the whole text at every token says, without reading it."""

from __future__ import annotations

import random

import pytest
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from harness.scoring.stops import Stops

TEXTS = [
    "a line\nanother line.\n\nQ: why? A: é, ü — 東京。\n",
    "stop here END of it <|im_end|> and é again",
    "no no  no",
] * 3
ENDS = {1}


def byte_level() -> PreTrainedTokenizerFast:
    """Pieces of words, and parts of characters."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer, tokenizer.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    special = ["<pad>", "<|im_end|>"]
    trainer = trainers.BpeTrainer(
        vocab_size=330, special_tokens=special, initial_alphabet=pre_tokenizers.ByteLevel.alphabet()
    )
    tokenizer.train_from_iterator(TEXTS, trainer)
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<|im_end|>", pad_token="<pad>")


def metaspace() -> PreTrainedTokenizerFast:
    """A space before a word is part of it, and hidden where a text begins."""
    tokenizer = Tokenizer(models.Unigram([("<pad>", 0.0), ("</s>", 0.0), *((piece, -2.0) for piece in _pieces())]))
    tokenizer.pre_tokenizer, tokenizer.decoder = pre_tokenizers.Metaspace(), decoders.Metaspace()
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="</s>", pad_token="<pad>")


def _pieces() -> list[str]:
    characters = sorted(set("".join(TEXTS)) - {" "})
    return ["▁", "▁no", "▁END", "no", *characters]


@pytest.mark.parametrize("make", [byte_level, metaspace])
@pytest.mark.parametrize("until", [
    ["\n"], ["\n\n", "."], ["END", "\n"], ["東京"], ["é"], ["no ", "<|im_end|>"], [" "], ["Q:", "<|im_end|>"], [],
])  # fmt: skip
def test_an_answer_is_over_where_its_text_says_so(make, until):
    tokenizer, chance = make(), random.Random(0)
    stops = Stops(tokenizer, until, ENDS)
    written = [tokenizer(text, add_special_tokens=False)["input_ids"] for text in TEXTS[:3]]
    written += [[chance.randrange(len(tokenizer)) for _ in range(12)] for _ in range(200)]
    ever = 0
    for tokens in written:
        for length in range(1, len(tokens) + 1):
            answer = tokens[:length]
            wanted = answer[-1] in ENDS or any(stop in tokenizer.decode(answer) for stop in until)
            assert stops.reached([answer]) == [wanted], tokenizer.decode(answer)
            ever += wanted
            if wanted:  # nothing is added to an answer that is over
                break
    assert ever


def test_answers_are_looked_at_side_by_side():
    tokenizer = byte_level()
    line = tokenizer("\n", add_special_tokens=False)["input_ids"]
    answers = [[5, 6], [5, *line], [1], [len(tokenizer) + 7]]
    assert Stops(tokenizer, ["\n"], ENDS).reached(answers) == [False, True, True, False]
    assert Stops(tokenizer, ["\n"], ENDS).reached([]) == []
