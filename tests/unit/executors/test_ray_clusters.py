"""Runs on clusters whose nodes come, go, are shared with others, or don't see the results folder."""

from __future__ import annotations

import json
import os
import shutil
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack

import campaigns
import clusters
import pytest
import ray_jobs
import rays
import torch
from clusters import Nodes
from commands import Command
from folders import records
from places import ROOT
from ray_jobs import Small
from safetensors.torch import load_file

from harness.errors import InputError
from harness.executors.interface import Executor, Outcome
from harness.store.clone import clone
from harness.store.results import read_trials
from harness.study.config import ResourceSettings

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]


def quiet(*_: object) -> None:
    pass


def told(outcomes: list[Outcome]) -> list[dict]:
    assert all(outcome.failed is None for outcome in outcomes), outcomes
    return [json.loads(outcome.message) for outcome in outcomes]


@pytest.fixture(scope="module")
def cluster() -> Iterator[Nodes]:
    """A head that runs nothing, and what tests add."""
    with clusters.nodes() as made:
        yield made


@pytest.fixture(autouse=True)
def cleared(cluster) -> Iterator[None]:
    yield
    cluster.clear()


def test_of_three_nodes_one_dies_and_a_larger_one_joins(cluster, tmp_path):
    small = [cluster.join() for _ in range(3)]
    jobs = [Small(f"job{number}", tmp_path, seconds=3) for number in range(24)]
    changed = threading.Event()

    def change(job: str, units: float, what: str, *_: object) -> None:
        if what == "ended" and not changed.is_set():
            changed.set()
            cluster.kill(small.pop())
            cluster.join(cpus=4)

    with clusters.joined(cluster.address) as executor:
        outcomes = executor.run(jobs, ray_jobs.NAP, change)
    seen = told(outcomes)
    by_node = {node: [each for each in seen if each["node"] == node] for node in {each["node"] for each in seen}}
    assert len(by_node) >= 3
    most = max(by_node.values(), key=len)
    at_once = max(sum(other["began"] <= each["began"] < other["ended"] for other in most) for each in most)
    assert at_once > 3, "a large node that joins later is filled"
    assert list((tmp_path / "running").iterdir()) == []


def test_two_runs_share_a_cluster(cluster, tmp_path):
    runs: dict[str, list[dict]] = {}
    cluster.join(cpus=2)

    def run(name: str, executor: Executor) -> None:
        jobs = [Small(f"{name}{number}", tmp_path / name, seconds=2) for number in range(10)]
        runs[name] = told(executor.run(jobs, ray_jobs.NAP, quiet))

    with clusters.joined(cluster.address) as one, clusters.joined(cluster.address) as other:
        threads = [threading.Thread(target=run, args=each) for each in (("one", one), ("other", other))]
        threads[0].start()
        rays.wait_until(lambda: any((tmp_path / "one").rglob("*.progress")))
        threads[1].start()
        for thread in threads:
            thread.join()
    first = min(runs.values(), key=lambda run: run[0]["began"])
    second = next(run for run in runs.values() if run is not first)
    end = max(each["ended"] for each in first)
    assert sum(each["ended"] < end for each in second) >= 3, "the second has its share while the first is at work"


def test_jobs_share_a_card_among_nodes_without_one(cluster, tmp_path):
    """Fake: Ray believes what a node says of its GPUs.  Jobs for a CPU leave the node with one alone."""
    cluster.join(cpus=2, num_gpus=1)
    cluster.join(cpus=2)
    halves = [Small(f"half{number}", tmp_path, "cuda", seconds=4, card=0.5) for number in range(3)]
    with clusters.joined(cluster.address) as executor:
        on_cards = told(executor.run(halves, ray_jobs.NAP, quiet))
        on_cpus = told(executor.run([Small("cpu", tmp_path)], ray_jobs.NAP, quiet))
    assert len({each["node"] for each in on_cards}) == 1
    assert on_cpus[0]["node"] != on_cards[0]["node"]
    at_once = [sum(other["began"] <= each["began"] < other["ended"] for other in on_cards) for each in on_cards]
    assert max(at_once) == 2, "two halves are a card, and three are not"


def test_a_node_is_waited_for_as_long_as_the_study_says(cluster, tmp_path, capfd):
    first = cluster.join(cpus=2)
    with clusters.joined(cluster.address) as executor:
        device = executor.device("cpu", ResourceSettings(wait_minutes=0.05))
        with pytest.raises(InputError, match="needs 4 CPU, and no node of the Ray cluster has that") as caught:
            executor.run([Small("job", tmp_path, threads=4)], ray_jobs.NAP, quiet)
        assert "none has joined within 0.05 minutes: there is 1, with 2 CPU" in caught.value.what
        said = capfd.readouterr().err
        assert said.count("waiting for a node of the Ray cluster with 4 CPU, up to 0.05 minutes") == 1
        with pytest.raises(InputError, match="asks for a GPU, and the Ray cluster has none"):
            executor.device("cuda", ResourceSettings(wait_minutes=0.02))
        assert (
            "waiting for a node of the Ray cluster with 1 CPU and 1 GPU, up to 0.02 minutes" in capfd.readouterr().err
        )
        executor.device("cpu", ResourceSettings(wait_minutes=2))
        with ThreadPoolExecutor() as pool:
            run = pool.submit(executor.run, [Small("job", tmp_path, threads=4)], ray_jobs.NAP, quiet)
            time.sleep(2)
            cluster.join(cpus=4)
            assert told(run.result())
        assert "a node has joined the Ray cluster" in capfd.readouterr().err
        cluster.kill(first)
        assert executor.ask(os.getpid, device), "of the other node: the only one that was looked at is gone"


# -- a folder that workers don't see ----------------------------------------------------------------------------------


def test_what_workers_write_elsewhere_comes_home(cluster, tmp_path):
    (tmp_path / "running").mkdir()
    (tmp_path / "base.json").write_text("{}")
    (tmp_path / "running" / "one.safetensors").write_bytes(b"a boundary")
    (tmp_path / "logs").mkdir()
    (tmp_path / "logs" / "one.log").write_text("begun\n")
    progress: list[tuple] = []
    with clusters.blind_node(cluster, tmp_path), clusters.joined(cluster.address) as executor:
        jobs = [Small(name, tmp_path) for name in ("one", "keeps")]
        found = told(executor.run(jobs, ray_jobs.LEAVE, lambda *what: progress.append(what)))
    assert found == [["base.json", "one.safetensors"], ["base.json"]]
    for name in ("abc", "abc-task1"):
        assert (tmp_path / "adapters" / f"{name}.safetensors").read_bytes() == ray_jobs.CONTENT
    left = [path.name for path in (tmp_path / "running").iterdir() if path.suffix != ".lock"]
    assert left == ["keeps.safetensors"]
    assert (tmp_path / "logs" / "one.log").read_text() == "begun\ndone\n"
    assert ("one", 2.0, "written", {}) in progress


def test_a_study_on_machines_that_share_nothing(cluster, tmp_path, in_shared_cache):
    """Records and adapters are those of a run in one process."""
    study = campaigns.TOY | {"methods": {"lora": {}, "stable_lora": {}}, "pack": 1, "keep_adapters": "all",
                             "training": {"examples": 32, "batch": 8}, "scoring": {"items": 8}}  # fmt: skip
    file = campaigns.write_study(tmp_path, study)
    alone = campaigns.load(file, tmp_path / "alone")
    assert campaigns.run(alone).complete
    hidden = tmp_path / "hidden"
    hidden.mkdir()
    shutil.rmtree(in_shared_cache / "bases")  # or the base's scores need not be made
    with clusters.blind_node(cluster, hidden), clusters.joined(cluster.address) as executor:
        there = campaigns.load(file, hidden / "out")
        state = campaigns.run(there, executor)
    assert state.complete
    assert sum(lane.packs for lane in state.lanes) == 2, "workers say when they were at it"
    assert records(hidden / "out") == records(tmp_path / "alone")
    paths = sorted((tmp_path / "alone" / "adapters").iterdir())
    assert len(paths) == 4
    for path in paths:
        mine, theirs = load_file(path), load_file(hidden / "out" / "adapters" / path.name)
        assert mine.keys() == theirs.keys()
        assert all(torch.equal(mine[key], theirs[key]) for key in mine)
    assert list((hidden / "out" / "running").iterdir()) == []


PLUGIN = """
from harness.method import Method, MethodSettings, Recipe

METHOD = Method(
    name="mine", summary="LoRA", source="here", settings=MethodSettings, compose=lambda settings: Recipe()
)
"""


def test_workers_run_the_code_and_plugins_of_the_run(cluster, tmp_path, in_shared_cache):
    """They see neither the plug-ins nor the folder of their rows, and another lorabench stands in their way."""
    plugins = tmp_path / "hidden" / "mine"
    (plugins / "methods").mkdir(parents=True)
    (plugins / "methods" / "mine.py").write_text(PLUGIN)
    task = shutil.copytree(ROOT / "tasks" / "toy_recall", plugins / "tasks" / "my_recall")
    text = (task / "toy_recall.yaml").read_text()
    (task / "my_recall.yaml").write_text(text.replace("task: toy_recall", "task: my_recall"))
    (task / "toy_recall.yaml").unlink()
    study = campaigns.TOY | {"methods": {"mine": {}}, "streams": {"order": ["my_recall"]}, "keep_adapters": "none",
                             "training": {"examples": 16, "batch": 8}, "scoring": {"items": 4}}  # fmt: skip
    file = campaigns.write_study(tmp_path, study)
    (tmp_path / "old" / "harness").mkdir(parents=True)
    (tmp_path / "old" / "harness" / "__init__.py").write_text("raise ImportError('an old version')")
    with ExitStack() as stack:
        stack.enter_context(clusters.blind_node(cluster, tmp_path / "hidden", paths=[tmp_path / "old"]))
        run = Command(
            ["--plugins", str(plugins), "run", str(file), "--no-report", f"--out={tmp_path / 'hidden' / 'out'}"],
            {"RAY_ADDRESS": cluster.address, "RAY_AUTH_MODE": "disabled", "LORABENCH_CACHE": str(in_shared_cache)},
        )
        stack.callback(rays.end, run.pid)
        assert run.finish(200) == 0, run.said
    (record,) = read_trials(tmp_path / "hidden" / "out").records
    assert (record.status, record.spec.method) == ("ok", "mine")
    assert record.commit == clone().commit


def test_an_object_store_that_is_full_stops_nobody(tmp_path):
    """What workers send home goes by it, and so do the jobs."""
    with ExitStack() as stack:
        made = stack.enter_context(clusters.nodes(**clusters.NO_DISK))
        stack.enter_context(clusters.blind_node(made, tmp_path))
        stack.enter_context(clusters.full_stores(made.address))
        executor = stack.enter_context(clusters.joined(made.address))
        assert told(executor.run([Small("one", tmp_path)], ray_jobs.LEAVE, quiet)) == [[]]
    assert (tmp_path / "adapters" / "abc.safetensors").read_bytes() == ray_jobs.CONTENT
