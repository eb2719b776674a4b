"""What the report's statistics promise, by simulation: coverage, false claims and power.

Thousands of boards are made up for each design (seeds x orders, arms) and situation (the shape of the noise, orders and
arms that are more or less noisy, a ceiling) and go through the very functions that a report uses.  On all of them every
arm is as good as plain LoRA, so that every claim of a difference is false.  The same seed gives the same numbers.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from itertools import product
from pathlib import Path
from typing import Any, Literal

import numpy as np

from harness.analysis.statistics import (
    LEAST_PAIRS,
    LEVEL,
    Paired,
    Residual,
    block_residual,
    holm_ps,
    minimum_detectable_effect,
    moments,
)
from harness.analysis.statistics.groups import max_t_separated, range_separated
from harness.analysis.statistics.promises import BARS, outside
from harness.analysis.statistics.strata import Moments, half_widths, t_ps
from harness.store.files import write_json

FILE = "statistics.json"
SEED = 18
#: Standard deviation of a trial's own luck, and of what all arms of a seed share: a paired difference has 3 points.
OWN, SHARED = 0.021, 0.015
#: Mean score: far from both ends, or where one trial in four is at the end of the scale.
MIDDLE, CEILING = 0.6, 0.985
#: Boards whose groups are tested by permutation, and whose detectable effect is computed: both are slow.
PERMUTED, STATED = 300, 200


@dataclass(frozen=True)
class Design:
    """``arms`` beside plain LoRA, each with ``seeds`` trials in each of the orders."""

    seeds: int
    orders: int
    arms: int

    @property
    def strata(self) -> list[int]:
        return [order for order in range(self.orders) for _ in range(self.seeds)]


@dataclass(frozen=True)
class Situation:
    """How scores scatter."""

    noise: Literal["normal", "t3", "skewed"] = "normal"
    order_spread: tuple[float, float, float] = (1, 1, 1)  #: standard deviations of the orders
    arm_spread: tuple[float, float] = (1, 1)  #: of the arms, from the quietest to the noisiest
    ceiling: bool = False


DESIGNS = [Design(*size, arms) for size, arms in product(((3, 1), (5, 1), (3, 3), (5, 3), (10, 3)), (5, 20))]
SITUATIONS: dict[str, Situation] = {
    "normal noise": Situation(),
    "t3 noise": Situation("t3"),
    "skewed noise": Situation("skewed"),
    "orders 1:1:4": Situation(order_spread=(1, 1, 4)),
    "t3 noise, orders 1:1:4": Situation("t3", (1, 1, 4)),
    "skewed noise, orders 1:1:4": Situation("skewed", (1, 1, 4)),
    "orders .2:.2:6": Situation(order_spread=(0.2, 0.2, 6)),
    "scores at the ceiling": Situation(ceiling=True),
    "arms from half to twice the noise": Situation(arm_spread=(0.5, 2)),
}


def cells() -> list[tuple[Design, str]]:
    """Every design in every situation that it can be in: one order has no other to be unlike."""
    return [
        (design, name)
        for design, (name, situation) in product(DESIGNS, SITUATIONS.items())
        if design.orders > 1 or len(set(situation.order_spread)) == 1
    ]


def boards(design: Design, situation: Situation, count: int, seed: int) -> np.ndarray:
    """Scores [n, 1 + arms, count], plain LoRA first, of boards on which all arms are equally good."""
    rng = np.random.default_rng(seed)

    def noise(arms: int) -> np.ndarray:
        shape = (design.seeds * design.orders, arms, count)
        if situation.noise == "t3":
            return rng.standard_t(3, shape) / np.sqrt(3)
        return rng.exponential(1, shape) - 1 if situation.noise == "skewed" else rng.standard_normal(shape)

    own = np.geomspace(*situation.arm_spread, 1 + design.arms)[:, None]
    spread = np.repeat(situation.order_spread[: design.orders], design.seeds)[:, None, None]
    luck = spread * (SHARED * noise(1) + OWN * own * noise(1 + design.arms))
    return np.minimum(CEILING + luck, 1.0) if situation.ceiling else MIDDLE + luck


def measure(design: Design, situation: Situation, count: int, seed: int) -> dict[str, float | None]:
    """The share of intervals that hold the truth, of boards with a false claim, and of effects that are found."""
    values, strata = boards(design, situation, count, seed), design.strata
    gaps = moments(values[:, 1:] - values[:, :1], strata)
    residual = block_residual(values, strata)
    p = holm_ps(t_ps(gaps))
    shown = residual.usable
    means = moments(values[:, 0], strata)
    return {
        "coverage": _share(np.abs(gaps.means) <= half_widths(gaps)),
        "coverage_of_means": _share(np.abs(means.means - values.mean()) <= half_widths(means)),
        "coverage_of_block": _share((np.abs(gaps.means[-1]) <= residual.half_widths())[shown]),
        "block_shown": _share(np.asarray(shown)),
        "false_better": _share(np.asarray(((p < LEVEL) & (gaps.means > 0)).any(axis=0))),
        "false_groups": _false_groups(values, strata, residual),
        "power": _power(gaps, len(strata), design.arms),
    }


def _share(hits: np.ndarray) -> float | None:
    return float(hits.mean()) if hits.size else None


def _false_groups(values: np.ndarray, strata: Sequence[int], residual: Residual) -> float:
    """Share of boards where an arm falls out of the first group: a pair is told apart, though all are equal.

    Where the noise is not alike in all arms, the largest t decides, from ``LEAST_PAIRS`` up; below nothing is claimed.
    """
    alike = residual.usable
    by_range = range_separated(values, strata, residual).any(axis=(0, 1)) & alike
    share = float(by_range.mean())
    if len(strata) >= LEAST_PAIRS and not alike.all():
        some = np.flatnonzero(~alike)[:PERMUTED]
        by_t = np.mean([max_t_separated(values[:, :, i], strata).any() for i in some])
        share += float(by_t) * float((~alike).mean())
    return share


def _power(gaps: Moments, pairs: int, arms: int) -> float:
    """How often an arm that is better by the effect that its boards state, on average, is found at Holm's first step.

    Of the quietest arm and the noisiest.
    """
    found = []
    for arm in (0, -1):
        stated = zip(gaps.errors[arm, :STATED], gaps.df[arm, :STATED], strict=True)
        some = [Paired(0.0, None, None, pairs, 1.0, float(error), float(df)) for error, df in stated]
        effects = [minimum_detectable_effect(gap, arms) for gap in some]
        effect = np.mean([each for each in effects if each is not None])
        own = Moments(gaps.means[arm] + effect, gaps.errors[arm], gaps.df[arm])
        found.append(np.mean(t_ps(own) < LEVEL / arms))
    return float(np.mean(found))


def main(count: int, out: Path) -> None:
    """Simulate every cell, print them, and write ``statistics.json``."""
    start, found = time.process_time(), []
    for design, name in cells():
        cell: dict[str, Any] = {**asdict(design), "situation": name}
        cell |= {key: _rounded(value) for key, value in measure(design, SITUATIONS[name], count, SEED).items()}
        cell["outside"] = outside(cell)
        found.append(cell)
        print(line(cell), flush=True)
    write_json(out / FILE, {"benchmark": "statistics", "boards": count, "bars": BARS, "cells": found})
    print(f"{out / FILE}: {sum(map(bool, (cell['outside'] for cell in found)))} of {len(found)} cells have something "
          f"outside; {time.process_time() - start:.0f} s of one core")  # fmt: skip


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 4)


def line(cell: dict[str, Any]) -> str:
    """A cell on one line, what is outside its bar with a mark."""
    texts: Iterable[str] = (
        f"{key} {'–' if cell[key] is None else format(cell[key], '.3f')}{'!' if key in cell['outside'] else ''}"
        for key in (*BARS, "block_shown")
    )
    return f"{cell['seeds']}x{cell['orders']} {cell['arms']:2} {cell['situation']:34} " + "  ".join(texts)
