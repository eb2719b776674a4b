"""The commands that stand in docs run as they stand there, in the order of the pages, on one run of a small study."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from commands import Command
from documents import PAGES, Block, blocks
from places import ROOT

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

#: What makes the study and runs it; the other pages use that.
FIRST = ROOT / "docs" / "running.md"
#: Run, with files of their own, by tests/e2e/test_custom_steps.py.
ELSEWHERE = {ROOT / "docs" / f"custom-{kind}.md" for kind in ("method", "task")}
DOCS = [FIRST, *(page for page in PAGES if page.parent == FIRST.parent and page not in {FIRST, *ELSEWHERE})]
BLOCKS = [block for page in DOCS for block in blocks(page) if not block.needs]


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("reader")


def named(block: Block) -> str:
    return f"{block.page.stem}:{block.line}"


@pytest.mark.parametrize("block", BLOCKS, ids=named)
def test_commands_run_as_they_stand(block, folder, shared_cache):
    for words in block.commands:
        program, *arguments = words
        assert program == "lorabench"
        target = None
        if ">" in arguments:
            *arguments, _, target = arguments
        command = Command(arguments, {"LORABENCH_CACHE": str(shared_cache), "COLUMNS": "200"}, folder)
        assert command.finish() == 0, f"{' '.join(words)}\n{command.said}"
        if target:
            (folder / target).write_text(command.said)


def test_python_runs_as_it_stands(folder):
    code = "\n".join(block.text for block in blocks(ROOT / "docs" / "pandas.md", "python"))
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=folder, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "stable_lora" in done.stdout


def test_what_the_pages_promise_is_there(folder):
    results = folder / "results"
    assert (results / "small" / "report.html").is_file()
    assert (results / "small" / "report.tex").is_file()
    assert (results / "index.html").is_file()
    assert (folder / "exported" / "adapter_model.safetensors").is_file()
    assert (results / "audit-mine" / "audit.html").is_file()
    assert list((results / "small" / "tensorboard").rglob("events.*"))
    assert list((folder / "scores").rglob("results_*.json"))
