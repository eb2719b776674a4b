"""Work of a pack, in units of a token's forward pass: what each loss asks for is in it."""

from __future__ import annotations

import pytest

from harness.method.registry import methods
from harness.store.records import BaseRecord, BaseScore
from harness.study import forecast, inspection
from harness.study.config import ScoringSettings, Study, TrainingSettings
from harness.study.memory import UNKNOWN, Decomposed, Shares
from harness.study.plan import Inputs, Pack, build_plan

TASKS, TEXT = {"a": 50.0, "b": 20.0}, {"plain_text": "text"}
SCORE = BaseScore(
    metric="acc", higher_is_better=True, items=10, chance=0.5, score=0.5, stderr=0.1, correct=None, tokens=900
)
BASE = BaseRecord(key="k", scores={}, train_tokens=TASKS, score_seconds=1.0, peak_memory_gib=1.0)


def packed(shares: Shares = UNKNOWN, between: str = "continue", **given: dict) -> tuple[Study, Pack]:
    """The one pack of two seeds of these methods."""
    training = TrainingSettings(between_tasks=between)
    study = Study(model="m", seeds=(0, 1), streams={"s": tuple(TASKS)}, methods=given, training=training)
    inputs = Inputs("model", dict.fromkeys(TASKS, "task"), dict.fromkeys(given, "source"), text_digests=TEXT)
    (pack,) = build_plan(study, methods(), inputs, 8, "s.yaml", None, lambda _: shares).packs
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
    assert {effort for effort, units in forecast.pack_work(study, base, pack).items() if units} == {
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


# -- what is read and decomposed at the ends of tasks -----------------------------------------------------------------

#: Two layers of q [100, 40] and down [40, 100] in a model of 1000 numbers.
SIZES = Decomposed(widest=100, layers=2, moments=2 * (40**2 + 100**2), inputs=2128.0, matrices=640.0)
#: Who starts from the base's singular directions, or looks for what is none of them.
SPECTRAL = {"pissa", "milora", "mica", "osf", "mitigate_between"}


def beside(method: str, between: str = "continue", **settings) -> list[dict[str, tuple[float, float]]]:
    """(tokens, fp64 products over the model's numbers) of two seeds at the ends of both tasks, where there are any."""
    _, pack = packed(Shares(decomposed=SIZES), between, **{method: settings})
    found = []
    for stage in range(2):
        units = {end: forecast.inspection_units(BASE, pack, stage, end) for end in ("start", "begin", "end")}
        found.append({
            end: (each["train"] / forecast.READ_UNITS, each["decompose"] / forecast.PRODUCT_UNITS)
            for end, each in units.items() if any(each.values())
        })  # fmt: skip
    return found


def test_reading_and_decomposing_is_work_as_methods_declare_it():
    """Of two rows: text for a covariance, a task's first tokens, the examples of a Fisher information."""
    few, before, after = (2 * products * SIZES.inputs for products in (2, 4, 9))
    assert beside("lora") == [{}, {}]
    assert beside("lora_null") == [{"start": (2 * 8192, few)}, {}]
    assert beside("lora_null", "reinit", text_tokens=300) == [{"start": (600, few)}] * 2
    assert beside("corda", text_tokens=300) == [{"start": (600, 2 * 3.5 * SIZES.matrices)}, {}]
    assert beside("inflora", input_tokens=20000) == [
        {"begin": (2 * 20000, before), "end": (2 * 20000, after)},
        {"begin": (2 * 512 * 20, before), "end": (2 * 512 * 20, after)},
    ], "a task has no more than its examples"
    assert beside("eva", eva_tokens=30) == [{"start": (2 * 10 * 50, 2 * 1.3 * SIZES.matrices)}, {}]
    over = forecast.TRAIN_UNITS / forecast.READ_UNITS
    assert beside("lora_ewc", fisher_examples=8) == [{"end": (2 * 8 * n * over, 0)} for n in TASKS.values()]


def test_rows_of_one_seed_start_once_with_the_first_task():
    for between, later in (("continue", 0), ("reinit", 4)):
        _, pack = packed(UNKNOWN, between, corda={"learning_rate": [1e-4, 2e-4], "text_tokens": 300})
        assert len(pack.rows) == 4
        read = [forecast.inspection_units(BASE, pack, stage, "start")["train"] for stage in range(2)]
        assert [units / forecast.READ_UNITS for units in read] == [2 * 300, later * 300]


def test_a_text_is_read_again_where_moments_have_no_place(monkeypatch):
    monkeypatch.setattr(inspection, "MOMENT_BYTES", 4 * SIZES.moments - 1)
    assert beside("lora_null", text_tokens=300)[0]["start"][0] == 2 * 2 * 300
    monkeypatch.setattr(inspection, "MOMENT_BYTES", 1)
    assert beside("lora_null", text_tokens=300)[0]["start"][0] == 2 * 2 * 300, "a layer at a time"


def test_all_of_it_is_in_the_work_of_a_pack():
    study, pack = packed(Shares(decomposed=SIZES), inflora={})
    base = BASE.model_copy(update={"scores": dict.fromkeys(TASKS, SCORE)})
    work = forecast.pack_work(study, base, pack)
    ends = [forecast.inspection_units(BASE, pack, stage, "start", "begin", "end") for stage in range(2)]
    steps = sum(forecast.stage_train_units(BASE, pack, stage) for stage in range(2))
    assert work["train", "low-rank"] == pytest.approx(steps + sum(each["train"] for each in ends))
    assert work["decompose", "low-rank"] == pytest.approx(sum(each["decompose"] for each in ends))


def test_who_looks_at_the_base_s_decompositions_says_so():
    study = Study(model="m", seeds=(0,), streams={"s": ("a",)}, methods={"lora": {}})
    without = study.model_copy(update={"scoring": ScoringSettings(intruders_after="never")})
    for name, method in methods().items():
        recipe = method.compose(method.settings().resolved(64))
        assert forecast.takes_spectra(study, recipe) == (recipe.adapter is not None), name
        assert forecast.takes_spectra(without, recipe) == (name in SPECTRAL), name
