"""What waits for a node so that an autoscaler starts one, and what becomes of it.  No Ray is started."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from harness.errors import LorabenchError
from harness.executors.ray import nodes


@pytest.fixture
def told(monkeypatch) -> list[tuple]:
    """What Ray is told: (what is asked for), then whether that is cancelled."""
    said: list[tuple] = []

    def options(**wanted) -> SimpleNamespace:
        return SimpleNamespace(remote=lambda: said.append(("ask", wanted)) or "reference")

    fake = SimpleNamespace(
        remote=lambda function: SimpleNamespace(options=options),
        cancel=lambda reference, force: said.append(("cancel", reference, force)),
    )
    monkeypatch.setattr(nodes, "ray", fake)
    return said


def test_a_task_with_the_same_needs_waits_as_well(told):
    with nodes.asked_for({"CPU": 2.0, "GPU": 1.0, f"{nodes.KIND}H100": 0.001}):
        assert told == [("ask", {"num_cpus": 2.0, "num_gpus": 1.0, "accelerator_type": "H100", "max_retries": 0})]
    assert told[1:] == [("cancel", "reference", True)]


@pytest.mark.parametrize(("error", "cancelled"), [(KeyboardInterrupt(), 1), (LorabenchError("Ray has died"), 0)])
def test_a_cluster_that_is_lost_is_asked_for_nothing_more(told, error, cancelled):
    with pytest.raises(type(error)), nodes.asked_for({"CPU": 1.0}):
        raise error
    assert len(told[1:]) == cancelled
