"""SARI (Xu et al. 2016): how well a text was simplified, from the words that were kept, deleted and added.

The corrected form that is in use everywhere (EASSE, Hugging Face's ``evaluate``, TRACE): F1 for what was kept and
added, precision for what was deleted, mean over n-grams of one to four words, and 0/0 counts as 1.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from sacrebleu.tokenizers.tokenizer_13a import Tokenizer13a

_TOKENIZE = Tokenizer13a()
_ORDERS = (1, 2, 3, 4)


def sari(source: str, prediction: str, references: Sequence[str]) -> float:
    """SARI of one text, from 0 to 1.  ``source`` is what was to be simplified; at least one reference."""
    before, after, *wanted = (_TOKENIZE(text.lower()).split() for text in (source, prediction, *references))
    scores = [
        score
        for n in _ORDERS
        for score in _scores(_ngrams(before, n), _ngrams(after, n), [_ngrams(words, n) for words in wanted])
    ]
    return sum(scores) / len(scores)


def _ngrams(words: Sequence[str], n: int) -> Counter[tuple[str, ...]]:
    return Counter(tuple(words[i : i + n]) for i in range(len(words) - n + 1))


def _scores(before: Counter, after: Counter, wanted: Sequence[Counter]) -> tuple[float, float, float]:
    """Kept (F1), deleted (precision) and added (F1) n-grams, with as many votes as there are references."""
    votes = sum(wanted, Counter())
    before_votes, after_votes = (Counter({g: n * len(wanted) for g, n in c.items()}) for c in (before, after))
    kept, to_keep = before_votes & after_votes, before_votes & votes
    well_kept = kept & votes
    keep = _f1(_mean_share(well_kept, kept), _ratio(well_kept.total(), to_keep.total()))
    deleted = before_votes - after_votes
    delete = _mean_share(deleted - votes, deleted)
    added, to_add = after.keys() - before.keys(), votes.keys() - before.keys()
    right = len(added & to_add)
    return keep, delete, _f1(_ratio(right, len(added)), _ratio(right, len(to_add)))


def _mean_share(good: Counter, all_: Counter) -> float:
    """Mean over the n-grams of the share of each that is good."""
    return _ratio(sum(good[gram] / count for gram, count in all_.items()), len(all_))


def _ratio(part: float, whole: int) -> float:
    return part / whole if whole else 1.0


def _f1(precision: float, recall: float) -> float:
    return 2 * precision * recall / (precision + recall) if precision + recall else 0.0
