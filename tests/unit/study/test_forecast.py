"""Work of a pack, in units of a token's forward pass: what each loss asks for is in it."""

from __future__ import annotations

import pytest

from harness.method.registry import methods
from harness.store.records import BaseRecord, BaseScore
from harness.study import forecast
from harness.study.config import Study
from harness.study.plan import Inputs, Pack, build_plan

TASKS = {"a": 50.0, "b": 20.0}
SCORE = BaseScore(
    metric="acc", higher_is_better=True, items=10, chance=0.5, score=0.5, stderr=0.1, correct=None, tokens=900
)
BASE = BaseRecord(key="k", scores={}, train_tokens=TASKS, score_seconds=1.0, peak_memory_gib=1.0)


def packed(**given: dict) -> tuple[Study, Pack]:
    """The one pack of two seeds of these methods."""
    study = Study(model="m", seeds=(0, 1), streams={"s": tuple(TASKS)}, methods=given)
    inputs = Inputs("model", dict.fromkeys(TASKS, "task"), dict.fromkeys(given, "source"))
    (pack,) = build_plan(study, methods(), inputs, 8, "s.yaml").packs
    return study, pack


def units(method: str, **settings) -> float:
    """Of training two seeds on the second task of a stream."""
    return forecast.stage_train_units(BASE, packed(**{method: settings})[1], 1)


def test_every_part_of_a_loss_is_work():
    tokens = 2 * 512 * TASKS["b"]
    train, teacher, sampling = forecast.TRAIN_UNITS, forecast.TEACHER_UNITS, forecast.SAMPLING_UNITS
    shown = teacher * forecast.DEMONSTRATED
    assert units("lora") == pytest.approx(tokens * train)
    assert units("self_distill") == pytest.approx(tokens * (train + teacher))
    assert units("self_distill", demonstration=True) == pytest.approx(tokens * (train + shown))
    assert units("self_distill", tokens="own") == pytest.approx(tokens * (2 * train + teacher + sampling))
    assert units("sdft", tokens="given") == pytest.approx(tokens * (train + shown))
    assert units("sdft") == units("combined_on_policy") == pytest.approx(tokens * (train + shown + sampling))


def test_before_a_teacher_is_asked_it_costs_nothing():
    recipe = methods()["self_distill"]
    loss = recipe.compose(recipe.settings(tokens="own").resolved(64)).loss
    assert forecast.token_units(loss, taught=False) == forecast.TRAIN_UNITS


KINDS = {
    "lora": ("low-rank", "low-rank"), "lora_ema": ("low-rank", "low-rank"), "pissa": ("low-rank", "low-rank"),
    "dora": ("scaled", "scaled"), "full_finetune": ("dense", "dense"), "lora_ema_product": ("low-rank", "dense"),
    "sdft": ("sampling", "low-rank"), "combined_on_policy": ("sampling", "low-rank"),
}  # fmt: skip


@pytest.mark.parametrize("method", KINDS)
def test_a_forecast_knows_what_is_trained_and_what_is_scored(method):
    (first, _) = packed(**{method: {}})[1].trials
    assert (forecast.trained_kind(first), forecast.scored_kind(first)) == KINDS[method]


def test_an_average_that_is_cut_to_a_rank_is_scored_as_low_rank():
    (first, _) = packed(lora_ema_product={"keep_rank": 8})[1].trials
    assert forecast.scored_kind(first) == "low-rank"


def test_dense_changes_have_costs_of_their_own():
    scores = dict.fromkeys(TASKS, SCORE)
    base = BASE.model_copy(update={"scores": scores})
    parts = {}
    for method in ("lora", "dora", "full_finetune", "lora_ema_product"):
        study, pack = packed(**{method: {}})
        work = forecast.pack_work(study, base, pack)
        assert forecast.pack_units(study, base, pack) == pytest.approx(forecast.START_UNITS + sum(work.values()))
        parts[method] = {part: units for (part, _), units in work.items()}
    plain = parts.pop("lora")
    over = {
        method: [each[part] / plain[part] for part in ("train", "score", "analysis")] for method, each in parts.items()
    }
    train, analysis = forecast.DENSE_TRAIN, forecast.DENSE_INTRUDERS
    assert over["dora"] == pytest.approx([1, 1, analysis])
    assert over["full_finetune"] == pytest.approx([train, forecast.DENSE_SCORE, analysis])
    assert over["lora_ema_product"][0] == pytest.approx(1)
    assert 1 < over["lora_ema_product"][1] <= forecast.DENSE_SCORE + 1, "and its student's curve, where that is taken"
    assert over["lora_ema_product"][2] == pytest.approx(analysis)


def test_work_of_a_pack_with_both_is_of_the_most_costly():
    study, pack = packed(lora={}, lora_ema_product={})
    base = BASE.model_copy(update={"scores": dict.fromkeys(TASKS, SCORE)})
    assert set(forecast.pack_work(study, base, pack)) == {
        ("train", "low-rank"), ("score", "dense"), ("analysis", "dense"),
    }  # fmt: skip


COUNTS = {
    "lora": (1, False), "self_distill": (2, False), "lora_ema": (1, False), "sdft": (2, True),
    "combined_on_policy": (2, True),
}  # fmt: skip


@pytest.mark.parametrize("method", COUNTS)
def test_the_passes_of_a_step_are_counted(method):
    counts = forecast.pack_counts(*packed(**{method: {}}))
    assert (counts.passes, counts.samples) == COUNTS[method]
    assert (counts.tasks, counts.steps) == (2, 2 * 512 // 8), "of a pack, however many rows it has"
