"""Metrics that lm-eval lacks: values worked out by hand, and that a task's metric_list reaches them."""

from __future__ import annotations

import pytest

from harness.errors import InputError
from harness.scoring.lm_eval_task import TaskData
from harness.scoring.metrics import edit_similarity, rouge_l, with_source
from harness.scoring.sari import sari
from harness.scoring.suite import Suite

SOURCE = "About 95 species are currently accepted."


def test_rouge_l_is_the_f1_of_the_longest_common_subsequence():
    # `the cat` of 3 and 4 words: precision 2/4, recall 2/3
    assert rouge_l(["the cat sat"], ["The cat, the mat"]) == pytest.approx(4 / 7)
    assert rouge_l(["same words"], ["same words"]) == 1
    assert rouge_l(["same words"], [""]) == 0


def test_edit_similarity_counts_insertions_and_deletions():
    # one letter deleted and one inserted, of 8 and 8
    assert edit_similarity(["return x"], ["return y"]) == pytest.approx(1 - 2 / 16)
    assert edit_similarity(["return x"], ["return x"]) == 1
    assert edit_similarity(["return x"], [""]) == 0


def test_sari_is_the_published_example():
    """The value that the documentation of Hugging Face's ``evaluate`` gives for it."""
    references = [
        "About 95 species are currently known.",
        "About 95 species are now accepted.",
        "95 species are now accepted.",
    ]
    assert sari(SOURCE, "About 95 you now get in.", references) == pytest.approx(0.26953601953601954)


def test_sari_of_one_word_by_hand():
    # unigrams: `a` kept as wanted, `b` deleted as wanted, `c` added as wanted; bigrams: `a b` deleted, `a c` added;
    # three and four words: there are none, which counts as 1
    assert sari("a b", "a c", ["a c"]) == 1
    # n = 1: kept a, b where only a was wanted: precision 1/2, recall 1, F1 2/3; nothing deleted: 1; c not added: 0
    # n = 2: kept `a b`, not wanted: precision 0, recall 0/0: 0; nothing deleted: 1; `a c` not added: 0
    # n = 3, 4: 1 each
    assert sari("a b", "a b", ["a c"]) == pytest.approx((2 / 3 + 1 + 0 + 0 + 1 + 0 + 6) / 12)


def test_sari_falls_with_each_wrong_edit():
    right = sari(SOURCE, "95 species are known.", ["95 species are known."])
    copied = sari(SOURCE, SOURCE, ["95 species are known."])
    empty = sari(SOURCE, "", ["95 species are known."])
    assert right == 1
    assert 0 < empty < copied < right


def _task(metric: str, **more: str) -> TaskData:
    config = {
        "output_type": "generate_until",
        "doc_to_text": "{{text}}",
        "doc_to_target": "answer",
        "generation_kwargs": {"until": ["\n"], "max_gen_toks": 8, "do_sample": False},
        "metric_list": [{"metric": metric, "aggregation": "mean", "higher_is_better": True, **more}],
    }
    rows = [{"text": "a b", "answer": "a c"}]
    return TaskData("mine", config, {"test": rows}, 0.0)


@pytest.mark.parametrize(
    ("metric", "more", "prediction", "value"),
    [
        ("rouge_l", {}, "a b", 0.5),
        ("edit_similarity", {}, "a b", 2 / 3),
        ("sari", {"source": "text"}, "a b", (2 / 3 + 1 + 1 + 6) / 12),
    ],
)
def test_a_task_names_the_metric_in_its_metric_list(metric, more, prediction, value):
    suite = Suite([_task(metric, **more)], split="test", items={})
    task = suite.tasks["mine"].task
    assert task.process_results({"text": "a b", "answer": "a c"}, [prediction]) == {metric: pytest.approx(value)}
    assert task.aggregation()[metric]([0.25, 0.75]) == 0.5
    assert suite.tasks["mine"].higher_is_better


def test_sari_without_a_source_is_refused():
    with pytest.raises(InputError, match="source") as caught:
        with_source(_task("sari").config, "mine")
    assert caught.value.remedy
