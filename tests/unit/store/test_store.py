"""What is on disk survives full disks, kills and damage; what is damaged never counts."""

from __future__ import annotations

import base64
import errno
import json
import math
import os
import shutil
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from hypothesis import given
from hypothesis import strategies as st
from places import GOLDEN
from pydantic import ValidationError
from synthetic import facts

from harness.errors import InputError, LorabenchError
from harness.store.checkpoints import checkpoint_path, load_checkpoint, save_checkpoint
from harness.store.files import atomic_write, write_json
from harness.store.packed import Floats
from harness.store.published import PublishedRow, read_published
from harness.store.records import (
    SCHEMA_VERSION,
    BaseRecord,
    Curve,
    Failure,
    TaskScores,
    TrialRecord,
    TrialSpec,
    pack_bits,
    unpack_bits,
)
from harness.store.results import (
    open_results,
    read_base,
    read_trials,
    trial_path,
    write_base,
    write_trial,
)

# -- atomic writes ----------------------------------------------------------------------------------------------------


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def fail_at(monkeypatch, step: str, error: BaseException, part: bytes = b"") -> None:
    """Make one step of an atomic write fail; ``part`` is what a full disk still took."""
    real_sync, calls = os.fsync, []

    def raises(*_, **__):
        raise error

    def writes(path, _content):
        with path.open("wb") as file:
            file.write(part)
        raise error

    def syncs(descriptor):
        calls.append(descriptor)
        if len(calls) == (1 if step == "fsync" else 2):
            raise error
        real_sync(descriptor)

    if step == "write":
        monkeypatch.setattr(Path, "write_bytes", writes)
    elif step == "replace":
        monkeypatch.setattr(Path, "replace", raises)
    else:
        monkeypatch.setattr(os, "fsync", syncs)


@pytest.mark.parametrize("step", ["write", "fsync", "replace"])
@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EIO, errno.EACCES, errno.EDQUOT])
def test_a_failed_write_leaves_the_old_file(tmp_path, monkeypatch, step, code):
    path = tmp_path / "file.json"
    atomic_write(path, "old")
    fail_at(monkeypatch, step, OSError(code, os.strerror(code)), b"ne")
    with pytest.raises(LorabenchError) as error:
        atomic_write(path, "new")
    assert os.strerror(code) in error.value.what
    assert error.value.where == str(path)
    assert "disk space" in error.value.remedy
    assert path.read_text() == "old"
    assert names(tmp_path) == ["file.json"]


def test_a_failed_sync_of_the_folder_leaves_one_whole_file(tmp_path, monkeypatch):
    path = tmp_path / "file.json"
    atomic_write(path, "old")
    fail_at(monkeypatch, "folder", OSError(errno.EIO, "broken"))
    with pytest.raises(LorabenchError):
        atomic_write(path, "new")
    assert path.read_text() in ("old", "new")
    assert names(tmp_path) == ["file.json"]


@pytest.mark.parametrize("step", ["write", "fsync", "replace"])
def test_an_interrupt_goes_through_and_leaves_the_old_file(tmp_path, monkeypatch, step):
    path = tmp_path / "file.json"
    atomic_write(path, "old")
    fail_at(monkeypatch, step, KeyboardInterrupt(), b"ne")
    with pytest.raises(KeyboardInterrupt):
        atomic_write(path, "new")
    assert path.read_text() == "old"
    assert names(tmp_path) == ["file.json"]


def test_a_write_syncs_the_file_first_and_the_folder_last(tmp_path, monkeypatch):
    events, real_sync, real_replace = [], os.fsync, Path.replace
    monkeypatch.setattr(
        os, "fsync", lambda fd: (events.append(str(Path(f"/proc/self/fd/{fd}").readlink())), real_sync(fd))
    )
    monkeypatch.setattr(Path, "replace", lambda a, b: (events.append("replace"), real_replace(a, b)))
    atomic_write(tmp_path / "deep" / "file", b"\x00bytes")
    assert (tmp_path / "deep" / "file").read_bytes() == b"\x00bytes"
    first, second, third = events
    assert first.endswith(".tmp")
    assert Path(first).parent == tmp_path / "deep", "in the same folder, or replacing is not atomic"
    assert (second, third) == ("replace", str(tmp_path / "deep"))


def test_a_folder_that_cannot_be_made(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(LorabenchError):
        atomic_write(tmp_path / "file" / "inside", "x")


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_json_refuses_what_is_not_json_and_keeps_the_old_file(tmp_path, value):
    write_json(tmp_path / "x.json", {"a": 1})
    with pytest.raises(ValueError, match="JSON"):
        write_json(tmp_path / "x.json", {"a": value})
    assert json.loads((tmp_path / "x.json").read_text()) == {"a": 1}


# -- records ----------------------------------------------------------------------------------------------------------


def spec(**changes) -> TrialSpec:
    values = {"model": "m", "model_digest": "d", "method": "lora", "parameters": {"learning_rate": 0.1}, "seed": 0,
              "method_digest": "e", "order": "o", "stream": ("a", "b"), "probes": ("p",), "task_digests": {},
              "training": {}, "scoring": {}}  # fmt: skip
    return TrialSpec(**(values | changes))


def scores(*values, **changes) -> TaskScores:
    errors = tuple(None if value is None else 0.25 for value in values)
    made = {"metric": "acc", "higher_is_better": True, "items": 3, "chance": 0.5, "score": values, "stderr": errors}
    return TaskScores(**(made | changes))


def record(seed: int = 0, **changes) -> TrialRecord:
    seen = changes.get("spec", spec(seed=seed))
    values = {"fingerprint": seen.fingerprint, "study": "s", "status": "ok", "spec": seen, "facts": facts(seen.method),
              "stack": {"digest": "x"},
              "tasks": {"a": scores(0.1, 0.5, 0.4), "b": scores(0.2, 0.3, 0.9)},
              "probes": {"p": scores(0.3, None, 0.3)}}  # fmt: skip
    return TrialRecord(**(values | changes))


def test_a_record_goes_to_disk_and_back(tmp_path):
    one, two = record(1), record(2, status="diverged", failure=Failure(phase="p", message="m"), tasks={})
    for each in (one, two):
        write_trial(tmp_path, each)
    found = read_trials(tmp_path)
    assert sorted(found.records, key=lambda r: r.spec.seed) == [one, two]
    assert (found.quarantined, found.expected) == ({}, None)
    assert one.matrix() == [[0.1, 0.2], [0.5, 0.3], [0.4, 0.9]]


@pytest.mark.parametrize("change", [
    {"tasks": {"a": scores(0.1, 0.5, 0.4)}},  # a task is missing
    {"tasks": {"a": scores(0.1, 0.5, 0.4), "b": scores(0.2, None, 0.9)}},  # a hole
    {"tasks": {"a": scores(0.1, 0.5, 0.4), "b": scores(0.2, 0.3)}},  # too short
    {"tasks": {"a": scores(0.1, 0.5, 0.4), "b": scores(0.2, 0.3, 0.9, 1.0)}},  # too long
    {"probes": {"p": scores(0.3, None)}},
    {"status": "diverged"},  # without a failure
    {"status": "error"},
    {"status": "fine"},
    {"tasks": {"a": scores(0.1, 0.5, 0.4, stderr=(0.1,)), "b": scores(0.2, 0.3, 0.9)}},
    {"schema_version": SCHEMA_VERSION + 1},
    {"surprise": 1},
])  # fmt: skip
def test_a_record_that_is_not_complete_is_refused(change):
    with pytest.raises(ValidationError):
        record(**change)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_a_record_holds_no_number_that_is_none(value):
    for make in (
        lambda: scores(0.1, value, 0.2),
        lambda: scores(0.1, chance=value),
        lambda: record(train_loss=(Floats.of([0.1, value]),)),
        lambda: Curve(task="a", examples=(0,), score=(value,), tokens=(0,)),
        lambda: spec(parameters={"learning_rate": value}),
        lambda: record(stack={"x": value}),
    ):
        with pytest.raises(ValueError, match="finite"):
            make()


def test_a_record_cannot_be_changed():
    with pytest.raises(ValidationError):
        record().status = "error"


@given(st.lists(st.booleans(), max_size=100))
def test_bits_come_back(correct):
    text = pack_bits(correct)
    text.encode("ascii")
    assert unpack_bits(text, len(correct)).tolist() == correct


def test_the_first_item_is_the_highest_bit():
    assert np.frombuffer(base64.b64decode(pack_bits([True] + [False] * 8)), np.uint8).tolist() == [128, 0]


# -- folders ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("damage", [
    "", "{", "[]", "5", "{}", '{"schema_version": 1}', "\x00\x00", "half",
])  # fmt: skip
def test_a_damaged_record_is_named_and_not_counted(tmp_path, damage):
    write_trial(tmp_path, record(1))
    write_trial(tmp_path, record(2))
    bad = trial_path(tmp_path, record(2).fingerprint)
    bad.write_text(bad.read_text()[:200] if damage == "half" else damage)
    found = read_trials(tmp_path)
    assert [r.spec.seed for r in found.records] == [1]
    assert list(found.quarantined) == [bad.name]
    assert bad.exists(), "reading alone moves nothing"
    assert list(read_trials(tmp_path, quarantine=True).quarantined) == [bad.name]
    assert not bad.exists()
    assert (tmp_path / "quarantine" / bad.name).exists()
    assert read_trials(tmp_path, quarantine=True).quarantined == {}


def test_bytes_that_are_no_text_are_damage(tmp_path):
    write_trial(tmp_path, record())
    path = trial_path(tmp_path, record().fingerprint)
    path.write_bytes(b"\xff\xfe")
    assert list(read_trials(tmp_path).quarantined) == [path.name]


def test_a_record_under_another_name_does_not_count(tmp_path):
    write_trial(tmp_path, record())
    trial_path(tmp_path, record().fingerprint).rename(trial_path(tmp_path, "0" * 32))
    found = read_trials(tmp_path)
    assert (found.records, list(found.quarantined)) == ([], [f"{'0' * 32}.json"])


def test_temporary_files_are_nobody_s_records(tmp_path):
    write_trial(tmp_path, record())
    (tmp_path / "trials" / f".{'0' * 32}.json.1.ab.tmp").write_text("{")
    found = read_trials(tmp_path, quarantine=True)
    assert len(found.records) == 1
    assert found.quarantined == {}


def test_a_newer_record_is_refused_and_kept(tmp_path):
    write_trial(tmp_path, record())
    path = trial_path(tmp_path, record().fingerprint)
    path.write_text(json.dumps({**json.loads(path.read_text()), "schema_version": SCHEMA_VERSION + 1}))
    with pytest.raises(InputError, match=f"has schema {SCHEMA_VERSION + 1}") as error:
        read_trials(tmp_path, quarantine=True)
    assert error.value.where == str(path)
    assert path.exists()


def test_a_folder_belongs_to_one_study(tmp_path):
    open_results(tmp_path, "mine", {"lora": 3})
    open_results(tmp_path, "mine", {"lora": 4, "frozen": 4})
    assert read_trials(tmp_path).expected == {"lora": 4, "frozen": 4}
    with pytest.raises(InputError, match="the study 'mine', not 'other'"):
        open_results(tmp_path, "other", {})
    assert read_trials(tmp_path).expected == {"lora": 4, "frozen": 4}


def test_published_numbers_are_kept_with_the_study(tmp_path):
    row = PublishedRow(method="O-LoRA", model="T5-large", protocol="orders 1-3", accuracy=75.8, source="a paper")
    open_results(tmp_path, "mine", {"lora": 3}, [row])
    assert read_trials(tmp_path).published == (row,)
    open_results(tmp_path, "mine", {"lora": 3})
    assert read_trials(tmp_path).published == ()
    assert "published" not in json.loads((tmp_path / "study.json").read_text())


@pytest.mark.parametrize("change", [{"accuracy": 7580}, {"accuracy": None}, {"model": ""}, {"bvt": 1}])
def test_a_published_row_that_is_wrong_is_named(tmp_path, change):
    row = {"method": "O-LoRA", "model": "T5-large", "protocol": "p", "accuracy": 75.8, "source": "a paper"}
    (tmp_path / "mine.yaml").write_text(yaml.safe_dump([row, row | change]))
    with pytest.raises(InputError) as caught:
        read_published("mine", tmp_path, "study.yaml:published")
    assert f"mine.yaml:1.{next(iter(change))}" in caught.value.where
    assert "accuracy" in caught.value.remedy


@pytest.mark.parametrize("text", ["- a: [", "- {method: a, method: b}", "\x00", "[" * 100_000])
def test_published_numbers_are_read_strictly(tmp_path, text):
    (tmp_path / "mine.yaml").write_text(text)
    with pytest.raises(InputError) as caught:
        read_published("mine", tmp_path, "study.yaml:published")
    assert str(caught.value.where).startswith(str(tmp_path / "mine.yaml"))
    assert caught.value.remedy


def test_unknown_published_numbers_get_the_nearest_name(tmp_path):
    (tmp_path / "standard_cl.yaml").write_text("[]")
    with pytest.raises(InputError, match="standrad_cl") as caught:
        read_published("standrad_cl", tmp_path, "study.yaml:published")
    assert caught.value.where == "study.yaml:published"
    assert "standard_cl" in caught.value.remedy


def test_a_folder_with_somebody_s_trials_is_refused(tmp_path):
    write_trial(tmp_path, record())
    with pytest.raises(InputError, match=r"no study\.json"):
        open_results(tmp_path, "mine", {})


def test_records_of_schema_1_are_read(tmp_path):
    """Files as version 1 wrote them: the same scores, and standard errors from the items' correctness."""
    shutil.copytree(GOLDEN / "schema1", tmp_path / "study")
    found = read_trials(tmp_path / "study")
    assert found.quarantined == {}
    assert {record.status for record in found.records} == {"ok"}
    for record in found.records:
        assert record.schema_version == SCHEMA_VERSION
        for scores in record.tasks.values():
            for score, error in zip(scores.score, scores.stderr, strict=True):
                assert error == pytest.approx(math.sqrt(score * (1 - score) / (scores.items - 1)), abs=1e-12)
        assert record.probes["plain_text"].stderr == (None,) * len(record.probes["plain_text"].score)


def test_records_of_schema_3_keep_what_is_shown(tmp_path):
    shutil.copytree(GOLDEN / "schema3", tmp_path / "study")
    found = read_trials(tmp_path / "study")
    assert (found.quarantined, len(found.records)) == ({}, 2)
    for record in found.records:
        old = json.loads((GOLDEN / "schema3" / "trials" / f"{record.fingerprint}.json").read_text())
        assert [losses.tolist() for losses in record.train_loss] == old["train_loss"]
        assert (record.commit, record.clean) == (None, None)
        for taken, before in zip(record.intruders, old["intruders"], strict=True):
            assert list(taken.by_type.names) == list(before["by_type"])
            for name, part in taken.by_type.items():
                assert asdict(part) == {key: before["by_type"][name][key] for key in asdict(part)}
        layers = {name: (part.count, part.distance) for name, part in record.intruders[-1].by_layer.items()}
        assert layers == {name: (p["count"], p["distance"]) for name, p in old["intruders"][-1]["by_layer"].items()}
        again = tmp_path / "again" / record.fingerprint
        write_trial(again, record)
        assert read_trials(again).records == [record]
        assert trial_path(again, record.fingerprint).stat().st_size < 10_000


def test_records_of_schema_4_have_no_curve_of_a_student(tmp_path):
    shutil.copytree(GOLDEN / "schema4", tmp_path / "study")
    found = read_trials(tmp_path / "study")
    assert found.quarantined == {}
    (record,) = found.records
    old = json.loads((GOLDEN / "schema4" / "trials" / f"{record.fingerprint}.json").read_text())
    assert (old["schema_version"], record.schema_version) == (4, SCHEMA_VERSION)
    assert record.facts.scored == "average"
    now = record.model_dump(mode="json")
    assert [curve.pop("student") for curve in now["curves"]] == [[]] * len(record.spec.stream)
    assert now["costs"].pop("state_bytes") is None
    _say_nothing_of_rows(now)
    assert now == old | {"schema_version": SCHEMA_VERSION}, "nothing else has changed"


def _say_nothing_of_rows(record: dict) -> None:
    """Before schema 7 nobody noted where rows came from, nor how often their items have one answer."""
    assert record.pop("sources") == {}
    assert {scores.pop("majority") for scores in (*record["tasks"].values(), *record["probes"].values())} == {None}


def test_records_of_schema_5_have_no_bytes_of_state(tmp_path):
    shutil.copytree(GOLDEN / "schema5", tmp_path / "study")
    found = read_trials(tmp_path / "study")
    assert found.quarantined == {}
    (record,) = found.records
    old = json.loads((GOLDEN / "schema5" / "trials" / f"{record.fingerprint}.json").read_text())
    assert (old["schema_version"], record.schema_version) == (5, SCHEMA_VERSION)
    now = record.model_dump(mode="json")
    assert now["costs"].pop("state_bytes") is None
    _say_nothing_of_rows(now)
    assert now == old | {"schema_version": SCHEMA_VERSION}, "nothing else has changed"


def test_records_of_schema_6_say_nothing_of_their_rows(tmp_path):
    shutil.copytree(GOLDEN / "schema6", tmp_path / "study")
    (record,) = read_trials(tmp_path / "study").records
    old = json.loads((GOLDEN / "schema6" / "trials" / f"{record.fingerprint}.json").read_text())
    assert (old["schema_version"], record.schema_version) == (6, SCHEMA_VERSION)
    now = record.model_dump(mode="json")
    _say_nothing_of_rows(now)
    assert now == old | {"schema_version": SCHEMA_VERSION}, "nothing else has changed"


def test_a_damaged_older_record_is_quarantined(tmp_path):
    for number, change in enumerate(({"tasks": 5}, {"tasks": {"a": None}}, {"tasks": {"a": {"score": 1}}})):
        name = f"{number}" * 32
        write_json(tmp_path / "trials" / f"{name}.json", {"schema_version": 1, "fingerprint": name, **change})
    assert len(read_trials(tmp_path).quarantined) == 3


@pytest.mark.parametrize("text", ["{", "", "[]", '{"schema_version": 99, "study": "mine"}', '{"study": "mine"}',
                                  '{"schema_version": "x"}', '{"schema_version": null}'])  # fmt: skip
def test_a_damaged_or_foreign_manifest_is_refused_and_kept(tmp_path, text):
    (tmp_path / "study.json").write_text(text)
    for use in (lambda: open_results(tmp_path, "mine", {}), lambda: read_trials(tmp_path)):
        with pytest.raises(InputError):
            use()
    assert (tmp_path / "study.json").read_text() == text


def test_the_base_s_scores_belong_to_a_key(tmp_path):
    base = BaseRecord(key="k", scores={}, train_tokens={}, score_seconds=1.0, peak_memory_gib=1.0)
    assert read_base(tmp_path, "k") is None
    write_base(tmp_path, base)
    assert read_base(tmp_path, "k") == base
    assert read_base(tmp_path, "other") is None
    (tmp_path / "base.json").write_text("{")
    assert read_base(tmp_path, "k") is None


# -- checkpoints ------------------------------------------------------------------------------------------------------


def tensors() -> dict[str, torch.Tensor]:
    return {"values": torch.randn(3, 4).t(), "alive": torch.tensor([True, False]), "step": torch.tensor(7),
            "half": torch.randn(2).bfloat16()}  # fmt: skip


def test_a_checkpoint_comes_back(tmp_path):
    path, wanted = checkpoint_path(tmp_path, "pack"), tensors()
    save_checkpoint(path, "key", wanted, {"stage": 1, "losses": [0.1, float("nan")]})
    found, data = load_checkpoint(path, "key")
    assert found.keys() == wanted.keys()
    assert all(torch.equal(found[name], wanted[name]) and found[name].dtype == wanted[name].dtype for name in wanted)
    assert data["stage"] == 1
    assert data["losses"][0] == 0.1
    assert np.isnan(data["losses"][1])


def test_no_checkpoint_damaged_or_another_s(tmp_path):
    path = checkpoint_path(tmp_path, "pack")
    assert load_checkpoint(path, "key") is None
    save_checkpoint(path, "key", tensors(), {})
    assert load_checkpoint(path, "other") is None
    whole = path.read_bytes()
    for damaged in (b"", b"x", whole[: len(whole) // 2], whole[:-1], b"\xff" * len(whole)):
        path.write_bytes(damaged)
        assert load_checkpoint(path, "key") is None
    path.write_bytes(whole)
    assert load_checkpoint(path, "key") is not None


def test_a_full_disk_keeps_the_last_checkpoint(tmp_path, monkeypatch):
    path = checkpoint_path(tmp_path, "pack")
    save_checkpoint(path, "key", tensors(), {"stage": 0})
    fail_at(monkeypatch, "fsync", OSError(errno.ENOSPC, "No space left on device"))
    with pytest.raises(LorabenchError, match="No space left"):
        save_checkpoint(path, "key", tensors(), {"stage": 1})
    assert load_checkpoint(path, "key")[1] == {"stage": 0}
    assert [p.name for p in path.parent.iterdir()] == [path.name]


FULL = """
import resource, signal, sys, torch
from pathlib import Path
from harness.errors import LorabenchError
from harness.store.checkpoints import load_checkpoint, save_checkpoint
path = Path(sys.argv[1])
save_checkpoint(path, "key", {"a": torch.zeros(10)}, {"stage": 0})
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, 10_000))
try:
    save_checkpoint(path, "key", {"a": torch.zeros(10**5)}, {"stage": 1})
except LorabenchError as error:
    print("in words:", error)
print(load_checkpoint(path, "key")[1], [p.name for p in path.parent.iterdir()])
"""


@pytest.mark.skipif(sys.platform == "win32", reason="needs a limit on file sizes")
def test_a_disk_that_is_full_in_the_middle_of_the_tensors(tmp_path):
    """For real: the system stops safetensors after 10 kB, and safetensors says so with an error of its own."""
    path = tmp_path / "c.safetensors"
    found = subprocess.run([sys.executable, "-c", FULL, str(path)], capture_output=True, text=True)
    assert "in words:" in found.stdout, found.stderr[-600:]
    assert "{'stage': 0} ['c.safetensors']" in found.stdout


def test_a_sweep_leaves_only_checkpoints_that_still_have_work(tmp_path):
    from harness.store.checkpoints import sweep

    running = tmp_path / "running"
    running.mkdir()
    names = ["done.safetensors", "todo.safetensors", "done.progress", "todo.crash", ".todo.safetensors.1.ab.tmp"]
    for name in (*names, ".tmpeH0k4I", "claim.json"):  # safetensors calls its own so
        (running / name).write_text("")
    sweep(tmp_path, {"todo"})
    assert {path.name for path in running.iterdir()} == {"todo.safetensors", "claim.json"}
