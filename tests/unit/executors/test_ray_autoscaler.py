"""A cluster that has no node until jobs ask for one: its autoscaler starts what they wait for."""

from __future__ import annotations

import json
from collections.abc import Iterator
from functools import partial

import autoscaled
import campaigns
import clusters
import pytest
import ray_jobs
import rays
from ray_jobs import Small

from harness.errors import InputError
from harness.running import campaign
from harness.study.config import ResourceSettings

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]

KINDS = {"small": {"CPU": 1}, "large": {"CPU": 2}, "card": {"CPU": 1, "GPU": 1, "accelerator_type:H100": 1}}


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    with rays.short_folder() as folder, autoscaled.cluster(folder, KINDS, ("Fake H100", 80)) as made:
        yield made


def quiet(*_: object) -> None:
    pass


def test_nodes_are_started_that_have_what_a_pack_takes(address, tmp_path, capfd):
    file = campaigns.write_study(tmp_path, campaigns.TOY, methods={"lora": {}}, resources={"num_cpus": 2})
    load = partial(campaign.load_campaign, str(file), model=None, out=tmp_path / "out")
    with clusters.joined(address) as executor:
        opened, _, _ = campaign.open_campaign(load, executor)
        said = (
            "waiting for a node of the Ray cluster with 2 CPU, up to 10 minutes (resources.wait_minutes in the study)"
        )
        assert said in capfd.readouterr().err
        jobs = [Small(name, tmp_path, threads=int(opened.study.cpus), seconds=0) for name in ("one", "two", "three")]
        outcomes = executor.run(jobs, ray_jobs.NAP, quiet)
        assert all(outcome.failed is None for outcome in outcomes)
        assert "starts: 2 CPU, 0 GPU, 2 nodes" in executor.describe()
        card = executor.device("cuda", ResourceSettings(accelerator_type="H100", wait_minutes=2))
        assert card.name == "Fake H100"
        said = "waiting for a node of the Ray cluster with 1 CPU and 1 GPU (H100), up to 2 minutes"
        assert said in capfd.readouterr().err
        (outcome,) = executor.run([Small("on a card", tmp_path, "cuda")], ray_jobs.TELL, quiet)
        assert json.loads(outcome.message)["gpus"] == [0]


def test_what_no_kind_of_node_has_is_not_waited_for_for_ever(address, tmp_path):
    with clusters.joined(address) as executor:
        with pytest.raises(InputError, match=r"the study asks for a GPU.*A100"):
            executor.device("cuda", ResourceSettings(accelerator_type="A100", wait_minutes=0.05))
        executor.device("cpu", ResourceSettings(wait_minutes=2))
        executor.device("cpu", ResourceSettings(wait_minutes=0.05))
        with pytest.raises(InputError, match="needs 64 CPU, and no node of the Ray cluster has that") as caught:
            executor.run([Small("large", tmp_path, threads=64)], ray_jobs.NAP, quiet)
        assert "none has joined within 0.05 minutes" in caught.value.what
        assert "autoscaler" in str(caught.value.remedy)
