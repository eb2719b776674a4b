"""The share of a GPU that a pack needs, and what a study says that one takes of a cluster."""

from __future__ import annotations

import json
import struct
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import yaml

from harness.errors import InputError
from harness.running.job import Job
from harness.study.config import Study
from harness.study.load import build_study, load_study
from harness.study.memory import card_share

DATA: dict[str, Any] = {"model": "m", "seeds": [0], "streams": {"o": ["toy_recall"]}, "methods": {"lora": {}}}


def study(**changes: Any) -> Study:
    return build_study(DATA | changes, where="s.yaml")


@pytest.fixture
def model(tmp_path) -> Path:
    """A file of 135M numbers, as far as its header goes."""
    header = json.dumps({"a.weight": {"dtype": "BF16", "shape": [135_000, 1000], "data_offsets": [0, 0]}}).encode()
    (tmp_path / "model.safetensors").write_bytes(struct.pack("<Q", len(header)) + header)
    return tmp_path


def test_a_full_pack_takes_its_card_and_a_part_of_it_less(model):
    shares = [card_share(study(), model, "gpu-70", rows, 0.0) for rows in (1, 8, 16, 32)]
    assert shares == sorted(shares)
    assert shares[-1] == 1.0
    assert shares[1] == pytest.approx(0.25, abs=0.03)
    assert 0 < shares[0] < 0.06
    assert card_share(study(pack=2), model, "gpu-70", 2, 0.0) < 0.1, "by the table, whatever the study's packs are"


def test_dense_rows_take_more_of_a_card(model):
    assert card_share(study(), model, "gpu-16", 2, 8.0) > card_share(study(), model, "gpu-16", 2, 0.0)
    assert card_share(study(), model, "gpu-8", 64, 8.0) == 1.0


@pytest.mark.parametrize(
    ("resources", "wrong"),
    [
        ({"num_gpus": 2}, "resources.num_gpus"),
        ({"num_gpus": 0}, "resources.num_gpus"),
        ({"num_gpus": "half"}, "resources.num_gpus"),
        ({"num_cpus": 0}, "resources.num_cpus"),
        ({"num_cpus": True}, "resources.num_cpus"),
        ({"wait_minutes": -1}, "resources.wait_minutes"),
        ({"accelerator_type": ""}, "resources.accelerator_type"),
        ({"accelerator": "H100"}, "resources.accelerator"),
    ],
)
def test_resources_that_are_none_are_refused_by_name(tmp_path, resources, wrong):
    (tmp_path / "s.yaml").write_text(yaml.safe_dump(DATA | {"resources": resources}))
    with pytest.raises(InputError) as caught:
        load_study(tmp_path / "s.yaml")
    assert f"s.yaml:{wrong}" in str(caught.value)


def test_a_job_takes_what_its_study_says():
    def job(device: str, **resources: Any) -> Any:
        settings = study(threads=3, resources=resources)
        return SimpleNamespace(study=settings, device=device, card=0.25)

    def taken(job: Any) -> tuple[float, float]:
        return Job.cpus.fget(job), Job.gpus.fget(job)  # type: ignore[attr-defined]

    assert taken(job("cpu")) == (3, 0)
    assert taken(job("cuda", num_cpus=0.5)) == (0.5, 0.25)
