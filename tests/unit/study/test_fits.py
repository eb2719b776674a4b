"""What does not fit a device even alone is refused before anything trains; by bytes that are counted by hand."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import campaigns
import pytest

from harness.errors import InputError
from harness.executors.hardware import device_here
from harness.method.registry import methods
from harness.running.campaign import check_memory, read_state
from harness.study.fits import check_fits, check_ranks
from harness.study.load import build_study
from harness.study.memory import shares_of
from harness.study.plan import Inputs, build_plan
from harness.study.stack import Device

#: 1 million numbers in q, 3 in up, 10 in all.
SHAPES = {"layers.0.q_proj.weight": [1000, 1000], "layers.0.up_proj.weight": [3000, 1000], "embed.weight": [6000, 1000]}
BASE, Q, UP = 20e6, 1e6, 3e6  #: bytes in bfloat16, numbers


@pytest.fixture
def model(tmp_path) -> Path:
    tensors = {name: {"dtype": "BF16", "shape": shape, "data_offsets": [0, 0]} for name, shape in SHAPES.items()}
    header = json.dumps(tensors).encode()
    (tmp_path / "model.safetensors").write_bytes(len(header).to_bytes(8, "little") + header)
    return tmp_path


def said(
    model: Path, given: dict[str, Any], memory: float, *, gpu: bool = False, rows: int = 1, **changes: Any
) -> tuple[str, str, str] | None:
    """(where, what, what would fit) of these arms on a device with so many bytes; None: they fit."""
    data = {"model": "m", "seeds": [0, 1, 2], "streams": {"o": ["a", "b"]}, "methods": given,
            "adapter": {"targets": ["q_proj", "up_proj"]}}  # fmt: skip
    study = build_study(data | changes, where="s.yaml")
    inputs = Inputs("m", {"a": "a", "b": "b"}, dict.fromkeys(methods(), "d"))
    plan = build_plan(study, methods(), inputs, rows, "s.yaml", None, shares_of(model))
    device = Device("cuda", "a card", memory / 1e9) if gpu else Device("cpu", "cpu (x)", main_gigabytes=memory / 1e9)
    try:
        check_fits(study, plan.packs, model, device, "s.yaml")
    except InputError as error:
        return str(error.where), error.what, str(error.remedy)
    return None


@pytest.mark.parametrize(
    ("method", "own"),
    [("full_finetune", 4 * 7 * (Q + UP)), ("osf", 4 * 9 * (Q + UP)), ("lora", 4 * 8 * 8 * (2000 + 4000)),
     ("lora_ema_product", 4 * 3 * (Q + UP) + 4 * 8 * 8 * (2000 + 4000))],
)  # fmt: skip
def test_a_row_needs_what_it_holds_and_the_base(model, method, own):
    """Seven copies, nine and three of what is adapted; factors of rank 8 are held eight times."""
    assert said(model, {method: {}}, BASE + own + 1) is None
    where, what, _ = refused(said(model, {method: {}}, BASE + own - 1))
    assert where == f"s.yaml:methods.{method}"
    assert f"one trial of '{method}' needs at least {(BASE + own) / 1e6:.0f} MB: 20 MB for the model" in what
    assert said(model, {method: {}}, BASE + own + 1e9 - 1e3, gpu=True), "CUDA's own gigabyte"
    assert said(model, {method: {}}, BASE + own + 1e9 + 1e3, gpu=True) is None


def refused(found: tuple[str, str, str] | None) -> tuple[str, str, str]:
    assert found is not None
    return found


def test_what_would_fit_is_said(model):
    _, what, fits = refused(said(model, {"full_finetune": {}}, 60e6))
    assert "72 MB more than the 60 MB of cpu (x)" in what, "20 MB and 112 are needed"
    assert fits.startswith("what fits: adapter.targets: [q_proj] (48 MB), a device with more than 132 MB")
    assert "rank" not in fits
    assert "a model of some 5M parameters" in fits
    where, _, fits = refused(said(model, {"lora@big": {"adapter": {"rank": 64}}}, 30e6))
    assert where == "s.yaml:methods.lora@big"
    assert "adapter.targets: [q_proj] (24 MB)" in fits
    assert "adapter.rank: 52 (30 MB)" in fits, "of 10 MB each takes 8 times 6000 numbers of 4 bytes"
    assert said(model, {"lora": {"adapter": {"rank": 53}}}, 30e6)
    assert said(model, {"lora": {"adapter": {"rank": 52}}}, 30e6) is None
    assert "dtype: bfloat16 (132 MB)" in refused(said(model, {"full_finetune": {}}, 140e6, dtype="float32"))[2]


def test_a_model_that_does_not_fit_is_refused_whoever_trains(model):
    where, what, fits = refused(said(model, {"lora": {}}, 15e6))
    assert where == "s.yaml:model"
    assert "5 MB more than" in what
    assert "a model of at most 8M parameters" in fits
    assert "dtype: bfloat16 (20 MB)" in refused(said(model, {"lora": {}}, 30e6, dtype="float32"))[2]


def test_a_fixed_pack_that_does_not_fit_names_rows_that_do(model):
    where, what, fits = refused(said(model, {"full_finetune": {}}, BASE + 2.5 * 112e6, rows=3, pack=3))
    assert where == "s.yaml:pack"
    assert "3 rows of 'full_finetune' in one pack need at least 356 MB" in what
    assert fits.startswith("set pack: 2, or pack: auto")
    assert said(model, {"full_finetune": {}}, BASE + 3 * 112e6 + 1, rows=3, pack=3) is None
    both = {"full_finetune": {}, "osf": {}}
    _, what, fits = refused(said(model, both, BASE + 2.5 * 112e6, rows=3, pack=3))
    assert "3 rows of 'osf'" in what, "144 MB each: the least of both"
    assert fits.startswith("set pack: 1")


def test_a_device_that_is_not_there_takes_everything(model):
    study = build_study({"model": "m", "seeds": [0], "streams": {"o": ["a"]}, "methods": {"lora": {}}}, where="s")
    for guess in (Device("cuda", "", 8.0), Device("cpu", "cpu (x)")):
        check_fits(study, (), model, guess, "s")


def test_plan_and_run_ask_it_of_what_is_left_to_do(tmp_path):
    file = campaigns.write_study(tmp_path, campaigns.TOY, methods={"full_finetune": {}})
    here, small = device_here("cpu"), Device("cpu", "cpu (x)", main_gigabytes=1e-5)
    opened = campaigns.load(file, tmp_path / "out", device=here)
    check_memory(opened, read_state(opened), here)
    with pytest.raises(InputError, match="the model alone needs") as error:
        check_memory(opened, read_state(opened), small)
    assert error.value.where == f"{file}:model"


@pytest.mark.parametrize("method", ["olora", "milora", "mica", "corda", "lora_null", "inflora"])
def test_a_rank_beyond_a_matrix_is_refused_in_the_plan(model, method):
    """Before anything is loaded, and as its parts would say it; the smallest matrix has 1000 directions."""

    def asked(rank: int) -> None:
        data = {"model": "m", "seeds": [0], "streams": {"o": ["a"]}, "adapter": {"targets": ["q_proj", "up_proj"]}}
        arms = {"lora": {"adapter": {"rank": 1001}}, "pissa": {"adapter": {"rank": 1001}},
                f"{method}@big": {"adapter": {"rank": rank}}}  # fmt: skip
        study = build_study(data | {"methods": arms}, where="s.yaml")
        inputs = Inputs("m", {"a": "a"}, dict.fromkeys(methods(), "d"), text_digests={"plain_text": "t"})
        plan = build_plan(study, methods(), inputs, 1, "s.yaml", None, shares_of(model))
        check_ranks(study, plan.packs, model, "s.yaml")

    asked(1000)
    with pytest.raises(InputError, match=r"rank 1001 is larger than the 1000 directions of layers\.0\.") as error:
        asked(1001)
    assert error.value.where == f"s.yaml:methods.{method}@big.adapter.rank"
    assert error.value.remedy == "set a rank of at most 1000, or leave q_proj out of adapter.targets"


def test_plan_and_run_ask_ranks_as_well(tmp_path):
    methods = {"milora": {"adapter": {"rank": 500}}}
    file, here = campaigns.write_study(tmp_path, campaigns.TOY, methods=methods), device_here("cpu")
    opened = campaigns.load(file, tmp_path / "out", device=here)
    with pytest.raises(InputError, match="rank 500 is larger than"):
        check_memory(opened, read_state(opened), here)
