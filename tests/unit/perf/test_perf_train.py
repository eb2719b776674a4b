"""``lorabench perf train`` on a tiny shape: parity first, every pack timed, a file that says what was run."""

from __future__ import annotations

import json

import pytest
import torch

from harness.engine.step import take_step
from harness.errors import InputError, LorabenchError
from harness.perf import engine_pack, gate, memory, train
from harness.perf.train import Agenda, Settings

CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    monkeypatch.setitem(engine_pack.WARM_UP_STEPS, "cpu", 1)
    for module in (train, memory):
        monkeypatch.setattr(module, "this_device", lambda: CPU, raising=False)


def alone(packs: dict[str, tuple[int, ...]], **more) -> Settings:
    return Settings({"random:tiny": Agenda(packs, **more)}, peers=False, seconds=0.0)


def told(tmp_path, asked: Settings) -> tuple[dict, list[str]]:
    failures = train.main(asked, tmp_path)
    (file,) = tmp_path.glob("train-*.json")
    return json.loads(file.read_text()), failures


def test_every_pack_size_is_timed_on_every_kind_of_step(tmp_path):
    found, failures = told(tmp_path, alone({"all": (1, 3), "answer": (2,), "bench": (1,)}, distilled=2))
    tiny = found["sizes"]["tiny"]
    assert [(row["trials"], row["kind"], row.get("recipe")) for row in tiny["rows"]] == [
        (1, "all", None), (3, "all", None), (2, "answer", None), (1, "bench", None),
        (2, "answer", "lora"), (2, "answer", "self_distill"),
    ]  # fmt: skip
    assert all(row["tokens_per_second"] > 0 and len(row["tokens_per_second_of_rounds"]) == 2 for row in tiny["rows"])
    assert (tiny["fused_kernels"], tiny["peers"], failures) == ("not on a GPU", [], [])
    assert found["skipped"] == {"peers": "not asked for"}
    assert max(found["parity"].values()) <= 1
    best = max(row["tokens_per_second"] for row in tiny["rows"] if row["kind"] == "all")
    head = found["headline"]
    roof = tiny["roofs"]["all"]
    assert head["roof_share_tiny"] == best / roof["yardstick_tokens_per_second"]
    copied = roof["byte_microseconds"] * found["ceilings"]["copy_gb_per_second"]
    assert roof["yardstick_byte_microseconds"] * 3000 == pytest.approx(copied)
    assert head["card_share_tiny"] == best / roof["tokens_per_second"]
    assert head["bench_shapes_tokens_per_second_k1"] == tiny["rows"][3]["tokens_per_second"]
    assert head["distillation_over_ce_k2"] == tiny["rows"][5]["step_ms"] / tiny["rows"][4]["step_ms"]
    assert not any("vs_b" in name for name in head), "nothing is compared with what was not timed"


def test_nothing_is_timed_where_parity_fails(tmp_path, monkeypatch):
    """An engine whose rate is another trains other factors; the losses notice, too."""
    monkeypatch.setattr(gate, "take_step", lambda rows, batch, factor, progress: take_step(rows, batch, 1.01, progress))
    with pytest.raises(LorabenchError, match=r"differ from PEFT's by .* times what is allowed"):
        train.main(alone({"all": (1,)}), tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_pack_without_room_is_left_out_and_said(tmp_path, monkeypatch, capsys):
    class Hungry(train.EnginePack):
        def __init__(self, model, trials, kind, recipe=None):
            if trials > 2:
                raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 EiB")
            super().__init__(model, trials, kind, recipe)

    monkeypatch.setattr(train, "EnginePack", Hungry)
    found, _ = told(tmp_path, alone({"all": (1, 8)}))
    assert "K=  8  all     skipped: out of memory" in capsys.readouterr().out
    assert found["sizes"]["tiny"]["rows"][1] == {
        "trials": 8, "kind": "all", "skipped": "out of memory: CUDA out of memory. Tried to allocate 2 EiB"
    }  # fmt: skip
    monkeypatch.setattr(train, "EnginePack", lambda *_: (_ for _ in ()).throw(torch.OutOfMemoryError("CUDA: no")))
    with pytest.raises(InputError, match=r"a single trial of 'tiny' does not fit: it ran out of memory \(CUDA: no\)"):
        train.main(alone({"all": (1,)}), tmp_path)


def test_an_error_that_is_not_about_memory_is_raised(tmp_path, monkeypatch):
    monkeypatch.setattr(train, "EnginePack", lambda *_: (_ for _ in ()).throw(RuntimeError("a bug")))
    with pytest.raises(RuntimeError, match="a bug"):
        train.main(alone({"all": (1,)}), tmp_path)


# -- what the options ask for -----------------------------------------------------------------------------------------


def asked(*models: str, packs: tuple[int, ...] = (), processes: tuple[int, ...] = (), small: bool = False) -> Settings:
    return train.settings(models, packs, processes, with_peers=True, small=small)


def test_without_options_it_is_the_edition_of_the_device(monkeypatch):
    assert list(asked().agendas) == ["random:tiny"]
    monkeypatch.setattr(train, "this_device", lambda: torch.device("cuda"))
    monkeypatch.setattr(train, "fits", lambda size, device: size != "1.5b")
    assert list(asked().agendas) == ["random:135m", "random:0.5b"], "what does not fit is left out"
    assert list(asked(small=True).agendas) == ["random:tiny"]


def test_packs_and_processes_replace_those_of_the_size():
    agenda = asked("random:tiny", packs=(2,), processes=(3,)).agendas["random:tiny"]
    assert agenda == Agenda({"all": (2,), "answer": (2,), "bench": (2,)}, (3,), 0)
    assert asked("random:135m").agendas["random:135m"] == train.AGENDAS["135m"]


def test_a_size_that_does_not_fit_is_refused_with_what_would(monkeypatch, in_process):
    monkeypatch.setattr(memory, "free_gib", lambda device: 2.5)
    monkeypatch.setattr(memory, "perf_dtype", lambda device: torch.bfloat16)
    status, _, said = in_process("perf", "train", "--sizes", "8b")
    assert status == 2
    assert "a single trial of '8b' does not fit: it needs at least 20.0 GiB, 2.5 are free: 17.5 are missing" in said
    assert "'0.5b' would fit" in said


def test_an_unknown_size_is_refused(in_process):
    status, _, said = in_process("perf", "train", "--sizes", "tiny,135M")
    assert (status, "did you mean '135m'?" in said) == (2, True)


def test_available_memory_is_read_where_linux_says_it(tmp_path):
    told = tmp_path / "meminfo"
    told.write_text("MemTotal: 8388608 kB\nMemAvailable:    3145728 kB\n")
    assert memory.free_gib(CPU, told) == 3.0
    assert memory.free_gib(CPU, tmp_path / "none") is None
