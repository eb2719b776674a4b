"""What tests are called and where they stand, so that a failure's name says what no longer holds."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest
from places import ROOT

LONGEST = 59
FILES = sorted((ROOT / "tests").rglob("test_*.py"))


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT / "tests")))
def test_names_of_tests_are_under_sixty_characters(path: Path) -> None:
    functions = (node for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.FunctionDef))
    assert [f.name for f in functions if f.name.startswith("test") and len(f.name) > LONGEST] == []


def test_folders_of_unit_tests_mirror_the_packages() -> None:
    folders = {path.parent for path in (ROOT / "tests" / "unit").rglob("test_*.py")} - {ROOT / "tests" / "unit"}
    assert folders
    for folder in folders:
        name = folder.relative_to(ROOT / "tests" / "unit")
        assert any((place / name / "__init__.py").is_file() for place in (ROOT, ROOT / "harness")), name


def test_no_two_test_files_have_one_name() -> None:
    """Pytest takes the second for the first where they are in no packages, and collects neither."""
    names = [path.name for path in (ROOT / "tests").rglob("test_*.py")]
    assert sorted(names) == sorted(set(names))
