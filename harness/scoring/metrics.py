"""Metrics that lm-eval lacks, by the names that a task's ``metric_list`` gives: rouge_l, edit_similarity, sari.

Each is a number from 0 to 1 an item, higher is better, and the mean over items is the score.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from typing import Any

import lm_eval.api.metrics  # noqa: F401  registers `mean`, which those here are averaged with
from lm_eval.api.registry import register_metric
from rapidfuzz import fuzz

from harness.errors import InputError
from harness.scoring.sari import sari


@register_metric(metric="rouge_l", higher_is_better=True, aggregation="mean")
def rouge_l(references: Sequence[str], predictions: Sequence[str]) -> float:
    """F1 of the longest common subsequence of words of one item; case and punctuation don't count."""
    return _rouge().score(references[0], predictions[0])["rougeL"].fmeasure


@functools.cache
def _rouge() -> Any:
    from rouge_score.rouge_scorer import RougeScorer  # with NLTK: more than a second that few studies need

    return RougeScorer(["rougeL"])


@register_metric(metric="edit_similarity", higher_is_better=True, aggregation="mean")
def edit_similarity(references: Sequence[str], predictions: Sequence[str]) -> float:
    """1 minus the insertions and deletions of characters, divided by both lengths (``ratio`` of fuzzywuzzy)."""
    return fuzz.ratio(references[0], predictions[0]) / 100


@register_metric(metric="sari", higher_is_better=True, aggregation="mean")
def _needs_source(references: Sequence[str], predictions: Sequence[str], **_: Any) -> float:
    raise AssertionError("SARI compares with the document too: see with_source")


def with_source(config: Mapping[str, Any], name: str) -> dict[str, Any]:
    """What lm-eval's configuration needs more where the score compares with the text that was asked about.

    lm-eval's metrics see the answer and the prediction alone.  ``source`` beside ``metric: sari`` names the field that
    holds that text, ``doc_to_target`` that of the answer.  Empty for other metrics.
    """
    metric = next(iter(config.get("metric_list") or ()), {})
    if metric.get("metric") != "sari":
        return {}
    if "source" not in metric:
        remedy = "write the field of the documents that holds the text to simplify"
        raise InputError("sari needs 'source' beside it", where=f"{name}:metric_list.0", remedy=remedy)
    source, answer = metric["source"], config["doc_to_target"]

    def process_results(doc: Mapping[str, Any], results: Sequence[str]) -> dict[str, float]:
        return {"sari": sari(doc[source], results[0], [doc[answer]])}

    return {"process_results": process_results}
