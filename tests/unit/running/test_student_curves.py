"""An arm that scores an average has a curve of its student, too: the scores of plain LoRA where both train once."""

from __future__ import annotations

from typing import Any

import campaigns
import pytest
from campaigns import TOY
from folders import records

FAST = {"learning_rate": 0.02}
STUDY = TOY | {
    "methods": {"frozen": {}, "lora": FAST, "lora_ema": FAST | {"ema_window": 1.0}},
    "training": {"examples": 64, "batch": 8}, "scoring": {"items": 32, "curve": [16, 32]},
}  # fmt: skip


@pytest.fixture
def curves(tmp_path, in_shared_cache):
    """``curves(**changes)``: the curves of every arm of the study with these changes."""

    def run(**changes: Any) -> dict[str, list[dict]]:
        folder = tmp_path / str(len(list(tmp_path.iterdir())))
        folder.mkdir()
        campaigns.run(campaigns.load(campaigns.write_study(folder, STUDY, **changes), folder / "out"))
        found = records(folder / "out").values()
        assert {record["status"] for record in found} == {"ok"}
        return {record["spec"]["method"]: record["curves"] for record in found}

    return run


def test_a_student_is_scored_as_the_lora_with_which_it_trains(curves):
    found = curves()
    averaged, plain = ([[c[key] for c in found[arm]] for key in ("score", "student")] for arm in ("lora_ema", "lora"))
    assert averaged[1] == plain[0], "at every point, both ends included"
    assert averaged[0] != plain[0]
    assert len(set(plain[0][0])) > 1, "a student that learns nothing would show nothing"
    assert plain[1] == [c["student"] for c in found["frozen"]] == [[], []]


def test_alone_in_its_pack_a_student_has_the_same_curve(curves):
    whole = curves()["lora_ema"]
    alone = curves(methods={"lora_ema": STUDY["methods"]["lora_ema"]})["lora_ema"]
    assert [c["student"] for c in alone] == [c["student"] for c in whole]


def test_without_a_curve_no_student_is_scored(curves):
    found = curves(scoring={"items": 32})["lora_ema"]
    assert [(c["examples"], c["student"]) for c in found] == [([0, 64], [])] * 2
