"""What a run shows of itself: packs by their number, a share that ends at 1, and times that follow what is slow."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import campaigns
import pytest
import torch

from harness.executors.interface import ENDED, FAILED, Watcher
from harness.running import gauge, progress
from harness.running.gauge import Gauge
from harness.running.progress import Tracker
from harness.store.standing import Standing, standing_path
from harness.study.halving import halves

STUDY = campaigns.TOY | {
    "methods": {"lora": {}, "stable_lora": {}, "self_distill": {}}, "seeds": [0, 1], "pack": 2,
    "training": {"examples": 16, "batch": 8}, "scoring": {"items": 8, "curve": []},
}  # fmt: skip


@pytest.fixture
def clock(monkeypatch) -> list[float]:
    now = [0.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    return now


class Run:
    """A tracker of a study's packs, each expected to be 100 units of work."""

    def __init__(self, folder: Path, clock: list[float], **changes: Any) -> None:
        self.plan = campaigns.load(campaigns.write_study(folder, STUDY, **changes), folder / "out").plan
        (folder / "out" / "running").mkdir(parents=True)
        self.clock, self.seen = clock, []
        self.tracker = Tracker(self.plan, self.plan.packs, "cpu", folder / "out", self.seen.append)
        self.tracker.begin(lambda pack: 100.0)
        self.names = [pack.name for pack in self.plan.packs]

    def say(self, number: int, units: float, what: str = "task 1/2: training", seconds: float = 1.0, **figures) -> None:
        """``seconds`` after what was said last."""
        self.clock[0] += seconds
        self.tracker.report(self.names[number - 1], units, what, figures)

    @property
    def now(self) -> Standing:
        return self.tracker.standing(self.clock[0])


def test_jobs_at_work_have_the_number_of_their_pack(tmp_path, clock):
    run = Run(tmp_path, clock)
    assert (run.now.packs, run.now.done, run.now.share, run.now.jobs) == (3, 0, 0.0, ())
    run.say(3, 10, position=1, positions=2, step=4, steps=8, tokens_per_second=1234.5, memory_gib=0.5)
    run.say(1, 0, "starting")
    third, first = run.now.jobs
    assert (third.number, third.trials, third.what, third.share) == (3, 2, "task 1/2: training", 0.1)
    assert (third.position, third.positions, third.step, third.steps) == (1, 2, 4, 8)
    assert (third.tokens_per_second, third.memory_gib) == (1234.5, 0.5)
    assert (first.number, first.position, first.step, first.tokens_per_second) == (1, None, None, None)
    run.say(3, 0, ENDED)
    assert ([job.number for job in run.now.jobs], run.now.done) == ([1], 1)


@pytest.mark.parametrize("units", [40, 94, 130])
def test_the_share_ends_at_one_however_wrong_the_forecast(tmp_path, clock, units):
    run = Run(tmp_path, clock)
    for number in (1, 2, 3):
        run.say(number, 5, position=1)
        run.say(number, units, position=1)
        assert run.now.share == pytest.approx((number - 1 + min(units, 100) / 100) / 3)
        run.say(number, 0, ENDED)
        assert run.now.share == pytest.approx(number / 3)
    assert (run.now.share, run.now.done, run.now.seconds_left) == (1.0, 3, 0.0)
    assert run.seen[-1].share == 1.0, "said at once, whenever the last was said"


def test_time_left_is_by_the_speed_of_the_run_or_its_slowest(tmp_path, clock):
    run = Run(tmp_path, clock)
    run.say(1, 0, position=1)
    run.say(1, 20, position=1, seconds=10)
    assert run.now.jobs[0].seconds_left == 40
    assert run.now.seconds_left == 140, "280 units at two a second"
    run.say(2, 0, position=1, seconds=0)
    run.say(2, 1, position=1, seconds=10)
    run.say(1, 99, position=1, seconds=0)
    run.say(3, 0, position=1, seconds=0)
    run.say(3, 99, position=1, seconds=1)
    assert run.now.jobs[1].seconds_left == pytest.approx(99 * 11 / 1)
    assert run.now.seconds_left == pytest.approx(99 * 11), "the others are nearly done"


def test_packs_too_quick_to_tell_a_speed_end_as_others_do(tmp_path, clock):
    run = Run(tmp_path, clock)
    for number in (1, 2, 3):
        run.say(number, 0, "starting")
        assert run.now.seconds_left is None
        run.say(number, 0, ENDED)
    assert (run.now.share, run.now.seconds_left) == (1.0, 0.0)


def test_what_an_earlier_run_has_done_tells_no_speed(tmp_path, clock):
    run = Run(tmp_path, clock)
    run.say(1, 5, "making the adapters")
    run.say(1, 80, position=2)
    assert run.now.share == pytest.approx(0.8 / 3)
    assert run.now.seconds_left is None
    run.say(1, 81, position=2)
    assert run.now.jobs[0].seconds_left == 19


def test_halves_of_a_failed_pack_keep_its_number(tmp_path, clock):
    run = Run(tmp_path, clock)
    run.say(2, 50, position=1)
    run.say(2, 0, FAILED)
    one, other = halves(run.plan.packs[1])
    assert (run.now.done, run.now.failed, run.now.packs) == (0, 0, 3)
    run.names += [one.name, other.name]
    run.say(4, 10, position=1)
    assert (run.now.jobs[0].number, run.now.jobs[0].trials) == (2, 1)
    run.say(4, 0, FAILED)
    assert (run.now.done, run.now.failed) == (0, 1)
    run.say(5, 0, ENDED)
    assert (run.now.done, run.now.failed) == (1, 1)
    run.say(1, 0, ENDED)
    run.say(3, 0, ENDED)
    assert (run.now.share, run.now.done) == (1.0, 3)


def test_ten_thousand_reports_show_and_write_now_and_then(tmp_path, clock, monkeypatch):
    written = []
    monkeypatch.setattr(progress, "write_standing", lambda folder, standing: written.append(standing))
    run = Run(tmp_path, clock)
    run.seen.clear()
    for step in range(10_000):
        run.say(1, step / 100, seconds=0.001, position=1)
    assert 35 <= len(run.seen) <= 41
    assert 9 <= len(written) <= 12


def test_a_run_tells_of_its_packs_and_leaves_no_sign(tmp_path, monkeypatch):
    monkeypatch.setattr(progress, "SHOWN_EVERY", 0.0)
    monkeypatch.setattr(gauge, "LOOK_EVERY", 0.0)
    seen: list[Standing] = []
    found = campaigns.load(campaigns.write_study(tmp_path, STUDY), tmp_path / "out")
    stale = tmp_path / "out" / "running" / "gone.progress"

    def look(standing: Standing) -> None:
        seen.append(standing)
        assert standing_path(found.folder).exists() or not standing.jobs
        stale.touch()  # of a worker that is killed meanwhile

    assert campaigns.run(found, watcher=Watcher(lambda units: None, lambda *_: None, look)).complete
    assert not list(stale.parent.iterdir())
    assert seen[0].what == "starting"
    assert (seen[-1].share, seen[-1].done, seen[-1].jobs) == (1.0, 3, ())
    steps = {(job.position, job.positions, job.steps) for each in seen for job in each.jobs if job.step}
    assert steps <= {(1, 2, 2), (2, 2, 2)}
    assert steps
    shares = [each.share for each in seen if each.share is not None]
    assert shares == sorted(shares)
    assert any(job.tokens_per_second and job.memory_gib for each in seen for job in each.jobs)


def test_signs_are_gone_when_a_run_is_stopped(tmp_path):
    found = campaigns.load(campaigns.write_study(tmp_path, STUDY), tmp_path / "out")
    running = tmp_path / "out" / "running"

    def stop(job: str, units: float, what: str) -> None:
        if what == "task 2/2: training":
            (running / "other.progress").touch()
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        campaigns.run(found, watcher=Watcher(lambda units: None, stop))
    assert {path.suffix for path in running.iterdir()} == {".safetensors"}, "the checkpoint, to go on from"


def test_a_speed_is_that_of_the_last_ten_seconds(clock):
    now = Gauge(torch.device("cpu"))
    assert "tokens_per_second" not in now.count(0)
    for _ in range(100):
        clock[0] += 1
        seen = now.count(50)
    assert seen["tokens_per_second"] == pytest.approx(50)
    for _ in range(12):
        clock[0] += 1
        seen = now.count(200)
    assert seen["tokens_per_second"] == pytest.approx(200)
    assert 0.05 < seen["memory_gib"] < 50
    clock[0] += 0.1
    assert now.count(10**9) is seen, "not looked at again so soon"
