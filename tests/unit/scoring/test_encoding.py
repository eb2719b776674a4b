"""What is encoded together is what is encoded one by one."""

from __future__ import annotations

from harness.scoring.encoding import EncodingLM


class Letters:
    """A token a letter; ``calls`` has what was asked for, together or alone."""

    eos_token_id, bos_token_id, name_or_path = 0, None, "letters"

    def __init__(self) -> None:
        self.calls: list[list[str] | str] = []

    def __call__(self, texts: list[str]) -> dict[str, list[list[int]]]:
        self.calls.append(texts)
        return {"input_ids": [[*map(ord, text)] for text in texts]}

    def encode(self, text: str, **_: bool) -> list[int]:
        self.calls.append(text)
        return [*map(ord, text)]

    def decode(self, _: int) -> str:
        return "<end>"


class Encodes(EncodingLM):
    def _nothing(self, *_):
        raise NotImplementedError

    loglikelihood = loglikelihood_rolling = generate_until = _loglikelihood_tokens = _nothing


PAIRS = [("one ", "a"), ("one ", "bc"), ("two", " d"), ("", "e"), ("<end>three", "f")]


def encoded(ahead: bool) -> tuple[list, list]:
    tokenizer = Letters()
    lm = Encodes(tokenizer, vocabulary=1000, max_length=100)
    if ahead:
        lm.encode_ahead(PAIRS)
    return [lm.encode_request(*pair) for pair in PAIRS], tokenizer.calls


def test_ahead_gives_the_tokens_that_one_by_one_gives():
    (found, calls), (wanted, alone) = encoded(True), encoded(False)
    assert found == wanted
    # At once; then what has no context, and what begins with the special token, which is not added again.
    assert calls == [["one a", "one", "one bc", "two d", "two"], "e", "<end>threef", "<end>three"]
    assert alone.count("one") == 1, "the context of several answers"


def test_a_text_that_nobody_announced_is_encoded():
    lm = Encodes(Letters(), vocabulary=1000, max_length=100)
    lm.encode_ahead(PAIRS[:1])
    assert lm.tok_encode("new") == [*map(ord, "new")]
