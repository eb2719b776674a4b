"""Imports run one way: the contracts of .importlinter hold, and they can be broken."""

from __future__ import annotations

import configparser
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("importlinter")
ROOT = Path(__file__).resolve().parents[2]
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


def test_core_lists_every_module_of_the_engine_that_runs_no_packs():
    """A new module of the engine has to be placed: in the core, or among those that score."""
    rules = configparser.ConfigParser()
    rules.read(RULES)
    core = set(rules["importlinter:contract:core"]["source_modules"].split())
    runs = {f"harness.engine.{name}" for name in ("pack", "base", "ledger", "untrained", "job", "worker")}
    there = {f"harness.engine.{p.stem}" for p in (ROOT / "harness" / "engine").glob("*.py") if p.stem != "__init__"}
    assert core | runs == there
    assert not core & runs
