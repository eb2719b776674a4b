"""Where things lie: the cache folder, the tasks, and the two atomic ways of putting a file there.

Nothing that is fetched is ever copied into the repository.  Everything in the cache is made under a unique
temporary name beside its place and moved there in one step (``Path.replace``, ``Path.rename``), so a kill leaves
at most a stray ``.tmp-*`` and two processes that fetch the same thing don't disturb each other.
"""

from __future__ import annotations

import errno
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from importlib.metadata import entry_points
from importlib.util import find_spec
from pathlib import Path

import platformdirs

from harness.errors import FolderError, LorabenchError

_PACKAGE = Path(__file__).resolve().parents[1]  # harness/
#: Of errors in writing: no space, no quota left, read-only.
FULL = (errno.ENOSPC, errno.EDQUOT, errno.EROFS)


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
    """Folders of one's own, with ``methods/`` and ``tasks/``: those of LORABENCH_PLUGINS (``--plugins DIR``)."""
    return [Path(folder) for folder in os.environ.get("LORABENCH_PLUGINS", "").split(os.pathsep) if folder]


def task_dirs() -> list[Path]:
    """Every folder of tasks: the project's, those of :func:`plugin_dirs`, and those of installed packages.

    An installed package has an entry point of the group ``lorabench.tasks`` that names its package of tasks.
    """
    installed = [spec for entry in entry_points(group="lorabench.tasks") if (spec := find_spec(entry.value))]
    packages = [Path(place) for spec in installed for place in spec.submodule_search_locations or ()]
    return [tasks_dir(), *(folder / "tasks" for folder in plugin_dirs()), *packages]


def studies_dir() -> Path:
    """The folder of study files."""
    return tasks_dir() / "studies"


def published_dir() -> Path:
    """The folder of published numbers, one file a benchmark."""
    return tasks_dir() / "published"


def lock_file() -> Path:
    """Where resolved hub revisions are kept: with the tasks, or in the cache where those are an installed package."""
    return (cache_dir() if packaged() else tasks_dir()) / "lock.json"


def shown(path: Path) -> str:
    """``path`` as errors show it: relative to the folder that holds ``tasks/`` where it lies there."""
    try:
        return str(path.relative_to(tasks_dir().parent))
    except ValueError:
        return str(path)


def temporary_dir(beside: Path) -> Path:
    """A new, uniquely named folder on the same file system as ``beside``, for building what will be moved there.

    Raises LorabenchError where there can be none.
    """
    try:
        beside.parent.mkdir(parents=True, exist_ok=True)
        return Path(tempfile.mkdtemp(prefix=f".tmp-{beside.name}-", dir=beside.parent))
    except OSError as error:
        raise _not_written(beside, error) from error


def discard(path: Path) -> None:
    """Remove a damaged file or folder of the cache, where there is one.  Raises LorabenchError where it can't be."""
    try:
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)
    except FileNotFoundError:
        return  # another process was quicker
    except OSError as error:
        what = f"it is damaged and can't be removed: {error.strerror or error}"
        raise LorabenchError(what, where=str(path), remedy="remove it by hand") from error


def _not_written(target: Path, error: OSError) -> LorabenchError:
    return FolderError(
        f"cannot be written: {error.strerror or error}",
        where=str(target),
        remedy="free disk space, or name another folder for the cache in LORABENCH_CACHE",
    )


#: Seconds after which a temporary folder of the cache is nobody's: the longest download is given half an hour.
ABANDONED = 86_400.0


def sweep() -> None:
    """Remove what processes that were killed have left half made in the cache, a day after they last touched it."""
    for folder in cache_dir().glob("**/.tmp-*"):
        with suppress(OSError):
            if time.time() - folder.stat().st_mtime > ABANDONED:
                shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def _filled(target: Path) -> Iterator[Path]:
    """A temporary folder for what becomes ``target``; gone at the end.  A full disk is an error of ours."""
    workspace = temporary_dir(target)
    try:
        yield workspace
    except OSError as error:
        if error.errno in FULL:
            raise _not_written(target, error) from error
        raise
    finally:
        shutil.rmtree(workspace, ignore_errors=True)


def publish_file(write: Callable[[Path], object], target: Path) -> Path:
    """Let ``write`` make a file under a temporary name, then move it to ``target``; nothing is left on an error."""
    with _filled(target) as workspace:
        write(workspace / target.name)
        (workspace / target.name).replace(target)
    return target


def publish_dir(build: Callable[[Path], object], target: Path, *, new: bool = False) -> Path:
    """Let ``build`` fill a temporary folder, then rename it to ``target``.

    A folder can't be replaced in one step, so the first process to finish wins: a ``target`` that appeared
    meanwhile holds the same content (its name is made of its sources) and is kept.  Where the name says nothing of
    the content (``new``), it is kept too, and that is an OSError.
    """
    with _filled(target) as workspace:
        build(workspace)
        workspace.chmod(0o755)  # mkdtemp makes it private; a shared cache must be readable
        try:
            workspace.rename(target)
        except OSError:
            if new or not target.is_dir():
                raise
    return target
