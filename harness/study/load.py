"""Study files: found by name or path, read strictly, checked.

Unknown keys are errors with a suggestion; every error names ``file:key``.
"""

from __future__ import annotations

import difflib
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ValidationError

from harness.errors import InputError, unknown_name
from harness.reading import read_yaml
from harness.study import limits
from harness.study.config import RESERVED, Study, check_name, first_problem
from harness.study.limits import check_plain, check_size


def find_study(name: str, folder: Path) -> Path:
    """The file of a study: a path to a YAML file, or the name of one in ``folder``."""
    if name.endswith((".yaml", ".yml")):
        path = Path(name)
        try:
            there = path.is_file()
        except (OSError, ValueError):  # a name that is too long for the system
            there = False
        if not there:
            raise InputError(
                "there is no such study file",
                where=name,
                remedy="give a path to a YAML file, or a name of `lorabench studies`",
            )
        return path
    known = {path.stem: path for path in sorted(folder.glob("*.yaml"))}
    if name not in known:
        raise unknown_name("study", name, known)
    return known[name]


def load_study(path: Path, *, overrides: dict[str, Any] | None = None) -> Study:
    """Read and check a study file; ``overrides`` replace top-level keys (``model``)."""
    name = check_name(path.stem, "study", str(path))
    if name in RESERVED:
        raise InputError(f"the name '{name}' is reserved under results/", where=str(path), remedy="rename the file")
    _refuse_large(path)
    data = read_yaml(path, remedy="correct the study file")
    if not isinstance(data, dict):
        raise InputError(
            "a study file is a mapping of keys to values; this one is empty or something else",
            where=str(path),
            remedy="start from tasks/studies/quick.yaml",
        )
    _reject_unknown_keys(data, Study, str(path))
    return build_study({**data, "name": name, **(overrides or {})}, where=str(path))


def _refuse_large(path: Path) -> None:
    """Before it is read into memory; a file that can't be looked at is refused by whoever reads it."""
    if path.is_file() and path.stat().st_size > limits.MOST_BYTES:
        raise InputError(
            f"a study file has at most {limits.MOST_BYTES:,} bytes; this one has {path.stat().st_size:,}",
            where=str(path),
            remedy="name a study file; the smallest is tasks/studies/smoke.yaml",
        )


def build_study(data: dict[str, Any], *, where: str) -> Study:
    """Validate plain data; the first problem becomes an :class:`InputError` that names ``where:key``."""
    check_plain(data, where)
    try:
        study = Study.model_validate(data)
    except ValidationError as error:
        raise first_problem(error, where) from error
    check_size(study, where)
    return study


def _reject_unknown_keys(data: dict[str, Any], model: type[BaseModel], where: str, prefix: str = "") -> None:
    for key, value in data.items():
        field = model.model_fields.get(str(key))
        if field is None:
            known = [name for name in model.model_fields if name != "name" or prefix]
            near = difflib.get_close_matches(str(key), known, n=1)
            raise InputError(
                f"unknown key '{key}'",
                where=f"{where}:{prefix}{key}",
                remedy=(f"did you mean '{near[0]}'? " if near else "") + f"known keys: {', '.join(known)}",
            )
        kind = field.annotation
        if isinstance(value, dict) and isinstance(kind, type) and issubclass(kind, BaseModel):
            _reject_unknown_keys(value, kind, where, f"{prefix}{key}.")
