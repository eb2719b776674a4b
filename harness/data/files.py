"""Files of the cache: two atomic ways of putting them there, and their digest.

Everything in the cache is made under a unique temporary name beside its place and moved there in one step
(``Path.replace``, ``Path.rename``), so a kill leaves at most a stray ``.tmp-*`` and two processes that fetch the same
thing don't disturb each other.
"""

from __future__ import annotations

import errno
import hashlib
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from harness.data import paths
from harness.errors import FolderError, LorabenchError

#: Of errors in writing: no space, no quota left, read-only.
FULL = (errno.ENOSPC, errno.EDQUOT, errno.EROFS)


def sha256_of(path: Path) -> str:
    """sha256 of a file's bytes, in hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def temporary_dir(beside: Path) -> Path:
    """A new, uniquely named folder on the same file system as ``beside``, for building what will be moved there.

    Raises LorabenchError where it can't be made.
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


#: Seconds after which a temporary folder of the cache counts as abandoned: the longest download is given half an hour.
ABANDONED = 86_400.0


def sweep() -> None:
    """Remove what processes that were killed have left half made in the cache, a day after they last touched it."""
    for folder in paths.cache_dir().glob("**/.tmp-*"):
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
