"""Finished work stays as it is: records and adapters are written once, whoever comes a second time."""

from __future__ import annotations

import errno
import json
import multiprocessing
import os
import shutil
import threading
from pathlib import Path

import campaigns
import pytest
from campaigns import TOY, run
from test_consistency import record

from harness.errors import InputError
from harness.executors.interface import Watcher
from harness.executors.local import LocalExecutor
from harness.running import campaign
from harness.store import files
from harness.store.files import create_json, sweep_temporary
from harness.store.records import Failure
from harness.store.results import finished, open_results, read_trials, trial_path, write_trial
from harness.store.superseded import supersede, take_back

STUDY = TOY | {
    "seeds": [0, 1], "streams": {"one": ["toy_recall"]}, "training": {"examples": 16, "batch": 8},
    "scoring": {"items": 8, "curve": []},
    "methods": {"lora": {}, "stable_lora": {}},
}  # fmt: skip


def failure(seed: int = 0, status: str = "oom"):
    return record(seed, status=status, failure=Failure(phase="p", message="m"), curves=())


# -- records ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("second", [record(0, host={"again": True}), failure(0)], ids=["an answer", "a failure"])
def test_a_finished_record_is_never_replaced(tmp_path, second):
    assert write_trial(tmp_path, record(0))
    path = trial_path(tmp_path, record(0).fingerprint)
    before = path.read_bytes(), path.stat().st_ino
    assert not write_trial(tmp_path, second, lambda: pytest.fail("its adapter was written again"))
    assert (path.read_bytes(), path.stat().st_ino) == before
    assert finished(tmp_path, record(0).fingerprint)


def test_a_diverged_trial_is_finished_too(tmp_path):
    assert write_trial(tmp_path, failure(0, "diverged"))
    assert not write_trial(tmp_path, record(0))


def test_a_failure_gives_way(tmp_path):
    assert write_trial(tmp_path, failure(0))
    assert not finished(tmp_path, record(0).fingerprint)
    assert write_trial(tmp_path, record(0))
    assert read_trials(tmp_path).records == [record(0)]
    assert [path.name for path in (tmp_path / "trials").iterdir()] == [f"{record(0).fingerprint}.json"]


def test_what_is_damaged_is_put_aside_not_overwritten(tmp_path):
    path = trial_path(tmp_path, record(0).fingerprint)
    for number, text in enumerate(("{", "[")):
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)
        assert write_trial(tmp_path, record(0))
        path.unlink()
        assert len(list((tmp_path / "quarantine").iterdir())) == number + 1
    assert {file.read_text() for file in (tmp_path / "quarantine").iterdir()} == {"{", "["}


def test_the_adapter_comes_before_the_record(tmp_path):
    order: list[bool] = []
    write_trial(tmp_path, record(0), lambda: order.append(trial_path(tmp_path, record(0).fingerprint).exists()))
    assert order == [False]


def _writes(folder: Path, start, host: int, results) -> None:
    start.wait()
    results.put((host, write_trial(folder, record(0, host={"writer": host}))))


def winner(target, folder: Path, writers: int) -> int:
    """Of so many processes that write one trial at once, the one whose record it is."""
    context = multiprocessing.get_context("fork")
    start, results = context.Event(), context.Queue()
    processes = [context.Process(target=target, args=(folder, start, n, results)) for n in range(writers)]
    for process in processes:
        process.start()
    start.set()
    said = dict(results.get(timeout=60) for _ in processes)
    for process in processes:
        process.join(60)
    (won,) = [host for host, wrote in said.items() if wrote]
    return won


def test_of_many_that_finish_at_once_one_wins(tmp_path):
    for round_ in range(20):
        folder, writers = tmp_path / str(round_), 6
        if round_ % 2:  # a failure stands there, which a worker that is thought dead and its retry want to replace
            write_trial(folder, failure(0))
            writers = 2
        won = winner(_writes, folder, writers)
        (found,) = read_trials(folder).records
        assert found.host == {"writer": won}
        assert [path.name for path in (folder / "trials").iterdir()] == [f"{found.fingerprint}.json"]


def test_without_hard_links_a_file_is_still_not_replaced(tmp_path, monkeypatch):
    def refuse(*_):
        raise OSError(errno.EPERM, "no links here")

    monkeypatch.setattr(files.os, "link", refuse)
    assert create_json(tmp_path / "a.json", 1)
    assert not create_json(tmp_path / "a.json", 2)
    assert json.loads((tmp_path / "a.json").read_text()) == 1
    assert [path.name for path in tmp_path.iterdir()] == ["a.json"]


# -- a study that has lost something ----------------------------------------------------------------------------------


@pytest.fixture
def load(tmp_path, in_shared_cache):
    def make(name: str = "mine", **changes) -> campaign.Campaign:
        return campaigns.load(campaigns.write_study(tmp_path, STUDY, name, **changes), tmp_path / "out")

    return make


@pytest.fixture(scope="module")
def whole(shared_cache, tmp_path_factory):
    """A finished folder of the study, to be copied."""
    folder = tmp_path_factory.mktemp("whole")
    file = campaigns.write_study(folder, STUDY)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LORABENCH_CACHE", str(shared_cache))
        run(campaigns.load(file, folder / "out"))
    return folder / "out"


@pytest.fixture
def copy(whole, tmp_path) -> Path:
    return Path(shutil.copytree(whole, tmp_path / "out"))


def state(folder: Path, kinds: tuple[str, ...] = ("trials", "adapters")) -> dict[str, tuple[bytes, int]]:
    return {
        f"{kind}/{path.name}": (path.read_bytes(), path.stat().st_mtime_ns)
        for kind in kinds
        for path in (folder / kind).iterdir()
    }


def test_a_missing_record_costs_no_other_trial_its_adapter(load, copy):
    """The rerun of a pack wrote its missing trial's adapter over those of the finished ones."""
    from harness.engine.adapters.files import find_adapter, read_adapter

    names = sorted(path.stem for path in (copy / "trials").iterdir())
    adapters = {name: read_adapter(*find_adapter(copy, name)).tensors for name in names}
    trial_path(copy, names[0]).unlink()
    before = state(copy)
    assert run(load()).complete
    after = state(copy)
    changed = {name for name in after if before.get(name) != after[name]}
    assert changed == {f"trials/{names[0]}.json", f"adapters/{names[0]}.safetensors"}
    for name in names:
        again = read_adapter(*find_adapter(copy, name)).tensors
        assert all(again[key].equal(value) for key, value in adapters[name].items())


def test_a_retry_leaves_the_record_that_a_dead_worker_wrote(load, tmp_path, monkeypatch):
    """Ray hands the same job, with the same list of what is missing, to a second worker."""
    from harness.running import pack, worker

    write, jobs, first = pack.write_trial, [], {}

    def dies(*arguments) -> None:
        write(*arguments)
        raise KeyboardInterrupt

    found = load()
    executor = LocalExecutor()
    run_jobs = executor.run

    def retried(given, work, watch):
        if given[0].pack is None:
            return run_jobs(given, work, watch)
        jobs.extend(given)
        monkeypatch.setattr(pack, "write_trial", dies)
        with pytest.raises(KeyboardInterrupt):
            worker.execute(given[0], lambda *what: None)
        first.update(state(found.folder))
        monkeypatch.setattr(pack, "write_trial", write)
        return run_jobs(given, work, watch)

    monkeypatch.setattr(executor, "run", retried)
    run(found, executor)
    assert len(jobs) == 1
    assert sorted(name.partition("/")[0] for name in first) == ["adapters", "trials"]
    after = state(found.folder)
    assert len(after) == 8
    assert {name: after[name] for name in first} == first


def test_adapters_of_earlier_versions_are_found(copy):
    """They lie in one file a pack, which none of today's files replaces."""
    from safetensors import safe_open
    from safetensors.torch import save_file

    from harness.engine.adapters.files import find_adapter, read_adapter

    names = sorted(path.stem for path in (copy / "trials").iterdir())[:2]
    alone = [read_adapter(*find_adapter(copy, name)).tensors for name in names]
    tensors, metadata = [], {}
    for name in names:
        path = copy / "adapters" / f"{name}.safetensors"
        with safe_open(path, framework="pt") as file:
            metadata = dict(file.metadata())
            tensors.append({key: file.get_tensor(key) for key in file.keys()})  # noqa: SIM118
        path.unlink()
    import torch

    stacked = {key: torch.cat([each[key] for each in tensors]) for key in tensors[0]}
    scalings = json.loads(metadata["scalings"]) * 2
    save_file(stacked, copy / "adapters" / "0123456789abcdef.safetensors",
              metadata=metadata | {"trials": json.dumps(names), "scalings": json.dumps(scalings)})  # fmt: skip
    for name, wanted in zip(names, alone, strict=True):
        found = read_adapter(*find_adapter(copy, name)).tensors
        assert all(found[key].equal(value) for key, value in wanted.items())


@pytest.mark.parametrize("manifest", [None, "{", '{"schema_version": 2, "study": "other", "expected": {}}'])
def test_a_folder_without_study_json_is_known_by_its_records(load, copy, manifest):
    file = copy / "study.json"
    wanted = file.read_bytes()
    file.unlink() if manifest is None else file.write_text(manifest)
    before = state(copy)
    assert run(load()).complete
    assert state(copy) == before
    assert file.read_bytes() == wanted


def test_records_of_another_study_are_not_adopted(load, copy):
    (copy / "study.json").unlink()
    with pytest.raises(InputError, match=r"no study\.json"):
        run(load("other"))


def test_two_studies_cant_share_a_folder_by_losing_its_name(tmp_path):
    write_trial(tmp_path, record(0))
    write_trial(tmp_path, record(1, study="other"))
    with pytest.raises(InputError, match=r"no study\.json"):
        open_results(tmp_path, "s", {})


# -- a study that was edited ------------------------------------------------------------------------------------------


def test_a_plan_says_what_an_edit_sets_aside_and_why(load, copy):
    assert campaign.read_state(load()).changes.lines == ()
    lines = campaign.read_state(load(training={"examples": 24, "batch": 8})).changes.lines
    assert "superseded/" in lines[0]
    assert lines[1:] == (
        "2 records of 'lora' would be set aside: training.examples was 16, is 24",
        "2 records of 'stable_lora' would be set aside: training.examples was 16, is 24",
    )
    (_, gone) = campaign.read_state(load(methods={"lora": {}})).changes.lines
    assert gone == "2 records of 'stable_lora' would be set aside: there is no arm 'stable_lora' any more"
    (_, *seeds) = campaign.read_state(load(seeds=[0])).changes.lines
    assert seeds == [
        f"1 record of '{arm}' would be set aside: there is no seed '1' any more" for arm in ("lora", "stable_lora")
    ]


def test_a_record_that_fits_again_is_taken_back(load, copy):
    before = state(copy)
    run(load(seeds=[0]))
    assert len(list((copy / "superseded").iterdir())) == 2
    assert "2 records in superseded/ fit again" in campaign.read_state(load()).changes.lines[-1]
    assert run(load()).complete
    assert state(copy) == before
    assert not list((copy / "superseded").iterdir())


def test_what_is_superseded_twice_is_kept_twice(tmp_path):
    for _ in range(2):
        write_trial(tmp_path, failure(0))
        supersede(tmp_path, set())
    assert len(list((tmp_path / "superseded").iterdir())) == 2
    assert take_back(tmp_path, [record(0).fingerprint]) == [], "a failure is no answer"


# -- leftovers of a kill ----------------------------------------------------------------------------------------------


def test_temporary_files_of_dead_processes_are_swept(load, copy):
    dead = multiprocessing.get_context("fork").Process(target=int)
    dead.start()
    dead.join()
    places = [copy, copy / "trials", copy / "figures", copy / "adapters", copy / "running"]
    for place in places:
        place.mkdir(exist_ok=True)
        (place / f".x.json.{dead.pid}.00ff.tmp").write_text("{")
        (place / f".x.json.{os.getpid()}.00ff.tmp").write_text("{")
        if place.name in ("adapters", "running"):
            (place / ".tmpeH0k4I").write_text("{")  # safetensors calls its own so
    before = state(copy, ("trials",))
    assert run(load()).complete
    assert not list(copy.rglob(".tmp*"))
    left = list(copy.rglob(".*.tmp"))
    assert {path.name for path in left} <= {f".x.json.{os.getpid()}.00ff.tmp"}, "a living process may be writing"
    assert {n: s for n, s in before.items() if "tmp" not in n} == {
        n: s for n, s in state(copy, ("trials",)).items() if "tmp" not in n
    }
    for path in left:
        os.utime(path, (0, 0))
    sweep_temporary(copy)
    assert not list(copy.rglob(".*.tmp"))


def test_what_a_dead_worker_leaves_is_swept_at_the_runs_end(load, copy):
    """The pack was done by another worker, so no later run would look."""

    class Leaves(LocalExecutor):
        def run(self, jobs, work, watch):
            done = super().run(jobs, work, watch)
            for name in (".tmpeH0k4I", ".x.safetensors.1.00ff.tmp", "gone.progress"):
                (copy / "running" / name).write_text("")
            (copy / "adapters" / ".tmpeH0k4I").write_text("")
            return done

    next((copy / "trials").glob("*.json")).unlink()
    assert run(load(), Leaves()).complete
    assert not list((copy / "running").iterdir())
    assert not list(copy.rglob(".tmp*"))


def test_half_made_folders_of_the_cache_are_swept_after_a_day(tmp_path, monkeypatch):
    from harness.data import files

    monkeypatch.setenv("LORABENCH_CACHE", str(tmp_path))
    fresh, stale = files.temporary_dir(tmp_path / "models" / "m"), files.temporary_dir(tmp_path / "tasks" / "t" / "d")
    (stale / "file").write_text("x")
    os.utime(stale, (0, 0))
    files.sweep()
    assert fresh.exists()
    assert not stale.exists()


def test_a_folder_removed_in_a_run_keeps_what_is_written_later(load, tmp_path):
    """The base's scores are gone with it, so the run ends; the next one takes what is there."""
    found = load()
    gone = threading.Event()

    def watch(job: str, units: float, what: str) -> None:
        if what == "task 1/1: scoring" and not gone.is_set():
            gone.set()
            shutil.rmtree(found.folder)

    run(found, watcher=Watcher(lambda units: None, watch))
    before = state(found.folder)
    assert len(before) == 8
    assert run(load()).complete
    assert {name: value for name, value in state(found.folder).items() if name in before} == before


@pytest.mark.parametrize("verb", ["plan", "status"])
def test_plan_and_status_say_what_an_edit_sets_aside(load, copy, tmp_path, in_process, verb):
    def said(**changes) -> str:
        load(**changes)
        status, out, _ = in_process(verb, tmp_path / "mine.yaml", "--out", copy)
        assert status == 0
        return " ".join(out.split())

    assert "the study has changed since" not in said()
    text = said(methods={"lora": {}})
    assert "the study has changed since; the next run moves what no longer fits to superseded/" in text
    assert "2 records of 'stable_lora' would be set aside: there is no arm 'stable_lora' any more" in text
    assert len(list((copy / "trials").iterdir())) == 4, "nothing is moved by looking"
    name = f"{record(0).fingerprint}.json"
    (copy / "trials" / name).write_text("{")
    assert f"{name}: not a record" in said()


def test_of_what_was_put_aside_twice_the_answer_comes_back(tmp_path):
    """A failure stands under the first name, the answer under the second."""
    planned = {record(0).fingerprint}
    for made in (failure(0), record(0)):
        write_trial(tmp_path, made)
        supersede(tmp_path, set())
    assert take_back(tmp_path, planned) == [record(0).fingerprint]
    assert read_trials(tmp_path).records == [record(0)]


def _keeps(folder: Path, start, host: int, results) -> None:
    start.wait()

    def keep() -> None:
        with (folder / "adapters").open("a") as file:
            file.write(f"{host}\n")

    results.put((host, write_trial(folder, record(0, host={"writer": host}), keep)))


def test_the_adapter_is_that_of_the_record_whoever_comes_second(tmp_path):
    for round_ in range(10):
        folder = tmp_path / str(round_)
        folder.mkdir()
        won = winner(_keeps, folder, 4)
        assert (folder / "adapters").read_text() == f"{won}\n", "one adapter, and the winner's"


def test_a_sweep_looks_at_nothing_but_this_run_s_own(tmp_path):
    places = {"adapters": False, "running": False, "tuning/running": True, "notes": True, ".": True}
    for place in places:
        (tmp_path / place).mkdir(parents=True, exist_ok=True)
        (tmp_path / place / ".tmpAb12Cd").write_text("x")
    sweep_temporary(tmp_path)
    assert {place: (tmp_path / place / ".tmpAb12Cd").exists() for place in places} == places


def test_base_scores_that_were_edited_are_scored_again(load, copy):
    from harness.store.results import read_base

    base = json.loads((copy / "base.json").read_text())
    assert read_base(copy, base["key"]) is not None
    name = next(iter(base["scores"]))
    base["scores"][name]["score"] = 7.5
    (copy / "base.json").write_text(json.dumps(base))
    assert read_base(copy, base["key"]) is None
    before = state(copy)
    trial_path(copy, sorted(path.stem for path in (copy / "trials").iterdir())[0]).unlink()
    assert run(load()).complete
    assert json.loads((copy / "base.json").read_text())["scores"][name]["score"] <= 1
    assert set(state(copy)) == set(before)
