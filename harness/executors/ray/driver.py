"""Ray's driver, in a process of its own: Ray's C++ may end it at any moment, and its supervisor says so.

It answers one request after the other over a connection.  A request is a name and what is given; an answer is ``done``
and a value, or ``raised``, an exception and its traceback.  While it is at work it may say ``progress``, ``said`` (a
line for a person), and ``take``: then it is given the content of a job.
"""

from __future__ import annotations

import contextlib
import os
import pickle
import queue
import signal
import threading
import traceback
from collections.abc import Callable
from functools import partial
from multiprocessing.connection import Connection
from pathlib import Path
from typing import TYPE_CHECKING, Any

from harness.errors import LorabenchError
from harness.executors.ray.sealed import SEALED, Waiting
from harness.executors.ray.task import die_with_parent

if TYPE_CHECKING:
    from harness.executors.interface import Outcome
    from harness.executors.ray.executor import RayExecutor
    from harness.executors.ray.sealed import Needs
    from harness.study.config import ResourceSettings
    from harness.study.stack import Device

CLOSE, CONTENT = "close", "content"


def main(descriptor: int, folder: str, with_thread: bool) -> None:
    """Serve the supervisor at the other end of this descriptor.

    ``folder`` is for a cluster of our own, or empty.  ``with_thread``: the kernel ends this process with the thread
    that has started it, for that is the supervisor's main thread.
    """
    os.set_inheritable(descriptor, False)  # the connection ends with this process, whatever it leaves
    if with_thread:
        die_with_parent()
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background ignores it
    status = Driver(Connection(descriptor), Path(folder) if folder else None).serve()
    os._exit(status)  # what is left of Ray in this process could wait, or crash


class Driver:
    def __init__(self, channel: Connection, folder: Path | None) -> None:
        self._channel, self._folder = channel, folder
        self._requests: queue.SimpleQueue[tuple[Any, ...]] = queue.SimpleQueue()
        self._contents: queue.SimpleQueue[bytes] = queue.SimpleQueue()
        self._speaking = threading.Lock()
        self._busy = True
        self._executor: RayExecutor | None = None

    def serve(self) -> int:
        """Start Ray and answer until all is over; the exit status."""
        threading.Thread(target=self._listen, name="supervisor", daemon=True).start()
        calls = {"device": self._device, "ask": self._ask, "run": self._run, "describe": self._describe}
        with contextlib.suppress(KeyboardInterrupt):  # told to close while at work
            self._carry_out(self._start)
            while True:
                self._busy = False
                name, *given = self._requests.get()
                if name == CLOSE:
                    break
                self._busy = True
                self._carry_out(calls[name], *given)
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        if self._executor:
            self._executor.close()
        return 0

    def _listen(self) -> None:
        try:
            while True:
                request = self._channel.recv()
                if request[0] == CONTENT:
                    self._contents.put(request[1])
                    continue
                self._requests.put(request)
                if request[0] == CLOSE and self._busy:
                    os.kill(os.getpid(), signal.SIGINT)
        except (EOFError, OSError):  # the supervisor is gone: nothing of this run may go on
            os._exit(1)

    def _say(self, *what: Any) -> None:
        with self._speaking:
            self._channel.send(what)

    def _carry_out(self, call: Callable[..., Any], *given: Any) -> None:
        try:
            self._say("done", call(*given))
        except Exception as error:
            self._say("raised", _sendable(error), traceback.format_exc())

    def _last_words(self, error: LorabenchError) -> None:
        """End this process from a thread that is not the one which hangs."""
        self._say("raised", error, "")
        os._exit(1)

    # -- the requests ---------------------------------------------------------------------------------------------

    def _start(self) -> None:
        from harness.executors.ray.settings import prepare

        prepare()  # before ray is imported, which reads its settings then
        from harness.executors.ray.cluster import Cluster
        from harness.executors.ray.executor import RayExecutor

        cluster = Cluster(self._folder, self._last_words)
        self._executor = RayExecutor(cluster, lambda text: self._say("said", text))

    def _started(self) -> RayExecutor:
        assert self._executor, "the supervisor asks for nothing of what has not started"
        return self._executor

    def _device(self, wanted: str, resources: ResourceSettings | None) -> Device:
        return self._started().device(wanted, resources)

    def _ask(self, question: bytes, kind: str) -> Any:
        return self._started().ask(question, kind)

    def _describe(self) -> str:
        return self._started().describe()

    def _run(self, needs: list[Needs]) -> list[Outcome]:
        jobs = [Waiting(**vars(each), take=partial(self._take, number)) for number, each in enumerate(needs)]
        return self._started().run(jobs, SEALED, lambda *what: self._say("progress", *what))

    def _take(self, number: int) -> bytes:
        self._say("take", number)
        return self._contents.get()


def _sendable(error: Exception) -> Exception:
    """The exception, or that of a worker which it stands for; its words alone where it cannot be sent."""
    error = getattr(error, "cause", None) or error
    try:
        pickle.loads(pickle.dumps(error))
    except Exception:
        return RuntimeError(f"{type(error).__name__}: {error}")
    return error
