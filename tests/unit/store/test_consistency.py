"""Records that somebody has edited: each kind of edit is found, named, and never counted."""

from __future__ import annotations

import json
import math

import pytest
from places import REFERENCE
from synthetic import facts, trial

from harness.store.consistency import misfit
from harness.store.intruders import Intruders
from harness.store.packed import Integers
from harness.store.records import Curve, TaskScores, TrialRecord, TrialSpec, pack_bits
from harness.store.results import read_trials, write_trial

ITEMS = 10


def column(*right: int) -> TaskScores:
    """Scores of a task of which so many items are right at each stage."""
    bits = [[i < n for i in range(ITEMS)] for n in right]
    means = [n / ITEMS for n in right]
    errors = [math.sqrt(mean * (1 - mean) / (ITEMS - 1)) for mean in means]
    return TaskScores(
        metric="acc", higher_is_better=True, items=ITEMS, chance=0.5, score=tuple(means), stderr=tuple(errors),
        correct=tuple(map(pack_bits, bits)),
    )  # fmt: skip


def record(seed: int = 0, **changes) -> TrialRecord:
    spec = TrialSpec(
        model="m", model_digest="d", method="lora", parameters={"learning_rate": 0.1}, seed=seed, method_digest="e",
        order="o", stream=("a", "b"), probes=("p",), task_digests={}, training={"adapter": {"alpha": 16.0}}, scoring={},
    )  # fmt: skip
    curves = (
        Curve(task="a", examples=(0, 8, 16), score=(0.1, 0.4, 0.7), tokens=(0, 80, 160)),
        Curve(task="b", examples=(0, 8, 16), score=(0.3, 0.3, 0.9), tokens=(0, 80, 160)),
    )
    part = {"matrices": 2, "distance": 0.1, "energy_share": 0.0, "delta_norm": 1.0, "relative_spectral_norm": 0.1,
            "effective_rank": 2.0}  # fmt: skip
    one, two = ({"count": count, **part} for count in (1, 2))
    found = Intruders.of({"count": 3, **part, "by_epsilon": {"0.5": 3},
                          "by_type": {"q_proj": one, "v_proj": two}, "by_layer": {"0": two, "1": one}})  # fmt: skip
    values = {
        "fingerprint": spec.fingerprint, "study": "s", "status": "ok", "spec": spec,
        "facts": facts("lora"), "stack": {"digest": "x"},
        "tasks": {"a": column(1, 7, 5), "b": column(2, 3, 9)}, "probes": {"p": column(4, 4, 3)}, "curves": curves,
        "intruders": (None, found),
    }  # fmt: skip
    return TrialRecord(**(values | changes))


EDITS = {
    "a score of 7.5": (("tasks", "a", "score", 2), 7.5, "a: the score after task 2 is 7.5, and acc is"),
    "a better score": (("tasks", "b", "score", 2), 1.0, "b: the score after task 2"),
    "a score of the base": (("tasks", "a", "score", 0), 0.2, "a: the score after task 0"),
    "a probe": (("probes", "p", "score", 2), 0.4, "p: the score after task 2"),
    "a standard error": (("tasks", "a", "stderr", 1), 0.001, "a: the standard error after task 1"),
    "items that were right": (("tasks", "a", "correct", 1), pack_bits([True] * ITEMS), "a: the score after task 1"),
    "fewer items": (("tasks", "a", "correct", 1), pack_bits([True] * 3), "are not 10 bits"),
    "no bits at all": (("tasks", "a", "correct", 1), "!!", "are not 10 bits"),
    "the number of items": (("tasks", "a", "items"), 20, "are not 20 bits"),
    "a lost list": (("tasks", "a", "correct"), ["AA=="], "3 scores, and the items of 1"),
    "no items to hold it against": (
        ("tasks", "a"),
        column(1, 7, 5).model_copy(update={"correct": (), "score": (0.1, 7.5, 0.5)}).model_dump(mode="json"),
        "7.5, and acc is from 0 to 1",
    ),
    "another seed": (("spec", "seed"), 5, "its spec is that of another trial"),
    "another rate": (("spec", "parameters", "learning_rate"), 0.2, "its spec is that of another trial"),
    "another method": (("spec", "method"), "stable_lora", "its spec is that of another trial"),
    "another alpha": (("spec", "training", "adapter", "alpha"), 32.0, "its spec is that of another trial"),
    "the end of a curve": (("curves", 0, "score", 2), 0.9, "the curve of a ends at"),
    "the start of a curve": (("curves", 1, "score", 0), 0.0, "the curve of b ends at"),
    "within a curve": (("curves", 0, "score", 1), 0.45, "no share of 10 items"),
    "whose curve it is": (("curves", 0, "task"), "b", "curve number 1 is of b"),
    "points of a curve": (("curves", 0, "tokens"), [0, 160], "points without"),
    "intruders": (("intruders", 1, "count"), 0, "intruders after task 2: 0, and 3 at 0.5"),
    "intruders of a type": (("intruders", 1, "by_type", "count"), Integers.of([0, 2]).text, "by type of projection"),
    "intruders of a layer": (("intruders", 1, "by_layer", "count"), Integers.of([1, 1]).text, "3, and 2 by layer"),
    "intruders of fewer layers": (("intruders", 1, "by_layer", "names"), "0", "'matrices' has 2 numbers for 1 names"),
    "bytes of an array": (("intruders", 1, "by_type", "distance"), "f4:AAA=", "2 bytes are no whole number of f4"),
    "an array that is none": (("intruders", 1, "by_type", "distance"), "f4:??", "it is no base64"),
    "an array of nan": (("intruders", 1, "by_type", "distance"), "f4:AADAfwAAwH8=", "is not finite"),
    "a type of number": (
        ("intruders", 1, "by_type", "count"),
        "f4:AACAPwAAAEA=",
        "begins with 'f4', not with one of i1",
    ),
    "losses": (("train_loss",), ["f4:AADAfw=="], "train_loss.0: Value error, one of its numbers is not finite"),
    "the name it has": (("fingerprint",), "0" * 32, "it is the record of trial"),
}


@pytest.mark.parametrize(("place", "value", "why"), EDITS.values(), ids=EDITS)
def test_an_edit_is_found_and_named(tmp_path, place, value, why):
    write_trial(tmp_path, record(0))
    write_trial(tmp_path, record(1))
    path = tmp_path / "trials" / f"{record(0).fingerprint}.json"
    data = json.loads(path.read_text())
    at = data
    for key in place[:-1]:
        at = at[key]
    at[place[-1]] = value
    path.write_text(json.dumps(data))
    found = read_trials(tmp_path, quarantine=True)
    assert [r.spec.seed for r in found.records] == [1]
    assert list(found.quarantined) == [path.name]
    assert why in found.quarantined[path.name]
    assert (tmp_path / "quarantine" / path.name).exists()


@pytest.mark.parametrize(("student", "method", "why"), [
    ((0.1, 0.5, 0.8), "lora_ema", None),
    ((0.2, 0.5, 0.8), "lora_ema", "student's curve of a starts at 0.2, the base is at 0.1"),
    ((0.1, 0.8), "lora_ema", "has 2 points of a student beside 3"),
    ((0.1, 0.55, 0.8), "lora_ema", "no share of 10 items"),
    ((0.1, 0.5, 0.8), "lora", "has 3 points of a student"),
])  # fmt: skip
def test_a_students_curve_fits_its_averages(student, method, why):
    made = record()
    curves = (made.curves[0].model_copy(update={"student": student}), made.curves[1])
    found = misfit(record(curves=curves, facts=facts(method)))
    assert found is None if why is None else why in str(found)


def test_a_swapped_pair_of_files_is_found(tmp_path):
    write_trial(tmp_path, record(0))
    write_trial(tmp_path, record(1))
    one, two = (tmp_path / "trials" / f"{record(seed).fingerprint}.json" for seed in (0, 1))
    texts = one.read_bytes(), two.read_bytes()
    one.write_bytes(texts[1])
    two.write_bytes(texts[0])
    found = read_trials(tmp_path)
    assert found.records == []
    assert all("it is the record of trial" in why for why in found.quarantined.values())


def test_a_task_that_the_spec_does_not_name_is_found():
    assert "its probes are none" in str(misfit(record(probes={})))
    assert misfit(record()) is None


def test_deep_json_is_damage_and_no_crash(tmp_path):
    (tmp_path / "trials").mkdir()
    (tmp_path / "trials" / f"{'0' * 32}.json").write_text("[" * 200_000)
    assert list(read_trials(tmp_path).quarantined) == [f"{'0' * 32}.json"]


def test_every_committed_record_is_of_one_piece():
    found = [read_trials(path.parent) for path in sorted(REFERENCE.glob("*/study.json"))]
    assert sum(len(readout.records) for readout in found) >= 100
    assert [dict(readout.quarantined) for readout in found if readout.quarantined] == []


@pytest.mark.parametrize("metric", ["acc", "rouge_l", "edit_similarity", "sari"])
def test_a_score_has_the_range_of_its_metric(metric):
    changes = {"metric": metric, "correct": ()}
    record = trial("lora", ("a", "b", "c"))
    tasks = {name: each.model_copy(update=changes) for name, each in record.tasks.items()}
    assert misfit(record.model_copy(update={"tasks": tasks, "curves": ()})) is None
    odd = tasks["a"].model_copy(update={"score": (*tasks["a"].score[:-1], 7.5)})
    told = misfit(record.model_copy(update={"tasks": tasks | {"a": odd}, "curves": ()}))
    assert told is not None
    assert f"is 7.5, and {metric} is from 0 to 1" in told
