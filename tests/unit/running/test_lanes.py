"""How busy the lanes of a run were, from when packs were at work."""

from __future__ import annotations

import socket
from collections.abc import Sequence
from itertools import count
from types import SimpleNamespace
from typing import Any

import campaigns
import pytest

from harness.executors.interface import Outcome, Span, Watch, Work
from harness.executors.local import LocalExecutor
from harness.running import worker
from harness.running.lanes import lanes
from harness.store.lanes import Lane, read_lanes, write_lanes


def test_a_pack_takes_the_lane_that_became_free_last():
    one = [Span("one", 0, 1, 10), Span("one", 11, 11, 20)]
    two = [Span("two", 0, 0, 8), Span("two", 2, 2, 9), Span("two", 9.5, 10, 19), Span("two", 12, 12, 16)]
    assert lanes([Outcome("pack", span=span) for span in (*two, *one)]) == [
        Lane(place="one", packs=2, seconds=20, between=1, loading=1, after=0),
        Lane(place="two", packs=2, seconds=20, between=4, loading=0, after=4),
        Lane(place="two", packs=2, seconds=18, between=0.5, loading=0.5, after=1),
    ]
    assert lanes([]) == []


@pytest.mark.parametrize("lost", [Outcome("b", "timeout"), Outcome("b", span=Span("one", 30, 31, 40), attempts=2)])
def test_nothing_is_told_where_a_packs_time_is_lost(lost):
    """As idle: the timeout of b, or its first attempt."""
    known = [Outcome("a", span=Span("one", 0, 1, 10)), Outcome("c", span=Span("one", 50, 51, 60))]
    assert len(lanes(known)) == 1
    assert lanes([*known, lost]) == []


STUDY = campaigns.TOY | {"methods": {"lora": {}, "lora_plus": {}}, "pack": 1, "streams": {"order": ["toy_recall"]},
                         "training": {"examples": 16, "batch": 8}, "scoring": {"items": 4}}  # fmt: skip


def test_a_run_tells_when_its_packs_were_at_work(tmp_path, monkeypatch):
    """By a clock that strikes whenever it is asked: when a pack began, when it had loaded, when it ended."""
    monkeypatch.setattr(worker, "time", SimpleNamespace(time=count().__next__))
    state = campaigns.run(campaigns.load(campaigns.write_study(tmp_path, STUDY), tmp_path / "out"))
    (lane,) = state.lanes
    assert lane == Lane(place=socket.gethostname(), packs=2, seconds=5, between=1, loading=2, after=0)
    assert read_lanes(tmp_path / "out") == [lane]


@pytest.mark.parametrize(("visible", "card"), [("3", "3"), ("2,3", "2"), ("", "0")])
def test_a_place_on_a_gpu_is_the_one_in_use(monkeypatch, visible, card):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    job: Any = SimpleNamespace(device="cuda")
    assert worker._place(job) == f"{socket.gethostname()} GPU {card}"


class Stopped(LocalExecutor):
    """Does the base model; Ctrl-C as the packs begin."""

    def run(self, jobs: Sequence[Any], work: Work, watch: Watch) -> list[Outcome]:
        if jobs[0].pack:
            raise KeyboardInterrupt
        return super().run(jobs, work, watch)


def test_what_is_left_is_of_the_last_run_with_packs(tmp_path):
    """One with untrained trials alone leaves it; one that is stopped takes it away."""
    out = tmp_path / "out"
    study = STUDY | {"methods": {"frozen": {}}}
    before = [Lane(place="here", packs=2, seconds=5, between=1, loading=2, after=0)]
    write_lanes(out, before)
    assert campaigns.run(campaigns.load(campaigns.write_study(tmp_path, study), out)).complete
    assert read_lanes(out) == before
    more = campaigns.load(campaigns.write_study(tmp_path, STUDY), out)
    with pytest.raises(KeyboardInterrupt):
        campaigns.run(more, Stopped())
    with pytest.raises(FileNotFoundError):
        read_lanes(out)
