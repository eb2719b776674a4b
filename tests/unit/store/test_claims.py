"""One run at a time in a results folder: whoever comes, dies, stands still or leaves rubbish behind."""

from __future__ import annotations

import errno
import fcntl
import json
import os
import random
import resource
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import needs
import pytest

from harness.errors import LorabenchError
from harness.store import claims, owners
from harness.store.checkpoints import sweep
from harness.store.claims import claim

REFUSED, TWO_AT_ONCE, BROKEN = 10, 20, 30


def forked(work: Callable[[], int | None]) -> int:
    """A fork of this process that does ``work`` and ends with the status it returns."""
    child = os.fork()
    if child:
        return child
    status = BROKEN
    try:
        status = work() or 0
    finally:
        os._exit(status)


def status(child: int) -> int:
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def hold(folder: Path, then: Callable[[], object] = lambda: None) -> int:
    """A process that does ``then``, holds the folder and lives on; returns once it holds."""
    ready, held = os.pipe()

    def work() -> None:
        then()
        with claim(folder):
            os.write(held, b"1")
            signal.pause()

    child = forked(work)
    os.close(held)
    assert os.read(ready, 1) == b"1", "the process could not claim the folder"
    os.close(ready)
    return child


def kill(child: int) -> None:
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)


def wait_for(found: Callable[[], object]) -> None:
    end = time.monotonic() + 60
    while not found():
        assert time.monotonic() < end
        time.sleep(0.01)


def slot_of(folder: Path) -> Path:
    return folder / "running" / ".claim"


def left_in_running(folder: Path) -> list[str]:
    return sorted(path.name for path in (folder / "running").iterdir())


def no_locks(*_) -> None:
    raise OSError(errno.ENOLCK, "No locks available")


@pytest.fixture
def short(monkeypatch) -> None:
    """A lease that a test can wait for."""
    monkeypatch.setattr(claims, "LEASE", 0.5)
    monkeypatch.setattr(claims, "BEAT", 0.05)


@pytest.fixture
def lockless(monkeypatch) -> None:
    """A file system without locks."""
    monkeypatch.setattr(fcntl, "flock", no_locks)


@pytest.fixture
def unseen(monkeypatch) -> None:
    """Processes can't be looked at either."""
    monkeypatch.setattr(owners, "_processes", lambda: None)


@pytest.fixture
def told() -> list[str]:
    """What a run is told while it waits."""
    return []


def elsewhere() -> None:
    """Makes the process that calls it one of another machine."""
    owners._kernel = lambda: "another kernel"
    socket.gethostname = lambda: "node-7"


# -- many come together -----------------------------------------------------------------------------------------------


def stumble(chance: random.Random) -> None:
    """Makes this process wait before each of its steps, or die there: what it saw before may be true no more."""

    def stumbling(step: Callable) -> Callable:
        def taken(*arguments, **options):
            time.sleep(chance.random() * 0.004)
            if chance.random() < 0.01:
                os.kill(os.getpid(), signal.SIGKILL)
            return step(*arguments, **options)

        return taken

    for name in ("mkdir", "rename", "unlink", "rmdir"):
        setattr(Path, name, stumbling(getattr(Path, name)))


def contend(folder: Path, witness: Path, chance: random.Random, tries: int) -> int:
    """Claim the folder; half of the times it is got, die with it.

    The witness is a lock of another kind, which the kernel gives back before it gives back the claim's.
    """
    stumble(chance)
    result, seen = REFUSED, os.open(witness, os.O_RDWR)
    for _ in range(tries):
        with suppress(LorabenchError), claim(folder, lambda _: None):
            try:
                fcntl.lockf(seen, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                return TWO_AT_ONCE
            result = 0
            time.sleep(chance.random() * 0.002)
            if chance.random() < 0.5:
                os.kill(os.getpid(), signal.SIGKILL)
            fcntl.lockf(seen, fcntl.LOCK_UN)
    return result


def race(folder: Path, *, rounds: int, tries: int = 4) -> None:
    """Ten processes at a time come to a folder that the last ones left, mostly by kill -9."""
    witness = folder.with_name("witness")
    witness.touch()
    for i in range(rounds):
        start, write_end = os.pipe()

        def come(n: int, i=i, start=start, write_end=write_end) -> int:
            os.close(write_end)
            os.read(start, 1)
            return contend(folder, witness, random.Random(f"{i} {n}"), tries)

        children = [forked(lambda n=n, come=come: come(n)) for n in range(10)]
        os.close(start)
        os.close(write_end)  # all start
        ended = [status(child) for child in children]
        assert set(ended) <= {0, -signal.SIGKILL, REFUSED}, f"round {i}: {ended}"
        assert set(ended) != {REFUSED}, f"round {i}: nobody got a folder that nobody held"
    with claim(folder, lambda _: None):
        pass
    assert left_in_running(folder) == []


def test_one_of_many_gets_the_folder(tmp_path):
    race(tmp_path / "out", rounds=12)


def test_one_of_many_gets_the_folder_without_locks(tmp_path, lockless):
    race(tmp_path / "out", rounds=5)


def test_one_of_many_gets_the_folder_by_leases_alone(tmp_path, lockless, unseen, monkeypatch):
    monkeypatch.setattr(claims, "LEASE", 0.6)
    monkeypatch.setattr(claims, "BEAT", 0.05)
    race(tmp_path / "out", rounds=2, tries=1)


@pytest.mark.slow
@pytest.mark.parametrize("locks", [True, False])
def test_one_of_many_gets_the_folder_always(tmp_path, request, locks):
    if not locks:
        request.getfixturevalue("lockless")
    race(tmp_path / "out", rounds=20)


def test_nobody_goes_on_without_a_claim(tmp_path, monkeypatch):
    """A slot that others always fill first must not end in a run that holds nothing."""

    def filled(*_):
        raise OSError(errno.ENOTEMPTY, "Directory not empty")

    monkeypatch.setattr(Path, "rename", filled)
    with pytest.raises(LorabenchError, match="keep claiming"), claim(tmp_path):
        pytest.fail("goes on without a claim")
    assert left_in_running(tmp_path) == []


def test_a_claim_is_whole_before_it_is_in_the_slot(tmp_path, monkeypatch):
    """Another run never reads a part of a claim."""
    real, seen = Path.rename, []

    def look(source, target):
        (made,) = source.iterdir()
        seen.append((json.loads(made.read_text())["pid"], owners.is_locked(made), target))
        return real(source, target)

    monkeypatch.setattr(Path, "rename", look)
    with claim(tmp_path):
        assert seen == [(os.getpid(), True, slot_of(tmp_path))]


def test_a_claim_swept_before_it_got_its_place_is_made_again(tmp_path, monkeypatch):
    """The owner of the folder sweeps, then is killed: what a contender renames may be an empty folder."""
    real, swept = Path.rename, []

    def sweep_first(source, target):
        if not swept:
            swept.extend(source.iterdir())
            swept[0].unlink()
        return real(source, target)

    monkeypatch.setattr(Path, "rename", sweep_first)
    with claim(tmp_path):
        assert len(list(slot_of(tmp_path).iterdir())) == 1
    assert swept


@pytest.mark.parametrize("way", ["done, but called failed", "never onto a folder", "removed files stay a while"])
def test_ways_of_network_file_systems(tmp_path, monkeypatch, way):
    kill(hold(tmp_path))
    rename, unlink, busy = Path.rename, Path.unlink, [1, 2]

    def renames(source, target):
        if way == "never onto a folder" and target.exists():
            raise OSError(errno.EEXIST, "File exists")
        rename(source, target)
        if way == "done, but called failed":
            raise OSError(errno.ENOENT, "No such file or directory")

    def unlinks(path, **options):
        if way == "removed files stay a while" and path.parent == slot_of(tmp_path) and busy:
            raise OSError(errno.EBUSY, f"Device or resource busy: {busy.pop()}")
        unlink(path, **options)

    monkeypatch.setattr(Path, "rename", renames)
    monkeypatch.setattr(Path, "unlink", unlinks)
    with claim(tmp_path, pytest.fail):
        assert len(list(slot_of(tmp_path).iterdir())) == 1
    assert left_in_running(tmp_path) == []


# -- the living -------------------------------------------------------------------------------------------------------


def test_a_second_living_claim_is_refused(tmp_path):
    with claim(tmp_path):
        notice = tmp_path / "running" / "claim.json"
        before = notice.read_text()
        with pytest.raises(LorabenchError, match=f"process {os.getpid()} on") as error, claim(tmp_path):
            pytest.fail("two runs at once")
        assert error.value.where == str(notice)
        assert notice.read_text() == before, "the refused run leaves it alone"
    assert left_in_running(tmp_path) == []
    with claim(tmp_path):
        pass


def test_a_claim_is_given_back_after_an_error(tmp_path):
    with pytest.raises(RuntimeError), claim(tmp_path):
        raise RuntimeError
    assert left_in_running(tmp_path) == []


@pytest.mark.parametrize("where", ["with locks", "without locks"])
def test_a_stopped_run_is_living(tmp_path, request, short, where):
    """Where it can be seen, no lease runs out: a run that is suspended goes on one day."""
    if where == "without locks":
        request.getfixturevalue("lockless")
    child = hold(tmp_path)
    os.kill(child, signal.SIGSTOP)
    try:
        with pytest.raises(LorabenchError, match=f"process {child} on"), claim(tmp_path, pytest.fail):
            pytest.fail("taken from a living run")
    finally:
        kill(child)


def unshared(*words: str) -> list[str]:
    return ["unshare", "--user", "--map-root-user", "--pid", "--fork", "--kill-child", "--mount-proc", *words]


IN_A_CONTAINER = """
import sys
from pathlib import Path
from harness.store.claims import claim
with claim(Path(sys.argv[1])):
    print("held", flush=True)
    sys.stdin.read()
"""


@pytest.fixture
def container(tmp_path) -> Iterator[subprocess.Popen]:
    """A run that holds the folder, in a process namespace of its own under this host's name."""
    needs.namespaces(unshared("true"))
    words = unshared(sys.executable, "-c", IN_A_CONTAINER, str(tmp_path))
    with subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as run:
        assert run.stdout.readline() == "held\n"
        yield run
        run.kill()


def test_a_run_in_a_container_of_the_same_name_keeps_its_claim(tmp_path, container):
    notice = json.loads((tmp_path / "running" / "claim.json").read_text())
    assert notice["host"] == socket.gethostname(), "or this tests nothing"
    assert notice["pid"] != container.pid
    with pytest.raises(LorabenchError, match="is at work"), claim(tmp_path, pytest.fail):
        pytest.fail("taken from a living run")
    container.communicate("")
    assert container.returncode == 0


def test_a_run_killed_in_another_container_is_taken_at_once(tmp_path, container):
    container.kill()
    container.wait()
    wait_for(lambda: not owners.is_locked(next(slot_of(tmp_path).iterdir())))
    with claim(tmp_path, pytest.fail):
        pass


@pytest.mark.parametrize("locks", ["none", "all granted"])
def test_a_living_run_whose_process_is_not_seen_keeps_its_claim(tmp_path, short, monkeypatch, told, locks):
    """A container of the same host name on a file system whose locks say nothing: the number is a dead one here."""
    monkeypatch.setattr(fcntl, "flock", no_locks if locks == "none" else lambda *_: None)
    dead = forked(lambda: None)
    status(dead)

    def another_container() -> None:
        made = owners.this_process
        owners.this_process = lambda device: made(device).model_copy(update={"pid": dead, "processes": "pid:[2]"})

    child = hold(tmp_path, another_container)
    with pytest.raises(LorabenchError, match=f"process {dead} on"), claim(tmp_path, told.append):
        pytest.fail("taken from a living run")
    assert len(told) == 1
    kill(child)


def test_a_living_run_on_another_machine_keeps_its_claim(tmp_path, short, told):
    child = hold(tmp_path, elsewhere)
    with pytest.raises(LorabenchError, match=f"process {child} on node-7"), claim(tmp_path, told.append):
        pytest.fail("taken from a living run")
    assert "node-7" in told[0]
    kill(child)


def test_a_file_system_that_hangs_does_not_end_a_lease(tmp_path, short, monkeypatch, told):
    """Nobody beats while its server is away; the owner's next beat comes once it is back."""
    child = hold(tmp_path, elsewhere)
    os.kill(child, signal.SIGSTOP)
    real, looks = owners.beat, []

    def look(path):
        looks.append(path)
        if len(looks) == 4:
            time.sleep(2 * claims.LEASE)
            os.kill(child, signal.SIGCONT)
        return real(path)

    monkeypatch.setattr(owners, "beat", look)
    with pytest.raises(LorabenchError, match="is at work"), claim(tmp_path, told.append):
        pytest.fail("taken from a living run")
    kill(child)


# -- the dead ---------------------------------------------------------------------------------------------------------


def test_a_killed_run_is_taken_over_at_once(tmp_path):
    child = hold(tmp_path)
    kill(child)
    assert (tmp_path / "running" / "claim.json").exists()
    with claim(tmp_path, pytest.fail):
        assert json.loads((tmp_path / "running" / "claim.json").read_text())["pid"] == os.getpid()


def test_a_copy_of_a_folder_in_use_is_free(tmp_path):
    """The claim in it is nobody's: its lock is on another file."""
    with claim(tmp_path / "out"):
        shutil.copytree(tmp_path / "out", tmp_path / "copy")
        with claim(tmp_path / "copy", pytest.fail):
            pass


@pytest.mark.parametrize("where", ["with locks", "without locks"])
def test_a_zombie_is_dead(tmp_path, request, where):
    """Many containers have nobody who buries them."""
    if where == "without locks":
        request.getfixturevalue("lockless")
    child = hold(tmp_path)
    os.kill(child, signal.SIGKILL)
    wait_for(lambda: owners._state(child).ended)
    with claim(tmp_path, pytest.fail):
        pass
    os.waitpid(child, 0)


def test_a_number_that_came_again_is_another_process(tmp_path, lockless, monkeypatch):
    child = hold(tmp_path, lambda: setattr(owners, "_state", lambda pid: owners._State(False, "1")))
    try:
        with claim(tmp_path, pytest.fail):
            pass
    finally:
        kill(child)


def test_a_process_that_is_hidden_is_not_dead(monkeypatch):
    """``/proc`` may hide others' processes, or be another container's: then its silence says nothing."""
    monkeypatch.setattr(owners, "_state", lambda pid: None)
    assert owners.process_lives(os.getpid(), "12345")
    monkeypatch.undo()
    monkeypatch.setattr(owners, "_proc_is_ours", lambda: False)
    assert owners._state(os.getpid()) is None
    assert owners._processes() is None


def test_children_of_a_killed_run_do_not_keep_its_claim(tmp_path):
    """A descriptor's copy in a fork would keep the lock; a program that was started has none."""
    ready, write_end = os.pipe()

    def work() -> None:
        with claim(tmp_path):
            grandchildren = (forked(signal.pause), subprocess.Popen(["sleep", "600"]).pid)
            os.write(write_end, " ".join(map(str, grandchildren)).encode())
            signal.pause()

    child = forked(work)
    grandchildren = [int(pid) for pid in os.read(ready, 100).split()]
    kill(child)
    try:
        assert all(owners.process_lives(pid, None) for pid in grandchildren)
        with claim(tmp_path, pytest.fail):
            pass
    finally:
        for pid in grandchildren:
            os.kill(pid, signal.SIGKILL)
        os.close(ready)
        os.close(write_end)


def test_a_run_dead_on_another_machine_is_taken_after_the_lease(tmp_path, short, told):
    """A preempted node comes back under another name: nobody has to remove a file."""
    kill(hold(tmp_path, elsewhere))
    with claim(tmp_path, told.append):
        assert json.loads((tmp_path / "running" / "claim.json").read_text())["pid"] == os.getpid()
    assert len(told) == 1
    assert "node-7" in told[0]
    assert left_in_running(tmp_path) == []


def test_a_dead_machines_endless_lock_is_taken_after_the_lease(tmp_path, short, told):
    """Servers of NFS may keep the lock of a client that never comes back."""
    child = hold(tmp_path, elsewhere)
    os.kill(child, signal.SIGSTOP)
    assert owners.is_locked(next(slot_of(tmp_path).iterdir()))
    with claim(tmp_path, told.append):
        assert len(told) == 1
    kill(child)


# -- what else stands there -------------------------------------------------------------------------------------------

RUBBISH = {
    "empty": b"",
    "no JSON": b"\xff\xfe not a claim",
    "another JSON": b"[1, 2]",
    "half a claim": b'{"host": "here", "pi',
    "odd numbers": b'{"host": "here", "pid": -1}',
    "a huge number": b'{"host": "here", "pid": ' + b"9" * 5000 + b"}",
    "deep": b"[" * 200_000,
    "50 MB": b'{"host": "' + b"x" * 50_000_000,
}


@pytest.mark.parametrize("kind", RUBBISH)
def test_a_notice_that_is_none_is_replaced(tmp_path, kind):
    (tmp_path / "running").mkdir()
    (tmp_path / "running" / "claim.json").write_bytes(RUBBISH[kind])
    with claim(tmp_path, pytest.fail):
        assert json.loads((tmp_path / "running" / "claim.json").read_text())["pid"] == os.getpid()
    assert left_in_running(tmp_path) == []


@pytest.mark.parametrize("kind", RUBBISH)
def test_a_claim_that_can_not_be_read_is_watched_for_the_lease(tmp_path, short, told, kind):
    slot_of(tmp_path).mkdir(parents=True)
    (slot_of(tmp_path) / "a.json").write_bytes(RUBBISH[kind])
    with claim(tmp_path, told.append):
        assert len(told) == 1
        assert len(told[0]) < 1000
    assert left_in_running(tmp_path) == []


@pytest.mark.parametrize("kind", ["folder", "pipe", "link to itself"])
def test_what_is_no_file_is_no_claim(tmp_path, short, told, kind):
    slot_of(tmp_path).mkdir(parents=True)
    path = slot_of(tmp_path) / "a.json"
    if kind == "folder":
        (path / "more").mkdir(parents=True)
    elif kind == "pipe":
        os.mkfifo(path)
    else:
        path.symlink_to(path)
    with claim(tmp_path, told.append):
        pass
    assert left_in_running(tmp_path) == []


@pytest.mark.parametrize("place", ["running", "running/.claim", "running/claim.json"])
def test_what_stands_in_the_way_is_named(tmp_path, place):
    path = tmp_path / place
    path.parent.mkdir(exist_ok=True)
    path.mkdir() if place.endswith(".json") else path.write_text("mine")
    with pytest.raises(LorabenchError, match="move away") as error, claim(tmp_path):
        pytest.fail("goes on without a claim")
    assert error.value.where.startswith(str(path))
    assert path.exists()
    assert not list(tmp_path.glob("running/.claim-*"))


def older(folder: Path, **claimed) -> Path:
    """A claim of a version without beats."""
    path = folder / "running" / "claim.json"
    path.parent.mkdir(parents=True)
    path.write_text(json.dumps(claimed))
    return path


def dead_process() -> int:
    child = forked(lambda: None)
    status(child)
    return child


def test_a_living_claim_of_an_older_version_is_respected(tmp_path):
    path = older(tmp_path, host=socket.gethostname(), pid=os.getpid(), started=owners._state(os.getpid()).started)
    before = path.read_text()
    with pytest.raises(LorabenchError, match=f"process {os.getpid()}"), claim(tmp_path):
        pytest.fail("taken from a living run")
    assert path.read_text() == before
    assert left_in_running(tmp_path) == ["claim.json"]


def test_an_older_versions_claim_elsewhere_needs_a_person(tmp_path):
    """It never beats, so that nothing can tell whether it lives."""
    path = older(tmp_path, host="elsewhere", pid=dead_process(), started="1")
    with pytest.raises(LorabenchError, match="on elsewhere") as error, claim(tmp_path):
        pytest.fail("taken from a run that may live")
    assert "remove this file" in error.value.remedy
    assert path.exists()


@pytest.mark.parametrize("kind", ["gone", "gone, without a start", "its number came again"])
def test_a_dead_claim_of_an_older_version_is_taken_over(tmp_path, kind):
    pid = os.getpid() if "again" in kind else dead_process()
    path = older(tmp_path, host=socket.gethostname(), pid=pid, **({} if "without" in kind else {"started": "1"}))
    with claim(tmp_path, pytest.fail):
        assert json.loads(path.read_text())["pid"] == os.getpid()
    assert left_in_running(tmp_path) == []


def test_what_a_kill_left_of_claims_is_swept(tmp_path):
    half = tmp_path / "running" / ".claim-0123"
    half.mkdir(parents=True)
    (half / "0123.json").write_text("{")
    (tmp_path / "running" / ".claim-4567").mkdir()
    (tmp_path / "running" / ".claim.1.ab.tmp").write_text("of an older version")
    (tmp_path / "running" / ".claim.json.1.ab.tmp").write_text("a half notice")
    with claim(tmp_path):
        sweep(tmp_path, {})
        assert left_in_running(tmp_path) == [".claim", "claim.json"]


# -- losing it --------------------------------------------------------------------------------------------------------


@pytest.fixture
def lost(tmp_path, short, monkeypatch, told):
    """(a claim that stood still, the one that took it over), both held."""
    with monkeypatch.context() as patch:
        patch.setattr(claims, "BEAT", 3600.0)
        patch.setattr(owners, "_kernel", lambda: "another kernel")
        first = claim(tmp_path)
        first.__enter__()
    with claim(tmp_path, told.append) as second:
        yield first, second


def test_a_run_learns_at_its_end_that_it_lost_the_folder(tmp_path, lost):
    first, second = lost
    with pytest.raises(LorabenchError, match=f"process {os.getpid()} on .* took this folder over"):
        first.__exit__(None, None, None)
    second.check()
    assert left_in_running(tmp_path) == [".claim", "claim.json"], "only its own is given back"
    with pytest.raises(LorabenchError, match="is at work"), claim(tmp_path):
        pytest.fail("the second run's claim went with the first's")


def test_an_error_of_a_run_that_lost_the_folder_is_not_hidden(lost):
    with pytest.raises(ZeroDivisionError):
        raised(lost[0], ZeroDivisionError())


def raised(held, error: Exception) -> None:
    if not held.__exit__(type(error), error, None):
        raise error


def test_a_claim_that_was_removed_is_made_again(tmp_path, short):
    with claim(tmp_path) as held:
        shutil.rmtree(tmp_path / "running")
        wait_for((tmp_path / "running" / "claim.json").exists)
        held.check()
        with pytest.raises(LorabenchError, match="is at work"), claim(tmp_path):
            pytest.fail("two runs at once")
    assert left_in_running(tmp_path) == []


def test_a_run_learns_that_its_folder_is_anothers_now(tmp_path, monkeypatch):
    folder = tmp_path / "out"
    with monkeypatch.context() as patch:
        patch.setattr(claims, "BEAT", 1.0)
        held = claim(folder)
        inside = held.__enter__()
    shutil.rmtree(folder)
    child = hold(folder)
    with pytest.raises(LorabenchError, match=f"process {child} on"):
        wait_for(lambda: inside.check())
    with pytest.raises(LorabenchError, match=f"process {child} on"):
        held.__exit__(None, None, None)
    with pytest.raises(LorabenchError, match=f"process {child} on"), claim(folder):
        pytest.fail("the other run's claim went with ours")
    kill(child)


def test_a_removed_folder_is_no_error_at_the_end(tmp_path):
    with claim(tmp_path / "out"):
        shutil.rmtree(tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_beats_that_fail_for_a_while_do_not_end_a_run(tmp_path, short, monkeypatch):
    calls = []

    def fails(path):
        calls.append(path)
        raise OSError(errno.EIO, "Input/output error")

    with claim(tmp_path) as held:
        with monkeypatch.context() as patch:
            patch.setattr(os, "utime", fails)
            wait_for(lambda: len(calls) > 3)
        (mine,) = slot_of(tmp_path).iterdir()
        before = mine.stat().st_mtime_ns
        wait_for(lambda: mine.stat().st_mtime_ns > before)
        held.check()


def test_a_fork_does_not_give_the_claim_of_its_parent_back(tmp_path):
    """An exception in a fork runs through the ``with`` of its parent."""

    def fork_ends() -> int:
        with suppress(RuntimeError), claim(tmp_path):
            child = os.fork()
            if not child:
                raise RuntimeError
            os.waitpid(child, 0)
            with pytest.raises(LorabenchError), claim(tmp_path):
                return BROKEN
            return len(left_in_running(tmp_path))
        return 0  # of the fork

    assert status(forked(fork_ends)) == 2


# -- where it can't be held -------------------------------------------------------------------------------------------


def test_a_full_disk_is_one_message(tmp_path):
    """For real: the system takes no byte more, and nothing stays that another run would wait for."""
    out = tmp_path / "out"

    def work() -> int:
        resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))
        with pytest.raises(LorabenchError) as error, claim(out):
            return BROKEN
        assert "can't be claimed" in error.value.what
        assert str(out) in error.value.where
        assert "free disk space" in error.value.remedy
        return 0

    assert status(forked(work)) == 0
    assert left_in_running(out) == []


def test_a_disk_that_is_full_at_the_notice(tmp_path):
    def work() -> int:
        real = claims.atomic_write
        claims.atomic_write = lambda *a: (resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0)), real(*a))
        with pytest.raises(LorabenchError, match="cannot write") as error, claim(tmp_path):
            return BROKEN
        return 0 if "free disk space" in error.value.remedy else BROKEN

    assert status(forked(work)) == 0
    assert left_in_running(tmp_path) == []


@pytest.mark.parametrize("number", [errno.EROFS, errno.ENOSPC, errno.EACCES])
def test_a_folder_that_takes_nothing_is_one_message(tmp_path, monkeypatch, number):
    def refuses(path, *_, **__):
        raise OSError(number, os.strerror(number), str(path))

    monkeypatch.setattr(Path, "mkdir", refuses)
    with pytest.raises(LorabenchError, match=os.strerror(number)) as error, claim(tmp_path / "out"):
        pytest.fail("goes on without a claim")
    assert str(tmp_path / "out") in error.value.where
    assert "writable" in error.value.remedy
