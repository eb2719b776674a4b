"""kill -9 at any moment: the next run goes on, and its records are those of a run that nobody disturbed."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from commands import Command
from folders import records
from killing import STUDY, finish, times

from harness.store.packed import Floats

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]


@pytest.fixture(scope="session")
def run(shared_cache, tmp_path_factory) -> Callable[[Path], Command]:
    """Start ``lorabench run`` of the small study into a folder."""
    file = tmp_path_factory.mktemp("study") / "killed.yaml"
    file.write_text(STUDY)

    def start(folder: Path) -> Command:
        words = ["run", str(file), "--executor=local", "--no-report", f"--out={folder}"]
        return Command(words, {"LORABENCH_CACHE": str(shared_cache)})

    return start


@pytest.fixture(scope="session")
def undisturbed(run, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("undisturbed")
    finish(run(folder))
    assert len(records(folder)) == 6
    return folder


@pytest.fixture
def copy(undisturbed, tmp_path) -> Path:
    """A finished folder that may be damaged; times are kept."""
    return Path(shutil.copytree(undisturbed, tmp_path / "copy"))


def is_there(pattern: str, after: float = 0.0) -> Callable[[Path], bool]:
    """True once a file of this pattern has been there for ``after`` seconds."""
    first: list[float] = []

    def look(folder: Path) -> bool:
        if not first and any(folder.glob(pattern)):
            first.append(time.monotonic())
        return bool(first) and time.monotonic() - first[0] >= after

    return look


def second_pack() -> Callable[[Path], bool]:
    """True once a second pack has written a checkpoint: the first one's records are there, its own are not."""
    seen: set[str] = set()

    def look(folder: Path) -> bool:
        seen.update(path.name for path in folder.glob("running/[!.]*.safetensors"))
        return len(seen) > 1

    return look


MOMENTS = {
    "while the base is scored": lambda: is_there("running/claim.json"),
    "early in training": lambda: is_there("base.json", after=0.8),
    "at the first checkpoint": lambda: is_there("running/[!.]*.safetensors"),
    "after the first checkpoint": lambda: is_there("running/[!.]*.safetensors", after=0.3),
    "at the first record": lambda: is_there("trials/*.json"),
    "in the second pack": second_pack,
}


def kill_at(command: Command, folder: Path, moment: Callable[[Path], bool]) -> None:
    end = time.monotonic() + 200
    while not moment(folder):
        assert command.status is None, f"it ended before it could be killed: {command.said}"
        assert time.monotonic() < end
        time.sleep(0.005)
    command.kill()
    assert command.status == -9


@pytest.mark.parametrize("moment", MOMENTS)
def test_a_killed_run_goes_on_to_the_same_records(run, undisturbed, tmp_path, moment):
    folder = tmp_path / "killed"
    kill_at(run(folder), folder, MOMENTS[moment]())
    assert (folder / "running" / "claim.json").exists(), "the dead process can't have given its claim back"
    before = times(folder)
    assert len(before) < 6
    finish(run(folder))
    assert records(folder) == records(undisturbed)
    assert before.items() <= times(folder).items(), "a finished record was written again"
    assert not list((folder / "running").iterdir())


def test_of_several_that_come_after_a_kill_one_goes_on(run, undisturbed, tmp_path):
    folder = tmp_path / "killed"
    kill_at(run(folder), folder, is_there("running/[!.]*.safetensors"))
    before = times(folder)
    commands = [run(folder) for _ in range(3)]
    ended = [command.finish() for command in commands]
    assert 0 in ended, commands[0].said
    for command, status in zip(commands, ended, strict=True):
        assert status == 0 or (status == 1 and "is at work in this folder" in command.said), command.said
    assert records(folder) == records(undisturbed)
    assert before.items() <= times(folder).items(), "a finished record was written again"
    assert not list((folder / "running").iterdir())


def test_killed_again_and_again(run, undisturbed, tmp_path):
    """Once a checkpoint has been written, the next start goes on from it, and may die too."""
    folder = tmp_path / "killed"
    kill_at(run(folder), folder, is_there("base.json", after=0.5))
    kill_at(run(folder), folder, is_there("running/[!.]*.safetensors"))
    (checkpoint,) = (folder / "running").glob("*.safetensors")
    written = checkpoint.stat().st_mtime_ns
    kill_at(run(folder), folder, is_there("running/[!.]*.safetensors", after=0.5))
    assert not checkpoint.exists() or checkpoint.stat().st_mtime_ns >= written
    finish(run(folder))
    assert records(folder) == records(undisturbed)


def test_a_resumed_pack_does_not_train_its_first_task_again(run, undisturbed, tmp_path):
    """The checkpoint is used: a pack killed after task 1 takes that task's losses from it."""
    from safetensors import safe_open
    from safetensors.torch import save_file

    folder = tmp_path / "killed"
    kill_at(run(folder), folder, is_there("running/[!.]*.safetensors"))
    (path,) = (folder / "running").glob("*.safetensors")
    with safe_open(path, framework="pt") as file:
        metadata, tensors = dict(file.metadata()), {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    data = json.loads(metadata["data"])
    if data["stage"] != 0:
        pytest.skip("killed after the second task")
    fingerprint, notes = next(iter(data["ledger"]["notes"].items()))
    notes["losses"][0][0] = 123.0
    save_file(tensors, path, metadata={**metadata, "data": json.dumps(data)})
    finish(run(folder))
    found, wanted = records(folder)[f"{fingerprint}.json"], records(undisturbed)[f"{fingerprint}.json"]
    assert Floats.parse(found["train_loss"][0])[0] == 123.0
    assert found["train_loss"][1] == wanted["train_loss"][1]
    assert found["tasks"] == wanted["tasks"]


def test_a_torn_checkpoint_is_not_used(run, undisturbed, tmp_path):
    folder = tmp_path / "killed"
    kill_at(run(folder), folder, is_there("running/[!.]*.safetensors"))
    (path,) = (folder / "running").glob("*.safetensors")
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    finish(run(folder))
    assert records(folder) == records(undisturbed)


def test_a_damaged_record_is_put_aside_and_made_again(run, undisturbed, copy):
    name = sorted(records(copy))[0]
    path = copy / "trials" / name
    torn = path.read_bytes()[:200]
    path.write_bytes(torn)
    others = {other: stamp for other, stamp in times(copy).items() if other != name}
    finish(run(copy))
    assert (copy / "quarantine" / name).read_bytes() == torn
    assert records(copy) == records(undisturbed)
    assert others.items() <= times(copy).items()


def test_one_missing_record_of_a_pack_is_the_only_one_written(run, undisturbed, copy):
    name = next(n for n, r in records(copy).items() if r["spec"]["method"] == "lora_ema")
    (copy / "trials" / name).unlink()
    others = times(copy)
    finish(run(copy))
    assert records(copy) == records(undisturbed)
    assert {n: t for n, t in times(copy).items() if n != name} == others


def test_nothing_is_run_where_nothing_is_missing(run, copy):
    before = times(copy)
    assert "nothing to do" in finish(run(copy))
    assert times(copy) == before
