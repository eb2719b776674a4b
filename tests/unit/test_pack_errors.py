"""A method of one's own that fails while it trains: what is recorded, and where it says the fault is."""

from __future__ import annotations

from pathlib import Path

import broken_methods
import pytest
import yaml
from broken_methods import BROKEN

from harness import campaign
from harness import methods as registry
from harness.errors import LorabenchError
from harness.executors.local import LocalExecutor
from harness.store.results import read_trials

STUDY = {
    "model": "tiny-random-llama", "dtype": "float32", "threads": 1, "device": "cpu", "seeds": [0],
    "streams": {"one": ["toy_recall"]}, "training": {"examples": 16, "batch": 8}, "scoring": {"items": 8, "curve": []},
}  # fmt: skip


@pytest.fixture
def run(tmp_path, tmp_path_factory, monkeypatch):
    """``run(name)``: a study of this broken method, into the folder that it returns."""
    monkeypatch.setenv("LORABENCH_CACHE", str(tmp_path_factory.getbasetemp() / "lorabench-cache"))
    own = {method.name: method for method, *_ in BROKEN}

    def go(name: str) -> Path:
        monkeypatch.setattr(registry, "methods", lambda: {name: own[name]})
        file = tmp_path / "broken.yaml"
        file.write_text(yaml.safe_dump(STUDY | {"methods": {name: {}}}))
        study = campaign.load_campaign(str(file), model=None, out=tmp_path / "out", device=lambda wanted: "cpu")
        watcher = campaign.Watcher(lambda units: None, lambda job, units, what: None)
        campaign.run(study, LocalExecutor(), "cpu", watcher, {})
        return study.folder

    return go


def test_a_record_names_the_line_that_raised(run):
    (record,) = read_trials(run("raises")).records
    assert record.status == "error"
    assert record.failure.phase == "task 1/1: training"
    place = record.failure.message.removesuffix(")").rpartition("(")[2]
    file, _, line = place.rpartition(":")
    assert Path(file) == Path(broken_methods.__file__)
    assert "raise ZeroDivisionError" in Path(file).read_text().splitlines()[int(line) - 1]


def test_whoever_changed_the_base_is_named(run):
    with pytest.raises(LorabenchError, match="the frozen base model changed") as error:
        run("writes")
    assert "(writes)" in str(error.value.where)
    assert "methods --check writes" in str(error.value.remedy)
