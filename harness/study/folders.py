"""Where the results of a study go, and what a model is called there."""

from __future__ import annotations

from pathlib import Path

from harness.errors import InputError
from harness.study.config import RESERVED, check_name

#: The folder of the tuning study, inside that of the study it tunes.
TUNING = "tuning"


def results_folder(study: str, model: str | None, out: Path | None) -> Path:
    """``results/<study>``, ``results/<study>@<model>`` where the model was overridden, or ``out``.

    ``study`` is a name, or the path of a study file.
    """
    if out is not None:
        return out.resolve()
    study = Path(study).stem if study.endswith((".yaml", ".yml")) else study
    name = study if model is None else f"{study}@{model_label(model)}"
    if study in RESERVED:
        raise InputError(f"'{study}' is reserved under results/", remedy="choose another name")
    return (Path("results") / name).resolve()


def model_label(model: str) -> str:
    """A model's name, folder or hub id as the name of a folder."""
    label = Path(model).name if Path(model).exists() else model
    cleaned = (
        "".join(c if c.isascii() and (c.isalnum() or c in "._-") else "-" for c in label.lower()).strip("-._")
        or "model"
    )
    return check_name(cleaned[:64], "model")
