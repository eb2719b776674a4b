"""Checkpoints that are written while their pack goes on: what is in them, what fails, and who waits for whom."""

from __future__ import annotations

import subprocess
import sys
import threading
from pathlib import Path

import benchmark_files
import campaigns
import pytest
import torch
from campaigns import TOY
from folders import records

from harness.data.sources import cl_benchmark
from harness.errors import FolderError
from harness.running import boundary, pack
from harness.running.boundary import CheckpointWriter
from harness.running.pack import PackRun
from harness.store.checkpoints import load_checkpoint, save_checkpoint
from harness.store.results import read_trials

STUDY = TOY | {
    "streams": {"three": ["toy_recall", "toy_digits", "scl_rte"]}, "methods": {"lora": {}, "lora_ema": {}},
    "training": {"examples": 16, "batch": 8}, "scoring": {"items": 4, "curve": [], "intruders_after": "never"},
}  # fmt: skip
SECONDS = 60  #: until a wait that should have ended is a failure


class Killed(KeyboardInterrupt):
    """Not an error that a worker turns into a record."""


@pytest.fixture
def file(tmp_path, in_shared_cache, monkeypatch) -> Path:
    monkeypatch.setattr(cl_benchmark, "_of_study", None)
    root = tmp_path / "CL_Benchmark"
    benchmark_files.write(root, "NLI/RTE", ["contradiction", "entailment"])
    return campaigns.write_study(tmp_path, STUDY, "boundary", cl_benchmark=str(root))


def run(file: Path, folder: Path) -> dict[str, dict]:
    campaigns.run(campaigns.load(file, folder))
    return records(folder)


def writers() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name.startswith("checkpoint")]


def full(*_) -> None:
    raise FolderError("cannot write the file: No space left on device", where="x", remedy="free disk space")


# -- the writer -------------------------------------------------------------------------------------------------------


def state() -> dict[str, torch.Tensor]:
    return {"values": torch.randn(3, 4).t(), "alive": torch.tensor([True, False]), "step": torch.tensor(7.0).double(),
            "half": torch.randn(2).bfloat16()}  # fmt: skip


def test_it_writes_what_was_there_when_it_was_taken(tmp_path, monkeypatch):
    go = threading.Event()

    def save(*given) -> None:
        assert go.wait(SECONDS)
        save_checkpoint(*given)

    monkeypatch.setattr(boundary, "save_checkpoint", save)
    path, tensors = tmp_path / "c.safetensors", state()
    wanted = {name: tensor.clone() for name, tensor in tensors.items()}
    with CheckpointWriter(path, "key") as writer:
        writer.take(tensors, {"stage": 0})
        for tensor in tensors.values():
            tensor.zero_()
        assert not path.exists()
        go.set()
        writer.settle()
        found, data = load_checkpoint(path, "key")
        assert data == {"stage": 0}
        assert all(
            torch.equal(found[name], wanted[name]) and found[name].dtype == wanted[name].dtype for name in wanted
        )


def test_a_later_state_may_have_other_tensors(tmp_path):
    path = tmp_path / "c.safetensors"
    with CheckpointWriter(path, "key") as writer:
        writer.take({"a": torch.zeros(2), "b": torch.zeros(3), "c": torch.zeros(4)}, 0)
        later = {"a": torch.ones(2), "b": torch.ones(5), "d": torch.ones(1).int()}
        writer.take(later, 1)
        writer.settle()
        found, data = load_checkpoint(path, "key")
    assert data == 1
    assert found.keys() == later.keys()
    assert all(torch.equal(found[name], later[name]) and found[name].dtype == later[name].dtype for name in later)


def test_one_write_is_on_at_a_time_and_none_after_the_end(tmp_path, monkeypatch):
    at_work, most = 0, 0

    def save(*given) -> None:
        nonlocal at_work, most
        at_work += 1
        most = max(most, at_work)
        save_checkpoint(*given)
        at_work -= 1

    monkeypatch.setattr(boundary, "save_checkpoint", save)
    with CheckpointWriter(tmp_path / "c.safetensors", "key") as writer:
        for stage in range(20):
            writer.take(state(), stage)
        writer.remove()
        assert not (tmp_path / "c.safetensors").exists()
    assert most == 1
    assert not writers()
    assert not list(tmp_path.iterdir())


def test_an_error_is_raised_once_by_whoever_waits(tmp_path, monkeypatch):
    with CheckpointWriter(tmp_path / "c.safetensors", "key") as writer:
        monkeypatch.setattr(boundary, "save_checkpoint", full)
        writer.take(state(), 0)
        with pytest.raises(FolderError, match="No space left"):
            writer.take(state(), 1)
        monkeypatch.undo()
        writer.take(state(), 2)
        writer.settle()
    assert load_checkpoint(tmp_path / "c.safetensors", "key")[1] == 2


def test_what_stops_the_pack_counts_for_more(tmp_path, monkeypatch):
    monkeypatch.setattr(boundary, "save_checkpoint", full)
    writer = CheckpointWriter(tmp_path / "c.safetensors", "key")

    def stopped() -> None:
        with writer:
            writer.take(state(), 0)
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        stopped()
    assert not writers()


def test_a_large_state_of_a_cpu_is_written_at_once(tmp_path, monkeypatch):
    """It is not there twice."""
    monkeypatch.setattr(boundary, "COPIED", 0)
    path, tensors = tmp_path / "c.safetensors", state()
    with CheckpointWriter(path, "key") as writer:
        writer.take(tensors, {"stage": 0})
        assert path.exists()
        assert not writers()
        loaded = load_checkpoint(path, "key")
        assert loaded is not None
        assert all(torch.equal(loaded[0][name], tensor) for name, tensor in tensors.items())


def test_a_file_is_removed_though_its_successor_was_not_written(tmp_path, monkeypatch):
    with CheckpointWriter(tmp_path / "c.safetensors", "key") as writer:
        writer.take(state(), 0)
        writer.settle()
        monkeypatch.setattr(boundary, "save_checkpoint", full)
        writer.take(state(), 1)
        writer.remove()
    assert not list(tmp_path.iterdir())


# -- a pack -----------------------------------------------------------------------------------------------------------


def test_it_goes_on_from_what_was_written_while_it_trained(file, tmp_path, monkeypatch):
    wanted = run(file, tmp_path / "undisturbed")
    trained = threading.Event()
    train, resumed = PackRun._train, []

    def save(*given) -> None:
        assert trained.wait(SECONDS)
        save_checkpoint(*given)

    def killed(self, stage: int) -> None:
        train(self, stage)
        if stage == 1:
            trained.set()
            raise Killed

    with monkeypatch.context() as patched:
        patched.setattr(boundary, "save_checkpoint", save)
        patched.setattr(PackRun, "_train", killed)
        with pytest.raises(Killed):
            run(file, tmp_path / "killed")
    assert not writers(), "an interrupted pack waits for its writer"
    monkeypatch.setattr(PackRun, "_train", lambda self, stage: resumed.append(stage) or train(self, stage))
    assert run(file, tmp_path / "killed") == wanted
    assert resumed == [1, 2]


DIES = """
import os, signal, sys
from pathlib import Path
import campaigns
from harness.store import files
synced, writes = files._sync, []

def dies(path):
    if ".safetensors." in path.name and path.parent.name == "running":
        writes.append(path)
        if len(writes) == 2:
            assert path.exists()
            os.kill(os.getpid(), signal.SIGKILL)
    synced(path)

files._sync = dies
campaigns.run(campaigns.load(Path(sys.argv[1]), Path(sys.argv[2])))
"""


@pytest.mark.skipif(sys.platform == "win32", reason="needs SIGKILL")
def test_a_kill_within_a_write_leaves_the_boundary_before(file, tmp_path, monkeypatch):
    wanted, folder = run(file, tmp_path / "undisturbed"), tmp_path / "killed"
    done = subprocess.run([sys.executable, "-c", f"import sys; sys.path[:0] = {sys.path}\n{DIES}", file, folder])
    assert done.returncode == -9
    assert len(list((folder / "running").glob(".*.tmp"))) == 1, "it died within a write"
    assert len(list((folder / "running").glob("[!.]*.safetensors"))) == 1
    train, resumed = PackRun._train, []
    monkeypatch.setattr(PackRun, "_train", lambda self, stage: resumed.append(stage) or train(self, stage))
    assert run(file, folder) == wanted
    assert resumed == [1, 2], "of the second boundary there is a part alone"
    assert not list((folder / "running").iterdir())


def test_a_full_disk_stops_the_run_at_the_next_boundary(file, tmp_path, monkeypatch):
    """It is no method's fault, and no trial is recorded as failed."""
    train, trained = PackRun._train, []
    monkeypatch.setattr(PackRun, "_train", lambda self, stage: trained.append(stage) or train(self, stage))
    monkeypatch.setattr(boundary, "save_checkpoint", full)
    with pytest.raises(FolderError, match="No space left"):
        run(file, tmp_path / "out")
    assert trained == [0, 1]
    assert not records(tmp_path / "out")
    assert not writers()


def test_the_last_write_matters_no_more_behind_the_records(file, tmp_path, monkeypatch):
    def save(path: Path, key: str, tensors: dict[str, torch.Tensor], data: dict) -> None:
        if data["stage"] == 1:
            full()
        save_checkpoint(path, key, tensors, data)

    monkeypatch.setattr(boundary, "save_checkpoint", save)
    run(file, tmp_path / "out")
    assert {record.status for record in read_trials(tmp_path / "out").records} == {"ok"}
    assert not list((tmp_path / "out" / "running").glob("*.safetensors"))


def test_what_else_a_write_raises_is_the_pack_s_failure(file, tmp_path, monkeypatch):
    def save(*_) -> None:
        raise ZeroDivisionError("by zero")

    monkeypatch.setattr(boundary, "save_checkpoint", save)
    run(file, tmp_path / "out")
    found = read_trials(tmp_path / "out").records
    assert {record.status for record in found} == {"error"}
    assert all("ZeroDivisionError: by zero" in record.failure.message for record in found)
    assert all(f"{Path(__file__).name}:" in record.failure.message for record in found), "it names the line"


def test_a_kill_among_the_records_costs_the_last_task(file, tmp_path, monkeypatch):
    """Nothing is written at the end of a stream but its records; those that are there stay."""
    wanted, folder = run(file, tmp_path / "undisturbed"), tmp_path / "killed"
    write, written = pack.write_trial, []

    def write_one(*given) -> None:
        if written:
            raise Killed
        written.append(write(*given))

    with monkeypatch.context() as patched:
        patched.setattr(pack, "write_trial", write_one)
        with pytest.raises(Killed):
            run(file, folder)
    (there,) = (folder / "trials").glob("*.json")
    before = there.stat().st_mtime_ns
    train, resumed = PackRun._train, []
    monkeypatch.setattr(PackRun, "_train", lambda self, stage: resumed.append(stage) or train(self, stage))
    assert run(file, folder) == wanted
    assert resumed == [2]
    assert there.stat().st_mtime_ns == before
    assert not list((folder / "running").iterdir())
