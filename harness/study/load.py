"""Study files: found by name or path, read strictly, checked.

Unknown keys are errors with a suggestion; every error names ``file:key``.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pydantic import BaseModel, ValidationError

from harness.errors import InputError, unknown_name
from harness.reading import read_yaml
from harness.study import limits
from harness.study.aliases import unknown_key
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


def _reject_unknown_keys(data: dict[str, Any], model: type[BaseModel], where: str, block: str = "") -> None:
    blocks = {name: kind for name, field in Study.model_fields.items() if (kind := _block(field.annotation))}
    for key, value in data.items():
        if str(key) not in model.model_fields:
            known = [name for name in model.model_fields if name != "name" or block]
            others = {name: list(kind.model_fields) for name, kind in blocks.items()}
            place = f"{where}:{block}.{key}" if block else f"{where}:{key}"
            raise unknown_key("key", str(key), known, others, where=place, place=block)
        if isinstance(value, dict) and not block and str(key) in blocks:
            _reject_unknown_keys(value, blocks[str(key)], where, str(key))


def _block(annotation: Any) -> type[BaseModel] | None:
    """The settings that a key of a study holds, if it holds a block of them."""
    return annotation if isinstance(annotation, type) and issubclass(annotation, BaseModel) else None
