"""``lorabench perf methods`` on a tiny shape: every method that trains, over plain LoRA; time and bytes."""

from __future__ import annotations

import json

import pytest
import torch

from harness.errors import InputError
from harness.perf import engine_pack, methods


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    monkeypatch.setitem(engine_pack.WARM_UP_STEPS, "cpu", 1)
    monkeypatch.setattr(engine_pack, "TURN", 2)
    monkeypatch.setattr(methods, "this_device", lambda: torch.device("cpu"))


def told(tmp_path, *names: str) -> dict:
    methods.main(methods.Settings("random:tiny", 2, names, "bench", 1, 0.0), tmp_path)
    (file,) = tmp_path.glob("methods-*.json")
    return json.loads(file.read_text())


def test_methods_are_timed_over_plain_lora_with_their_state(tmp_path):
    found = told(tmp_path, "stable_lora", "lora", "lora_ema", "sdft")
    rows = {row["method"]: row for row in found["rows"]}
    assert list(rows) == ["lora", "lora_ema", "sdft", "stable_lora"]
    assert all(row["over_lora"] > 0 and row["step_ms"] > 0 for row in rows.values())
    assert rows["lora"]["state_over_lora"] == 1
    assert rows["stable_lora"]["state_bytes"]["rules"] == 14
    assert rows["lora_ema"]["state_bytes"]["average"] == rows["lora"]["state_bytes"]["adapter"] + 4
    assert found["headline"]["state_over_lora_lora_ema"] == pytest.approx(4 / 3, abs=1e-3)
    assert found["headline"]["step_over_lora_sdft"] == rows["sdft"]["over_lora"]


def test_a_teacher_that_is_shown_the_answer_reads_more():
    made = engine_pack.made_examples(engine_pack.KINDS["answer"], 512, 0, shown=True)[0][0]
    assert made.teacher_length == 2 * len(made.prompt) + 2 * len(made.answer)
    assert engine_pack.made_examples(engine_pack.KINDS["answer"], 512, 0)[0][0].teacher_length == 128


def test_a_method_without_room_is_skipped_and_said(tmp_path, monkeypatch, capsys):
    real = methods._pack

    def hungry(model, method, asked):
        if method.name == "full_finetune":
            raise torch.OutOfMemoryError("CUDA out of memory")
        return real(model, method, asked)

    monkeypatch.setattr(methods, "_pack", hungry)
    found = told(tmp_path, "lora_plus", "full_finetune")
    assert found["rows"][0] == {"method": "full_finetune", "skipped": "out of memory: CUDA out of memory"}
    assert [name for name in found["headline"] if "full" in name] == []
    assert "full_finetune        skipped: out of memory" in capsys.readouterr().out


def test_methods_may_be_timed_one_after_the_other(tmp_path, monkeypatch):
    about = dict(methods.measured_on(torch.device("cpu")))
    monkeypatch.setattr(methods, "measured_on", lambda device: about)
    for commit, clean, kept in (("a", True, []), ("a", True, ["lora_plus"]), ("b", True, []), ("b", False, [])):
        about |= {"commit": commit, "clean": clean}
        name = "rslora" if kept else "lora_plus"
        found = told(tmp_path, name)
        (file,) = tmp_path.glob("methods-*.json")
        file.write_text(json.dumps(found | about))
        assert [row["method"] for row in found["rows"]] == [*kept, name]
    few = {name: methods.methods()[name] for name in ("lora", "lora_fa")}
    monkeypatch.setattr(methods, "methods", lambda: few)
    assert [row["method"] for row in told(tmp_path)["rows"]] == [*few], "all anew, where none is named"


def test_what_trains_nothing_has_no_step(tmp_path):
    assert told(tmp_path, "frozen")["rows"] == []


def test_an_unknown_method_is_refused(tmp_path):
    with pytest.raises(InputError, match="did you mean 'lora_ema'"):
        told(tmp_path, "lora_emma")
