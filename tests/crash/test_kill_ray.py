"""kill -9 of run, driver, worker, raylet and GCS at random instants: the same command again, until all is done.

``LORABENCH_KILLS`` is how many (20), ``LORABENCH_KILLS_SEED`` what they are drawn from (0).  A results folder that is
complete before they are over is checked, and another one is begun.
"""

from __future__ import annotations

import contextlib
import json
import os
import random
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
import rays
from commands import Command
from folders import records
from killing import STUDY, finish, times

KILLS = int(os.environ.get("LORABENCH_KILLS", "20"))
SEED = int(os.environ.get("LORABENCH_KILLS_SEED", "0"))
TARGETS = ("run", "driver", "worker", "raylet", "gcs_server")
#: What the message says of whom, where the run ends with one.
SAID = {"driver": "driver", "raylet": "raylet", "gcs_server": "GCS"}

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300 + 60 * KILLS)]

#: More packs than run at once: four of three records.
LONGER = STUDY.replace("seeds: [0, 1]", "seeds: [0, 1, 2, 3]\npack: 2")
RECORDS = 12


class Runs:
    """One results folder after the other, each run again after every kill."""

    def __init__(self, place: Path, sockets: Path, cache: Path) -> None:
        self.place, self.number = place, 0
        self.file = place / "longer.yaml"
        self.file.write_text(LONGER)
        self.environment = {"RAY_TMPDIR": str(sockets), "LORABENCH_CACHE": str(cache)}
        self.command: Command | None = None
        self.hit: set[str] = set()  # jobs of this run whose worker was killed; Ray gives each a second one
        self.seen: set[psutil.Process] = set()

    @property
    def folder(self) -> Path:
        return self.place / f"out{self.number}"

    def start(self, executor: str = "ray") -> Command:
        words = ["run", str(self.file), f"--executor={executor}", "--no-report", f"--out={self.folder}"]
        self.command, self.hit = Command(words, self.environment), set()
        return self.command

    def at_work(self) -> dict[str, int]:
        """Job -> process of its worker, of those that live: a killed run leaves its files."""
        found = {}
        for path in (self.folder / "running").glob("*.progress"):
            with contextlib.suppress(OSError, ValueError):
                found[path.stem] = json.loads(path.read_text())[2]
        return {job: pid for job, pid in found.items() if psutil.pid_exists(pid)}

    def victim(self, target: str) -> tuple[psutil.Process | None, str]:
        """The process to kill, if it is there, and its job; of two workers of one job's the pack would be halved."""
        assert self.command
        below = rays.children(self.command.pid)
        self.seen.update(below)
        if target == "run":
            return psutil.Process(self.command.pid), ""
        if target == "driver":
            return next(filter(rays.is_driver, below), None), ""
        for job, pid in sorted(self.at_work().items()) if target == "worker" else ():
            if job not in self.hit:
                return next((process for process in below if process.pid == pid), None), job
        return next((process for process in below if rays.words(process).startswith(f"{target} ")), None), ""

    def sweep(self) -> None:
        rays.wait_for_end(list(self.seen))
        self.seen.clear()


@pytest.fixture
def runs(tmp_path, shared_cache) -> Iterator[Runs]:
    with rays.short_folder() as sockets:
        made = Runs(tmp_path, sockets, shared_cache)
        try:
            yield made
        finally:
            if made.command:
                rays.end(made.command.pid, list(made.seen))


def wait(runs: Runs, draw: random.Random) -> None:
    """Until a random instant of the run that is on: of its first seconds, or of its work."""
    early = draw.random() < 0.5
    command, end = runs.command, time.monotonic() + rays.WAIT
    assert command
    while not early and not runs.at_work() and command.status is None:
        assert time.monotonic() < end, command.said
        time.sleep(0.05)
    end = time.monotonic() + draw.uniform(0, 6)
    while time.monotonic() < end and command.status is None:
        time.sleep(0.02)


def kill(runs: Runs, target: str) -> str:
    """Kill it and see what the run makes of that; what it was at, or nothing where there was nothing left to kill."""
    command, victim, job = runs.command, None, ""
    assert command
    end = time.monotonic() + rays.WAIT
    while victim is None and command.status is None and time.monotonic() < end:
        victim, job = runs.victim(target)
        time.sleep(0.02)
    part = "at work" if runs.at_work() else "starting"
    if victim is None or not rays.living([victim]):
        assert command.status in (None, 0), command.said
        return ""
    with contextlib.suppress(psutil.NoSuchProcess):
        victim.kill()
    if target == "worker":
        runs.hit.add(job)
        return part
    if target == "run":
        rays.wait_until(lambda: command.status is not None)
        assert command.status == -9
    elif command.finish() == 1:
        # Whoever is asked first says it: the cluster, or the job whose machine is gone.
        gone = "left the Ray cluster" in command.said
        rays.one_message(command.said, *(("left the Ray cluster",) if gone else (SAID[target], "died")))
    else:
        assert command.status == 0, command.said  # it was just done
    runs.sweep()
    return part


def test_killed_again_and_again_under_ray(runs, tmp_path, capsys):
    undisturbed = runs.folder
    finish(runs.start("local"))
    wanted = records(undisturbed)
    assert len(wanted) == RECORDS
    draw, done, ended = random.Random(SEED), Counter(), 0
    targets = [TARGETS[number % len(TARGETS)] for number in range(KILLS)]
    draw.shuffle(targets)

    def complete() -> None:
        finish(runs.command)
        assert records(runs.folder) == wanted
        assert not list((runs.folder / "running").iterdir())
        assert not (runs.folder / "quarantine").exists()
        runs.sweep()

    def show() -> None:
        with capsys.disabled():
            count = sum(done.values())
            print(f"\nseed {SEED}: {count} kills, {ended} results folders complete, records bit-equal in each")
            for target in TARGETS:
                print(f"  {target:12}" + "".join(f"{done[target, part]:5} {part}" for part in ("starting", "at work")))

    runs.number += 1
    runs.start()
    try:
        while targets:
            if runs.command.status is not None:
                if runs.command.status == 0:
                    complete()
                    ended += 1
                    runs.number += 1
                runs.start()
            wait(runs, draw)
            before = times(runs.folder)
            if part := kill(runs, targets[-1]):
                done[targets.pop(), part] += 1
            assert before.items() <= times(runs.folder).items(), "a finished record was written again"
        before = times(runs.folder)
        if runs.command.status is not None:
            runs.start()
        complete()
        ended += 1
        assert before.items() <= times(runs.folder).items()
    finally:
        show()
