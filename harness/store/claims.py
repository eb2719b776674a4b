"""One run at a time in a results folder.

A claim is a file with a unique name in the folder ``running/.claim``, which only ever comes into being with one claim
in it: it is made elsewhere and renamed, and a directory never takes the place of one that isn't empty.  So of many
that come together one gets the folder; and since a claim is removed by its name, nobody removes another's by
mistake, however long ago they looked.  ``running/claim.json`` says the same to people, and to versions before this one.

Whether a claim's owner lives is asked of its lock, where both run under one kernel, else of its process.  Where neither
can be seen (another machine or container), its beat decides: a claim's time of change is renewed every :data:`BEAT`
seconds, and a claim that shows no beat in a :data:`LEASE` of looks is taken over.
"""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
import socket
import sys
import threading
import time
from collections.abc import Callable, Generator
from contextlib import contextmanager
from pathlib import Path

from harness.errors import FolderError, LorabenchError
from harness.store import owners
from harness.store.files import atomic_write
from harness.store.owners import Owner

#: Seconds between two beats of a claim.
BEAT = 5.0
#: Seconds without a beat after which a claim counts as left, where its owner can't be seen.
LEASE = 90.0
#: Each lost one was somebody else's success.
ATTEMPTS = 100


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


@contextmanager
def claim(folder: Path, tell: Callable[[str], None] = _say) -> Generator[Claim]:
    """Hold the folder while the body runs; ``tell`` is called with what is waited for.

    Raises :class:`LorabenchError` at once where another run holds it, after at most about :data:`LEASE` seconds where
    that can't be seen from here; where the folder can't be claimed (full, read-only); and at the end, if another run
    took the folder from one that had stood still.
    """
    held = Claim(folder)
    try:
        held.take(tell)
    except OSError as error:
        in_the_way = error.errno in (errno.ENOTDIR, errno.EEXIST, errno.EISDIR)
        first = "move away what stands there" if in_the_way else "free disk space or make the folder writable"
        raise LorabenchError(
            f"this folder can't be claimed for a run: {error.strerror or error}",
            where=str(error.filename or folder),
            remedy=f"{first}, or choose another folder with --out",
        ) from error
    try:
        yield held
    finally:
        held.give_back()
    held.check()


def at_work(folder: Path) -> Owner | None:
    """Who holds the folder now; None where nobody does.

    An owner that can't be seen from here (of another machine) shows itself by its next beat, which is waited for.
    """
    with contextlib.suppress(OSError):
        for path in (folder / "running" / ".claim").iterdir():
            owner = owners.read_owner(path)
            alive = owners.lives(owner, path)
            if owner and (_beats(path) if alive is None else alive):
                return owner
    return None


def _beats(path: Path) -> bool:
    """Whether there is a beat within about the time between two."""
    seen, step = owners.beat(path), BEAT / 20
    for _ in range(round(1.2 * BEAT / step)):
        time.sleep(step)
        if owners.beat(path) not in (seen, None):
            return True
    return False


class Claim:
    """A folder that is held until :meth:`give_back`."""

    def __init__(self, folder: Path) -> None:
        self._running = folder / "running"
        self._slot = self._running / ".claim"
        self._notice = self._running / "claim.json"
        self._owner = owners.this_process(None)
        self._descriptor: int | None = None  #: keeps the lock
        self._lost_to: str | None = None
        self._over = threading.Event()
        self._pulse = threading.Thread(target=self._beat_on, name="claim", daemon=True)

    def check(self) -> None:
        """Raise :class:`LorabenchError` if another run took the folder over; known within :data:`BEAT` seconds.

        Costs nothing: the beat's thread looks.
        """
        if self._lost_to is not None:
            raise FolderError(
                f"another run ({self._lost_to}) took this folder over while this one stood still",
                where=str(self._notice),
                remedy="let that run finish, then run this again: finished trials are kept",
            )

    def take(self, tell: Callable[[str], None]) -> None:
        """Get the folder, or raise."""
        for _ in range(ATTEMPTS):
            self._clear(tell)
            if self._enter():
                break
        else:
            raise LorabenchError(
                "other runs keep claiming this folder", where=str(self._notice), remedy="run one at a time"
            )
        try:
            self._pulse.start()
            self._refuse_older()
            self._tell_people()
            for left in self._running.glob(".claim-*"):  # by a kill; a contender at work makes another
                _remove_aside(left)
        except BaseException:
            self.give_back()
            raise

    def give_back(self) -> None:
        """Remove this run's claim, nothing else; a fork of the owner has nothing to give back."""
        if os.getpid() != self._owner.pid:
            return
        self._over.set()
        if self._pulse.is_alive():
            self._pulse.join()
        with contextlib.suppress(OSError):
            notice = owners.read_owner(self._notice)
            if notice is not None and notice.id == self._owner.id:
                self._notice.unlink()
        try:
            self._mine.unlink()
        except FileNotFoundError:
            self._look_who_came()
        except OSError:
            pass  # the lock goes with this process, and the claim's beat stops
        self._unlock()
        with contextlib.suppress(OSError):
            self._slot.rmdir()

    def _unlock(self) -> None:
        if self._descriptor is not None:
            owners.unlock(self._descriptor)
            self._descriptor = None

    @property
    def _mine(self) -> Path:
        return self._slot / f"{self._owner.id}.json"

    # -- getting the slot ---------------------------------------------------------------------------------------------

    def _clear(self, tell: Callable[[str], None]) -> None:
        """Remove what the dead left in the slot; a living claim raises."""
        for path in self._claims():
            if self._lives(path, tell):
                raise _in_use(owners.read_owner(path), self._notice)
            try:
                shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink(missing_ok=True)
            except OSError as error:
                if error.errno != errno.EBUSY:
                    raise
                time.sleep(0.1)  # NFS keeps a removed file while somebody looks at it

    def _claims(self) -> list[Path]:
        """At most one, but for what file systems and people add."""
        try:
            return sorted(self._slot.iterdir())
        except FileNotFoundError:
            return []

    def _lives(self, path: Path, tell: Callable[[str], None]) -> bool:
        """Whether the claim there is a living run's; watches its beat where its owner can't be seen."""
        owner = owners.read_owner(path)
        alive = owners.lives(owner, path)
        seen = owners.beat(path)
        if alive is not None or seen is None:
            return bool(alive)
        tell(
            f"{self._slot.parent.parent}: claimed by a run that can't be seen from here ({owner or 'unknown'}); "
            f"waiting up to {LEASE:.0f} s for a sign of life before taking the folder over"
        )
        step = min(BEAT, LEASE) / 5
        for _ in range(round(LEASE / step)):  # looks, not time: one that hangs with its file system is one look
            time.sleep(step)
            now = owners.beat(path)
            if now != seen:
                return now is not None
        return False

    def _enter(self) -> bool:
        """Put a claim of this run into the slot; false where there is one already."""
        aside = self._running / f".claim-{self._owner.id}"
        aside.mkdir(parents=True, exist_ok=True)
        descriptor, failed = None, None
        try:
            descriptor = self._write(aside / self._mine.name)
            with contextlib.suppress(OSError):
                self._slot.rmdir()  # for file systems where a directory replaces no empty one either
            aside.rename(self._slot)
        except OSError as error:
            failed = error
        # Looked at in any case: a sweep may have emptied what was renamed, and NFS may call failed what it did.
        if owners.beat(self._mine) is not None:
            self._descriptor = descriptor
            return True
        if descriptor is not None:
            owners.unlock(descriptor)
        _remove_aside(aside)
        if failed is not None and failed.errno not in (errno.ENOTEMPTY, errno.EEXIST, errno.ENOENT):
            raise failed
        return False

    def _write(self, path: Path) -> int | None:
        """Make a claim with a lock; the descriptor that keeps it, or ``None`` where locks do not work."""
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_TRUNC, 0o666)
        try:
            device = os.fstat(descriptor).st_dev if owners.lock(descriptor, path) else None
            self._owner = self._owner.model_copy(update={"device": device})
            with open(descriptor, "w", closefd=False) as file:
                file.write(self._text())
            os.fsync(descriptor)  # the descriptor stays open, and NFS sends the text when it is closed
        except BaseException:
            owners.unlock(descriptor)
            raise
        if device is None:
            owners.unlock(descriptor)
            return None
        return descriptor

    def _text(self) -> str:
        return self._owner.model_dump_json(indent=1) + "\n"

    def _tell_people(self) -> None:
        if self._notice.is_dir():
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(self._notice))
        atomic_write(self._notice, self._text())

    def _refuse_older(self) -> None:
        """A claim of a version without beats counts as living unless its process was here and is gone."""
        older = owners.read_owner(self._notice)
        if older is None or older.id is not None:
            return  # what a run with a slot left behind
        if older.host == socket.gethostname() and not owners.process_lives(older.pid, older.started):
            return
        raise _in_use(older, self._notice, "; it is of an older version: if that process is gone, remove this file")

    # -- keeping it ---------------------------------------------------------------------------------------------------

    def _beat_on(self) -> None:
        while self._lost_to is None and not self._over.wait(BEAT):
            # Full, read-only or out of reach for a while: the next beat tries again.
            with contextlib.suppress(OSError, LorabenchError):
                try:
                    os.utime(self._mine)
                except FileNotFoundError:
                    self._come_back()

    def _come_back(self) -> None:
        """The claim was removed, or the folder was: claim it again, unless somebody else has by now."""
        self._look_who_came()
        if self._lost_to is None:
            self._unlock()  # first: NFS keeps a removed file in the slot while it is open
            if self._enter():
                self._tell_people()

    def _look_who_came(self) -> None:
        with contextlib.suppress(OSError):
            for path in self._claims():
                owner = owners.read_owner(path)
                if owner is None or owner.id != self._owner.id:
                    self._lost_to = str(owner or "unknown")


def _remove_aside(folder: Path) -> None:
    """By path, never through a descriptor, which would go along when its owner renames it into the slot."""
    with contextlib.suppress(OSError):
        for path in folder.iterdir():
            path.unlink()
        folder.rmdir()


def _in_use(owner: Owner | None, where: Path, more: str = "") -> LorabenchError:
    return LorabenchError(
        f"another run ({owner or 'unknown'}) is at work in this folder",
        where=str(where),
        remedy=f"wait for it or end it, or choose another folder with --out{more}",
    )
