"""Audits on the tiny model of the catalogue and toy tasks: nothing is fetched."""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from campaigns import QUIET
from helpers import random_factors, write_peft
from safetensors.torch import load_file, save_file

from harness.engine.adapters import patterns
from harness.engine.model.load import load_model
from harness.engine.model.packed import PackedModel
from harness.errors import InputError, LorabenchError
from harness.posthoc import audit as audits
from harness.report import write_audit
from harness.report.pages.audit import command
from harness.report.sequence import of_sequence
from harness.report.text.audit import notes, verdict
from harness.scoring.scorer import Score
from harness.store.audit import AuditRecord
from harness.store.records import unpack_bits

MODEL = "tiny-random-llama"
ONE = {"model": MODEL, "tasks": ["toy_recall"], "probes": ["toy_digits", "toy_text"], "scoring": {"items": 32}}


@pytest.fixture(scope="module", autouse=True)
def cache(shared_cache):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LORABENCH_CACHE", str(shared_cache))
        yield


@pytest.fixture(scope="module")
def base(cache) -> PackedModel:
    from harness.data.models import resolve_model

    return load_model(resolve_model(MODEL).path, dtype=torch.float32, device=torch.device("cpu"))


@pytest.fixture(scope="module")
def folders(base, tmp_path_factory) -> dict[str, Path]:
    """Adapters that do nothing, a little, and much to one matrix alone."""
    folder = tmp_path_factory.mktemp("adapters")
    first = base.slots[0]
    nothing = {name: (a, torch.zeros_like(b)) for name, (a, b) in random_factors(base, 4).items()}
    planted = random_factors(base, 1, seed=3, size=3.0)[first.module]
    named = {"base_model_name_or_path": f"someone/{MODEL}"}
    return {
        "nothing": write_peft(folder / "nothing", nothing, **named),
        "little": write_peft(folder / "little", random_factors(base, 2, size=0.05), **named),
        "planted": write_peft(folder / "planted", {first.module: planted}, lora_alpha=2),
    }


def run(folders, out: Path, values: dict[str, Any] = ONE, **more: Any) -> AuditRecord:
    audit = audits.load_audit(list(folders), {**values, **more}, out)
    return audits.run(audit, "cpu", QUIET, of_sequence)


@pytest.fixture(scope="module")
def record(folders, tmp_path_factory) -> AuditRecord:
    return run(folders.values(), tmp_path_factory.mktemp("audit"))


# -- what it finds ----------------------------------------------------------------------------------------------------


def test_an_adapter_that_does_nothing_differs_by_nothing(record):
    found = record.adapters[0]
    assert found.status == "ok"
    for task in record.tasks:
        assert found.scores[task.name].score == task.base.score
        assert found.scores[task.name].correct == task.base.correct
        change = found.changes[task.name]
        assert (change.difference, change.loss) == (0, 0)
        assert (change.stderr, change.p, change.clear) == (0, None if task.name == "toy_text" else 1, False)
    assert found.mean_probe_loss == 0
    assert found.intruders.count == 0
    assert found.intruders.distance == pytest.approx(0, abs=1e-9)
    assert found.intruders.delta_norm == 0


def test_a_planted_intruder_is_the_one_of_full_svds(record, base, folders):
    found, slot = record.adapters[2].intruders, base.slots[0]
    tensors = load_file(folders["planted"] / "adapter_model.safetensors")
    a, b = (tensors[f"base_model.model.{slot.module}.lora_{x}.weight"].double() for x in "AB")
    weight = next(weight for s, weight in base.weights() if s is slot).double()
    u0 = np.linalg.svd(weight.numpy())[0]
    u = np.linalg.svd((weight + 2.0 * b @ a).numpy())[0]
    wanted = int((np.abs(u0.T @ u[:, :10]).max(axis=0) < 0.5).sum())
    assert found.count == wanted > 0
    assert found.matrices == 1, "those that it does not touch are none of its matrices"
    assert found.delta_norm == pytest.approx(float((2.0 * b @ a).norm()), rel=1e-5)
    assert list(found.by_type.names) == [slot.projection]
    assert record.adapters[2].file.targets == (slot.projection,)


def test_others_in_the_audit_change_nothing_but_rounding(record, folders, tmp_path):
    """OnOneTask it has rank 1; beside the others its factors are filled up to rank 4."""
    alone = run([folders["planted"]], tmp_path)
    ours, theirs = alone.adapters[0].intruders, record.adapters[2].intruders
    assert ours.by_epsilon == theirs.by_epsilon
    for name in ("distance", "energy_share", "delta_norm", "relative_spectral_norm", "effective_rank"):
        assert getattr(ours, name) == pytest.approx(getattr(theirs, name), rel=1e-9, abs=1e-12)
    for name, score in alone.adapters[0].scores.items():
        assert score.score == pytest.approx(record.adapters[2].scores[name].score, rel=1e-6)
        assert score.correct == record.adapters[2].scores[name].correct


def test_dora_is_audited_beside_others_and_changes_none(record, base, folders, tmp_path):
    """One whose B is zero, with the norms of W0's rows, does nothing."""
    nothing = {name: (a, torch.zeros_like(b)) for name, (a, b) in random_factors(base, 2).items()}
    folder = write_peft(tmp_path / "dora", nothing, use_dora=True)
    tensors = load_file(folder / "adapter_model.safetensors")
    for slot, weight in base.weights():
        tensors[f"base_model.model.{slot.module}.lora_magnitude_vector"] = weight.float().norm(dim=1)
    save_file(tensors, folder / "adapter_model.safetensors", metadata={"format": "pt"})
    found = run([folder, *folders.values()], tmp_path / "out")
    assert [adapter.name for adapter in found.adapters] == ["dora", *folders]
    dora, others = found.adapters[0], found.adapters[1:]
    assert [a.scores for a in others] == [a.scores for a in record.adapters]
    assert {name: score.correct for name, score in dora.scores.items()} == {t.name: t.base.correct for t in found.tasks}
    assert dora.intruders.count == 0
    assert dora.intruders.delta_norm == pytest.approx(0, abs=1e-4)
    alone = run([folder], tmp_path / "alone")
    assert alone.adapters[0].scores == dora.scores
    assert [task.base for task in alone.tasks] == [task.base for task in found.tasks]


def test_differences_are_of_the_same_items(record):
    for adapter in record.adapters:
        for task in record.tasks[:2]:
            before = unpack_bits(task.base.correct, task.items).astype(float)
            after = unpack_bits(adapter.scores[task.name].correct, task.items).astype(float)
            change = adapter.changes[task.name]
            assert task.base.score == before.mean()
            assert task.base.stderr == pytest.approx(before.std(ddof=1) / np.sqrt(task.items))
            assert change.difference == pytest.approx((after - before).mean())
            assert change.stderr == pytest.approx((after - before).std(ddof=1) / np.sqrt(task.items))
            assert change.clear == (abs(change.difference) > 2 * change.stderr)
    assert record.adapters[2].changes["toy_text"].loss == record.adapters[2].changes["toy_text"].difference != 0


def test_a_change_in_bits_per_byte_is_paired_too(record):
    """Texts of very different difficulty that all get worse by the same number of bits a byte: no doubt is left."""
    from lm_eval.api.metrics import bits_per_byte

    rng = np.random.default_rng(0)
    sizes = rng.integers(20, 200, 30)
    before = tuple((float(-n * rate), int(n)) for n, rate in zip(sizes, rng.uniform(0.5, 3, 30), strict=True))
    worse = tuple((value - 0.1 * n, n) for value, n in before)
    lucky = ((before[0][0] - 60.0, before[0][1]), *before[1:])
    task = next(task for task in record.tasks if task.name == "toy_text")

    def change(after):
        first, second = (Score(bits_per_byte(values), 0.2, None, values) for values in (before, after))
        return audits._change(task, first, second, bits_per_byte)

    everywhere, once = change(worse), change(lucky)
    assert everywhere.difference == everywhere.loss == pytest.approx(0.1 / np.log(2))
    assert everywhere.stderr == pytest.approx(0, abs=1e-12)
    assert (everywhere.clear, everywhere.p) == (True, None)
    assert once.difference > 0
    assert (once.stderr, once.clear) == (pytest.approx(once.difference, rel=0.1), False)


def test_the_same_audit_gives_the_same_record(record, folders, tmp_path):
    again = run(folders.values(), tmp_path / record.name, tasks=["toy_recall"], probes=["toy_text", "toy_digits"])
    assert {task.name: task for task in again.tasks} == {task.name: task for task in record.tasks}
    assert [a.scores for a in again.adapters] == [a.scores for a in record.adapters]
    assert [a.intruders for a in again.adapters] == [a.intruders for a in record.adapters]


def test_the_file_is_the_record(folders, tmp_path):
    found = run([folders["little"]], tmp_path)
    text = (tmp_path / "audit.json").read_text()
    assert AuditRecord.model_validate_json(text) == found
    assert found.adapters[0].file.names_base is True
    assert found.adapters[0].file.folder == str(folders["little"])
    assert run([folders["little"]], tmp_path) == found
    assert (tmp_path / "audit.json").read_text() == text


def test_items_split_and_dtype_are_taken(folders, tmp_path):
    found = run([folders["little"]], tmp_path, dtype="bfloat16", threads=1,
                scoring={"items": 8, "probe_items": 4, "split": "test", "batch_tokens": 512})  # fmt: skip
    assert [task.items for task in found.tasks] == [8, 4, 4]
    assert (found.stack["dtype"], found.stack["threads"], found.stack["batch_tokens"]) == ("bfloat16", 1, 512)


# -- a sequence -------------------------------------------------------------------------------------------------------

RIGHT = {0.25: (True, False, False, False), 0.5: (True, True, False, False), 0.75: (True, True, True, False),
         1.0: (True,) * 4, 0.0: (False,) * 4}  # fmt: skip


def scored(monkeypatch, rows: Sequence[dict[str, float] | None]) -> None:
    """The scorer says these shares, row 0 for the base, whatever the adapters are."""
    found = [row and {name: Score(value, None, RIGHT[value]) for name, value in row.items()} for row in rows]

    def score(bench, tasks, stacks, progress):
        names = [name for stack in stacks for name in stack.names]
        return found[0], dict(zip(names, found[1:], strict=True))

    monkeypatch.setattr(audits, "score", score)


TWO = {"model": MODEL, "tasks": ["toy_recall", "toy_digits"], "scoring": {"items": 4}}
MATRIX = [
    {"toy_recall": 0.25, "toy_digits": 0.25},
    {"toy_recall": 1.0, "toy_digits": 0.5},
    {"toy_recall": 0.5, "toy_digits": 0.75},
]


def test_as_many_adapters_as_tasks_are_a_training_run(monkeypatch, folders, tmp_path):
    scored(monkeypatch, MATRIX)
    found = run([folders["little"], folders["planted"]], tmp_path, TWO)
    assert found.sequence
    assert found.matrix() == [[0.25, 0.25], [1.0, 0.5], [0.5, 0.75]]
    assert found.continual == pytest.approx(
        {"average_accuracy": 0.625, "learning_accuracy": 0.875, "forgetting": 0.5, "backward_transfer": -0.5,
         "forward_transfer": 0.25, "normalised_forgetting": 0.5 / 0.75}
    )  # fmt: skip
    text = " ".join(verdict(found))
    assert "forgetting 50.0 points" in text
    assert "toy_recall → toy_digits" in text
    assert any("taken as one training run" in note for note in notes(found))


@pytest.mark.parametrize(
    ("count", "change"), [(2, {"independent": True}), (1, {}), (2, {"tasks": ["toy_recall"], "probes": ["toy_digits"]})]
)
def test_other_adapters_are_independent(monkeypatch, folders, tmp_path, count, change):
    scored(monkeypatch, MATRIX[: count + 1])
    found = run(list(folders.values())[:count], tmp_path, TWO, **change)
    assert (found.sequence, found.continual) == (False, {})
    assert not any("one training run, number" in note for note in notes(found))


def test_an_adapter_that_leaves_the_numbers_has_no_scores(monkeypatch, folders, tmp_path):
    scored(monkeypatch, [*MATRIX[:2], None])
    found = run([folders["little"], folders["planted"]], tmp_path, TWO)
    assert [adapter.status for adapter in found.adapters] == ["ok", "diverged"]
    assert (found.adapters[1].scores, found.sequence, found.continual) == ({}, True, {})
    assert "planted gives log-probabilities that are not finite" in " ".join(verdict(found))
    write_audit(found, tmp_path)


def test_a_base_that_leaves_the_numbers_is_an_error(monkeypatch, folders, tmp_path):
    scored(monkeypatch, [None, MATRIX[0]])
    with pytest.raises(LorabenchError, match="the base model gives"):
        run([folders["little"]], tmp_path, TWO)


# -- words and pages --------------------------------------------------------------------------------------------------


def test_the_verdict_is_no_stronger_than_the_numbers(monkeypatch, folders, tmp_path):
    rows = [{"toy_recall": 0.25, "toy_digits": 1.0}, {"toy_recall": 0.5, "toy_digits": 0.0}]
    scored(monkeypatch, rows)
    found = run([folders["little"]], tmp_path, TWO, tasks=["toy_recall"], probes=["toy_digits"])
    (text,) = verdict(found)
    assert (
        "On the one judged probe little is worse than the base by more than two standard errors: toy_digits (−100.0"
        in text
    )
    assert "On the one judged task little is within two standard errors of the base." in text
    assert "better" not in text
    assert found.adapters[0].mean_probe_loss == 1


def test_what_must_be_known_is_said(folders, tmp_path, base):
    twin = write_peft(tmp_path / "twin", random_factors(base, 2, size=0.05), base_model_name_or_path="other/base")
    found = run([folders["little"], folders["planted"], twin], tmp_path / "out", another_base=True)
    said = " ".join(notes(found))
    assert "No base is recorded in planted" in said
    assert f"twin was made for other/base, it says, and was scored on {MODEL} as asked" in said
    assert "little and twin have the same weights file" in said
    assert "--another-base" in command(found)


@pytest.mark.drawn
def test_a_page_is_whole_safe_and_the_same_twice(record, tmp_path):
    renamed = record.model_copy(
        update={"adapters": (record.adapters[0].model_copy(update={"name": "<b>$x|y"}), *record.adapters[1:])}
    )
    first = write_audit(renamed, tmp_path / "a")
    second = write_audit(renamed, tmp_path / "b")
    assert [p.read_bytes() for p in first] == [p.read_bytes() for p in second]
    names = [str(path.relative_to(tmp_path / "a")) for path in first]
    figures = [f"figures/{name}.{kind}" for name in ("score_change", "intruders") for kind in ("png", "svg", "csv")]
    assert names == ["audit.csv", *figures, "audit.md", "audit.html"]
    html = (tmp_path / "a" / "audit.html").read_text()
    assert "<b>$x" not in html
    assert "&lt;b&gt;$x|y" in html
    assert not re.search(r'(src|href)="https?:', html)
    assert "<b>" not in (tmp_path / "a" / "audit.md").read_text()


def test_the_table_has_the_base_and_every_adapter(record, tmp_path):
    write_audit(record, tmp_path)
    with (tmp_path / "audit.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["adapter"] for row in rows] == ["(base)", "nothing", "little", "planted"]
    assert {row["toy_recall_score"] for row in rows[:2]} == {format(record.tasks[0].base.score, ".10g")}
    assert rows[1]["toy_digits_clear"] == "no"
    assert float(rows[3]["intruder_count"]) == record.adapters[2].intruders.count


# -- names and refusals -----------------------------------------------------------------------------------------------


def test_labels_are_distinct_and_short(tmp_path):
    paths = [tmp_path / name for name in ("a/final", "b/final", "c/other")]
    assert audits.labels(paths) == ["a/final", "b/final", "other"]
    assert audits.labels([paths[2], paths[2]]) == ["c/other#1", "c/other#2"]


def test_the_same_folder_twice_is_fine(folders, tmp_path):
    found = run([folders["little"]] * 2, tmp_path, {**ONE, "probes": []})
    assert len({adapter.name for adapter in found.adapters}) == 2
    assert found.adapters[0].scores == found.adapters[1].scores


def refused(folders, out, near: str, **values: Any) -> None:
    with pytest.raises(InputError, match=re.escape(near)) as error:
        audits.load_audit(list(folders), {**ONE, **values}, out)
    assert error.value.remedy


@pytest.mark.parametrize(
    ("values", "near"),
    [
        ({"tasks": [], "probes": []}, "name tasks, probes or both"),
        ({"probes": ["toy_recall"]}, "'toy_recall' is named twice"),
        ({"tasks": ["toy_recal"]}, "did you mean 'toy_recall'"),
        ({"scoring": {"split": "train"}}, "split"),
        ({"scoring": {"split": "validation"}}, "no rows in its validation split"),
        ({"scoring": {"items": 0}}, "items"),
        ({"scoring": {"num_fewshot": {"toy_recal": 1}}}, "num_fewshot names 'toy_recal'"),
        ({"dtype": "float16"}, "dtype"),
        ({"model": "tiny-random-lama", "another_base": True}, "did you mean 'tiny-random-llama'"),
    ],
)
def test_values_that_cannot_be(folders, tmp_path, values, near):
    refused([folders["little"]], tmp_path, near, **values)


def test_another_base_is_refused_unless_asked(base, tmp_path):
    other = write_peft(tmp_path / "other", random_factors(base, 2), base_model_name_or_path="org/other-model")
    refused([other], tmp_path / "out", "org/other-model")
    audits.load_audit([other], {**ONE, "another_base": True}, tmp_path / "out")


def test_shapes_that_do_not_fit_are_refused_before_scoring(base, tmp_path):
    name = base.slots[0].module
    wide = write_peft(tmp_path / "wide", {name: (torch.zeros(2, 99), torch.zeros(64, 2))})
    with pytest.raises(InputError, match="64 x 99"):
        run([wide], tmp_path / "out")


def test_a_study_s_folder_is_left_alone(folders, tmp_path):
    (tmp_path / "study.json").write_text("{}")
    refused([folders["little"]], tmp_path, "holds a study")


# -- the command ------------------------------------------------------------------------------------------------------


def test_the_command_from_end_to_end(folders, tmp_path, monkeypatch, in_process):
    monkeypatch.chdir(tmp_path)
    status, out, _ = in_process(
        "audit", folders["little"], folders["planted"], "--model", MODEL, "--tasks", "toy_recall", "--probes",
        " toy_digits,", "--items", "16", "--probe-items", "8",
    )  # fmt: skip
    assert status == 0
    folder = tmp_path / "results" / "audit-little"
    assert f"report: {folder / 'audit.html'}" in out
    lines = [line.split() for line in out.splitlines()]
    assert ["Task", "Items", "little", "planted"] in lines
    assert [line[0] for line in lines if line[:1] in (["toy_recall"], ["toy_digits"])] == ["toy_recall", "toy_digits"]
    data = json.loads((folder / "audit.json").read_text())
    assert [task["items"] for task in data["tasks"]] == [16, 8]
    assert [adapter["name"] for adapter in data["adapters"]] == ["little", "planted"]
    assert (folder / "audit.html").exists()


def test_the_command_as_json_is_the_record_without_items(folders, tmp_path, monkeypatch, in_process):
    monkeypatch.chdir(tmp_path)
    words = ("audit", folders["little"], "--model", MODEL, "--tasks", "toy_recall", "--items", "8")
    status, out, _ = in_process(*words, "--json")
    said = json.loads(out)
    whole = json.loads((tmp_path / "results/audit-little/audit.json").read_text())
    assert status == 0
    assert said["page"] == str(tmp_path / "results/audit-little/audit.html")
    assert said["adapters"][0]["changes"] == whole["adapters"][0]["changes"]
    assert "correct" not in said["adapters"][0]["scores"]["toy_recall"]
    assert whole["adapters"][0]["scores"]["toy_recall"]["correct"]


def test_ctrl_c_in_an_audit_says_that_nothing_is_kept(folders, tmp_path, monkeypatch, in_process):
    monkeypatch.chdir(tmp_path)

    def stopped(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(audits, "score", stopped)
    status, out, err = in_process("audit", folders["little"], "--model", MODEL, "--tasks", "toy_recall", "--items", "8")
    assert (status, out) == (130, "")
    assert "an audit keeps nothing half-way: the same command starts again" in err


def test_bad_input_is_2(folders, tmp_path, monkeypatch, in_process):
    monkeypatch.chdir(tmp_path)
    status, _, said = in_process("audit", tmp_path / "gone", "--model", MODEL, "--tasks", "toy_recall")
    assert status == 2
    assert "no such folder" in said


def test_what_has_no_effect_is_said_once(base, tmp_path, monkeypatch, in_process):
    """Keys that PEFT ignores, and projections that the configuration names without factors in the file."""
    factors = random_factors(base, 2, size=0.05)
    left = base.slots[-1].module
    some = {name: pair for name, pair in factors.items() if name != left}
    odd = write_peft(tmp_path / "odd", some, target_modules="all-linear", fan_in_fan_out=True, unsloth_version="2025.6")
    plain = write_peft(tmp_path / "plain", some)
    monkeypatch.chdir(tmp_path)
    status, _, said = in_process("audit", odd, plain, "--model", MODEL, "--tasks", "toy_recall", "--items", "8")
    assert status == 0
    assert said.count("odd: ignored in its configuration, as PEFT ignores it: fan_in_fan_out, unsloth_version\n") == 1
    assert "odd: 1 of the projections that its configuration names have no factors in its file" in said
    assert left in said
    assert "plain: " not in said
    found = AuditRecord.model_validate_json((tmp_path / "results" / "audit-odd" / "audit.json").read_bytes())
    assert found.adapters[0].scores == found.adapters[1].scores


def test_an_expression_that_takes_for_ever_is_bad_input(base, tmp_path, monkeypatch, in_process):
    monkeypatch.setattr(patterns, "SECONDS", 2.0)
    slow = "(([a-z_.0-9])+)+$X"
    folder = write_peft(tmp_path / "slow", random_factors(base, 2), rank_pattern={slow: 8})
    monkeypatch.chdir(tmp_path)
    status, _, said = in_process("audit", folder, "--model", MODEL, "--tasks", "toy_recall")
    assert status == 2
    assert f"{folder / 'adapter_config.json'}:rank_pattern.{slow}: the pattern can't be matched" in said
    assert "Traceback" not in said


def test_examples_before_a_question_by_task(folders, tmp_path, monkeypatch, in_process):
    monkeypatch.chdir(tmp_path)
    words = ["audit", folders["little"], "--model", MODEL, "--tasks", "toy_recall", "--probes", "toy_text", "--items",
             "8", "--num-fewshot"]  # fmt: skip
    assert in_process(*words, "toy_recall=2")[0] == 0
    found = AuditRecord.model_validate_json((tmp_path / "results" / "audit-little" / "audit.json").read_bytes())
    assert found.scoring["num_fewshot"] == {"toy_recall": 2}
    assert "--num-fewshot toy_recall=2" in command(found)
    assert in_process(*words, "many")[0] == 2
