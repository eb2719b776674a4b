"""``tuning.json`` in a results folder: what was chosen for every arm of its study, and every setting that was tried."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from pydantic import ValidationError

from harness.errors import InputError
from harness.reading import read_json
from harness.store.files import write_json
from harness.store.records import TrialSpec
from harness.store.values import Frozen, Scalar

FILE = "tuning.json"
SCHEMA_VERSION = 2
REMEDY = "run `lorabench tune` again, or remove this file to run untuned"


class Choice(Frozen):
    """What was chosen for an arm; ``settings`` are None where every try diverged."""

    settings: dict[str, Scalar] | None
    score: float | None = None  #: of these settings: mean of ``metric`` on validation items
    tried: int
    grid: int  #: points of the whole grid
    metric: str
    digest: str  #: of what the choice was made from; another one means that the study has changed
    #: where the chosen numbers lie among those that were tried; empty where no setting has three numbers or more
    place: Literal["inside", "at an end", ""] = ""
    ends: tuple[str, ...] = ()  #: ``setting=value`` that is the least or largest tried: better ones may lie beyond
    beyond: tuple[str, ...] = ()  #: ``setting=value`` that was tried beyond an end of the grid, where the best lay

    def made(self, spec: TrialSpec) -> bool:
        """Whether a trial has the settings that were chosen."""
        values = {**spec.training, **spec.parameters}
        return self.settings is not None and all(values.get(key) == value for key, value in self.settings.items())


class Tuning(Frozen):
    """One choice an arm, and every try in a row of a table."""

    schema_version: Literal[2] = SCHEMA_VERSION
    study: str
    rule: str = ""
    split: str = "validation"
    seeds: tuple[int, ...]
    settings: int  #: tries that every arm could have, beside those beyond an end
    arms: dict[str, Choice]
    shipped: bool = False  #: whether they came with the study, and were tried on another machine
    tries: tuple[dict[str, Scalar], ...]


def write_tuning(folder: Path, tuning: Tuning) -> None:
    """Write the choices beside the results of the study that they are for."""
    write_json(folder / FILE, tuning.model_dump(mode="json"))


def read_tuning(folder: Path) -> Tuning | None:
    """What was chosen for this folder's study; None where nothing was tuned.

    Raises :class:`InputError` for a file that is damaged, or of another version of lorabench.
    """
    path = folder / FILE
    return read_choices(path) if path.exists() else None


def read_choices(path: Path) -> Tuning:
    """The choices in this file; raises :class:`InputError` as :func:`read_tuning`."""
    data: Any = read_json(path, remedy=REMEDY)
    version = data.get("schema_version") if isinstance(data, dict) else None
    if version is not None and version != SCHEMA_VERSION:
        raise InputError(
            f"another version of lorabench tuned this study (schema {version}, here {SCHEMA_VERSION}); settings that "
            "were chosen under other rules are not taken",
            where=f"{path}:schema_version",
            remedy=REMEDY,
        )
    try:
        return Tuning.model_validate(data)
    except ValidationError as error:
        problem = error.errors()[0]
        key = ".".join(map(str, problem["loc"]))
        what = f"not readable as the outcome of a tuning: {problem['msg']}"
        raise InputError(what, where=f"{path}:{key}" if key else str(path), remedy=REMEDY) from error
