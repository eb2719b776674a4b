"""``lorabench perf train`` on a tiny shape: every pack size on every kind of step, in a file that says what was run."""

from __future__ import annotations

import json

import torch

from harness.perf import train


def test_every_pack_size_is_timed_on_every_kind_of_step(tmp_path, monkeypatch):
    monkeypatch.setattr(train, "LEAST_SECONDS", 0.0)
    monkeypatch.setattr(train, "WARM_UP_STEPS", 1)
    monkeypatch.setattr(train, "this_device", lambda: torch.device("cpu"))
    train.main("random:tiny", [1, 3], tmp_path)
    (file,) = tmp_path.glob("train-*.json")
    told = json.loads(file.read_text())
    assert [(row["trials"], row["kind"]) for row in told["rows"]] == [
        (1, "bench"), (3, "bench"), (1, "answer"), (3, "answer"), (1, "all"), (3, "all"),
    ]  # fmt: skip
    assert told["fused_kernels"] == "not on a GPU"
    assert all(row["tokens_per_second"] > 0 for row in told["rows"])
