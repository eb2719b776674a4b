"""Peers of ``lorabench perf train``: told together, counted while all work, reported when they die, never left."""

from __future__ import annotations

import json
import time
from pathlib import Path

import pytest

from harness.perf import engine_pack, peers, train
from harness.perf.peers import PeerError, together
from harness.perf.train import Agenda, Settings

#: Speaks the protocol and trains nothing; with a child of its own, which must not survive either.
FAKE = """
import json, os, subprocess, sys, time
settings = json.load(open(sys.argv[1]))
subprocess.Popen(["sleep", "600"])
print("a warning", file=sys.stderr)
if settings.get("dies") == "at once": sys.exit("CUDA out of memory")
print(json.dumps({"ready": True}), flush=True)
for line in sys.stdin:
    if settings.get("dies") == "later": os.kill(os.getpid(), 9)
    if settings.get("dies") == "never": time.sleep(600)
    now = time.monotonic()
    print(json.dumps({"ends": [now, now + 1, now + 2], "asked": json.loads(line)}), flush=True)
"""


@pytest.fixture
def program(tmp_path) -> Path:
    path = tmp_path / "fake.py"
    path.write_text(FAKE)
    return path


def groups_left(found: list[int]) -> list[int]:
    """Process groups of these that still have a member that is no zombie."""
    left = []
    for entry in Path("/proc").glob("[0-9]*/stat"):
        try:
            state, _, group = entry.read_text().rpartition(")")[2].split()[:3]
        except OSError:
            continue
        if int(group) in found and state != "Z":
            left.append(int(group))
    return left


def gone(pids: list[int]) -> bool:
    until = time.monotonic() + 10
    while groups_left(pids) and time.monotonic() < until:
        time.sleep(0.05)
    return not groups_left(pids)


def test_as_many_as_are_told_train_together(program, tmp_path):
    with peers.peers(3, {}, {"all": 100.0}, tmp_path, program) as group:
        pids = [peer.process.pid for peer in group.processes]
        group.start()
        assert groups_left(pids)
        found = group.train(2, "all", 0.0)
        assert 150 < found["tokens_per_second"] <= 200, "two of 100 tokens a second, counted while both are at work"
        with pytest.raises(PeerError, match="4 processes were wanted, and 3 are alive"):
            group.train(4, "all", 0.0)
    assert gone(pids)


@pytest.mark.parametrize(
    ("dies", "said"), [("at once", "died with status 1: CUDA out of memory"), ("later", "died with status -9")]
)
def test_one_that_dies_is_reported_and_the_rest_is_killed(program, tmp_path, dies, said):
    with peers.peers(2, {"dies": dies}, {"all": 100.0}, tmp_path, program) as group:
        pids = [peer.process.pid for peer in group.processes]
        group.start()
        with pytest.raises(PeerError):
            group.train(2, "all", 0.0)
        assert any(said in failure for failure in group.failures)
        assert group.processes == []
    assert gone(pids)


def test_one_that_never_answers_is_given_up(program, tmp_path, monkeypatch):
    monkeypatch.setattr(peers, "MORE_SECONDS", 0.2)
    with peers.peers(1, {"dies": "never"}, {"all": 100.0}, tmp_path, program) as group:
        pids = [peer.process.pid for peer in group.processes]
        group.start()
        with pytest.raises(PeerError, match=r"no answer within 0 s"):
            group.train(1, "all", 0.0)
    assert gone(pids)


def test_an_error_of_the_caller_leaves_none_behind(program, tmp_path):
    pids = []

    def interrupted() -> None:
        with peers.peers(2, {}, {}, tmp_path, program) as group:
            pids.extend(peer.process.pid for peer in group.processes)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert len(pids) == 2
    assert gone(pids)


def test_tokens_are_counted_while_all_are_at_work():
    """One steps every second, one every two; from 2 to 6 that is four steps and two."""
    found = together([[0, 1, 2, 3, 4, 5, 6], [2, 4, 6, 8]], 10)
    assert found["tokens_per_second"] == pytest.approx(10 * 6 / 4)
    assert found["steps"] == 6
    with pytest.raises(PeerError, match="never at work at the same time"):
        together([[0, 1], [2, 3]], 10)


def test_without_its_libraries_it_says_what_to_install(monkeypatch):
    assert peers.missing() == ""
    monkeypatch.setattr(peers, "find_spec", lambda name: None if name == "accelerate" else name)
    assert peers.missing() == "accelerate: not installed (pip install accelerate)"


@pytest.mark.slow
def test_hf_s_trainer_is_timed_in_turns_with_the_engine(tmp_path, monkeypatch):
    """The real one, once: alone, and two that share the machine, long enough that both are at work on a busy one."""
    monkeypatch.setitem(engine_pack.WARM_UP_STEPS, "cpu", 1)
    agenda = Agenda({"all": (1,), "bench": (2,)}, (2,))
    assert train.main(Settings({"random:tiny": agenda}, seconds=2.0), tmp_path) == []
    (file,) = tmp_path.glob("train-*.json")
    found = json.loads(file.read_text())
    rows = found["sizes"]["tiny"]["peers"]
    assert [(row["processes"], row["kind"], row["rounds"]) for row in rows] == [
        (1, "all", 1), (1, "bench", 1), (2, "all", 2)
    ]  # fmt: skip
    assert all(row["tokens_per_second"] > 0 and row["steps"] >= 1 for row in rows)
    assert {"tiny_vs_b0", "tiny_vs_bn", "tiny_k1_vs_b0", "tiny_vs_b0_bench"} <= set(found["headline"])


def test_a_peer_that_dies_ends_with_1_and_a_file(tmp_path, monkeypatch, program, in_process):
    program.write_text("import sys; sys.exit('no room')")
    monkeypatch.setitem(engine_pack.WARM_UP_STEPS, "cpu", 1)
    real = peers.peers
    monkeypatch.setattr(train, "peers", lambda *args: real(*args, program))
    monkeypatch.setattr(train, "SMALL", {"tiny": Agenda({"all": (1,)})})
    status, _, said = in_process("perf", "train", "--small", "--out", tmp_path / "out")
    assert status == 1
    assert "died with status 1: no room" in said
    (file,) = (tmp_path / "out").glob("train-*.json")
    found = json.loads(file.read_text())
    assert found["sizes"]["tiny"]["failures"]
    assert "tiny_vs_b0" not in found["headline"]
