"""The field's own benchmark, small, from a clone's folder: 14 tasks on a CPU, from the study file to the report."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import yaml
from commands import Command
from folders import records
from places import ROOT

from harness.data.models import model_ready
from harness.engine.model.products import multiplies_bfloat16

MODEL = "smollm2-135m-instruct"
UNFETCHED = pytest.mark.skipif(not model_ready(MODEL), reason="the model is not fetched")
#: Of a task at most: what the benchmark's own stream can be looked at with in a quarter of an hour on two cores that
#: multiply bfloat16.  In float32 it took two others more than half an hour: 450,000 tokens are scored.
EXAMPLES, ITEMS = 32, 16
DTYPE = "bfloat16" if multiplies_bfloat16() else "float32"

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(3600),
    pytest.mark.skipif(
        not os.environ.get("LORABENCH_CL_BENCHMARK"), reason="LORABENCH_CL_BENCHMARK names no folder of the benchmark"
    ),
]


def small(folder: Path, model: str) -> Path:
    """`standard_cl14_order4` with one seed, plain LoRA and few of everything, in the dtype that this CPU is fast in."""
    study = yaml.safe_load((ROOT / "tasks" / "studies" / "standard_cl14_order4.yaml").read_text(encoding="utf-8"))
    changes = {
        "model": model, "dtype": DTYPE, "threads": 2, "device": "cpu", "seeds": [0], "methods": {"lora": {}},
        "training": study["training"] | {"examples": EXAMPLES},
        "scoring": study["scoring"] | {"items": ITEMS, "probe_items": 8, "curve": [], "batch_tokens": 4096},
    }  # fmt: skip
    file = folder / "small.yaml"
    file.write_text(yaml.safe_dump(study | changes))
    return file


@pytest.mark.parametrize("model", ["tiny-random-llama", pytest.param(MODEL, marks=UNFETCHED)])
def test_the_stream_of_14_tasks_runs_end_to_end(model, tmp_path, shared_cache):
    cache = {} if model == MODEL else {"LORABENCH_CACHE": str(shared_cache)}  # where the model is fetched
    out = tmp_path / "out"
    command = Command(["run", str(small(tmp_path, model)), "--executor", "local", "--out", str(out)], cache)
    assert command.finish(3000) == 0, command.said
    (record,) = records(out).values()
    assert record["status"] == "ok"
    stream = record["spec"]["stream"]
    assert len(stream) == 14
    assert {task: len(scores["score"]) for task, scores in record["tasks"].items()} == dict.fromkeys(stream, 15)
    assert {scores["items"] for scores in record["tasks"].values()} == {ITEMS}
    assert (out / "report.html").exists()
