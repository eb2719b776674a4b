"""Every method of the project in one study of the smoke's world: each trains, is scored, and its adapter is kept."""

from __future__ import annotations

import json

import pytest
import yaml
from places import ROOT

from harness.method.registry import methods

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

#: Whose start looks at text: the only one that is made in code.
READERS = {"corda", "lora_null"}
#: What they score has no low rank, or they train nothing.
KEPT_NOT = {"frozen", "full_finetune", "lora_ema_product"}


def test_every_method_runs_in_one_study(lorabench, tmp_path):
    smoke = yaml.safe_load((ROOT / "tasks" / "studies" / "smoke.yaml").read_text(encoding="utf-8"))
    arms = {name: {"text": "toy_text", "text_tokens": 800} if name in READERS else {} for name in methods()}
    changes = {"title": "All arms: do they run?", "seeds": [0], "methods": arms, "keep_adapters": "last"}
    study = smoke | changes | {"training": {"examples": 32, "batch": 8}, "scoring": {"items": 16, "curve": [16]}}
    file = tmp_path / "all_arms.yaml"
    file.write_text(yaml.safe_dump(study))
    lorabench("run", file, "--executor", "local", "--out", tmp_path / "out")
    found = {}
    for path in (tmp_path / "out" / "trials").glob("*.json"):
        record = json.loads(path.read_text(encoding="utf-8"))
        found[record["spec"]["method"]] = record
    assert {name: record["status"] for name, record in found.items()} == dict.fromkeys(methods(), "ok")
    kept = {path.stem for path in (tmp_path / "out" / "adapters").glob("*.safetensors")}
    assert kept == {record["fingerprint"] for name, record in found.items() if name not in KEPT_NOT}
    board = (tmp_path / "out" / "leaderboard.csv").read_text(encoding="utf-8")
    assert all(f"\n{name}," in board for name in methods())
    assert found["osf"]["costs"]["trained_parameters"] > found["lora"]["costs"]["trained_parameters"]
    assert found["lora_fa"]["costs"]["trained_parameters"] < found["lora"]["costs"]["trained_parameters"]
