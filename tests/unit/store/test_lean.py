"""Lean records: all that reports read is the same, and what many records share is there once."""

from __future__ import annotations

import gc

from test_consistency import record

from harness.store.lean import settled
from harness.store.results import read_trials, write_trial


def test_lean_records_lack_only_losses_and_items(tmp_path):
    for seed in range(3):
        write_trial(tmp_path, record(seed))
    whole, lean = (read_trials(tmp_path, lean=lean).records for lean in (False, True))
    for one, other in zip(whole, lean, strict=True):
        left = {"train_loss": True, "tasks": {"__all__": {"correct"}}, "probes": {"__all__": {"correct"}}}
        assert other.model_dump(exclude=left) == one.model_dump(exclude=left)
        assert other.model_dump_json(exclude=left) == one.model_dump_json(exclude=left)
        assert (other.train_loss, other.tasks["a"].correct, other.probes["p"].correct) == ((), (), ())


def test_what_lean_records_share_is_there_once(tmp_path):
    for seed in range(2):
        write_trial(tmp_path, record(seed))
    one, other = read_trials(tmp_path, lean=True).records
    assert one.spec.training is other.spec.training
    assert one.curves[0].examples is other.curves[0].examples
    assert one.spec.seed != other.spec.seed


def test_what_is_settled_is_collected_again_afterwards():
    with settled():
        assert gc.get_freeze_count()
    assert not gc.get_freeze_count()
