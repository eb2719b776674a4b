"""Ray's processes of a test: found, waited for, and none left behind."""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import psutil

WAIT = 120.0  #: seconds for what must come on a busy machine

#: What Ray, or Python, says where a message of ours should stand.
NOISE = ("Traceback", "rpc_client", "gcs_client", "task_manager", "(raylet)", "RayTaskError", "state-dump", "[20")


def clean(**more: str) -> dict[str, str]:
    """This process's environment with these settings of Ray's alone; what it starts can import what lies here."""
    paths = [str(Path(__file__).parent), *filter(None, [os.environ.get("PYTHONPATH")])]
    kept = {key: value for key, value in os.environ.items() if not key.startswith("RAY_")}
    return kept | {"PYTHONPATH": os.pathsep.join(paths)} | more


@contextmanager
def short_folder() -> Iterator[Path]:
    """A temporary folder whose path is short enough for Ray's sockets."""
    with tempfile.TemporaryDirectory(dir="/tmp", prefix="lb-", ignore_cleanup_errors=True) as folder:
        yield Path(folder)


def closed_port() -> int:
    """A port of this machine where nobody listens."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


@contextmanager
def foreign_cluster(folder: Path, *options: str) -> Iterator[str]:
    """The address of somebody's ``ray start --head``, open to all, with its files in ``folder``; killed at the end."""
    file = folder / "ray" / "ray_current_cluster"
    words = ["start", "--head", "--port=0", "--num-cpus=1", "--include-dashboard=false", "--disable-usage-stats"]
    head = subprocess.Popen(
        [sys.executable, "-m", "ray.scripts.scripts", *words, *options, "--block"],
        # Ray's niceness of 15 starves its workers beside other work.
        env=clean(RAY_TMPDIR=str(folder), RAY_AUTH_MODE="disabled", RAY_worker_niceness="0"),
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    try:
        wait_until(lambda: file.exists() and file.read_text().strip())
        yield file.read_text().strip()
    finally:
        end(head.pid)


def clusters() -> list[psutil.Process]:
    """The heads of Ray clusters that run on this machine, whoever started them."""
    return [process for process in psutil.process_iter(["name"]) if process.info["name"] == "gcs_server"]


def children(pid: int) -> list[psutil.Process]:
    """All that lives below this process."""
    try:
        return psutil.Process(pid).children(recursive=True)
    except psutil.NoSuchProcess:
        return []


def is_driver(process: psutil.Process) -> bool:
    """Whether it is Ray's driver, which a run starts beside itself."""
    return "harness.executors.ray.driver" in words(process)


def processes(pid: int) -> list[psutil.Process]:
    """The process of this number, or none."""
    try:
        return [psutil.Process(pid)]
    except psutil.NoSuchProcess:
        return []


def of_session(folder: str) -> list[psutil.Process]:
    """All processes whose command line names this folder of Ray's."""
    return [process for process in psutil.process_iter() if folder in words(process)]


def living(processes: Sequence[psutil.Process]) -> list[psutil.Process]:
    found = []
    for process in processes:
        with contextlib.suppress(psutil.NoSuchProcess):
            if process.is_running() and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process)
    return found


def words(process: psutil.Process) -> str:
    """Name and command line of a process; empty where it has ended meanwhile."""
    try:
        return " ".join([process.name(), *process.cmdline()])
    except psutil.NoSuchProcess:
        return ""


def wait_until(true, seconds: float = WAIT, said=lambda: "") -> None:
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end, said()
        time.sleep(0.05)


def kill_all(processes: Sequence[psutil.Process]) -> None:
    for process in processes:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.kill()
    psutil.wait_procs(processes, timeout=10)


def wait_for_end(processes: Sequence[psutil.Process]) -> None:
    """Of a run that was killed; Ray's agents outlive it by a minute, and nothing else does."""
    left = living(processes)
    agents = [process for process in left if "agent" in words(process).lower()]
    others = [process for process in left if process not in agents]
    wait_until(lambda: not living(others), 120, lambda: str(living(others)))
    kill_all(agents)


def end(pid: int, processes: Sequence[psutil.Process] = ()) -> None:
    """Kill a process, those below it, and what else is left of a run."""
    below = children(pid)
    with contextlib.suppress(psutil.NoSuchProcess):
        below.insert(0, psutil.Process(pid))
    kill_all([*below, *living(processes)])


def one_message(said: str, *words: str) -> str:
    """The only message in what a command said, which is ours and has these words."""
    assert said.count("error: ") == 1, said
    message = said[said.index("error: ") :].strip()
    assert message.count("\n  -> ") == 1, said
    for noise in NOISE:
        assert noise not in said, said
    for word in words:
        assert word in message, said
    return message
