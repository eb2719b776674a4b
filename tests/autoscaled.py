"""A Ray cluster on this machine whose autoscaler starts nodes, by Ray's own fake of a cloud."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import rays
from clusters import STORE_BYTES, fake_gpu
from places import ROOT

#: What Ray wants to be told of any cluster that it scales.
CLUSTER: dict[str, Any] = {
    "cluster_name": "fake", "max_workers": 2, "head_node_type": "ray.head.default", "upscaling_speed": 1.0,
    "idle_timeout_minutes": 5, "file_mounts_sync_continuously": False,
    **{key: {} for key in ("auth", "docker", "file_mounts")},
    **{key: [] for key in ("initialization_commands", "cluster_synced_files", "rsync_exclude", "rsync_filter")},
    **{key: [] for key in ("setup_commands", "head_setup_commands", "worker_setup_commands")},
    **{key: [] for key in ("head_start_ray_commands", "worker_start_ray_commands")},
}  # fmt: skip


@contextmanager
def cluster(folder: Path, kinds: Mapping[str, Mapping[str, float]], gpu: tuple[str, int]) -> Iterator[str]:
    """The address of a head that runs nothing; nodes of these kinds, by what each has, are started when asked for.

    ``folder`` has a short path.  Torch claims to see a card of ``gpu``, its name and gigabytes, on every node.

    (``ray.cluster_utils.AutoscalingCluster`` would end all of Ray on this machine, and needs a file that Ray's wheel
    lacks.)
    """
    from ray.util import get_node_ip_address

    port = rays.closed_port()
    file = folder / "ray" / "ray_current_cluster"
    paths = [str(fake_gpu(folder, *gpu)), str(ROOT), str(ROOT / "tests")]
    started = subprocess.Popen(
        [sys.executable, "-m", "ray.scripts.scripts", "start", "--head", f"--port={port}", "--num-cpus=0", "--block",
         f"--autoscaling-config={_config(folder, kinds, f'{get_node_ip_address()}:{port}')}",
         f"--object-store-memory={STORE_BYTES}", "--include-dashboard=false", "--disable-usage-stats"],
        env=rays.clean(
            RAY_TMPDIR=str(folder), RAY_AUTH_MODE="disabled", RAY_worker_niceness="0", RAY_FAKE_CLUSTER="1",
            AUTOSCALER_UPDATE_INTERVAL_S="1", PYTHONPATH=os.pathsep.join(paths),
        ),
        stdout=(folder / "start.log").open("w"), stderr=subprocess.STDOUT,
    )  # fmt: skip
    try:
        rays.wait_until(lambda: started.poll() is not None or (file.exists() and file.read_text().strip()))
        assert started.poll() is None, (folder / "start.log").read_text()
        yield file.read_text().strip()
    finally:
        rays.end(started.pid)


def _config(folder: Path, kinds: Mapping[str, Mapping[str, float]], gcs: str) -> Path:
    provider = {
        "type": "fake_multinode", "gcs_address": gcs, "use_node_id_as_ip": True, "disable_node_updaters": True,
        "disable_launch_config_check": True,
    }  # fmt: skip
    types: dict[str, Any] = {CLUSTER["head_node_type"]: {"resources": {"CPU": 0}, "node_config": {}, "max_workers": 0}}
    for kind, has in kinds.items():
        resources = {**has, "object_store_memory": STORE_BYTES}
        types[kind] = {"resources": resources, "node_config": {}, "min_workers": 0, "max_workers": 1}
    file = folder / "autoscaler.json"
    file.write_text(json.dumps({**CLUSTER, "provider": provider, "available_node_types": types}))
    return file
