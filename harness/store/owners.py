"""Who owns a claim, and what can be seen of whether that process lives: its lock, its process, its beat.

Neither a host's name nor a process number names a process: two containers of one host may share both, and one host may
come back under another name.  What is asked of a claim therefore depends on what is surely common to both sides: the
kernel (its boot id) and the file system for a lock, the kernel and its process namespace for a number.  No machine's
clock is compared with another's.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import socket
import stat
from collections.abc import Generator
from pathlib import Path
from typing import NamedTuple

from pydantic import ConfigDict, Field, ValidationError

try:
    import fcntl
except ImportError:  # no such locks on this system
    fcntl = None

from harness.store.values import Frozen

#: Bytes of a claim that are read; ours have some hundred.
LARGEST = 1 << 16


class Owner(Frozen):
    """The process that made a claim, and the claim's name."""

    model_config = ConfigDict(extra="ignore")  # a newer version may say more

    id: str | None = None  #: random, new for every claim; older versions gave none
    host: str  #: for people
    pid: int = Field(gt=0, lt=1 << 31)
    started: str | None = None  #: by the kernel's clock: numbers of processes come again
    kernel: str | None = None  #: the boot id, the same in all containers of a running kernel
    processes: str | None = None  #: the namespace in which ``pid`` counts
    device: int | None = None  #: of the claim's file system, by that kernel; None where locks do not work

    def __str__(self) -> str:
        return f"process {self.pid} on {self.host}"


def this_process(device: int | None) -> Owner:
    """An owner with a fresh id."""
    state = _state(os.getpid())
    return Owner(
        id=secrets.token_hex(8),
        host=socket.gethostname(),
        pid=os.getpid(),
        started=state.started if state else None,
        kernel=_kernel(),
        processes=_processes(),
        device=device,
    )


def read_owner(path: Path) -> Owner | None:
    """Whom a claim names; ``None`` where there is no claim that can be read, whatever is there instead."""
    try:
        with _opened(path) as descriptor:
            if not stat.S_ISREG(os.fstat(descriptor).st_mode):
                return None
            return Owner.model_validate_json(os.read(descriptor, LARGEST))
    except (OSError, ValidationError):
        return None


def lives(owner: Owner | None, path: Path) -> bool | None:
    """Whether the owner of the claim at ``path`` lives; ``None`` where that can't be seen from here."""
    if owner is None or owner.kernel is None or owner.kernel != _kernel():
        return None
    with contextlib.suppress(OSError):
        if owner.device is not None and owner.device == path.stat().st_dev:
            held = is_locked(path)
            if held is not None:
                return held
    if owner.processes is not None and owner.processes == _processes():
        return process_lives(owner.pid, owner.started)
    return None


def process_lives(pid: int, started: str | None) -> bool:
    """Whether there is a process of this number here that started then; a zombie is dead, what is hidden lives."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass  # somebody else's
    state = _state(pid)
    return state is None or (not state.ended and started in (None, state.started))


def beat(path: Path) -> tuple[int, int] | None:
    """What changes with every beat of the claim at ``path``; ``None`` where there is no claim."""
    try:
        with _opened(path) as descriptor:  # a network file system asks its server when a file is opened
            status = os.fstat(descriptor)
    except FileNotFoundError:
        return None
    except OSError:  # not ours to read
        try:
            status = path.lstat()
        except FileNotFoundError:
            return None
    return status.st_ino, status.st_mtime_ns


# -- locks ------------------------------------------------------------------------------------------------------------

#: Locks that this process holds.  A lock lives as long as any copy of its descriptor, so a fork must drop its own.
_held: set[int] = set()


def lock(descriptor: int, path: Path) -> bool:
    """Hold the lock of an open, writable file until :func:`unlock`; false where locks do not work.

    Some file systems grant every lock: one that a second descriptor gets too locks nothing.
    """
    try:
        _flock(descriptor, shared=False)
    except OSError:
        return False
    if not is_locked(path):
        return False
    _held.add(descriptor)
    return True


def unlock(descriptor: int) -> None:
    """Close a descriptor, and give its lock back if it has one."""
    _held.discard(descriptor)
    os.close(descriptor)


def is_locked(path: Path) -> bool | None:
    """Whether somebody holds the file's lock; ``None`` where that can't be asked.

    Asked by a shared lock, so that two who ask don't take each other for the owner.
    """
    try:
        with _opened(path) as descriptor:
            _flock(descriptor, shared=True)
    except BlockingIOError:
        return True
    except OSError:  # no file, no right to read it, no locks
        return None
    return False


def _flock(descriptor: int, *, shared: bool) -> None:
    if fcntl is None:
        raise OSError("this system has no flock")
    fcntl.flock(descriptor, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)


def _drop_locks() -> None:
    for descriptor in _held:
        with contextlib.suppress(OSError):
            os.close(descriptor)
    _held.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_drop_locks)


@contextlib.contextmanager
def _opened(path: Path) -> Generator[int]:
    descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0))  # never waits, not even for a pipe
    try:
        yield descriptor
    finally:
        os.close(descriptor)


# -- this machine -----------------------------------------------------------------------------------------------------


def _kernel() -> str | None:
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip() or None
    except OSError:
        return None


def _processes() -> str | None:
    """The namespace of this process's number; ``None`` where it can't be told."""
    try:
        return str(Path("/proc/self/ns/pid").readlink()) if _proc_is_ours() else None
    except OSError:
        return None


def _proc_is_ours() -> bool:
    """Whether ``/proc`` shows this process's namespace: a container may have been given another's."""
    try:
        return str(Path("/proc/self").readlink()) == str(os.getpid())
    except OSError:
        return False


class _State(NamedTuple):
    ended: bool  #: a zombie whose threads are gone too: one may still be writing after the first has ended
    started: str  #: ticks of the kernel's clock


def _state(pid: int) -> _State | None:
    """A process by ``/proc``; ``None`` where that has nothing to say."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        return _State(fields[0] in "ZX" and int(fields[17]) <= 1, fields[19]) if _proc_is_ours() else None
    except (OSError, IndexError, ValueError):
        return None
