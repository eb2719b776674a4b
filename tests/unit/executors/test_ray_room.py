"""Which places of a cluster jobs are for, and what is said while there is none.  The nodes are made up; no Ray runs."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
from ray_jobs import Small

from harness.errors import InputError, LorabenchError
from harness.executors.ray import executor, flight, nodes, room
from harness.executors.ray.nodes import KIND, Node
from harness.executors.ray.room import TAKEN_SECONDS, Room
from harness.perf.trivial import WORK
from harness.study.config import ResourceSettings

PLAIN = Node("a", "10.0.0.1", {"CPU": 2.0})
H100 = Node("b", "10.0.0.2", {"CPU": 8.0, "GPU": 2.0, f"{KIND}H100": 1.0})
T4 = Node("c", "10.0.0.3", {"CPU": 8.0, "GPU": 4.0, f"{KIND}T4": 1.0})


@pytest.fixture
def clock(monkeypatch) -> list[float]:
    """The time, which a test moves."""
    now = [1000.0]
    monkeypatch.setattr(room, "time", SimpleNamespace(monotonic=lambda: now[0]))
    return now


@pytest.fixture
def there(monkeypatch) -> list[Node]:
    """The nodes of the cluster, which a test changes."""
    found: list[Node] = []
    monkeypatch.setattr(room, "living", lambda: list(found))
    monkeypatch.setattr(nodes, "living", lambda: list(found))
    return found


@pytest.fixture
def make() -> Callable[..., tuple[Room, list[str]]]:
    """``make(jobs, accelerator="H100")``: a room of a cluster that was joined, and what it says."""

    def go(*jobs: Small, accelerator: str = "", joined: bool = True, **resources: Any) -> tuple[Room, list[str]]:
        said: list[str] = []
        return Room(jobs, accelerator, ResourceSettings(**resources), joined, said.append), said

    return go


# -- kinds of GPU -----------------------------------------------------------------------------------------------------


def test_jobs_are_for_the_kind_of_gpu_that_is_named(make, there, clock):
    there += [PLAIN, H100, T4]
    job, share = Small(device="cuda"), Small(device="cuda", card=0.25)
    for kind, count in (("H100", 2), ("T4", 4)):
        places, _ = make(job, accelerator=kind)
        assert places.options(job) == {"num_cpus": 1, "num_gpus": 1, "accelerator_type": kind}
        assert places.most(begun=True) == 2 * count + room.EXTRA, "no card of another kind is a place"
    assert make(share, accelerator="H100")[0].most(begun=True) == 2 * 8 + room.EXTRA
    assert make(job)[0].options(job)["accelerator_type"] is None
    assert make(job, accelerator="H100")[0].options(Small())["accelerator_type"] is None, "of a job for a CPU"


@pytest.mark.parametrize("kind", ["H100", "T4"])
def test_ray_is_told_the_kind_that_a_study_names(there, monkeypatch, kind):
    """From the study's resources to what Ray is asked for with each job."""
    there += [PLAIN, H100, T4]
    asked: list[dict[str, Any]] = []

    def options(**words: Any) -> SimpleNamespace:
        asked.append(words)
        return SimpleNamespace(remote=stop)

    def stop(*_: object) -> None:
        raise LorabenchError("stopped here on purpose")

    seen = {"host": "h", "processor": "x86_64", "libraries": dict.fromkeys(nodes.LIBRARIES, "1.0"), "blind": ""}
    monkeypatch.setattr(
        nodes, "_each", lambda found, *_, **__: {node: seen | {"gpus": [(node.accelerator, 10**10)]} for node in found}
    )
    monkeypatch.setattr(flight, "_REMOTE", {"cuda": SimpleNamespace(options=options)})
    monkeypatch.setattr(executor, "Mail", lambda jobs: SimpleNamespace(close=lambda: None, errand=lambda *_: None))
    flight._with_options.cache_clear()
    cluster: Any = SimpleNamespace(check=lambda: None, ours=False)
    running = executor.RayExecutor(cluster, lambda text: None)
    try:
        assert running.device("cuda", ResourceSettings(accelerator_type=kind)).name == kind
        with pytest.raises(LorabenchError, match="on purpose"):
            running.run([Small(device="cuda", card=0.5)], WORK, lambda *_: None)
    finally:
        flight._with_options.cache_clear()
    assert asked == [{"num_cpus": 1, "num_gpus": 0.5, "accelerator_type": kind}]


# -- what is said -----------------------------------------------------------------------------------------------------

TAKEN = "waiting for a place on the Ray cluster: others have all of them"


def looks(places: Room, clock: list[float], seconds: float, *, begun: bool = False) -> None:
    """Look at the cluster for so long."""
    for _ in range(int(seconds) + 1):
        clock[0] += 1
        places.most(begun)


def test_that_others_have_all_places_is_said_once(make, there, clock):
    there.append(PLAIN)
    places, said = make(Small())
    looks(places, clock, TAKEN_SECONDS - 2)
    assert said == []
    looks(places, clock, 3)
    assert said == [TAKEN]
    looks(places, clock, 3 * TAKEN_SECONDS)
    assert said == [TAKEN]


def test_of_a_run_at_work_nothing_is_said(make, there, clock):
    there.append(PLAIN)
    for words in ({"begun": True}, {}):
        places, said = make(Small(), joined=bool(words))
        looks(places, clock, 3 * TAKEN_SECONDS, **words)
        assert said == [], "a job is at work, or all places are the run's own"


@pytest.mark.parametrize("head", [[], [Node("head", "10.0.0.9", {"memory": 1e9})]])
def test_a_cluster_that_could_run_nothing_is_told_of(make, there, clock, head):
    there += head
    places, said = make(Small(), wait_minutes=0.5)
    looks(places, clock, 20)
    (waits,) = said
    assert waits.startswith("waiting for a node of the Ray cluster with 1 CPU, up to 0.5 minutes")
    assert waits.endswith(": there is none that could run anything")
    with pytest.raises(InputError) as caught:
        looks(places, clock, 20)
    assert caught.value.what == (
        "a pack needs 1 CPU, and no node of the Ray cluster has that, and none has joined within 0.5 minutes: there is "
        "none that could run anything"
    )
