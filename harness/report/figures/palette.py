"""Which colour, marker and line an arm has: the same in every study, and never those of another arm beside it.

The project's methods are in a table; other arms find theirs by their name, so that it doesn't depend on who else is on
the board.  Arms whose settings differ in numbers, as ``lora@rank2`` and ``lora@rank16``, are a scale: shades of one
colour from light to dark, in the order of the numbers.  The method without a setting, ``lora`` of rank 8, keeps its
look and stands where its own number belongs; the shades of the others lead up to its colour and on from there.
"""

from __future__ import annotations

import colorsys
import math
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from hashlib import sha256
from typing import Any

from harness.report.files import readable

#: Okabe and Ito's colours, Paul Tol's muted ones, and two more: all stand out from white and from the dark page.
BLUE, VERMILION, GREEN, PINK, ORANGE = "#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00"
SKY, PURPLE, OLIVE, TEAL, ROSE = "#56B4E9", "#AA3377", "#999933", "#44AA99", "#CC6677"
BROWN, VIOLET, GREY = "#A5713C", "#7B68C4", "#7A7A7A"
COLORS = (VERMILION, GREEN, PINK, ORANGE, SKY, PURPLE, OLIVE, TEAL, ROSE, BROWN, VIOLET, BLUE)
MARKERS = "osD^v><PXph"
LINES: tuple[Any, ...] = ("-", (0, (4, 1.6)), (0, (1, 1.2)), (0, (5, 1.2, 1, 1.2)), (0, (7, 2)))

#: Of the project's methods; controls are grey.
KNOWN: dict[str, tuple[str, str]] = {
    "lora": (BLUE, "o"),
    "stable_lora": (VERMILION, "s"),
    "lora_ema": (GREEN, "^"),
    "self_distill": (PINK, "D"),
    "combined": (ORANGE, "v"),
    "lora_ema_product": (TEAL, "v"),
    "sdft": (PURPLE, "v"),
    "combined_on_policy": (BROWN, "P"),
    "lora_small_a": (SKY, "s"),
    "rslora": (BLUE, "s"),
    "lora_plus": (ROSE, "P"),
    "dora": (VIOLET, "D"),
    "pissa": (OLIVE, "o"),
    "eva": (VIOLET, "<"),
    "olora": (OLIVE, "s"),
    "milora": (OLIVE, "^"),
    "mica": (OLIVE, "P"),
    "corda": (BROWN, "o"),
    "lora_null": (BROWN, "^"),
    "lora_fa": (SKY, "X"),
    "o_lora": (ROSE, "o"),
    "inflora": (ROSE, "v"),
    "clora": (ROSE, "X"),
    "osf": (PURPLE, "o"),
    "lora_ewc": (PURPLE, "s"),
    "lora_replay": (PURPLE, "X"),
    "merge_mean": (TEAL, "o"),
    "merge_ties": (TEAL, "D"),
    "slao": (TEAL, "X"),
    "wise_ft": (GREEN, "X"),
    "mitigate_between": (VIOLET, "h"),
    "frozen": (GREY, "o"),
    "multitask": (GREY, "s"),
    "single_task": (GREY, "^"),
    "full_finetune": (GREY, "D"),
}
#: Chosen so that arms of the studies that ship share few colours.
SALT = "5"
#: The relative luminance of the lightest and the darkest shade of a scale.
LIGHT, DARK = 0.50, 0.09
LABEL = 30  #: letters of a name on one line
NUMBER = re.compile(r"\d+(?:\.\d+)?(?:e[+-]?\d+)?")
#: The setting of arms that differ in one number, in what their names have in common.
ONE_NUMBER = re.compile(r"@(\w+?)=?#")
#: Numbers of an arm's settings, by arm and name.
Values = Mapping[str, Mapping[str, float]]


@dataclass(frozen=True)
class Look:
    """How one arm is drawn in every figure; the marker tells arms apart where colour cannot."""

    label: str
    color: str
    marker: str
    line: Any
    scale: str = ""  #: what the arms of one scale have in common; empty of an arm that is in none


@dataclass(frozen=True)
class _Arm:
    """A name in its parts; ``family`` is what arms have in common that differ in numbers only."""

    name: str
    method: str
    family: str
    numbers: tuple[float, ...]

    @property
    def place(self) -> tuple[int, str, str, tuple[float, ...], str]:
        known = list(KNOWN)
        at = known.index(self.method) if self.method in KNOWN else len(known)
        return at, self.method, self.family, self.numbers, self.name


def looks(arms: Iterable[tuple[str, str]], values: Values | None = None) -> dict[str, Look]:
    """A look per arm, from (arm, method) pairs, in the order of the methods and of the numbers in their settings.

    With the ``values`` that arms train with, an arm without a setting stands in the scale of its method's.
    """
    parts = [_parts(name, method) for name, method in dict.fromkeys(arms)]
    ordered = sorted((_in_scale(arm, parts, values or {}) for arm in parts), key=lambda arm: arm.place)
    families: dict[str, list[_Arm]] = {}
    for arm in ordered:
        if arm.numbers:
            families.setdefault(arm.family, []).append(arm)
    taken: dict[str, tuple[str, str]] = {}
    # Who has a look of its own first: what it is must not depend on who else is here.
    for arm in sorted(ordered, key=lambda arm: (arm.name not in KNOWN, bool(arm.numbers), arm.name)):
        plain = not arm.numbers or arm.name == arm.method
        wanted = _own(arm) if plain else _shades(arm, families[arm.family])
        taken[arm.name] = next(pair for pair in wanted if pair not in taken.values())
    lines: dict[str, int] = {}
    styles: dict[str, Look] = {}
    for arm in ordered:
        color, marker = taken[arm.name]
        scale = arm.family if arm.numbers else ""
        # Darker than the method's own colour there is little room: lines tell these apart.
        kind = scale if _beyond_its_method(arm, families.get(scale, [])) else color
        nth = lines[kind] = lines.get(kind, -1) + 1
        styles[arm.name] = Look(shown_name(arm.name), color, marker, LINES[nth % len(LINES)], scale)
    return styles


def looks_in_order(names: Iterable[str]) -> dict[str, Look]:
    """A look for each name by its place, for names that are not methods: all markers before one comes again."""
    colors = (BLUE, *COLORS[:-1])
    return {
        name: Look(shown_name(name), colors[i % len(colors)], MARKERS[i % len(MARKERS)], LINES[0])
        for i, name in enumerate(names)
    }


def shown_name(name: str, most: int = LABEL) -> str:
    """A name as it fits a legend: broken at commas and @ into lines; of a longer part the middle is left out."""
    lines = [""]
    for part in re.split(r"(?<=[,@])", " ".join(readable(name).split())):
        short = part if len(part) <= most else f"{part[: most - 11]}…{part[-10:]}"
        if len(lines[-1] + short) <= most:
            lines[-1] += short
        else:
            lines.append(short)
    return "\n".join(lines).strip("\n")


def _parts(name: str, method: str) -> _Arm:
    setting = name.removeprefix(method)
    return _Arm(name, method, method + NUMBER.sub("#", setting), tuple(map(float, NUMBER.findall(setting))))


def _in_scale(arm: _Arm, arms: Iterable[_Arm], values: Values) -> _Arm:
    """An arm without a setting as one of the scale whose number it has, where all of that are called after theirs."""
    families: dict[str, list[_Arm]] = {}
    for other in arms:
        if other.method == arm.method and len(other.numbers) == 1:
            families.setdefault(other.family, []).append(other)
    for family, members in families.items():
        setting = ONE_NUMBER.fullmatch(family.removeprefix(arm.method))
        if arm.name != arm.method or not setting:
            continue
        own = [values.get(each.name, {}).get(setting[1]) for each in (arm, *members)]
        if own[0] is not None and own[1:] == [each.numbers[0] for each in members]:
            return replace(arm, family=family, numbers=(own[0],))
    return arm


def _own(arm: _Arm) -> Iterator[tuple[str, str]]:
    """Looks of an arm whose setting is no number, the best first: the table's, then those that its name leads to."""
    if arm.name in KNOWN:
        yield KNOWN[arm.name]
    reserved = set(KNOWN.values())
    pairs = [(color, marker) for color in COLORS for marker in MARKERS if (color, marker) not in reserved]
    start = _digest(arm.name)
    yield from (pairs[(start + step * 37) % len(pairs)] for step in range(len(pairs)))
    yield from _endless(COLORS[start % len(COLORS)])


def _shades(arm: _Arm, family: list[_Arm]) -> Iterator[tuple[str, str]]:
    """Looks of an arm of a scale: its shade of the method's colour, or of that which the family's name leads to."""
    base, marker = KNOWN.get(arm.method, (COLORS[_digest(arm.family) % len(COLORS)], "o"))
    if len(arm.numbers) > 1 or "," in arm.family or base == GREY:
        base = COLORS[_digest(arm.family) % len(COLORS)]
    place = family.index(arm)
    color = base if len(family) == 1 else shade(base, _share(place, family, base))
    first = MARKERS.index(marker)
    yield from ((color, MARKERS[(first + place + 1 + step) % len(MARKERS)]) for step in range(len(MARKERS)))
    yield from _endless(color)


def _share(place: int, family: list[_Arm], base: str) -> float:
    """How dark the arm at this place is: even steps, on each side of the one that has the colour itself."""
    last = len(family) - 1
    fixed = next((i for i, arm in enumerate(family) if arm.name == arm.method and _own_color(arm) == base), None)
    if fixed is None:
        return place / last
    at = math.log(luminance(_rgb(base)) / LIGHT) / math.log(DARK / LIGHT)
    return at * place / fixed if place < fixed else at + (1 - at) * (place - fixed) / (last - fixed)


def _beyond_its_method(arm: _Arm, family: list[_Arm]) -> bool:
    """Whether it stands at or after the arm without a setting that the scale leads through."""
    return any(each.name == each.method and arm.numbers >= each.numbers for each in family)


def _own_color(arm: _Arm) -> str:
    return KNOWN[arm.name][0] if arm.name in KNOWN else ""


def _endless(color: str) -> Iterator[tuple[str, str]]:
    """Further shades, where there are more arms than looks."""
    step = 0
    while True:
        step += 1
        yield from ((shade(color, (step * 0.381966) % 1), marker) for marker in MARKERS)


def _digest(text: str) -> int:
    return int.from_bytes(sha256(f"{SALT} {text}".encode()).digest()[:4])


def shade(color: str, share: float) -> str:
    """The colour with the luminance that lies so far between ``LIGHT`` and ``DARK``."""
    wanted = LIGHT * (DARK / LIGHT) ** share
    hue, _, saturation = colorsys.rgb_to_hls(*_rgb(color))
    low, high = 0.0, 1.0
    for _ in range(20):
        middle = (low + high) / 2
        tried = colorsys.hls_to_rgb(hue, middle, saturation)
        low, high = (middle, high) if luminance(tried) < wanted else (low, middle)
    return "#" + "".join(f"{round(255 * part):02X}" for part in colorsys.hls_to_rgb(hue, low, saturation))


def _rgb(color: str) -> tuple[float, float, float]:
    red, green, blue = (int(color[i : i + 2], 16) / 255 for i in (1, 3, 5))
    return red, green, blue


def luminance(rgb: tuple[float, float, float]) -> float:
    """Relative luminance of sRGB in [0, 1], as WCAG has it."""
    red, green, blue = (part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in rgb)
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue
