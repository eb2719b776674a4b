"""How busy the slots of a run were, from when packs were at work."""

from __future__ import annotations

import socket

import campaigns

from harness.executors.interface import Span
from harness.running.slots import slots
from harness.store.slots import Slot, read_slots


def test_a_pack_takes_the_slot_that_became_free_last():
    one = [Span("one", 0, 1, 10), Span("one", 11, 11, 20)]
    two = [Span("two", 0, 0, 8), Span("two", 2, 2, 9), Span("two", 9.5, 10, 19), Span("two", 12, 12, 16)]
    assert slots([*two, *one]) == [
        Slot(place="one", packs=2, seconds=20, between=1, loading=1, after=0),
        Slot(place="two", packs=2, seconds=20, between=4, loading=0, after=4),
        Slot(place="two", packs=2, seconds=18, between=0.5, loading=0.5, after=1),
    ]
    assert slots([]) == []


def test_a_run_tells_when_its_packs_were_at_work(tmp_path):
    study = campaigns.TOY | {"methods": {"lora": {}, "lora_plus": {}}, "pack": 1, "streams": {"order": ["toy_recall"]},
                             "training": {"examples": 16, "batch": 8}, "scoring": {"items": 4}}  # fmt: skip
    state = campaigns.run(campaigns.load(campaigns.write_study(tmp_path, study), tmp_path / "out"))
    (slot,) = state.slots
    assert (slot.place, slot.packs, slot.after) == (socket.gethostname(), 2, 0)
    assert 0 <= slot.loading < slot.seconds
    assert 0 <= slot.between < slot.seconds
    assert read_slots(tmp_path / "out") == [slot]
