"""The catalogue of models, and what must hold of a model's folder whenever its weights are loaded."""

from __future__ import annotations

import functools
from pathlib import Path

import yaml

from harness.data.models import build
from harness.data.models.folder import check_weights

CATALOGUE = Path(__file__).with_name("catalogue.yaml")


@functools.cache
def catalogue() -> dict[str, dict]:
    """The entries of ``catalogue.yaml``."""
    return yaml.safe_load(CATALOGUE.read_text(encoding="utf-8"))


def model_names() -> list[str]:
    """Names of the catalogue."""
    return sorted(catalogue())


def check_for_loading(path: Path) -> None:
    """What is checked again at every load, however long ago the folder was resolved.

    Raises InputError: for a folder that is no safe model, and for a model of the catalogue that is not as it was built.
    """
    check_weights(path, str(path))
    for name, entry in catalogue().items():
        if (path.parent.name, path.name) == ("models", build.folder(name, entry).name):
            build.verify(path, name, entry)
