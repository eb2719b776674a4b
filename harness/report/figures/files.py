"""Names of the files of a figure, which may have several pages."""

from __future__ import annotations

from itertools import count, takewhile
from pathlib import Path


def stem_of(name: str, page: int) -> str:
    """Of a figure's files: ``forgetting``, and ``forgetting-2`` for its second page."""
    return name if page == 1 else f"{name}-{page}"


def stems(name: str, folder: Path) -> list[str]:
    """The stems of a figure's pages that lie in the folder."""
    return list(takewhile(lambda stem: (folder / f"{stem}.svg").exists(), (stem_of(name, n) for n in count(1))))


def remove_from(folder: Path, name: str, page: int) -> None:
    """Pages of an earlier report that this one doesn't have."""
    for stem in stems(name, folder)[page - 1 :]:
        for kind in ("png", "svg"):
            (folder / f"{stem}.{kind}").unlink(missing_ok=True)
