"""Whether the report in a results folder is that of what is there, so that a run with nothing to do draws nothing.

``report.made.json`` says of what the report was made (records, code and libraries, by their contents), what was made,
and its answer in a sentence.  Whatever has changed on either side since, the report is made anew; times of files say
nothing.
"""

from __future__ import annotations

import hashlib
import json
import sys
from collections.abc import Iterable
from importlib.metadata import version
from pathlib import Path

from harness.store.files import write_json
from harness.store.results import MANIFEST

STAMP = "report.made.json"
#: What a report is made of, beside the records.
CODE = ("analysis", "report", "store")
LIBRARIES = ("jinja2", "matplotlib", "numpy", "pandas", "scipy")
TUNING = "tuning.json"
MITIGATION = "mitigation/*/scores.csv"


def current_answer(folder: Path) -> str | None:
    """The answer of the folder's report, where that is what would be made of it now; else None."""
    try:
        stamp = json.loads((folder / STAMP).read_text(encoding="utf-8"))
        made = {name: _sha(folder / name) for name in stamp["files"]}
        answer = stamp["answer"]
        same = bool(made) and stamp == {"of": sources(folder), "files": made, "answer": answer}
        return answer if same and isinstance(answer, str) else None
    except (OSError, ValueError, TypeError, KeyError):
        return None


def note_report(folder: Path, written: Iterable[Path], of: str, answer: str) -> None:
    """Note that these files are the report ``of`` what the folder held, its :func:`sources` before they were read.

    ``answer`` is what it says in a sentence.
    """
    files = {path.relative_to(folder).as_posix(): _sha(path) for path in sorted(written)}
    write_json(folder / STAMP, {"of": of, "files": files, "answer": answer})


def sources(folder: Path) -> str:
    """A digest of all that a report of this folder is made of."""
    sha = hashlib.sha256()
    harness = Path(__file__).parents[1]
    code = [path for part in CODE for path in (harness / part).rglob("*") if "__pycache__" not in path.parts]
    records = [folder / MANIFEST, folder / TUNING, *folder.glob(MITIGATION), *(folder / "trials").glob("*.json")]
    for place, paths in ((harness, code), (folder, records)):  # wherever both lie, and whatever the folder is called
        for path in sorted(filter(Path.is_file, paths)):
            sha.update(f"{path.relative_to(place).as_posix()} {_sha(path)}\n".encode())
    sha.update(" ".join([sys.version, *map(version, LIBRARIES)]).encode())
    return sha.hexdigest()


def _sha(path: Path) -> str:
    with path.open("rb") as file:  # trials.csv of ten thousand records has half a gigabyte
        return hashlib.file_digest(file, "sha256").hexdigest()
