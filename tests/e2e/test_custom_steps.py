"""The steps of docs/custom-method.md and custom-task.md, as they stand there: in a folder, and inside a clone."""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from commands import Command
from places import ROOT

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

METHOD, TASK = ((ROOT / "docs" / f"custom-{kind}.md").read_text(encoding="utf-8") for kind in ("method", "task"))


def steps(page: str) -> list[str]:
    """The three commands of a page."""
    found = re.search(r"```sh\n(.*?)```", page, re.S)[1].splitlines()
    assert len(found) == 3
    return found


def study(page: str) -> str:
    return re.search(r"```yaml\n(.*?)```", page, re.S)[1]


@pytest.fixture(params=["in a folder", "in a clone"])
def place(request, cache, tmp_path):
    """(do, where methods go, where tasks go): ``do(command)`` runs a step in an empty folder."""
    root, inside = ROOT, request.param == "in a clone"
    if inside:
        root = tmp_path / "clone"
        for name in ("harness", "baselines", "tasks", "tests"):
            shutil.copytree(ROOT / name, root / name, ignore=shutil.ignore_patterns("__pycache__"))
        shutil.copy(ROOT / "pyproject.toml", root)

    def do(command: str, cwd: Path = tmp_path) -> str:
        program, *words = shlex.split(command)
        environment = {"LORABENCH_CACHE": str(cache), "PYTHONPATH": str(root), "COLUMNS": "200"}
        if not inside:
            assert program == "lorabench"
            forked = Command(words, environment, cwd)
            assert forked.finish() == 0, forked.said
            return forked.said
        words = [sys.executable, "-m", {"lorabench": "harness"}.get(program, program), *words]
        if "--plugins" in words:
            at = words.index("--plugins")
            del words[at : at + 2]
        done = subprocess.run(
            words, capture_output=True, text=True, cwd=cwd, timeout=280, check=False, env=os.environ | environment
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    own = tmp_path / "mine"
    return do, (root / "baselines" if inside else own / "methods"), (root / "tasks" if inside else own / "tasks")


def scores(folder: Path) -> dict[str, dict[str, list[float]]]:
    """Method -> task -> its column of the accuracy matrix."""
    found = [json.loads(path.read_text()) for path in (folder / "trials").glob("*.json")]
    assert {record["status"] for record in found} == {"ok"}
    return {r["spec"]["method"]: {name: t["score"] for name, t in r["tasks"].items()} for r in found}


def test_a_method_in_three_steps(place, tmp_path):
    do, methods, _ = place
    write, check, run = steps(METHOD)
    (tmp_path / "my_method.yaml").write_text(study(METHOD))
    do(write)
    assert (methods / "my_method.py").is_file()
    assert "my_method keeps the contract" in do(check)
    do(run)
    assert set(scores(tmp_path / "results" / "my_method")) == {"lora", "my_method"}
    if methods.name == "baselines":  # in the clone there is one step more
        [tests] = re.findall(r"run `(pytest .*?)`", METHOD)
        assert re.search(r"^\d\d passed", do(f"{tests} -p no:cacheprovider", cwd=methods.parent), re.M)


def test_a_task_in_three_steps(place, tmp_path):
    do, _, tasks = place
    write, look, run = steps(TASK)
    row = json.loads(re.search(r"such as `(\{.*?\})`", TASK)[1])
    assert row == {"question": "is 7 odd?", "answer": "yes"}
    rows = [{"question": f"is {n} odd?", "answer": ("no", "yes")[n % 2]} for n in range(64)]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (tmp_path / "my_task.yaml").write_text(study(TASK))
    said = do(write)
    assert "40 train, 8 validation, 16 test; digest " in said
    assert len((tasks / "my_task" / "my_task.yaml").read_text().splitlines()) <= 18
    assert do(look).splitlines()[-1].split()[:4] == ["my_task", "stream", "multiple_choice", "40/8/16"]
    do(run)
    assert list(scores(tmp_path / "results" / "my_task")["lora"]) == ["my_task", "toy_digits"]
