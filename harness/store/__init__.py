"""Records on disk: typed, versioned, written atomically."""

from harness.store.records import SCHEMA_VERSION, TrialRecord, TrialSpec
from harness.store.results import Readout, read_trials, write_trial

__all__ = ["SCHEMA_VERSION", "Readout", "TrialRecord", "TrialSpec", "read_trials", "write_trial"]
