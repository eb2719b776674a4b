"""A cluster of several nodes: what its jobs run on is what its nodes have, whatever this machine has."""

from __future__ import annotations

import json
from collections.abc import Iterator
from functools import partial

import campaigns
import clusters
import pytest
import ray_jobs
from clusters import Nodes
from ray_jobs import Small

from harness.engine.environment import versions
from harness.errors import InputError
from harness.executors.hardware import likely_device
from harness.running import campaign
from harness.study.config import ResourceSettings
from harness.study.load import build_study

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]

BIG, SMALL = ("Fake H100 80GB", 80), ("Fake T4", 16)
STUDY = campaigns.TOY | {"device": "any", "methods": {"lora": {}}, "streams": {"order": ["toy_recall"]}}


@pytest.fixture(scope="module")
def cluster() -> Iterator[Nodes]:
    """A node with CPUs alone, and one with a GPU of 80 GB."""
    with clusters.nodes() as made:
        made.join(cpus=2)
        made.join(cpus=2, gpu=BIG, resources={"accelerator_type:H100": 1})
        yield made


def test_a_driver_without_gpu_uses_the_clusters(cluster, tmp_path):
    file = campaigns.write_study(tmp_path, STUDY, pack="auto", seeds=list(range(100)))
    load = partial(campaign.load_campaign, str(file), model=None, out=tmp_path / "out")
    study = build_study(STUDY, where="mine")
    with clusters.joined(cluster.address) as executor:
        assert executor.device("cpu").kind == "cpu"
        opened, _, device = campaign.open_campaign(load, executor)
        stack = executor.ask(partial(versions, study, device.kind), device)
    assert (device.kind, device.name, device.gigabytes) == ("cuda", "Fake H100 80GB", 80)
    assert stack["device"] == "Fake H100 80GB"
    assert stack["deterministic"] is False
    here = load(device=likely_device)
    assert likely_device("any").kind == "cpu", "or this test says nothing"
    assert len(opened.plan.packs) != len(here.plan.packs), "packs are as large as that GPU's memory allows"


def test_jobs_run_where_the_named_kind_of_gpu_is(cluster, tmp_path):
    """Either node would have room for them."""
    node = cluster.join(cpus=2, gpu=SMALL, resources={"accelerator_type:T4": 1})
    jobs = [Small(f"job{number}", tmp_path, "cuda", card=0.5) for number in range(4)]
    used = {}
    with clusters.joined(cluster.address) as executor:
        for kind, gigabytes in (("T4", 16), ("H100", 80)):
            assert executor.device("cuda", ResourceSettings(accelerator_type=kind)).gigabytes == gigabytes
            outcomes = executor.run(jobs, ray_jobs.NAP, lambda *_: None)
            (used[kind],) = {json.loads(outcome.message)["node"] for outcome in outcomes}
    cluster.kill(node)
    assert used["T4"] == node.node_id != used["H100"]


def refused(executor, wanted: str, accelerator_type: str | None = None) -> InputError:
    """Why there is no device, without waiting for a node that has it."""
    with pytest.raises(InputError) as caught:
        executor.device(wanted, ResourceSettings(wait_minutes=0, accelerator_type=accelerator_type))
    return caught.value


def test_gpus_that_differ_or_fail_are_refused_by_name(cluster):
    cluster.join(gpu=SMALL, resources={"accelerator_type:T4": 1})
    useless = cluster.join(num_gpus=1, resources={"accelerator_type:K80": 1})
    with clusters.joined(cluster.address) as executor:
        assert "can't use it: torch" in refused(executor, "cuda", accelerator_type="K80").what
        error = refused(executor, "any", accelerator_type="A100")
        assert "of the kind A100, and the Ray cluster has H100, K80, T4" in error.what
        cluster.kill(useless)
        error = refused(executor, "any")
        assert "GPUs of several kinds, whose results can't be compared: Fake H100 80GB, Fake T4" in error.what
        assert "H100, T4" in str(error.remedy)
        assert executor.device("cuda", ResourceSettings(accelerator_type="T4")).gigabytes == 16
        assert executor.device("cuda", ResourceSettings(accelerator_type="H100")).gigabytes == 80
