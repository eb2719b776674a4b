"""Examples and pages for clusters: what they call exists, and their files fit together."""

from __future__ import annotations

import re
import shlex
import subprocess
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer
import yaml
from places import ROOT

from harness import cli
from harness.study.config import ResourceSettings

EXAMPLES = ROOT / "examples"
PAGE = ROOT / "docs" / "clusters.md"
SCRIPTS = sorted(EXAMPLES.glob("*.sh"))
#: What stands for a name in a command.
NAMES = {'"$study"': "core", '"$out"': "out", '"$ip:$port"': "10.0.0.1:6379", "STUDY": "core"}


def parse(command: str) -> dict[str, Any]:
    """The arguments of a command of lorabench, as its verb gets them; click's UsageError where it has none such."""
    for name, value in NAMES.items():
        command = command.replace(name, value)
    words = shlex.split(command, comments=True)
    assert words.pop(0) == "lorabench"
    group: Any = typer.main.get_command(cli.app)
    assert words[0] in group.commands
    return group.commands[words[0]].make_context(words[0], words[1:]).params


def commands(text: str) -> Iterator[str]:
    """Those of lorabench that stand alone on a line, or after ``--`` as what ``ray job submit`` runs."""
    for line in text.splitlines():
        if found := re.match(r"(?:    |.* -- |)(lorabench (?:run|report|status|fetch|tune) .*)", line):
            yield found[1]


@pytest.fixture(scope="module")
def rayjob() -> dict[str, Any]:
    return yaml.safe_load((EXAMPLES / "rayjob.yaml").read_text())


def pods(rayjob: dict[str, Any]) -> list[dict[str, Any]]:
    cluster = rayjob["spec"]["rayClusterSpec"]
    return [group["template"]["spec"] for group in (cluster["headGroupSpec"], *cluster["workerGroupSpecs"])]


@pytest.mark.parametrize("path", [*SCRIPTS, PAGE], ids=lambda path: path.name)
def test_commands_are_those_of_the_command_line(path: Path):
    found = list(commands(path.read_text()))
    assert found
    for command in found:
        assert parse(command)["study"] == "core"


def test_the_parser_of_this_test_refuses_what_there_is_not():
    assert parse("lorabench run core --address HOST:1 --out x")["address"] == "HOST:1"
    for wrong in ("lorabench run core --adress HOST:1", "lorabench report core --partially", "lorabench run a b"):
        with pytest.raises(Exception, match=r"(No such option|unexpected extra argument)"):
            parse(wrong)


@pytest.mark.parametrize("path", SCRIPTS, ids=lambda path: path.name)
def test_scripts_are_bash_and_may_be_run(path: Path):
    assert path.stat().st_mode & 0o111
    assert path.read_text().startswith("#!/usr/bin/env bash\n")
    subprocess.run(["bash", "-n", path], check=True)


def test_a_script_without_its_arguments_says_so():
    for path in SCRIPTS:
        done = subprocess.run(["bash", path], capture_output=True, text=True, check=False)
        assert done.returncode != 0
        assert "which study?" in done.stderr


def test_the_rayjob_is_one_and_runs_a_study(rayjob):
    assert (rayjob["apiVersion"], rayjob["kind"]) == ("ray.io/v1", "RayJob")
    spec = rayjob["spec"]
    known = {"entrypoint", "shutdownAfterJobFinishes", "ttlSecondsAfterFinished", "backoffLimit", "rayClusterSpec"}
    assert set(spec) == known
    assert set(spec["rayClusterSpec"]) == {"rayVersion", "authOptions", "headGroupSpec", "workerGroupSpecs"}
    assert parse(spec["entrypoint"])["study"] == "core"
    ray = next(line for line in (ROOT / "constraints.txt").read_text().splitlines() if line.startswith("ray=="))
    assert spec["rayClusterSpec"]["rayVersion"] == ray.removeprefix("ray==")
    assert all(isinstance(value, str) for value in spec["rayClusterSpec"]["headGroupSpec"]["rayStartParams"].values())


def test_all_pods_see_results_and_cache(rayjob):
    written = [str(parse(rayjob["spec"]["entrypoint"])["out"])]
    for pod in pods(rayjob):
        (container,) = pod["containers"]
        environment = {each["name"]: each["value"] for each in container["env"]}
        volumes = {volume["name"]: volume["persistentVolumeClaim"]["claimName"] for volume in pod["volumes"]}
        (mount,) = container["volumeMounts"]
        assert volumes == {mount["name"]: "lorabench"}
        for path in (*written, environment["LORABENCH_CACHE"]):
            assert path.startswith(mount["mountPath"] + "/")
    images = {pod["containers"][0]["image"] for pod in pods(rayjob)}
    assert len(images) == 1
    assert images.pop() in (EXAMPLES / "Dockerfile").read_text()


def test_workers_have_a_gpu_and_the_head_runs_no_pack(rayjob):
    head, *workers = [pod["containers"][0]["resources"] for pod in pods(rayjob)]
    assert rayjob["spec"]["rayClusterSpec"]["headGroupSpec"]["rayStartParams"]["num-cpus"] == "0"
    assert "nvidia.com/gpu" not in head["limits"]
    assert workers
    for resources in (head, *workers):
        assert resources["limits"] == resources["requests"]
    assert all(resources["limits"]["nvidia.com/gpu"] == "1" for resources in workers)


def test_the_image_is_made_of_what_there_is():
    text = (EXAMPLES / "Dockerfile").read_text()
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    (install,) = re.findall(r"pip install .*-c (\S+) \"\.\[(\w+)\]\"", text)
    assert (ROOT / install[0]).is_file()
    assert install[1] in project["optional-dependencies"]
    (python,) = re.findall(r"FROM python:(3\.\d+)-slim", text)
    assert any(python in line for line in project["classifiers"])


def test_the_pages_settings_are_a_studys():
    said = [yaml.safe_load(text) for text in re.findall(r"`(resources: \{.*?\}|wait_minutes: \d+)`", PAGE.read_text())]
    assert len(said) >= 3
    for settings in said:
        given = settings.get("resources", settings)
        assert ResourceSettings(**given).model_dump(exclude_unset=True) == given


def test_the_pages_name_every_example_and_what_was_not_tried():
    text, index = PAGE.read_text(), (EXAMPLES / "README.md").read_text()
    names = {path.name for path in EXAMPLES.iterdir() if path.is_file()} - {"README.md"}
    assert "outside.py" in names
    for name in names:
        assert f"]({name})" in index
        assert f"](../examples/{name})" in text or name.startswith("outside")
    assert "not on a Slurm cluster" in text
    assert "not applied to a cluster" in text
    assert "docs/clusters.md" in (ROOT / "README.md").read_text()
