"""Where things lie: the cache folder, the tasks, the studies, and the lock file of the hub's revisions.

Nothing that is fetched is ever copied into the repository.
"""

from __future__ import annotations

import os
from functools import cache
from importlib.metadata import entry_points
from importlib.util import find_spec
from pathlib import Path

import platformdirs

_PACKAGE = Path(__file__).resolve().parents[1]  # harness/


def cache_dir() -> Path:
    """The cache folder: ``LORABENCH_CACHE``, or the platform's place for it (``~/.cache/lorabench`` on Linux)."""
    chosen = os.environ.get("LORABENCH_CACHE")
    return Path(chosen).expanduser().absolute() if chosen else platformdirs.user_cache_path("lorabench")


def packaged() -> bool:
    """True in an installed wheel, where ``tasks/`` lies inside the package as ``harness/_tasks``."""
    return (_PACKAGE / "_tasks").is_dir()


def tasks_dir() -> Path:
    """The folder of tasks: ``tasks/`` of a clone (or editable install), ``harness/_tasks`` in a wheel."""
    return _PACKAGE / "_tasks" if packaged() else _PACKAGE.parent / "tasks"


def plugin_dirs() -> list[Path]:
    """The folders of plug-ins, with ``methods/`` and ``tasks/``: those of LORABENCH_PLUGINS (``--plugins DIR``)."""
    return [Path(folder) for folder in os.environ.get("LORABENCH_PLUGINS", "").split(os.pathsep) if folder]


def task_dirs() -> list[Path]:
    """Every folder of tasks: the project's, those of :func:`plugin_dirs`, and those of installed packages."""
    return [tasks_dir(), *(folder / "tasks" for folder in plugin_dirs()), *_package_dirs()]


@cache
def _package_dirs() -> tuple[Path, ...]:
    """Of packages with an entry point of the group ``lorabench.tasks``, which names their package of tasks.

    As the registry of methods does, a process looks once: each look reads what every installed package says of itself.
    """
    installed = [spec for entry in entry_points(group="lorabench.tasks") if (spec := find_spec(entry.value))]
    return tuple(Path(place) for spec in installed for place in spec.submodule_search_locations or ())


def studies_dir() -> Path:
    """The folder of study files."""
    return tasks_dir() / "studies"


def tuned_dir() -> Path:
    """The folder of settings that ship with studies: the ``tuning.json`` of each, under the study's name."""
    return studies_dir() / "tuned"


def published_dir() -> Path:
    """The folder of published numbers, one file a benchmark."""
    return tasks_dir() / "published"


def claims_dir() -> Path:
    """The folder of sources' claims, one file a list."""
    return tasks_dir() / "claims"


def lock_file() -> Path:
    """Where resolved hub revisions are kept: with the tasks, or in the cache where those are an installed package."""
    return (cache_dir() if packaged() else tasks_dir()) / "lock.json"


def shown(path: Path) -> str:
    """``path`` as errors show it: relative to the folder that holds ``tasks/`` where it lies there."""
    try:
        return str(path.relative_to(tasks_dir().parent))
    except ValueError:
        return str(path)
