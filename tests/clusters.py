"""Ray clusters of several nodes on this machine, as somebody has set them up; each node may have a fake GPU."""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import commands
import needs
import psutil
import pytest
import rays
from places import ROOT

from harness.executors import make_executor
from harness.executors.interface import Executor

#: Of a node's object store, where runs keep nothing; Ray would take 30 % of the memory, which takes long to fill.
STORE_BYTES = 80 * 2**20

#: Python reads this in every process of a node; torch then says that it sees a GPU.
FAKE = """
import importlib.abc, importlib.machinery, sys
from types import SimpleNamespace


class Finder(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name != "torch":
            return None
        spec = importlib.machinery.PathFinder.find_spec(name, path)
        load = spec.loader.exec_module

        def exec_module(module):
            load(module)
            module.cuda.is_available = lambda: True
            module.cuda.device_count = lambda: 1
            module.cuda.get_device_properties = lambda index=0: SimpleNamespace(name=NAME, total_memory=MEMORY)
            module.cuda.get_device_name = lambda device=None: NAME

        spec.loader.exec_module = exec_module
        return spec


sys.meta_path.insert(0, Finder())
"""


def fake_gpu(folder: Path, name: str, gigabytes: int) -> Path:
    """A folder below this one; where Python imports from it first, torch claims to see such a card."""
    fake = folder / name.replace(" ", "")
    fake.mkdir(exist_ok=True)
    (fake / "sitecustomize.py").write_text(f"NAME, MEMORY = {name!r}, {gigabytes} * 10**9\n{FAKE}")
    return fake


class Nodes:
    """A cluster whose head runs nothing; nodes come and go."""

    def __init__(self, folder: Path, system: dict[str, Any]) -> None:
        from ray.cluster_utils import Cluster

        self.folder = folder
        self._there: list[Any] = []
        head = {"num_cpus": 0, "include_dashboard": False, "_system_config": system or None}
        head["object_store_memory"] = STORE_BYTES
        self._cluster = Cluster(initialize_head=True, head_node_args=head)

    @property
    def address(self) -> str:
        return self._cluster.address

    def alive(self) -> list[str]:
        """The numbers of the nodes that live, the head among them."""
        nodes = self._cluster.global_state.node_table()
        return [node["NodeID"] for node in nodes if node["Alive"]]

    def join(self, cpus: int = 1, gpu: tuple[str, int] | None = None, **words: Any) -> Any:
        """A node; ``gpu`` is the name and gigabytes of a card that torch claims to see there."""
        paths = [str(ROOT), str(ROOT / "tests")]
        if gpu:
            paths.insert(0, str(fake_gpu(self.folder, *gpu)))
            words.setdefault("num_gpus", 1)
        given = {"PYTHONPATH": os.pathsep.join(paths)} | words.pop("env", {})
        with pytest.MonkeyPatch.context() as patch:  # what the node starts has this, too
            for key, value in given.items():
                patch.setenv(key, value)
            node = self._cluster.add_node(num_cpus=cpus, object_store_memory=STORE_BYTES, **words)
        self._there.append(node)
        return node

    def kill(self, node: Any) -> None:
        """End a node as a machine ends that loses its power."""
        self._there.remove(node)
        self._cluster.remove_node(node, allow_graceful=False)

    def clear(self) -> None:
        """End all nodes but the head."""
        for node in list(self._there):
            self.kill(node)
        rays.wait_until(lambda: len(self.alive()) == 1)

    def close(self) -> None:
        self._cluster.shutdown()


@contextmanager
def nodes(**system: Any) -> Iterator[Nodes]:
    """A cluster without a node that could run something; ``system`` are settings of Ray's own."""
    commands.start_server()  # what is younger than the cluster goes with it
    before = set(rays.children(os.getpid()))
    with pytest.MonkeyPatch.context() as patch, rays.short_folder() as folder:
        for key in [key for key in os.environ if key.startswith("RAY_")]:
            patch.delenv(key)
        patch.setenv("RAY_AUTH_MODE", "disabled")
        patch.setenv("RAY_TMPDIR", str(folder))
        patch.setenv("RAY_worker_niceness", "0")  # Ray's 15 starves them beside other work
        patch.setenv("RAY_USAGE_STATS_ENABLED", "0")
        (folder / "ray").mkdir()
        patch.setenv("RAY_health_check_period_ms", "500")  # a dead node is known after four seconds; two took one
        patch.setenv("RAY_health_check_failure_threshold", "8")  # for dead that merely waited for a core
        made = Nodes(folder, system)
        try:
            yield made
        finally:
            made.close()
            rays.kill_all([each for each in psutil.Process().children(recursive=True) if each not in before])


@contextmanager
def joined(address: str) -> Iterator[Executor]:
    """The executor of a run on this cluster."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_ADDRESS", address)
        patch.setenv("RAY_AUTH_MODE", "disabled")
        made = make_executor("ray")
        try:
            yield made
        finally:
            made.close()


@contextmanager
def blind_node(cluster: Nodes, hidden: Path, cpus: int = 1, paths: Sequence[Path] = ()) -> Iterator[None]:
    """A node whose processes see an empty folder in place of ``hidden``, as another machine does; needs Linux.

    They import from ``paths`` first, and from the clone where there are none.
    """
    join = [sys.executable, "-m", "ray.scripts.scripts", "start", f"--address={cluster.address}", f"--num-cpus={cpus}",
            f"--object-store-memory={STORE_BYTES}", "--disable-usage-stats", "--block"]  # fmt: skip
    apart = ["unshare", *([] if os.geteuid() == 0 else ["-U", "-r"]), "-m"]
    mount = ["mount", "-t", "tmpfs", "none", str(hidden)]
    needs.namespaces([*apart, *mount])
    before = len(cluster.alive())
    node = subprocess.Popen(
        [*apart, "sh", "-c", f"{shlex.join(mount)} && exec {shlex.join(join)}"],
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        env=os.environ | {"PYTHONPATH": os.pathsep.join([*map(str, paths or [ROOT]), str(ROOT / "tests")])},
    )  # fmt: skip
    try:
        rays.wait_until(lambda: node.poll() is not None or len(cluster.alive()) > before)
        assert node.poll() is None, f"the node has ended with status {node.poll()}"
        yield
    finally:
        rays.end(node.pid)


#: Settings of Ray's by which an object store that is full puts nothing on the disk either.
NO_DISK = {"automatic_object_spilling_enabled": False, "local_fs_capacity_threshold": 0.001}

#: Fills the object stores of all nodes of the cluster at argv[1], and keeps them full.
FILL = """
import sys, ray
from ray.exceptions import ObjectStoreFullError, OutOfDiskError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy
ray.init(address=sys.argv[1], logging_level="CRITICAL", log_to_driver=False)

@ray.remote(num_cpus=0)
class Holder:
    def fill(self):
        self.held, size = [], 2**23
        while size > 100_000:  # what is smaller goes along with calls
            try:
                self.held.append(ray.put(bytes(size)))
            except (ObjectStoreFullError, OutOfDiskError):
                size //= 2
        return len(self.held)

where = [NodeAffinitySchedulingStrategy(node["NodeID"], soft=False) for node in ray.nodes() if node["Alive"]]
holders = [Holder.options(scheduling_strategy=each).remote() for each in where]
print(ray.get([holder.fill.remote() for holder in holders]), flush=True)
sys.stdin.readline()
"""


@contextmanager
def full_stores(address: str) -> Iterator[None]:
    """The object stores of the nodes of a cluster have room for nothing; needs a cluster that does not spill."""
    words = [sys.executable, "-c", FILL, address]
    process = subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout
        line = process.stdout.readline()
        assert line.startswith("["), line
        yield
    finally:
        rays.end(process.pid)
