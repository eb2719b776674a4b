"""When a generated answer is over: at a token that ends a text, or at a stop string."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any

import numpy as np

#: What a tokenizer writes for a part of a character.
PART = "\N{REPLACEMENT CHARACTER}"


class Stops:
    """Of one tokenizer and one way of decoding.

    A text is read only where its last token can complete a stop string: 2,420 open answers cost 30 ms a token to read,
    and the pass of a small model on a GPU 20.
    """

    def __init__(self, tokenizer: Any, until: Sequence[str], ends: Collection[int]) -> None:
        """``ends`` are the tokens that end a text."""
        self.tokenizer, self.until = tokenizer, tuple(until)
        # no token is shorter than a byte
        self._reach = max((len(stop.encode()) for stop in until), default=0) + 4
        pieces = tokenizer.batch_decode([[token] for token in range(len(tokenizer))]) if until else []
        self._completes = np.array([self._may_complete(piece) for piece in pieces], dtype=bool)
        self._ends = np.array(sorted(ends), dtype=np.int64)

    def _may_complete(self, piece: str) -> bool:
        """Whether a token of this text may bring the last character of a stop string; a space may be hidden in any."""
        lasts = {stop[-1:] for stop in self.until}
        return PART in piece or bool(lasts & {"", " "}) or any(last in piece for last in lasts)

    def reached(self, answers: Sequence[Sequence[int]]) -> list[bool]:
        """Which answers of at least one token are over with their last one, if they were not before."""
        lasts = np.array([answer[-1] for answer in answers], dtype=np.int64)
        over = np.isin(lasts, self._ends)
        known = lasts < len(self._completes)
        read = ~over & (self._completes[np.where(known, lasts, 0)] | ~known) if self.until else np.zeros_like(over)
        chosen = np.flatnonzero(read).tolist()
        # transformers decodes no list as one empty text
        tails = self.tokenizer.batch_decode([list(answers[i][-self._reach :]) for i in chosen]) if chosen else []
        for i, tail in zip(chosen, tails, strict=True):
            over[i] = any(stop in tail and stop in self.tokenizer.decode(list(answers[i])) for stop in self.until)
        return over.tolist()
