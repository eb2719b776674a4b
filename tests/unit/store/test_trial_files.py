"""What a record is of, without the rest of it."""

from __future__ import annotations

import json

import pytest
from test_consistency import record

from harness.store.records import TrialRecord
from harness.store.results import write_trial
from harness.store.trial_files import Identity, read_identities, trial_path


@pytest.fixture
def folder(tmp_path):
    for seed in range(3):
        write_trial(tmp_path, record(seed))
    return tmp_path


def test_identities_are_those_of_the_records(folder):
    names = {record(seed).fingerprint for seed in range(3)}
    found = list(read_identities(folder, {*names, "gone"}))
    assert [each.fingerprint for each in found] == sorted(names), "in order, without the one that is not there"
    assert {each.fingerprint: each.spec for each in found} == {
        record(seed).fingerprint: record(seed).spec for seed in range(3)
    }
    assert all(isinstance(each, Identity) for each in found)


def test_an_older_record_is_migrated_for_its_identity(folder):
    name = record(1).fingerprint
    path = trial_path(folder, name)
    old = json.loads(path.read_text()) | {"schema_version": 3, "train_loss": [], "intruders": []}
    path.write_text(json.dumps({key: value for key, value in old.items() if key != "facts"}))
    (found,) = read_identities(folder, [name])
    assert isinstance(found, TrialRecord), "read and migrated whole"
    assert found.spec == record(1).spec
