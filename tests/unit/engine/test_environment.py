"""The stack of a GPU has a digest of our own kernels and of all that calls them; that of a CPU has none."""

from __future__ import annotations

import re
from pathlib import Path

import harness
from harness.engine import environment

PACKAGE = Path(harness.__file__).parent
TRY = {"engine/environment.py", "engine/model/try_kernels.py"}  #: ask whether they run, and compute nothing with them


def test_whoever_calls_a_kernel_is_in_the_digest():
    files = [path for path in PACKAGE.rglob("*.py") if path.parent.name != "kernels"]
    calls = re.compile(r"\bkernels\.[a-z_]+\(|\bkernels_for\(|\bin_three\(")  # or makes what one reads
    found = {path.relative_to(PACKAGE).as_posix() for path in files if calls.search(path.read_text(encoding="utf-8"))}
    assert found - TRY == set(environment.CALLERS)


def test_the_digest_is_of_the_kernels_and_their_callers(monkeypatch):
    read = []
    monkeypatch.setattr(environment, "source_digest", lambda files: read.extend(files) or "0123456789")
    assert environment._kernels.__wrapped__() == "01234567"
    assert {path.relative_to(PACKAGE).as_posix() for path in read} > {
        *environment.CALLERS,
        "engine/model/kernels/adamw.py",
    }
    assert all(path.is_file() for path in read)
