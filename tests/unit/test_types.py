"""Pyright holds the types (``make lint``); what it is told to overlook says which rule and why."""

from __future__ import annotations

import re

import pytest
from places import ROOT

FILES = sorted(path for folder in ("harness", "baselines") for path in (ROOT / folder).rglob("*.py"))
#: `# pyright: ignore[rule]  # reason`
GOOD = re.compile(r"# pyright: ignore\[\w+(, \w+)*\]  # \w")


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_what_pyright_overlooks_has_a_rule_and_a_reason(path) -> None:
    lines = path.read_text(encoding="utf-8").splitlines()
    assert [line for line in lines if re.search(r"# *(type|pyright):", line) and not GOOD.search(line)] == []
