"""A pack of every arm that carries something from task to task, killed at a boundary: it goes on bit for bit."""

from __future__ import annotations

import json
from pathlib import Path

import campaigns
import pytest
import yaml
from campaigns import TOY
from folders import records

from harness.engine.adapters.files import export_peft, find_adapter
from harness.running import pack
from harness.running.pack import PackRun

ARMS = [
    "lora", "lora_ema", "lora_ewc", "lora_replay", "single_task", "multitask", "o_lora", "pissa", "eva", "dora",
    "full_finetune", "lora_ema_product", "wise_ft", "merge_mean", "merge_ties", "slao", "lora_fa", "olora", "milora",
    "mica", "clora", "corda", "lora_null", "inflora", "mitigate_between", "osf",
]  # fmt: skip
#: An adapter of their own: packs of other shapes, and what these make of a rank or of targets.
QV = {"adapter": {"targets": ["q_proj", "v_proj"]}}
OWN = {"o_lora@qv": QV, "dora@qv": QV, "full_finetune@qv": QV, "eva@rank2": {"adapter": {"rank": 2}}}
STUDY = TOY | {
    "methods": {arm: {} for arm in ARMS} | {
        "lora_ewc": {"fisher_examples": 4}, "lora_ema_product@cut": {"keep_rank": 2},
        "corda": {"text": "toy_text", "text_tokens": 400}, "lora_null": {"text": "toy_text", "text_tokens": 400}, **OWN,
    },
    "training": {"examples": 24, "batch": 8, "between_tasks": "reinit"}, "scoring": {"items": 4, "curve": [8]},
}  # fmt: skip


class Killed(KeyboardInterrupt):
    """Not an error that a worker turns into a record."""


def run(file: Path, folder: Path) -> dict[str, dict]:
    """Records by arm, without what two runs may differ in."""
    campaigns.run(campaigns.load(file, folder))
    return {f"{r['spec']['method']}@{r['spec']['setting']}": r for r in records(folder).values()}


@pytest.fixture
def file(tmp_path, in_shared_cache) -> Path:
    return campaigns.write_study(tmp_path, STUDY, "resumed")


def test_every_arm_goes_on_from_a_boundary(file, tmp_path, monkeypatch):
    wanted = run(file, tmp_path / "undisturbed")
    assert len(wanted) == len(ARMS) + 1 + len(OWN)
    assert {record["status"] for record in wanted.values()} == {"ok"}
    lost = wanted["lora_ema_product@cut"]["lost_energy"]
    assert len(lost) == 2
    assert all(0 <= share < 1 for share in lost)
    assert not wanted["lora@default"]["lost_energy"]
    first, second = wanted["lora_ema@default"]["curves"]
    assert (len(first["student"]), first["student"][0]) == (3, first["score"][0])
    assert second["student"][0] == second["score"][0], "under reinit the student goes on from what is scored"

    checkpoint, killed = PackRun._checkpoint, set()

    def kill_once(self, stage):
        checkpoint(self, stage)
        if stage == 0 and self.pack.name not in killed:
            killed.add(self.pack.name)
            raise Killed

    monkeypatch.setattr(PackRun, "_checkpoint", kill_once)
    while True:
        try:
            found = run(file, tmp_path / "killed")
            break
        except Killed:
            continue
    assert found == wanted
    assert len(killed) > 5
    check_exports(tmp_path / "killed", tmp_path)


def test_a_checkpoint_of_another_version_is_left_alone(file, tmp_path, monkeypatch):
    """Its tensors have other names, or mean something else: the pack starts anew."""
    file.write_text(yaml.safe_dump(STUDY | {"methods": {"lora": {}}}))
    wanted = run(file, tmp_path / "undisturbed")
    checkpoint, trained = PackRun._checkpoint, []

    def kill(self, stage):
        checkpoint(self, stage)
        raise Killed

    with monkeypatch.context() as patched:
        patched.setattr(PackRun, "_checkpoint", kill)
        with pytest.raises(Killed):
            run(file, tmp_path / "killed")

    monkeypatch.setattr(pack, "CHECKPOINT_VERSION", -1)
    train = PackRun._train
    monkeypatch.setattr(PackRun, "_train", lambda self, stage: trained.append(stage) or train(self, stage))
    assert run(file, tmp_path / "killed") == wanted
    assert trained == [0, 1]


def check_exports(folder: Path, target: Path) -> None:
    """Rank r for each task where adapters are frozen; PiSSA's negative ones are in it, too."""
    from peft import PeftConfig

    ranks = {"lora": 16, "o_lora": 16, "single_task": 8, "lora_ewc": 8, "pissa": 32, "dora": 16, "merge_mean": 16,
             "merge_ties": 16, "slao": 8, "inflora": 16, "mica": 16, "corda": 32, "lora_null": 32}  # fmt: skip
    for path in (folder / "trials").glob("*.json"):
        record = json.loads(path.read_text())
        name = record["spec"]["method"]
        if name in ranks:
            export_peft(*find_adapter(folder, record["fingerprint"]), target / name)
            config = PeftConfig.from_pretrained(target / name)
            assert config.r == ranks[name]
            assert config.use_dora == (name == "dora")
