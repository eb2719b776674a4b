"""How busy a run kept the places that its packs ran in: what a slot waited for between two packs, and for loading.

A slot is where one pack runs at a time: a GPU, a share of one, or a machine's next CPUs.  Which pack was in which slot
of a place is told by the times alone.
"""

from __future__ import annotations

from collections.abc import Iterable

from harness.executors.interface import Span
from harness.store.slots import Slot


def slots(spans: Iterable[Span]) -> list[Slot]:
    """Every slot, by place; a pack takes the one of its place that became free last."""
    by_place: dict[str, list[list[Span]]] = {}
    spans = sorted(spans, key=lambda span: span.began)
    for span in spans:
        lanes = by_place.setdefault(span.place, [])
        free = [lane for lane in lanes if lane[-1].ended <= span.began]
        if free:
            max(free, key=lambda lane: lane[-1].ended).append(span)
        else:
            lanes.append([span])
    end = max((span.ended for span in spans), default=0.0)
    return [_slot(lane, end) for _, lanes in sorted(by_place.items()) for lane in lanes]


def _slot(lane: list[Span], end: float) -> Slot:
    first, last = lane[0], lane[-1]
    between = last.ended - first.began - sum(span.ended - span.began for span in lane)
    loading = sum(span.ready - span.began for span in lane)
    return Slot(
        place=first.place,
        packs=len(lane),
        seconds=end - first.began,
        between=max(0.0, between),
        loading=loading,
        after=end - last.ended,
    )
