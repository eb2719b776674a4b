"""Packs whose device decomposes the base beside them: the records are those of packs that wait for it."""

from __future__ import annotations

import threading
from pathlib import Path

import campaigns
import pytest
from campaigns import TOY
from folders import records

from harness.engine import spectra
from harness.running import job
from harness.running.pack import PackRun
from harness.store.results import read_trials

STUDY = TOY | {
    "streams": {"one": ["toy_recall"]}, "methods": {"lora": {}}, "training": {"examples": 16, "batch": 8},
    "scoring": {"items": 4, "curve": []},
}  # fmt: skip


@pytest.fixture
def run(tmp_path, in_shared_cache, monkeypatch):
    """``run("a", roomy=True, **changes)``: the study with these keys changed, and no decompositions in the cache."""

    def go(name: str, *, roomy: bool, **changes) -> Path:
        monkeypatch.setattr(job, "ROOMY", ("cpu",) if roomy else ())
        cache = tmp_path / f"{name}-cache"
        cache.mkdir()
        for entry in in_shared_cache.glob("*"):
            if entry.name not in ("spectra", "bases", "records"):
                (cache / entry.name).symlink_to(entry)
        monkeypatch.setenv("LORABENCH_CACHE", str(cache))
        file = campaigns.write_study(tmp_path, STUDY, **changes)
        campaigns.run(campaigns.load(file, tmp_path / name))
        return tmp_path / name

    return go


def threads() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name == "spectra"]


def test_records_are_those_of_a_pack_that_waits(run, monkeypatch):
    wanted = records(run("alone", roomy=False))
    monkeypatch.setattr(spectra, "spectrum", lambda weights: pytest.fail("decomposed in the pack's own thread"))
    folder = run("beside", roomy=True)
    assert records(folder) == wanted
    assert read_trials(folder).records[0].intruders[0].matrices == 14
    assert not threads()


@pytest.mark.parametrize(("methods", "asked"), [({"lora": {}}, False), ({"pissa": {}}, True)])
def test_it_is_made_where_a_trial_looks_at_it(run, monkeypatch, methods, asked):
    made = []
    make = spectra.spectrum_on_host
    monkeypatch.setattr(spectra, "spectrum_on_host", lambda *given: made.append(given) or make(*given))
    folder = run("out", roomy=True, methods=methods, scoring=STUDY["scoring"] | {"intruders_after": "never"})
    assert read_trials(folder).records[0].status == "ok"
    assert bool(made) == asked


def test_a_pack_that_fails_leaves_no_thread(run, monkeypatch):
    began, go, left = threading.Event(), threading.Event(), []
    make = spectra.spectrum_on_host

    def wait(*given):
        began.set()
        assert go.wait(60)
        left.append(threading.current_thread().name)
        return make(*given)

    def fail(self, stage: int) -> None:
        assert began.wait(60)
        threading.Timer(0.05, go.set).start()
        raise ZeroDivisionError

    monkeypatch.setattr(spectra, "spectrum_on_host", wait)
    monkeypatch.setattr(PackRun, "_train", fail)
    folder = run("out", roomy=True)
    assert {record.status for record in read_trials(folder).records} == {"error"}
    assert left == ["spectra"]
    assert not threads()
    assert not list((folder.parent / "out-cache" / "spectra").glob("*"))
