"""How large a study and its numbers may be, and why: beyond that, planning would hang or a run would end in the memory.

Numbers are written as such: ``true``, ``1.0`` and ``"8"`` are no whole numbers here, though Python would take them.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import date
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import BeforeValidator, Field, GetCoreSchemaHandler, GetJsonSchemaHandler
from pydantic_core import CoreSchema, core_schema

from harness.errors import InputError, clipped

if TYPE_CHECKING:
    from harness.study.config import Study

#: Trials of a study: arms x streams x seeds.  Each is a record, and a board of more can be neither run nor read.
MOST_TRIALS = 20_000
#: Tasks of a stream, and probes: each trial scores all of them after every task.
MOST_TASKS = 100
#: Points of a curve: at each of them every trial is scored on the task that it learns.
MOST_POINTS = 1000
#: Bytes of a study file.
MOST_BYTES = 2_000_000


@dataclass(frozen=True)
class Range:
    """From where to where the numbers of a type go, in the schema of a study."""

    least: float
    most: float

    @property
    def ends(self) -> Range:
        """These alone, for a type that is checked otherwise."""
        return Range(self.least, self.most)

    def __get_pydantic_json_schema__(self, schema: CoreSchema, handler: GetJsonSchemaHandler) -> dict[str, Any]:
        return self._bounded(handler(schema))

    def _bounded(self, schema: dict[str, Any]) -> dict[str, Any]:
        """The schema with the ends at every number in it: of one, of ``null`` or one, of one by name."""
        if schema.get("type") in ("integer", "number"):
            return {**schema, "minimum": self.least, "maximum": self.most}
        parts: dict[str, Any] = (
            {"anyOf": [self._bounded(part) for part in schema["anyOf"]]} if "anyOf" in schema else {}
        )
        if isinstance(named := schema.get("additionalProperties"), dict):
            parts["additionalProperties"] = self._bounded(named)
        return {**schema, **parts}


@dataclass(frozen=True)
class Whole(Range):
    """A whole number from ``least`` to ``most``, for the reason ``why``; raises ValueError for anything else."""

    least: int
    most: int
    why: str

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        return core_schema.no_info_before_validator_function(self, handler(source))

    def __call__(self, value: Any) -> int:
        if type(value) is not int or not self.least <= value <= self.most:
            raise ValueError(f"must be a whole number from {self.least:,} to {self.most:,}: {self.why}")
        return value

    def by_name(self, value: Any) -> Any:
        """The same of one number for all tasks, or of a mapping with one for each by name."""
        if not isinstance(value, dict):
            return self(value)
        for name, number in value.items():
            try:
                self(number)
            except ValueError as error:
                raise ValueError(f"'{name}' {error}") from None
        return value

    def or_auto(self, value: Any) -> Any:
        return value if value == "auto" else self(value)


@dataclass(frozen=True)
class Amount(Range):
    """A number from ``least`` to ``most``, for the reason ``why``; raises ValueError for anything else."""

    why: str

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        return core_schema.no_info_before_validator_function(self, handler(source))

    def __call__(self, value: Any) -> float:
        if type(value) not in (int, float) or not self.least <= value <= self.most:
            raise ValueError(f"must be a number from {self.least:,} to {self.most:,}: {self.why}")
        return value


def _number(value: Any) -> Any:
    """Text is taken, since YAML reads 1e-3 as one; true and false are not."""
    if isinstance(value, bool):
        raise ValueError("must be a number")
    return value


def model_name(value: Any) -> Any:
    """A catalogue name, folder or hub id that the system can look for; raises ValueError."""
    if isinstance(value, str) and not (value.strip() and value.isprintable()):
        raise ValueError("must name a model: a catalogue name, a folder, or a hub id")
    if isinstance(value, str) and any(len(part.encode()) > 255 for part in value.split("/")):
        raise ValueError("must name a model, and a name has at most 255 bytes")
    return value


_ROWS = "no task has as many rows"
_PASS = "padded tokens of one pass have to fit into a device's memory"
_LENGTH = "tokens of one text have to fit into a device's memory"
_SEED = "a JSON number of any reader holds that much"
_ITEMS = Whole(1, 10_000_000, _ROWS)
_SHOTS = Whole(0, 1000, "examples stand in the prompt, before every question")
_CPUS = Amount(0.01, 1024, "Ray counts hundredths of a CPU, and no machine has more")
_CARD = Amount(0.01, 1, "a pack runs on one GPU, or on a share of one")
_PACK = Whole(1, 65_536, "rows of a pack train at once")

Number = Annotated[float, BeforeValidator(_number)]
Seed = Annotated[int, Whole(0, 2**53 - 1, _SEED)]
Examples = Annotated[int, Whole(1, 10_000_000, _ROWS)]
Mark = Annotated[int, Whole(0, 10_000_000, _ROWS)]
BatchSize = Annotated[int, Whole(1, 65_536, "examples of one step go through the model together")]
Steps = Annotated[int, Whole(0, 10_000_000, _ROWS)]
Rank = Annotated[int, Whole(1, 16_384, "no layer of a model that fits here is wider")]
Threads = Annotated[int, Whole(1, 1024, "no machine has more cores")]
Settings = Annotated[int, Whole(2, 1000, "each is a trial, for every arm, seed and stream")]
PassTokens = Annotated[int, Whole(64, 2**24, _PASS)]
Length = Annotated[int, Whole(8, 2**20, _LENGTH)]
Items = Annotated[int | None, BeforeValidator(lambda value: None if value is None else _ITEMS(value)), _ITEMS.ends]
ItemsByName = Annotated[
    int | dict[str, int] | None,
    BeforeValidator(lambda value: None if value is None else _ITEMS.by_name(value)),
    _ITEMS.ends,
]
ShotsByName = Annotated[
    int | dict[str, int] | None,
    BeforeValidator(lambda value: None if value is None else _SHOTS.by_name(value)),
    _SHOTS.ends,
]
Cpus = Annotated[float | None, BeforeValidator(lambda value: None if value is None else _CPUS(value)), _CPUS.ends]
CardShare = Annotated[
    Literal["plan"] | float, BeforeValidator(lambda value: value if value == "plan" else _CARD(value)), _CARD.ends
]
Minutes = Annotated[float, Amount(0, 100_000, "a run that waits longer is forgotten")]
PackSize = Annotated[Literal["auto"] | int, BeforeValidator(_PACK.or_auto), _PACK.ends]
ModelName = Annotated[str, BeforeValidator(model_name)]
Tasks = Annotated[tuple[str, ...], Field(max_length=MOST_TASKS)]


def arms_of(settings: Mapping[str, Any]) -> int:
    """How many arms an entry of ``methods`` is: every list is a grid."""
    return math.prod(len(value) for value in settings.values() if isinstance(value, list))


def check_size(study: Study, where: str, key: str = "") -> None:
    """Refuse more than :data:`MOST_TRIALS` trials, naming ``key``, or what is largest; nothing is expanded for that."""
    arms = {key: arms_of(settings) for key, settings in study.methods.items()}
    counts = {"methods": sum(arms.values()), "streams": len(study.streams), "seeds": len(study.seeds)}
    if math.prod(counts.values()) <= MOST_TRIALS:
        return
    product = f"{counts['methods']:,} arms x {counts['streams']:,} streams x {counts['seeds']:,} seeds"
    raise InputError(
        f"{product} are {math.prod(counts.values()):,} trials; a study has at most {MOST_TRIALS:,}, "
        "since a plan and a board of more can't be read",
        where=f"{where}:{key or _largest(study, arms, counts)}",
        remedy="list fewer values here, or make several studies of it",
    )


def _largest(study: Study, arms: Mapping[str, int], counts: Mapping[str, int]) -> str:
    """The key to look at: seeds, streams, methods, or the longest list of the largest grid."""
    key = max(counts, key=lambda name: counts[name])
    if key != "methods" or len(study.methods) == counts[key]:
        return key
    widest = max(arms, key=lambda name: arms[name])
    grids = {name: len(value) for name, value in study.methods[widest].items() if isinstance(value, list)}
    return f"methods.{widest}.{max(grids, key=lambda name: grids[name])}"


def check_plain(data: Any, where: str) -> None:
    """Refuse what YAML has beyond mappings, lists, text, numbers and null, and text that no file can hold.

    A set has no order, and the order of a stream is what a study is about.
    """
    waiting: list[tuple[str, Any]] = [("", data)]
    while waiting:
        key, value = waiting.pop()
        if isinstance(value, Mapping):
            waiting += [(f"{key}.{name}", part) for name, part in value.items()]
            waiting += [(key, name) for name in value]
        elif isinstance(value, list | tuple):
            waiting += [(f"{key}.{number}", part) for number, part in enumerate(value)]
        elif problem := _not_plain(value):
            raise InputError(problem, where=f"{where}:{key.removeprefix('.')}", remedy="correct the study file")


def _not_plain(value: Any) -> str:
    """What is wrong with a single value; empty where nothing is."""
    if isinstance(value, str) and any("\ud800" <= letter <= "\udfff" for letter in value):
        return f"half a character can't be written to a file (got {clipped(ascii(value), 100)})"
    if isinstance(value, date):
        return f"a date is no text; write it in quotes (got {value})"
    if value is None or isinstance(value, str | int | float):
        return ""
    return f"a value here is a text, a number, true, false or null, not a {type(value).__name__}"


def twice(values: Iterable[Any]) -> Any:
    """The first of the values that has stood before; None where all differ."""
    seen = set()
    for value in values:
        if value in seen:
            return value
        seen.add(value)
    return None


def same_twice(values: Iterable[Any]) -> Any:
    """The first of the values that another before it equals as a setting; None where all differ.

    YAML reads ``1e-3`` as a text, and it is the number 0.001 all the same; ``true`` is no 1.
    """
    seen = set()
    for value in values:
        if (setting := _as_setting(value)) in seen:
            return value
        seen.add(setting)
    return None


def _as_setting(value: Any) -> tuple[bool, Any]:
    """What can be looked up, also of lists and mappings."""
    try:
        return isinstance(value, bool), value if value is None or isinstance(value, bool) else float(value)
    except (TypeError, ValueError, OverflowError):
        return False, value if isinstance(value, str) else repr(value)


def shown(value: Any, longest: int = 200) -> str:
    """A value as a message shows it, whatever its size."""
    try:
        return clipped(repr(value), longest)
    except ValueError:  # Python doesn't print whole numbers of more than 4300 digits
        return "a number of thousands of digits"
