"""Which commit of the code runs, where it runs from a clone: for people who look at a record years later."""

from __future__ import annotations

import json
import os
import subprocess
from dataclasses import dataclass
from functools import cache
from pathlib import Path

#: What of a clone a trial depends on; what else lies there, such as results, says nothing of it.
CODE = ("harness", "baselines", "tasks")
#: In the package of code that was sent to another machine: what its clone was.
FILE = "_clone.json"
SECONDS = 10.0
#: With these, as in a hook, git looks at another clone than that of the folder it is asked about.
ELSEWHERE = ("GIT_DIR", "GIT_WORK_TREE", "GIT_INDEX_FILE", "GIT_COMMON_DIR")


@dataclass(frozen=True)
class Clone:
    """``commit`` is the checked-out one, ``clean`` whether :data:`CODE` is as committed; None where not known."""

    commit: str | None = None
    clean: bool | None = None


@cache
def clone() -> Clone:
    """Of the code that runs in this process, or that it is a copy of; of an installed package, nothing."""
    package = Path(__file__).resolve().parents[1]
    try:
        return Clone(**json.loads((package / FILE).read_text(encoding="utf-8")))
    except FileNotFoundError:
        return look(package.parent)


def look(folder: Path) -> Clone:
    """What git says of the clone whose top is ``folder``; nothing where it is no clone, or git can't tell."""
    if not (folder / ".git").exists():  # a package that is installed below somebody's clone is not of that clone
        return Clone()
    commit = _git(folder, "rev-parse", "--verify", "HEAD")
    if commit is None:
        return Clone()
    changed = _git(folder, "status", "--porcelain", "--", *CODE)
    return Clone(commit.strip(), None if changed is None else not changed.strip())


def _git(folder: Path, *words: str) -> str | None:
    """What git prints, or None.  It writes nothing, and runs no program that the clone's settings name."""
    # A clone of another user is one that git refuses to look at; its code is running already.
    here = {name: value for name, value in os.environ.items() if name not in ELSEWHERE}
    options = ("--no-optional-locks", "-c", f"safe.directory={folder}", "-c", "core.fsmonitor=false")
    try:
        done = subprocess.run(
            ["git", "-C", str(folder), *options, *words],
            capture_output=True, text=True, errors="replace", timeout=SECONDS, stdin=subprocess.DEVNULL, env=here,
        )  # fmt: skip
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout if done.returncode == 0 else None
