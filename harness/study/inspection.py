"""What parts of a recipe do at the ends of a task, beside its steps: they read, and decompose what they have read.

Methods declare it (``inspects``), so that a forecast counts it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from harness.study.memory import Decomposed

#: As an adapter starts; before the first step of every task; after the last one.
When = Literal["start", "begin", "end"]

#: Tokens of text that are read where a start does not say how many: at least, and for each input of the widest matrix.
LEAST_TOKENS, TOKENS_PER_INPUT = 8192, 6
#: Tokens of an answer, where a reader asks for so many of answers: they have 1 to 5 in most tasks.  An estimate.
ANSWER_TOKENS = 3
#: Bytes of second moments that are held at once, but for those of one layer: where a model has more, what is read is
#: read again for the next layers.  SmolLM2-135M takes half of it, so it reads once.
MOMENT_BYTES = 10**9


@dataclass(frozen=True)
class Inspection:
    """Reading at one end of a task, and what is decomposed there."""

    when: When
    #: What is read, at most how much of it: text (``reads_text``) or the trial's examples of the task, by their tokens,
    #: for second moments (0 of text: as many as a covariance wants); examples by the tokens of their answers, or by
    #: their number.
    reads: Literal["text", "tokens", "answers", "examples"] | None = None
    most: int = 0
    gradient: bool = False  #: whether what is read goes back through the model as well
    #: What is decomposed, in multiply-adds of fp64: those for each input of n numbers over n^3 (``method.eigen`` says
    #: what eigenvectors take), and those for each adapted matrix [m, n] over m n min(m, n).
    inputs: float = 0.0
    matrices: float = 0.0

    def tokens(self, examples: int, length: float, sizes: Decomposed) -> float:
        """Tokens that it reads, of a task of so many ``examples`` that are so long in the mean."""
        match self.reads:
            case "text":
                return _passes(sizes) * text_tokens(self.most, sizes.widest)
            case "tokens":
                return _passes(sizes) * min(self.most, examples * length)
            case "answers":
                return length * min(examples, -(-self.most // ANSWER_TOKENS))
            case "examples":
                return length * min(examples, self.most)
            case None:
                return 0.0

    def products(self, sizes: Decomposed) -> float:
        """fp64 multiply-adds of what it decomposes, over the model's numbers."""
        return self.inputs * sizes.inputs + self.matrices * sizes.matrices


def text_tokens(asked: int, widest: int) -> int:
    """Tokens of text from which a covariance is taken: ``asked``, or as many as it wants where that is 0."""
    return asked or max(LEAST_TOKENS, TOKENS_PER_INPUT * widest)


def _passes(sizes: Decomposed) -> int:
    """How often a text is read whose moments are held ``MOMENT_BYTES`` at a time, of layers that are alike."""
    layers = max(1, int(MOMENT_BYTES * sizes.layers / (4 * sizes.moments))) if sizes.moments else sizes.layers
    return -(-sizes.layers // layers)
