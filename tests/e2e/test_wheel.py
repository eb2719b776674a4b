"""What pip installs: the wheel holds all of the source tree, and works in an environment that has no clone."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import zipfile
from pathlib import Path

import pytest
import yaml
from places import ROOT, STUDIES

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

SOURCES = ("harness", "baselines", "tasks")


def tracked(*folders: str) -> list[str]:
    """Paths of git's files, those not yet added among them."""
    words = ["git", "ls-files", "--cached", "--others", "--exclude-standard", "-z", "--", *folders]
    names = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, check=True).stdout.split("\0")
    return [name for name in names if name and (ROOT / name).is_file()]


def build(how: str, source: Path, target: Path) -> Path:
    """The one file that setuptools makes of a source tree, through its own hooks."""
    target.mkdir()
    program = "import sys; from setuptools import build_meta; getattr(build_meta, sys.argv[1])(sys.argv[2])"
    done = subprocess.run(
        [sys.executable, "-c", program, how, str(target)], cwd=source, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    (made,) = target.iterdir()
    return made


@pytest.fixture(scope="module")
def source(tmp_path_factory) -> Path:
    """A copy of what a clone holds: nothing that an earlier build left, and nothing is left in the clone."""
    folder = tmp_path_factory.mktemp("source")
    for name in tracked(*SOURCES, "pyproject.toml", "setup.py", "MANIFEST.in", "README.md", "LICENSE"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, folder / name)
    return folder


@pytest.fixture(scope="module")
def wheel(source, tmp_path_factory) -> Path:
    return build("build_wheel", source, tmp_path_factory.mktemp("wheel") / "dist")


@pytest.fixture(scope="module")
def lorabench(wheel, tmp_path_factory):
    """``lorabench("studies")`` in an environment that has the wheel and this one's libraries, but not the clone."""
    place = tmp_path_factory.mktemp("elsewhere")
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", place / "venv"], check=True)
    bin_folder = place / "venv" / ("Scripts" if os.name == "nt" else "bin")
    pip = [sys.executable, "-m", "pip", "--python", bin_folder / "python", "install", "--quiet", "--no-deps"]
    subprocess.run([*pip, "--no-index", wheel], check=True)
    own = Path(next((place / "venv").rglob("site-packages")))
    # A plain path: a folder named here is not searched for .pth files, so an editable install in it has no effect.
    (own / "libraries.pth").write_text(sysconfig.get_path("purelib"))
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    environment |= {"LORABENCH_CACHE": str(place / "cache"), "COLUMNS": "200"}

    def call(*words: str) -> str:
        done = subprocess.run(
            [bin_folder / words[0], *words[1:]], cwd=place, env=environment, capture_output=True, text=True, timeout=560
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    where = Path(call("python", "-c", "import harness; print(harness.__file__)").strip())
    assert where == own / "harness" / "__init__.py"
    return lambda *words: call("lorabench", *words)


def contents(wheel: Path) -> dict[str, bytes]:
    """Name -> bytes of every file of a wheel but its record of itself."""
    with zipfile.ZipFile(wheel) as file:
        return {name: file.read(name) for name in file.namelist() if not name.endswith(".dist-info/RECORD")}


def test_the_wheel_holds_the_source_tree_and_no_more(wheel):
    wanted = {f"harness/_{name}" if name.startswith("tasks/") else name: ROOT / name for name in tracked(*SOURCES)}
    found = {name: data for name, data in contents(wheel).items() if ".dist-info/" not in name}
    assert sorted(found) == sorted(wanted)
    assert all(data == wanted[name].read_bytes() for name, data in found.items())


def test_the_source_distribution_builds_the_same_wheel(wheel, source, tmp_path):
    with tarfile.open(build("build_sdist", source, tmp_path / "sdist")) as file:
        file.extractall(tmp_path / "unpacked", filter="data")
    (unpacked,) = (tmp_path / "unpacked").iterdir()
    assert contents(build("build_wheel", unpacked, tmp_path / "wheel")) == contents(wheel)


def test_what_an_earlier_build_left_is_not_packed(source, tmp_path, wheel):
    """Bytecode lies beside every module that was ever run."""
    used = tmp_path / "used"
    shutil.copytree(source, used, ignore=shutil.ignore_patterns("build", "*.egg-info"))
    subprocess.run([sys.executable, "-m", "compileall", "-q", used / "harness", used / "tasks"], check=True)
    assert contents(build("build_wheel", used, tmp_path / "wheel")) == contents(wheel)


def test_the_installed_wheel_checks_a_method(lorabench):
    assert "lora keeps the contract" in lorabench("methods", "--check", "lora")


def test_the_installed_wheel_lists_the_studies(lorabench):
    assert {path.stem for path in STUDIES.glob("*.yaml")} <= set(lorabench("studies").split())


def test_the_installed_wheel_runs_a_study_of_smoke_s_tasks(lorabench, tmp_path):
    """With what only a run and a report need: task files with their code, the catalogue, templates, style, script."""
    smoke = yaml.safe_load((STUDIES / "smoke.yaml").read_text(encoding="utf-8"))
    study = smoke | {
        "methods": {"frozen": None, "lora": {}},
        "seeds": [0],
    }
    (tmp_path / "smoke.yaml").write_text(yaml.safe_dump(study))
    words = ("run", str(tmp_path / "smoke.yaml"), "--executor", "local", "--out", str(tmp_path / "smoke"))
    lorabench(*words, "--no-report")
    assert not (tmp_path / "smoke" / "report.html").exists()
    lorabench(*words)
    page = (tmp_path / "smoke" / "report.html").read_text(encoding="utf-8")
    for name in ("report.css", "report.js"):
        first = (
            (ROOT / "harness" / "report" / "pages" / "templates" / name)
            .read_text(encoding="utf-8")
            .strip()
            .splitlines()[0]
        )
        assert first in page
