"""``lorabench mitigate`` on made-up and toy trials: what it says and refuses, what it scores, where it writes."""

from __future__ import annotations

import csv
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import campaigns
import pytest
import torch
from campaigns import QUIET, TOY
from helpers import packed_model
from synthetic import QUICK, failed, trial

from harness.analysis import continual
from harness.engine.adapters.files import save_adapters
from harness.engine.adapters.layout import Layout
from harness.errors import InputError
from harness.posthoc import mitigation
from harness.report import write_mitigation
from harness.report.mitigation import mean_effects
from harness.running import campaign
from harness.scoring.scorer import Scorer
from harness.store import write_trial
from harness.study.config import AdapterSettings

TRIALS: Any = [SimpleNamespace(fingerprint=f"{n}abc") for n in range(3)]


@pytest.fixture
def lorabench(in_process, monkeypatch, tmp_path):
    """``lorabench(rows, ...)``: the exit status and what is printed, where ``rows`` are what was found."""

    def call(rows: list[dict], *arguments: str) -> tuple[int, str, str]:
        found = SimpleNamespace(
            folder=tmp_path, study=SimpleNamespace(name="smoke", device="cpu", dtype="bfloat16"),
            plan=SimpleNamespace(fingerprints=()), model=SimpleNamespace(path=tmp_path),
        )  # fmt: skip
        monkeypatch.setattr(campaign, "load_campaign", lambda *_, **__: found)
        monkeypatch.setattr(mitigation, "find_trials", lambda *_: TRIALS)
        monkeypatch.setattr(mitigation, "read_adapters", lambda *_: ([(trial, None) for trial in TRIALS], []))
        monkeypatch.setattr(mitigation, "mitigate", lambda *_: rows)
        return in_process("mitigate", *arguments)

    return call


def row(arm: str, seed: int, kind: str, keep: float, forgetting: float, last: float) -> dict:
    return {
        "trial": f"{arm}{seed}", "arm": arm, "order": "a", "seed": seed, "which": "first", "kind": kind, "keep": keep,
        "forgetting": forgetting, "last_task_accuracy": last, "general_delta": None, "score_x": last,
    }  # fmt: skip


ROWS = [
    row("lora", seed, kind, keep, 0.2 - gain * (seed + 1), 0.8 - 0.01 * (1 - keep))
    for seed in range(3)
    for kind, keep, gain in (("trained", 1.0, 0.0), ("rescored", 1.0, 0.0), ("mitigated", 0.5, 0.04),
                             ("control", 0.5, 0.01))
]  # fmt: skip


def test_without_intruders_it_says_so_and_is_done(lorabench, tmp_path):
    status, out, _ = lorabench([], "smoke")
    assert status == 0
    assert "no intruder dimensions in 3 trials: nothing to mitigate" in out
    assert not (tmp_path / "mitigation").exists()


def test_it_says_where_the_results_are(lorabench, tmp_path):
    status, out, _ = lorabench(ROWS, "smoke")
    assert status == 0
    assert f"3 of 3 trials have intruder dimensions; results: {tmp_path / 'mitigation' / 'first'}" in out
    assert "differ from their records" not in out
    with (tmp_path / "mitigation" / "first" / "scores.csv").open(newline="") as file:
        found = list(csv.DictReader(file))
    assert len(found) == 12
    assert float(found[2]["score_x"]) == pytest.approx(0.795)


def test_no_call_overwrites_the_results_of_another(lorabench, tmp_path):
    calls = (["smoke"], ["smoke", "--which", "all"], ["0abc"], ["0abc", "--which", "all"])
    for call in calls:
        assert lorabench(ROWS, *call)[0] == 0
    folders = {path.parent.name for path in (tmp_path / "mitigation").glob("*/scores.csv")}
    assert folders == {"first", "all", "first-0abc", "all-0abc"}


def test_scores_that_differ_from_the_record_are_told(lorabench):
    rows = [{**row, "score_x": row["score_x"] + (row["kind"] == "trained") / 64} for row in ROWS]
    assert (
        "scored again, 3 of them differ from their records by the rounding of bfloat16" in lorabench(rows, "smoke")[1]
    )


@pytest.mark.parametrize("keep", ["", "half", "1.01", "-0.5", "0.5,2", "nan"])
def test_a_part_that_is_none_is_refused(lorabench, keep):
    status, _, err = lorabench(ROWS, "smoke", "--keep", keep)
    assert status == 2
    assert "--keep" in err


def test_another_choice_of_intruders_is_refused(lorabench):
    status, _, err = lorabench(ROWS, "smoke", "--which", "second")
    assert status == 2
    assert "--which: 'second' is none of first, all" in err


def test_changes_are_against_the_same_trial_as_rescored():
    """Not against the record, which was scored among others."""
    rows = [{**row, "forgetting": 9.0, "last_task_accuracy": 9.0} if row["kind"] == "trained" else row for row in ROWS]
    found = {(p["kind"], p["quantity"]): p for p in mean_effects(rows)}
    assert found["mitigated", "forgetting recovered"]["mean"] == pytest.approx(0.08)
    assert found["control", "forgetting recovered"]["mean"] == pytest.approx(0.02)
    assert found["mitigated", "accuracy lost"]["mean"] == pytest.approx(0.005)
    assert found["mitigated", "forgetting recovered"]["trials"] == 3
    assert not any("general" in quantity for _, quantity in found), "no probe was scored"


def test_a_variant_that_diverged_is_left_out(tmp_path):
    broken = [
        {k: v for k, v in r.items() if k not in ("forgetting", "last_task_accuracy")}
        if r["kind"] == "mitigated" else r for r in ROWS
    ]  # fmt: skip
    assert {p["kind"] for p in mean_effects(broken)} == {"control"}
    columns = (
        "trial",
        "arm",
        "order",
        "seed",
        "which",
        "kind",
        "keep",
        "forgetting",
        "last_task_accuracy",
        "general_delta",
    )
    written = write_mitigation(broken, columns, tmp_path)
    assert all(path.stat().st_size for path in written)


def kept(folder, fingerprint, model, rank, scaling, vectors=()):
    """An adapter of random values as a pack keeps it; its values."""
    layout = Layout(model.slots, rank, vectors)
    values = torch.randn(layout.size, generator=torch.Generator().manual_seed(rank))
    path = folder / "adapters" / f"{fingerprint}.safetensors"
    save_adapters(path, layout, [(fingerprint, values)], "tiny", AdapterSettings(), [scaling])
    return values


def test_trials_without_low_rank_are_left_out_and_alone_refused(tmp_path):
    kept(tmp_path, "0abc", packed_model(), 2, 0.5)
    kept(tmp_path, "1abc", packed_model(), 2, 0.5, vectors=("magnitude",))
    adapters, left_out = mitigation.read_adapters(tmp_path, TRIALS)
    assert [trial.fingerprint for trial, _ in adapters] == ["0abc"]
    assert len(left_out) == 2
    assert "1abc scales rows of the base" in left_out[0]
    assert "no adapter of trial 2abc was kept" in left_out[1]
    with pytest.raises(InputError, match="scales rows"):
        mitigation.read_adapters(tmp_path, TRIALS[1:2])


# -- which trials -----------------------------------------------------------------------------------------------------


@pytest.fixture
def results(tmp_path):
    """Results of a study: two finished trials, one of them not planned any more, a control and one that diverged."""
    records = {"lora": trial("lora", QUICK), "old": trial("lora", QUICK, seed=1), "frozen": trial("frozen", QUICK),
               "lost": failed("combined", QUICK)}  # fmt: skip
    for record in records.values():
        write_trial(tmp_path, record)
    return tmp_path, {name: record.fingerprint for name, record in records.items()}


def test_a_study_has_its_planned_finished_trained_trials(results):
    folder, names = results
    found = mitigation.find_trials(folder, {names["lora"], names["frozen"], names["lost"]}, None)
    assert [record.fingerprint for record in found] == [names["lora"]]
    assert mitigation.find_trials(folder, {names["lora"]}, names["lora"][:10]) == found


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("frozen", "'frozen' trains nothing, so there is no adapter"),
        ("lost", "this trial of 'combined' did not finish: diverged"),
        ("old", "of another version of the study"),
    ],
)
def test_a_trial_without_an_adapter_is_refused_with_why(results, name, words):
    folder, names = results
    planned = set(names.values()) - {names["old"]}
    with pytest.raises(InputError, match=words):
        mitigation.find_trials(folder, planned, names[name])


def test_a_fingerprint_of_nobody_or_of_many_is_refused(results):
    for beginning, count in (("no such", 0), ("", 4)):
        with pytest.raises(InputError, match=f"{count} trials begin with"):
            mitigation.find_trials(results[0], set(), beginning)


# -- scores -----------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def toy(shared_cache, tmp_path_factory) -> Iterator[dict[str, Any]]:
    """Arguments of ``mitigate`` for a finished toy study in bfloat16, whose rates are high enough for intruders."""
    folder = tmp_path_factory.mktemp("study")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LORABENCH_CACHE", str(shared_cache))
        hot = {"learning_rate": 0.05}
        study = TOY | {
            "dtype": "bfloat16", "seeds": [0, 1], "training": {"examples": 64}, "scoring": {"items": 64},
            "methods": {"lora": hot, "lora_ema_product@cut": hot | {"keep_rank": 2}},
        }  # fmt: skip
        found = campaigns.load(campaigns.write_study(folder, study), folder / "out")
        campaigns.run(found)
        trials = mitigation.find_trials(found.folder, found.plan.fingerprints, None)
        adapters, _ = mitigation.read_adapters(found.folder, trials)
        yield {"study": found.study, "model": found.model.path, "adapters": adapters, "device": "cpu", "watcher": QUIET}


def scores(row: dict[str, Any]) -> dict[str, float]:
    return {key: value for key, value in row.items() if key.startswith("score_")}


def test_trained_rows_are_the_records_to_the_last_item(toy):
    rows = mitigation.mitigate(**toy, which="first", keeps=[0.5])
    trained = [row for row in rows if row["kind"] == "trained"]
    assert {row["arm"] for row in trained} == {"lora", "lora_ema_product@cut"}
    records = {record.fingerprint[:12]: record for record, _ in toy["adapters"]}
    for row in trained:
        record = records[row["trial"]]
        assert scores(row) == {f"score_{name}": task.score[-1] for name, task in record.tasks.items()}
        assert row["forgetting"] == continual.forgetting(record.matrix())
        assert row["intruder_count"] == record.intruders[-1].count > 0


def test_scores_do_not_depend_on_what_else_is_asked(toy, monkeypatch):
    """In bfloat16 they would, through the size of a pass and the rank that adapters are padded to."""
    sizes, ask = set(), Scorer.score

    def score(self, tasks, values, scaling, progress, layout):
        sizes.add((len(values), layout.rank))
        return ask(self, tasks, values, scaling, progress, layout)

    monkeypatch.setattr(Scorer, "score", score)
    few = mitigation.mitigate(**toy, which="first", keeps=[0.5])
    many = mitigation.mitigate(**toy, which="first", keeps=[0.0, 0.25, 0.5, 0.75, 1.0])
    alone = mitigation.mitigate(**toy | {"adapters": toy["adapters"][:1]}, which="first", keeps=[0.5])
    rows = {(row["trial"], row["kind"], row["keep"]): row for row in many}
    for row in (*few, *alone):
        other = rows[row["trial"], row["kind"], row["keep"]]
        weights = ("intruder_distance", "delta_norm")  # sums in fp64, whose last bit depends on the place in a batch
        assert {**row, **dict.fromkeys(weights)} == {**other, **dict.fromkeys(weights)}
        assert [row[name] for name in weights] == pytest.approx([other[name] for name in weights], rel=1e-9)
    assert sizes == {(mitigation.TOGETHER, 8 + 1), (mitigation.TOGETHER, 2 + 1)}


def test_what_is_kept_whole_changes_nothing(toy):
    rows = mitigation.mitigate(**toy, which="all", keeps=[1.0])
    by_kind = {
        kind: [scores(row) for row in rows if row["kind"] == kind] for kind in ("rescored", "mitigated", "control")
    }
    assert by_kind["rescored"] == by_kind["mitigated"] == by_kind["control"]
    assert {row["shrunk_by"] for row in rows} == {1.0}
