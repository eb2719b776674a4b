"""Every method of the project in one study of the smoke's world: it trains, is scored, and its export scores alike."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml
from places import ROOT

from harness.engine.adapters.files import export_peft, find_adapter
from harness.method.registry import methods

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

#: Whose start looks at text: the only one that is made in code.
READERS = {"corda", "lora_null"}
ITEMS = 16
#: What they score has no low rank, or they train nothing.
KEPT_NOT = {"frozen", "full_finetune", "lora_ema_product"}


@pytest.fixture(scope="module")
def folder(lorabench, tmp_path_factory) -> Path:
    """The results of a study of all methods."""
    folder = tmp_path_factory.mktemp("all")
    smoke = yaml.safe_load((ROOT / "tasks" / "studies" / "smoke.yaml").read_text(encoding="utf-8"))
    arms = {name: {"text": "toy_text", "text_tokens": 800} if name in READERS else {} for name in methods()}
    changes = {"title": "All arms: do they run?", "seeds": [0], "methods": arms, "keep_adapters": "last"}
    study = smoke | changes | {"training": {"examples": 32, "batch": 8}, "scoring": {"items": ITEMS, "curve": [16]}}
    file = folder / "all_arms.yaml"
    file.write_text(yaml.safe_dump(study))
    lorabench("run", file, "--executor", "local", "--out", folder / "out")
    return folder / "out"


@pytest.fixture(scope="module")
def found(folder) -> dict[str, dict]:
    """Records by method."""
    read = (json.loads(path.read_text(encoding="utf-8")) for path in (folder / "trials").glob("*.json"))
    return {record["spec"]["method"]: record for record in read}


def test_every_method_runs_in_one_study(folder, found):
    assert {name: record["status"] for name, record in found.items()} == dict.fromkeys(methods(), "ok")
    kept = {path.stem for path in (folder / "adapters").glob("*.safetensors")}
    assert kept == {record["fingerprint"] for name, record in found.items() if name not in KEPT_NOT}
    board = (folder / "leaderboard.csv").read_text(encoding="utf-8")
    assert all(f"\n{name}," in board for name in methods())
    assert found["osf"]["costs"]["trained_parameters"] > found["lora"]["costs"]["trained_parameters"]
    assert found["lora_fa"]["costs"]["trained_parameters"] < found["lora"]["costs"]["trained_parameters"]


def test_exports_score_as_recorded(folder, found, lorabench, tmp_path):
    """As the audit of adapters made elsewhere scores them; other ranks beside them may round other last bits."""
    names = sorted(set(found) - KEPT_NOT - {"dora"})  # of plain LoRA alone
    for name in names:
        export_peft(*find_adapter(folder, found[name]["fingerprint"]), tmp_path / name)
    paths = [tmp_path / name for name in names]
    lorabench("audit", *paths, "--model", "tiny-random-llama", "--tasks", "toy_recall,toy_digits", "--probes",
              "toy_text", "--items", ITEMS, "--threads", 2, "--out", tmp_path / "audit")  # fmt: skip
    audited = json.loads((tmp_path / "audit" / "audit.json").read_text(encoding="utf-8"))["adapters"]
    assert len(audited) == len(names) > 25
    for name, adapter in zip(names, audited, strict=True):
        record = found[name]
        for task, scores in record["tasks"].items():
            assert adapter["scores"][task]["correct"] == scores["correct"][-1], (name, task)
        text = record["probes"]["toy_text"]["score"][-1]
        assert adapter["scores"]["toy_text"]["score"] == pytest.approx(text, abs=1e-5), name
