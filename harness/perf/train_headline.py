"""The few numbers that ``perf train`` is run for, out of the many that it measures."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

#: Of which the ratios and the share of the roof are; those of others have the kind in their names.
MAIN = "all"


def headline(sizes: Mapping[str, Mapping[str, Any]]) -> dict[str, float]:
    """Ratios to one process (``vs_b0``) and to the best number of them (``vs_bn``) of the fastest pack, of K = 1 to
    one process (``k1_vs_b0``), the fastest pack's share of the roof, where memory is as fast as the yardstick's
    (``roof_share``) and as fast as this card's (``card_share``); and of the first size tokens a second at the bench's
    own lengths, and what a step with a teacher takes over one without.
    """
    found: dict[str, float] = {}
    for size, measured in sizes.items():
        rows = [row for row in measured["rows"] if "skipped" not in row and row.get("recipe", "lora") == "lora"]
        for kind in dict.fromkeys(row["kind"] for row in rows):
            found |= _of_kind(size, kind, rows, measured)
    if sizes:
        found |= _of_first(next(iter(sizes.values())))
    return found


def _of_kind(size: str, kind: str, rows: list[dict[str, Any]], measured: Mapping[str, Any]) -> dict[str, float]:
    suffix = "" if kind == MAIN else f"_{kind}"
    speeds = {row["trials"]: row["tokens_per_second"] for row in rows if row["kind"] == kind}
    best, found = max(speeds.values()), {}
    peers = {row["processes"]: row["tokens_per_second"] for row in measured["peers"] if row["kind"] == kind}
    if 1 in peers:
        found[f"{size}_vs_b0{suffix}"] = best / peers[1]
        if 1 in speeds:
            found[f"{size}_k1_vs_b0{suffix}"] = speeds[1] / peers[1]
    if len(peers) > 1:
        found[f"{size}_vs_bn{suffix}"] = best / max(peers.values())
    if kind in measured["roofs"]:
        roof = measured["roofs"][kind]
        found[f"roof_share_{size}{suffix}"] = best / roof["yardstick_tokens_per_second"]
        found[f"card_share_{size}{suffix}"] = best / roof["tokens_per_second"]
    return found


def _of_first(measured: Mapping[str, Any]) -> dict[str, float]:
    found = {}
    for row in measured["rows"]:
        if row["kind"] == "bench" and "skipped" not in row:
            found[f"bench_shapes_tokens_per_second_k{row['trials']}"] = row["tokens_per_second"]
        if row.get("recipe") == "self_distill":
            found[f"distillation_over_ce_k{row['trials']}"] = row["over_plain"]
    return found
