"""Imports run one way: the contracts of .importlinter hold, and they can be broken."""

from __future__ import annotations

import configparser
import subprocess
import sys
from pathlib import Path

import pytest
from places import ROOT

pytest.importorskip("importlinter")
RULES = ROOT / ".importlinter"


def lint(config: Path) -> subprocess.CompletedProcess[str]:
    code = "from importlinter.cli import lint_imports_command; lint_imports_command()"
    return subprocess.run(
        [sys.executable, "-c", code, "--config", str(config), "--no-cache"],
        capture_output=True, text=True, cwd=ROOT, timeout=120, check=False,
    )  # fmt: skip


def test_the_contracts_hold():
    done = lint(RULES)
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr


def test_a_broken_contract_is_seen(tmp_path):
    """Without the exceptions that it lists, the contract about Ray is broken; else the check would be asleep."""
    rules = configparser.ConfigParser()
    rules.read(RULES)
    for section in rules.sections():
        if section not in ("importlinter", "importlinter:contract:ray"):
            rules.remove_section(section)
    rules.remove_option("importlinter:contract:ray", "ignore_imports")
    with (tmp_path / "rules").open("w") as file:
        rules.write(file)
    done = lint(tmp_path / "rules")
    assert done.returncode == 1
    assert "harness.executors.ray.executor -> ray" in done.stdout


def test_a_package_without_a_layer_is_seen(tmp_path):
    """A new package of ``harness`` has to be placed."""
    rules = configparser.ConfigParser()
    rules.read(RULES)
    for section in rules.sections():
        if section not in ("importlinter", "importlinter:contract:layers"):
            rules.remove_section(section)
    layers = rules["importlinter:contract:layers"]
    layers["layers"] = layers["layers"].replace("\nscoring", "")
    with (tmp_path / "rules").open("w") as file:
        rules.write(file)
    done = lint(tmp_path / "rules")
    assert done.returncode == 1
    assert "scoring" in done.stdout
