"""``lorabench`` in processes that can be killed, forked from one that has seven seconds of imports behind it."""

from __future__ import annotations

import multiprocessing
import os
import sys
from multiprocessing import forkserver
from multiprocessing.process import BaseProcess
from pathlib import Path
from tempfile import mkstemp

from places import ROOT

PRELOADED = [
    "harness.cli.study",
    "harness.cli.results",
    "harness.running.worker",
    "harness.report",
    "harness.running.campaign",
]


class Command:
    """One command line at work; its output goes to a file, its exit status is ``status`` (-9: killed)."""

    def __init__(self, arguments: list[str], environment: dict[str, str], folder: Path = ROOT) -> None:
        handle, name = mkstemp(suffix=".log")
        os.close(handle)
        self._log = Path(name)
        server = multiprocessing.get_context("forkserver")
        start_server()
        self._process: BaseProcess = server.Process(target=_run, args=(arguments, environment, name, folder))
        self._process.start()

    @property
    def pid(self) -> int:
        assert self._process.pid is not None
        return self._process.pid

    @property
    def status(self) -> int | None:
        return self._process.exitcode

    @property
    def said(self) -> str:
        return self._log.read_text()

    def kill(self) -> None:
        self._process.kill()
        self._process.join(30)

    def finish(self, timeout: float = 280) -> int:
        """Its exit status; one that is not done in time is killed."""
        self._process.join(timeout)
        if self._process.exitcode is None:
            self.kill()
            raise TimeoutError(self.said)
        return self._process.exitcode


def start_server() -> None:
    """Start the process that commands are forked from; a child of this one, for good."""
    forkserver.set_forkserver_preload(PRELOADED)
    forkserver.ensure_running()


def _run(arguments: list[str], environment: dict[str, str], log: str, folder: Path) -> None:
    """What ``python -m harness`` does, in the child."""
    file = os.open(log, os.O_WRONLY)
    for stream in (1, 2):
        os.dup2(file, stream)
    os.environ.update(environment)
    os.chdir(folder)
    sys.argv = ["lorabench", *arguments]
    from harness import cli

    cli.main()
