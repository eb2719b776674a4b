"""How texts become tokens: lm-eval's encoding, with the special tokens of its HF model, for requests and examples."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import lru_cache
from typing import Any, NamedTuple

from jinja2 import TemplateError
from lm_eval import utils
from lm_eval.api.model import TemplateLM
from lm_eval.models.utils import has_bos_prefix

from harness.errors import InputError

#: Texts whose tokens are remembered: lm-eval encodes the context again for each of its answers.
LATELY = 16

#: (context, answer) -> the tokens of each.
EncodePair = Callable[[str, str], tuple[list[int], list[int]]]


def _one_by_one(pairs: Iterable[tuple[str, str]]) -> None:
    """Nothing is encoded ahead."""


class Encoder(NamedTuple):
    """Texts to tokens, as the requests that are scored are encoded."""

    pair: EncodePair
    end: int | None  #: the token that ends a generated answer; None where nothing marks the end
    ahead: Callable[[Iterable[tuple[str, str]]], None] = _one_by_one  #: is told which pairs will be asked for


class EncodingLM(TemplateLM):
    """lm-eval's model interface as far as texts become tokens.

    ``vocabulary`` counts the tokens that the model has an embedding for; a tokenizer that says another is an
    InputError.  A request has at most ``max_length`` tokens.
    """

    def __init__(self, tokenizer: Any, *, vocabulary: int, max_length: int) -> None:
        super().__init__()
        self.tokenizer, self.vocabulary, self.max_length = tokenizer, vocabulary, max_length
        self._known([self.eot_token_id, self.prefix_token_id])
        self._encoded_lately = lru_cache(LATELY)(self._encode)
        self._ahead: dict[str, list[int]] = {}

    @property
    def encoder(self) -> Encoder:
        """What encodes training examples."""
        return Encoder(self._encode_pair, self.eot_token_id, self.encode_ahead)

    @property
    def eot_token_id(self) -> int:
        return self.tokenizer.eos_token_id

    @property
    def prefix_token_id(self) -> int:
        bos = self.tokenizer.bos_token_id
        return self.eot_token_id if bos is None else bos

    def tok_encode(self, string: str, add_special_tokens: bool | None = None, **kwargs: Any) -> list[int]:
        """As lm-eval's HF model encodes: special tokens as the tokenizer adds them, no second BOS."""
        if add_special_tokens is None and self._begins(string):
            add_special_tokens = False
        return [*self._encoded_lately(string, add_special_tokens)]

    def _begins(self, text: str) -> bool:
        """Whether a text brings the special token along that one begins with, as chats do."""
        return has_bos_prefix(text, self.tokenizer.decode(self.prefix_token_id))

    def encode_ahead(self, pairs: Iterable[tuple[str, str]]) -> None:
        """Encode at once, on all cores, what is going to be asked for of these contexts and answers.

        What lm-eval asks for else is encoded when it is.
        """
        texts: dict[str, None] = {}
        for context, answer in pairs:
            asked = context.rstrip()  # lm-eval moves spaces to the answer
            if asked and not self._begins(asked):
                texts |= dict.fromkeys((context + answer, asked))
        if texts:
            self._ahead = dict(zip(texts, self.tokenizer([*texts])["input_ids"], strict=True))

    def _encode(self, string: str, add_special_tokens: bool | None) -> list[int]:
        if add_special_tokens is None and string in self._ahead:
            return self._known(self._ahead.pop(string))
        extra = {} if add_special_tokens is None else {"add_special_tokens": add_special_tokens}
        return self._known(self.tokenizer.encode(string, **extra))

    def _known(self, tokens: list[int]) -> list[int]:
        """The tokens, if the model has an embedding for each."""
        size = self.vocabulary
        if beyond := [token for token in tokens if token >= size]:
            raise InputError(
                f"the tokenizer says token {beyond[0]} '{self.tokenizer.convert_ids_to_tokens(beyond[0])}', and the "
                f"model knows {size}",
                where=f"{self.tokenizer.name_or_path}/tokenizer.json",
                remedy="give a folder whose tokenizer and weights are of one model",
            )
        return tokens

    @property
    def has_chat_template(self) -> bool:
        return bool(getattr(self.tokenizer, "chat_template", None))

    def apply_chat_template(self, chat_history: list[dict[str, str]], add_generation_prompt: bool = True) -> str:
        """A conversation as the model's template writes it; without its system turn where the template refuses one."""

        def render(turns: list[dict[str, str]]) -> str:
            return self.tokenizer.apply_chat_template(
                turns,
                tokenize=False,
                add_generation_prompt=add_generation_prompt,
                continue_final_message=not add_generation_prompt,
            )

        try:
            return render(chat_history)
        except TemplateError:
            return render([turn for turn in chat_history if turn["role"] != "system"])

    def encode_request(self, context: str, continuation: str) -> tuple[list[int], list[int]]:
        """lm-eval's encoding of one request, the empty context included (``TemplateLM.loglikelihood``)."""
        if context:
            pair = self._encode_pair(context, continuation)
        else:
            answer = self.tok_encode(continuation, add_special_tokens=False)
            prefix = self.prefix_token_id
            pair = (answer[:1], answer[1:]) if answer[:1] == [prefix] else ([prefix], answer)
        if not pair[0]:  # only spaces, which lm-eval moves to the answer: something must predict its first token
            pair = ([self.prefix_token_id], pair[1])
        if not pair[1] or len(pair[1]) > self.max_length:
            raise InputError(
                f"an answer has {len(pair[1])} tokens; it needs at least 1 and at most max_length ({self.max_length})",
                where=repr(continuation[:60]),
                remedy="correct the task, or raise scoring.max_length in the study",
            )
        return pair

    def rolling_windows(self, text: str) -> list[tuple[list[int], list[int]]]:
        windows = utils.get_rolling_token_windows(
            token_list=self.tok_encode(text),
            prefix_token=self.prefix_token_id,
            max_seq_len=self.max_length,
            context_len=1,
        )
        return [utils.make_disjoint_window(window) for window in windows]
