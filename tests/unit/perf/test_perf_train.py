"""``lorabench perf train`` on a tiny shape: every pack size in both regimes, in a file that says what was run."""

from __future__ import annotations

import json

import torch

from harness.perf import train


def test_every_pack_size_is_timed_in_both_regimes(tmp_path, monkeypatch):
    monkeypatch.setattr(train, "LEAST_SECONDS", 0.0)
    monkeypatch.setattr(train, "this_device", lambda: torch.device("cpu"))
    train.main("random:tiny", [1, 3], tmp_path)
    (file,) = tmp_path.glob("train-*.json")
    told = json.loads(file.read_text())
    assert [(row["trials"], row["labels"]) for row in told["rows"]] == [
        (1, "answer"), (3, "answer"), (1, "all"), (3, "all"),
    ]  # fmt: skip
    assert all(row["tokens_per_second"] > 0 for row in told["rows"])
