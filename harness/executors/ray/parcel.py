"""What the workers of a user's cluster are given to run: this code, with its tasks and plug-ins, by Ray's means.

So a node needs the libraries and nothing of ours, and a version of ours that is installed there is not what runs.
"""

from __future__ import annotations

import json
import os
import shutil
from dataclasses import asdict
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from harness.data import paths
from harness.store.clone import FILE, clone

#: Settings of this process that workers have as well, where it has them.
PASSED_ON = ("LORABENCH_CACHE", "LORABENCH_CL_BENCHMARK", "LORABENCH_DATASETS", "HF_HUB_OFFLINE", "HF_ENDPOINT")
LEFT_OUT = shutil.ignore_patterns("__pycache__", ".git*", "*.pyc")


def runtime_environment(folder: Path) -> dict[str, Any]:
    """Ray's words for it; the files are put into ``folder``, which has to be there until Ray has taken them."""
    code, methods = folder / "harness", folder / "baselines"
    shutil.copytree(Path(__file__).resolve().parents[2], code, ignore=LEFT_OUT)
    spec = find_spec("baselines")
    assert spec is not None
    assert spec.origin is not None, "a package with an __init__.py"
    shutil.copytree(Path(spec.origin).parent, methods, ignore=LEFT_OUT)
    if not paths.packaged():
        shutil.copytree(paths.tasks_dir(), code / "_tasks", ignore=LEFT_OUT)
    for plugins in paths.plugin_dirs():
        for kind, target in (("methods", methods), ("tasks", code / "_tasks")):
            if (plugins / kind).is_dir():
                shutil.copytree(plugins / kind, target, ignore=LEFT_OUT, dirs_exist_ok=True)
    _say_installed(folder)
    (code / FILE).write_text(json.dumps(asdict(clone())), encoding="utf-8")
    return {
        "working_dir": str(folder),  # also, Ray then leaves out the folder that this process was started in
        "env_vars": {
            # A process that asks what GPUs there are takes none of them, and has to see them.
            "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
            "LORABENCH_PLUGINS": "",  # they are with the rest
            **{name: os.environ[name] for name in PASSED_ON if name in os.environ},
        },
    }


def _say_installed(folder: Path) -> None:
    """Have it look installed there, in this version."""
    here = version("lorabench")
    made = folder / f"lorabench-{here}.dist-info"
    made.mkdir()
    (made / "METADATA").write_text(f"Metadata-Version: 2.1\nName: lorabench\nVersion: {here}\n", encoding="utf-8")
