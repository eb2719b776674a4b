"""The check at load: what it catches, what it lets pass, and that it leaves a model as it was."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers import tiny_model
from torch import nn
from torch.nn import functional as F

from harness.engine.model import attention
from harness.engine.model import load as loading
from harness.engine.model import packed as model
from harness.engine.model.family import check
from harness.engine.model.head import Head, find_head
from harness.engine.model.load import load_model
from harness.engine.model.packed import ALL_LINEAR, PackedModel
from harness.engine.model.precision import in_float32
from harness.engine.model.remarks import remarks_on
from harness.engine.model.verdict import Verdict
from harness.errors import InputError

DTYPES = [torch.float32, torch.bfloat16, torch.float16]


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch) -> Path:
    monkeypatch.setenv("LORABENCH_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def family(name: str, **changes: Any) -> Any:
    """A tiny random model of a family that ``helpers`` has not."""
    from transformers import AutoConfig, AutoModelForCausalLM

    size = {"vocab_size": 97, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2,
            "num_attention_heads": 4, "num_key_value_heads": 2, "initializer_range": 0.15, "pad_token_id": 0,
            "bos_token_id": 1, "eos_token_id": 2}  # fmt: skip
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return AutoModelForCausalLM.from_config(AutoConfig.for_model(name, **(size | changes))).eval()


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", ["llama", "qwen2", "gemma", "gemma2", "mistral"])
def test_a_family_that_is_understood_is_taken_in_every_dtype(name, dtype):
    found = check(tiny_model(name).to(dtype), ALL_LINEAR)
    assert (found.branches, found.shares, found.skips, found.refused) == (True, True, True, "")
    assert found.remark() is None


def test_it_leaves_a_model_as_it_was():
    plain = tiny_model("llama", dtype=torch.bfloat16)
    before = {name: tensor.clone() for name, tensor in plain.state_dict().items()}
    modules, implementation = [*map(id, plain.modules())], plain.config._attn_implementation
    drawn = torch.get_rng_state()
    check(plain, ALL_LINEAR)
    assert all(torch.equal(tensor, before[name]) for name, tensor in plain.state_dict().items())
    assert [*map(id, plain.modules())] == modules
    assert plain.config._attn_implementation == implementation
    assert torch.equal(torch.get_rng_state(), drawn)
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in plain.modules())
    assert all(parameter.dtype == torch.bfloat16 for parameter in plain.parameters())


@pytest.mark.parametrize(("name", "factor"), [("granite", 1 / 3), ("hyperclovax", 3.0)])
def test_one_name_divides_here_and_multiplies_there(name, factor):
    plain = family(name, logits_scaling=3.0)
    assert find_head(plain).factor == pytest.approx(factor)
    ids = torch.arange(3, 20)[None]
    with torch.no_grad():
        packed = PackedModel(plain)
        assert torch.allclose(packed.logits(packed.hidden(ids)[0]), plain(ids).logits[0], atol=1e-5)


def test_a_head_that_does_something_else_is_refused(monkeypatch):
    plain = tiny_model("llama")
    monkeypatch.setattr(plain.lm_head, "forward", lambda x: F.linear(x, plain.lm_head.weight).sin())
    assert find_head(plain).factor == 1.0  # as whoever calls the head sees it, too
    plain = tiny_model("llama")
    whole = type(plain).forward

    def forward(self, *args, **kwargs):
        output = whole(self, *args, **kwargs)
        output.logits = output.logits.sin()
        return output

    monkeypatch.setattr(type(plain), "forward", forward)
    with pytest.raises(InputError, match="LlamaForCausalLM: what it does to its logits is not known here"):
        find_head(plain)


# -- what it catches --------------------------------------------------------------------------------------------------


def bypass(mlp: Any, x: torch.Tensor) -> torch.Tensor:
    """A layer that reads the weight of its projection itself, as fused kernels do."""
    return mlp.down_proj(mlp.act_fn(mlp.gate_proj(x)) * F.linear(x, mlp.up_proj.weight))


def mix(mlp: Any, x: torch.Tensor) -> torch.Tensor:
    """A short convolution: every token reads the one before it in the row."""
    before = F.pad(x, (0, 0, 1, 0))[:, :-1]
    return mlp.down_proj(mlp.act_fn(mlp.gate_proj(x + before)) * mlp.up_proj(x))


def turn(mlp: Any, x: torch.Tensor) -> torch.Tensor:
    """Rows in another order: tokens of one trial where those of another are expected."""
    out = mlp.down_proj(mlp.act_fn(mlp.gate_proj(x.flip(0))) * mlp.up_proj(x.flip(0)))
    return out.flip(0)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("forward", [bypass, turn])
def test_a_projection_that_the_adapters_do_not_reach_is_refused(forward, dtype, monkeypatch):
    plain = tiny_model("llama").to(dtype)
    monkeypatch.setattr(type(plain.model.layers[0].mlp), "forward", forward)
    found = check(plain, ALL_LINEAR)
    assert found.refused.startswith("with adapters its logits are off by ")
    with pytest.raises(InputError, match="LlamaForCausalLM is not taken: with adapters"):
        found.raise_if_refused("here")
    assert not check(plain, ("q_proj", "v_proj")).refused, "what is not adapted may be as it likes"


@pytest.mark.parametrize("dtype", DTYPES)
def test_a_layer_that_reads_its_neighbour_gets_a_request_a_row(dtype, monkeypatch):
    plain = tiny_model("llama").to(dtype)
    monkeypatch.setattr(type(plain.model.layers[0].mlp), "forward", mix)
    found = check(plain, ALL_LINEAR)
    assert not found.branches
    assert not found.skips, "nor may the last layer leave out what is not read"
    assert found.refused.startswith("in generation"), "its past is not in the cache"
    assert "LlamaForCausalLM is scored one request a row" in str(found.remark())


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_fault_of_the_engine_itself_shows(dtype, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(Head, "logits", lambda self, hidden: 1.01 * self.linear(hidden))
        with pytest.raises(InputError, match="what it does to its logits"):
            check(tiny_model("llama").to(dtype), ALL_LINEAR)
    with monkeypatch.context() as patch:  # answers see each other
        patch.setattr(
            attention, "tree_mask", lambda last: torch.ones(*last.shape, last.shape[1]).tril().bool()[:, None]
        )
        found = check(tiny_model("llama").to(dtype), ALL_LINEAR)
        assert not found.branches
        assert not found.refused
    with monkeypatch.context() as patch:  # places in the row, not in the sequence
        patch.setattr(PackedModel, "_placed", lambda self, positions: {})
        found = check(tiny_model("llama").to(dtype), ALL_LINEAR)
        assert not found.branches
        assert not found.shares, "padding stands between a common beginning and what follows"
        assert not found.refused, "on the left it moves all places alike"
    with monkeypatch.context() as patch:
        patch.setattr(model.PackedLinear, "take", lambda self, change: None)
        assert check(tiny_model("llama").to(dtype), ALL_LINEAR).refused.startswith("with adapters")


def test_a_small_fault_shows_in_a_model_that_was_hardly_trained():
    """Untrained weights pass little on; what is wrong is small against the logits, and large against rounding."""
    layers = {"layer_types": ["conv", "full_attention"], "block_ff_dim": 48, "initializer_range": 0.02}
    found = check(family("lfm2", **layers), ("q_proj", "v_proj"))
    assert (found.branches, found.refused) == (False, "")
    assert "its logits are off by 0.000" in found.why


def test_a_cache_that_can_not_be_shared_is_not(monkeypatch):
    from transformers import DynamicCache

    def no(self, *args):
        raise AttributeError("no such thing")

    monkeypatch.setattr(DynamicCache, "batch_repeat_interleave", no)
    found = check(tiny_model("llama"), ALL_LINEAR)
    assert (found.branches, found.shares, found.refused) == (True, False, "")
    monkeypatch.setattr(DynamicCache, "batch_select_indices", no)
    assert not check(tiny_model("llama"), ALL_LINEAR).shares


def test_a_model_of_few_positions_is_tried_as_far_as_they_go():
    plain = tiny_model("llama", max_position_embeddings=8, vocab_size=5)
    assert not check(plain, ALL_LINEAR).refused


def test_a_model_that_says_nothing_finite_is_refused():
    plain = tiny_model("llama")
    with torch.no_grad():
        plain.lm_head.weight.fill_(1e38)
    with pytest.raises(InputError, match="the logits of LlamaForCausalLM are not finite"):
        check(plain, ALL_LINEAR)


def test_the_head_is_no_projection():
    with pytest.raises(InputError, match="lm_head is its head"):
        check(tiny_model("llama"), ("q_proj", "lm_head"))


def test_operations_are_in_float32_and_nothing_else_changes():
    weight, x = torch.randn(8, 4).bfloat16(), torch.randn(3, 4).bfloat16()
    exact = x.float() @ weight.float().T
    with in_float32():
        assert torch.equal(F.linear(x, weight), exact)
        assert torch.equal(x @ weight.T, exact)
        assert F.embedding(torch.tensor([1]), weight).dtype == torch.float32
        assert weight.dtype == torch.float32, "as it seems to the code of a model"
        assert (x + 1).dtype == torch.float32
        assert torch.arange(3).dtype == torch.int64
    assert weight.dtype == torch.bfloat16
    assert F.linear(x, weight).dtype == torch.bfloat16


# -- at load ----------------------------------------------------------------------------------------------------------


@pytest.fixture
def folder(tmp_path) -> Path:
    tiny_model("llama").save_pretrained(tmp_path / "model")
    return tmp_path / "model"


def load(path: Path, **settings: Any) -> PackedModel:
    return load_model(path, dtype=torch.float32, device=torch.device("cpu"), **settings)


def test_a_verdict_is_kept_for_the_same_files_and_projections(folder, cache, monkeypatch):
    tried = []

    def counted(plain: nn.Module, targets: Any) -> Verdict:
        tried.append(tuple(targets))
        return check(plain, targets)

    monkeypatch.setattr(loading, "check", counted)
    first = load(folder)
    second = load(folder)
    assert tried == [ALL_LINEAR]
    ids = torch.arange(3, 20)[None]
    with torch.no_grad():
        assert torch.equal(first.hidden(ids), second.hidden(ids))
    assert (second.output.factor, second.output.softcap) == (first.output.factor, first.output.softcap)
    load(folder, targets=("q_proj",))
    load_model(folder, dtype=torch.bfloat16, device=torch.device("cpu"))
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(
        json.dumps(config | {"rope_parameters": {"rope_type": "default", "rope_theta": 5.0}})
    )
    load(folder)
    assert len(tried) == 4
    for file in (cache / "families").iterdir():
        file.write_text("torn")
    load(folder)
    assert len(tried) == 5


def test_a_refusal_is_kept_and_said_before_the_weights_are_read(folder, monkeypatch):
    monkeypatch.setattr(loading, "check", lambda plain, targets: Verdict("LlamaForCausalLM", refused="it is odd"))
    with pytest.raises(InputError, match="LlamaForCausalLM is not taken: it is odd") as caught:
        load(folder)
    assert str(caught.value.where).startswith(str(folder))
    assert "docs/models.md" in str(caught.value.remedy)
    monkeypatch.setattr(loading, "load_module", lambda *args: pytest.fail("read"))
    with pytest.raises(InputError, match="it is odd"):
        load(folder)


def test_what_is_known_of_a_model_needs_no_torch(folder, cache, monkeypatch):
    """A plan asks for it; both what it lacks and a refusal are read from the cache."""
    code = (
        "import sys; from pathlib import Path; from harness.engine.model.remarks import remarks_on\n"
        f"said = remarks_on(Path({str(folder)!r}), 'float32', [('q_proj',)])\n"
        "print(said, 'torch' in sys.modules)"
    )
    odd = Verdict("LlamaForCausalLM", "model", branches=False, why="it is odd")
    monkeypatch.setattr(loading, "check", lambda plain, targets: odd)
    load(folder, targets=("q_proj",))
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == f"{(odd.remark(),)} False"
    for file in (cache / "families").iterdir():
        file.write_text(json.dumps({"family": "LlamaForCausalLM", "refused": "it is odd"}))
    with pytest.raises(InputError, match="is not taken: it is odd"):
        remarks_on(folder, "float32", [("q_proj",)])


def test_a_model_whose_own_forward_fails_is_refused(folder, monkeypatch):
    from transformers import LlamaForCausalLM

    monkeypatch.setattr(LlamaForCausalLM, "forward", lambda self, **given: 1 / 0)
    with pytest.raises(InputError, match="LlamaForCausalLM can't be tried: ZeroDivisionError"):
        load(folder)


def test_what_a_model_bears_is_obeyed(folder, monkeypatch):
    found = Verdict("LlamaForCausalLM", "model", branches=False, shares=False, skips=False, why="it is odd")
    monkeypatch.setattr(loading, "check", lambda plain, targets: found)
    packed = load(folder)
    assert (packed.branches, packed.shares, packed.skips) == (False, False, False)


def test_a_model_too_large_to_try_shows_its_projections(folder, monkeypatch):
    monkeypatch.setattr(loading, "QUICK", 0)
    monkeypatch.setattr(loading, "load_module", lambda *args: pytest.fail("read"))
    assert remarks_on(folder, "float32", [ALL_LINEAR]) == ()
    with pytest.raises(InputError, match="no projection named c_attn"):
        remarks_on(folder, "float32", [("c_attn",)])
