"""What some tests need of the system: without it they are skipped, and where it was promised they fail."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Sequence
from typing import NoReturn

import pytest

#: Set where the system has it: ``.ci/run`` does.
CHROMIUM, NAMESPACES = "LORABENCH_NEED_CHROMIUM", "LORABENCH_NEED_NAMESPACES"


def unable(why: str, promise: str) -> NoReturn:
    """Skip with the reason; fail where the environment has the promise."""
    if os.environ.get(promise):
        pytest.fail(f"{why}, and {promise} is set")
    pytest.skip(why)


def namespaces(command: Sequence[str]) -> None:
    """Go on where this command of ``unshare`` works: a system may lack it, and a container may refuse it."""
    try:
        done = subprocess.run(command, capture_output=True, text=True)
        refused = (done.stderr.strip() or f"status {done.returncode}") if done.returncode else ""
    except OSError as error:
        refused = str(error)
    if refused:
        unable(f"no namespaces here: {refused}", NAMESPACES)
