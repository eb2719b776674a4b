"""Where the files of the clone are that tests read."""

from __future__ import annotations

from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
STUDIES = ROOT / "tasks" / "studies"
REFERENCE = ROOT / "results" / "reference"
#: Records, manifests and adapters of older versions.
GOLDEN = ROOT / "tests" / "golden"
