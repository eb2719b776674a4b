"""``lorabench perf campaign``: a study from a cold start to the written board, against the peers' way on its trials.

Ours is ``lorabench run --executor local`` in a fresh process, with an empty folder of results and no decomposition of
the base in the cache; model and data are there.  What the peers' way takes is measured on a part and multiplied
(:mod:`harness.perf.campaign_peers`).
"""

from __future__ import annotations

import json
import os
import statistics
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from harness.data.models import resolve_model
from harness.data.paths import cache_dir, studies_dir
from harness.data.tasks import prepare_task
from harness.engine.environment import device_name
from harness.errors import InputError
from harness.perf.campaign_peers import peers_way
from harness.perf.common import run_apart, save, this_device
from harness.perf.peers import missing
from harness.reading import read_yaml
from harness.store.results import read_trials
from harness.study.config import Study
from harness.study.load import find_study, load_study

METHODS = ("lora", "stable_lora", "lora_ema")
#: Of the cache, what a cold start is without.
COLD = ("spectra", "records", "bases")
#: Training of the small edition.
SMALL_TRAINING = {"examples": 64, "batch": 8}


@dataclass(frozen=True)
class Settings:
    """The study whose first order is run, and seeds: as many trials of each method."""

    study: str
    seeds: int
    small: bool = False
    peers: bool = True


def main(asked: Settings, out: Path) -> None:
    """Run the study, time a part of the peers' way, print both, write ``campaign-<device>.json``."""
    device = this_device()
    with tempfile.TemporaryDirectory(prefix="lorabench-campaign-") as name:
        folder = Path(name)
        study = _study(asked, folder / "campaign.yaml")
        for task in (*study.tasks, *study.probes):
            prepare_task(task)
        model = resolve_model(study.model)
        print(f"{device_name(device)}, {asked.study}, {len(METHODS) * asked.seeds} trials", flush=True)
        ours = _ours(folder)
        print(json.dumps(ours), flush=True)
        why = "not asked for" if not asked.peers else missing()
        theirs: dict[str, Any] = {"skipped": why}
        if not why:
            theirs = peers_way(study, model.path, folder / "results", device, folder)
        print(json.dumps(theirs), flush=True)
    headline = {"campaign_trials_per_hour": ours["trials_per_hour"]}
    if "seconds" in theirs:
        headline["campaign_vs_peers"] = theirs["seconds"]["all"] / ours["seconds"]
    about = {"study": study.model_dump(mode="json"), "of": asked.study}
    save(out, "campaign", device, {**about, "ours": ours, "peers": theirs, "headline": headline})
    print(json.dumps(headline))


def _study(asked: Settings, file: Path) -> Study:
    """The study's first order with these methods and seeds, in a file of its own."""
    found = read_yaml(find_study(asked.study, studies_dir()))
    order, stream = next(iter(found["streams"].items()))
    there = found["methods"]
    changes: dict[str, Any] = {
        "title": f"Campaign: the first order of {asked.study}", "streams": {order: stream},
        "seeds": list(range(asked.seeds)), "methods": {method: there.get(method) for method in METHODS},
    }  # fmt: skip
    if asked.small:
        changes["training"] = SMALL_TRAINING
    file.write_text(yaml.safe_dump({**found, **changes}, sort_keys=False), encoding="utf-8")
    return load_study(file)


def _ours(folder: Path) -> dict[str, Any]:
    """Seconds from the start of the process to its end, and the parts of it."""
    results, parts, log = folder / "results", folder / "parts.json", folder / "run.log"
    words = ["run", str(folder / "campaign.yaml"), "--executor", "local", "--out", str(results)]
    command = [sys.executable, "-m", "harness.cli.traced_run", str(parts), *words]
    environment = os.environ | {"LORABENCH_CACHE": str(_cold_cache(folder / "cache"))}
    start = time.perf_counter()
    status = run_apart(command, environment, log)
    seconds = time.perf_counter() - start
    if status or not (results / "report.html").is_file():
        raise InputError(
            f"it ended with status {status}: {log.read_text(encoding='utf-8', errors='replace').strip()[-500:]}",
            where=f"lorabench {' '.join(words)}",
            remedy="see to that first, then time it",
        )
    calls = json.loads(parts.read_text(encoding="utf-8"))
    records = read_trials(results).records
    costs = {
        what: sum(getattr(record.costs, f"{what}_seconds") or 0.0 for record in records)
        for what in ("train", "score", "analysis")
    }
    spent = {part: sum(seconds, 0.0) for part, seconds in calls.items() if not part.startswith(".")}
    within = {part[1:]: _calls(seconds) for part, seconds in calls.items() if part not in spent}
    split = {**spent, "packs": spent["packs"] - spent["decomposition"]}
    split["rest"] = seconds - sum(split.values())
    return {
        "trials": len(records), "seconds": seconds, "trials_per_hour": 3600 * len(records) / seconds,
        "parts": split, "of_packs": {**costs, "other": spent["packs"] - sum(costs.values())},
        "within_base_and_packs": within,
    }  # fmt: skip


def _calls(seconds: list[float]) -> dict[str, Any]:
    """What calls of one kind took; the first of a shape is slower, which ``slowest`` shows beside ``median``."""
    about = {"median": statistics.median(seconds), "slowest": sorted(seconds)[:-6:-1]} if seconds else {}
    return {"calls": len(seconds), "seconds": sum(seconds), **about}


def _cold_cache(folder: Path) -> Path:
    """The cache with all but what a cold start is without."""
    folder.mkdir()
    for entry in cache_dir().iterdir():
        if entry.name not in COLD:
            (folder / entry.name).symlink_to(entry)
    return folder
