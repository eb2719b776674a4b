"""How busy a run kept the places that its packs ran in: what a lane waited for between two packs, and for loading.

A lane is where one pack runs at a time: a GPU, a share of one, or a machine's next CPUs.  Which pack was in which lane
of a place is told by the times alone.
"""

from __future__ import annotations

from collections.abc import Sequence

from harness.executors.interface import Outcome, Span
from harness.store.lanes import Lane


def lanes(outcomes: Sequence[Outcome]) -> list[Lane]:
    """Every lane, by place; a pack takes the one of its place that became free last.

    None at all where a worker died or stood still: how long it was at its pack is in no span, and would count as idle.
    """
    spans = [outcome.span for outcome in outcomes if outcome.span and outcome.attempts == 1]
    if len(spans) < len(outcomes):
        return []
    by_place: dict[str, list[list[Span]]] = {}
    for span in sorted(spans, key=lambda span: span.began):
        there = by_place.setdefault(span.place, [])
        free = [each for each in there if each[-1].ended <= span.began]
        if free:
            max(free, key=lambda each: each[-1].ended).append(span)
        else:
            there.append([span])
    end = max((span.ended for span in spans), default=0.0)
    return [_lane(each, end) for _, there in sorted(by_place.items()) for each in there]


def _lane(spans: list[Span], end: float) -> Lane:
    """``end`` is by the clock of the machine whose pack was last.

    Of lanes on others, ``seconds`` and ``after`` are off by as much as the clocks differ.
    """
    first, last = spans[0], spans[-1]
    between = last.ended - first.began - sum(span.ended - span.began for span in spans)
    loading = sum(span.ready - span.began for span in spans)
    return Lane(
        place=first.place,
        packs=len(spans),
        seconds=end - first.began,
        between=max(0.0, between),
        loading=loading,
        after=end - last.ended,
    )
