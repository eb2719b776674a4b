"""How busy the lanes of a run were, from when packs were at work."""

from __future__ import annotations

import socket

import campaigns
import pytest

from harness.executors.interface import Outcome, Span
from harness.running.lanes import lanes
from harness.store.lanes import Lane, read_lanes


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


def test_a_run_tells_when_its_packs_were_at_work(tmp_path):
    study = campaigns.TOY | {"methods": {"lora": {}, "lora_plus": {}}, "pack": 1, "streams": {"order": ["toy_recall"]},
                             "training": {"examples": 16, "batch": 8}, "scoring": {"items": 4}}  # fmt: skip
    state = campaigns.run(campaigns.load(campaigns.write_study(tmp_path, study), tmp_path / "out"))
    (lane,) = state.lanes
    assert (lane.place, lane.packs, lane.after) == (socket.gethostname(), 2, 0)
    assert 0 <= lane.loading < lane.seconds
    assert 0 <= lane.between < lane.seconds
    assert read_lanes(tmp_path / "out") == [lane]
