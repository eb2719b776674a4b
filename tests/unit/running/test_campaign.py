"""A study from its file to its packs: what is refused, with which words, and where results go."""

from __future__ import annotations

import json
import os
import types
from pathlib import Path
from typing import Any

import campaigns
import hub_copies
import pytest
import torch
from campaigns import TOY

from harness.data.tasks.lm_eval import index as lm_eval_index
from harness.engine.model.load import load_model
from harness.errors import InputError, LorabenchError
from harness.executors.interface import Work
from harness.executors.local import LocalExecutor
from harness.running import campaign
from harness.store.results import read_trials
from harness.study.stack import Device

STUDY = TOY | {
    "probes": ["toy_text"], "methods": {"frozen": {}, "lora": {}}, "training": {"examples": 64, "batch": 8},
    "scoring": {"items": 8},
}  # fmt: skip
SMALL = {"examples": 16, "batch": 8}
FEW = {"probes": [], "training": SMALL, "scoring": {"items": 8, "curve": []}}  # runs in two seconds


@pytest.fixture(autouse=True)
def cache(in_shared_cache) -> Path:
    return in_shared_cache


@pytest.fixture
def load(tmp_path):
    """``load(seeds=[1])``: the campaign of the study with these keys changed; results in tmp_path/out."""

    def make(
        name: str = "mine", model: str | None = None, device: Device = campaigns.CPU, **changes: Any
    ) -> campaign.Campaign:
        file = campaigns.write_study(tmp_path, STUDY, name, **changes)
        return campaigns.load(file, tmp_path / "out", model=model, device=device)

    return make


class Recorder(LocalExecutor):
    """An executor that runs nothing."""

    def __init__(self) -> None:
        self.jobs: list[str] = []

    def run(self, jobs, work, watch) -> list:
        self.jobs += [job.name for job in jobs]
        raise LorabenchError("stopped here on purpose")

    def close(self) -> None:
        pass


def refused(call, *arguments: Any, **settings: Any) -> InputError:
    with pytest.raises(InputError) as caught:
        call(*arguments, **settings)
    assert caught.value.exit_status == 2
    assert caught.value.remedy
    return caught.value


# -- folders ----------------------------------------------------------------------------------------------------------


def start(found: campaign.Campaign) -> Recorder:
    executor = Recorder()
    with pytest.raises(LorabenchError, match="on purpose"):
        campaigns.run(found, executor)
    return executor


def test_the_base_comes_first(load):
    assert start(load()).jobs == ["base"]


def test_a_run_that_fails_gives_its_claim_back(load, tmp_path):
    start(load())
    assert not list((tmp_path / "out" / "running").iterdir())


def test_a_run_takes_the_published_numbers_along(load, tmp_path):
    found = load(published="standard_cl")
    assert start(found).jobs == ["base"]
    kept = {(row.method, row.model): row.accuracy for row in read_trials(tmp_path / "out").published}
    assert kept["sequential LoRA", "T5-large"] == 43.7
    prints = [trial.fingerprint for trial in found.plan.trials]
    assert prints == [trial.fingerprint for trial in load().plan.trials]
    assert refused(load, published="standard").where.endswith("mine.yaml:published")


CLAIM = {
    "claim": "it helps", "source": "a paper", "number": "+2", "model": "m", "protocol": "p", "arm": "dora",
    "outcome": "forgetting", "direction": "lower",
}  # fmt: skip


@pytest.fixture
def claims(tmp_path, monkeypatch):
    """``claims(arm="lora")``: the list `mine` holds one good claim and this one; its file comes back."""
    monkeypatch.setattr(campaign.paths, "claims_dir", lambda: tmp_path)

    def write(**changes):
        file = tmp_path / "list.yaml"
        file.write_text(json.dumps([CLAIM, CLAIM | changes]))
        return file

    return write


def test_a_run_takes_the_claims_of_its_study_along(load, claims, tmp_path):
    claims(arm="frozen", against="lora")
    found = load(claims="list")
    assert start(found).jobs == ["base"]
    assert [claim.arm for claim in read_trials(tmp_path / "out").claims] == [("dora",), ("frozen",)]
    prints = [trial.fingerprint for trial in found.plan.trials]
    assert prints == [trial.fingerprint for trial in load().plan.trials], "an arm that the study lacks is no error"


@pytest.mark.parametrize(("change", "key", "near"), [
    ({"arm": "dorra"}, "arm", "dora"), ({"arm": "lora@hot"}, "arm", "lora"),
    ({"arm": ["dora", "lorra"]}, "arm", "lora"),
    ({"arm": "frozen", "against": "lorra"}, "against", "lora"), ({"outcome": "luck"}, "outcome", ""),
    ({"direction": "up"}, "direction", ""),
])  # fmt: skip
def test_a_claim_that_no_board_has_is_named(load, claims, change, key, near):
    file = claims(**change)
    caught = refused(load, claims="list")
    assert caught.where == f"{file}:1.{key}"
    assert near in caught.remedy


def test_an_unknown_list_of_claims_is_named(load):
    assert refused(load, claims="core_arm").where.endswith("mine.yaml:claims")


def test_a_folder_in_use_is_refused(load, tmp_path):
    import socket

    claim = tmp_path / "out" / "running" / "claim.json"
    claim.parent.mkdir(parents=True)
    claim.write_text(json.dumps({"host": socket.gethostname(), "pid": os.getpid()}))
    with pytest.raises(LorabenchError, match=f"process {os.getpid()}"):
        campaigns.run(load(), Recorder())
    assert claim.exists()


def test_a_folder_of_another_study_is_refused(load, tmp_path):
    start(load("mine"))
    before = (tmp_path / "out" / "study.json").read_bytes()
    executor = Recorder()
    error = refused(campaigns.run, load("other"), executor)
    assert "'mine', not 'other'" in error.what
    assert "--out" in str(error.remedy)
    assert executor.jobs == []
    assert (tmp_path / "out" / "study.json").read_bytes() == before


def test_trials_of_nobody_are_refused(load, tmp_path):
    (tmp_path / "out" / "trials").mkdir(parents=True)
    (tmp_path / "out" / "trials" / "abc.json").write_text("{}")
    assert "no study.json" in refused(campaigns.run, load(), Recorder()).what


@pytest.mark.parametrize("version", [0, 99, None, "1"])
def test_a_folder_of_another_schema_is_refused(load, tmp_path, version):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "study.json").write_text(
        json.dumps({"schema_version": version, "study": "mine", "expected": {}})
    )
    for call, arguments in ((campaigns.run, (load(), Recorder())), (campaign.read_state, (load(),))):
        error = refused(call, *arguments)
        assert f"schema {version}" in error.what


def test_a_record_of_another_schema_is_refused_and_stays(load, tmp_path):
    start(load())
    path = tmp_path / "out" / "trials" / "abc.json"
    path.parent.mkdir()
    path.write_text(json.dumps({"schema_version": 99, "fingerprint": "abc"}))
    assert "schema 99" in refused(campaign.read_state, load(), quarantine=True).what
    assert path.exists()


def test_a_damaged_record_is_only_moved_by_a_run(load, tmp_path):
    start(load())
    path = tmp_path / "out" / "trials" / "abc.json"
    path.parent.mkdir()
    path.write_text("{")
    assert list(campaign.read_state(load()).damaged) == ["abc.json"]
    assert path.exists()
    assert list(campaign.read_state(load(), quarantine=True).damaged) == ["abc.json"]
    assert not path.exists()
    assert (tmp_path / "out" / "quarantine" / "abc.json").read_text() == "{"
    assert read_trials(tmp_path / "out").records == []


# -- devices ----------------------------------------------------------------------------------------------------------

no_gpu = pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU here")


@no_gpu
def test_local_refuses_a_gpu_that_is_not_there():
    error = refused(LocalExecutor().device, "cuda")
    assert "asks for a GPU" in error.what
    assert "device: any" in str(error.remedy)
    assert [LocalExecutor().device(wanted).kind for wanted in ("any", "cpu")] == ["cpu", "cpu"]


@no_gpu
def test_a_study_for_a_gpu_is_not_run_without_one(tmp_path, in_process):
    file = campaigns.write_study(tmp_path, STUDY, device="cuda")
    status, _, said = in_process("run", file, "--out", tmp_path / "out", "--executor", "local")
    assert status == 2
    assert "asks for a GPU" in said
    assert not (tmp_path / "out").exists()


@no_gpu
def test_a_study_for_a_gpu_is_laid_out_without_one(tmp_path, in_process, monkeypatch):
    """As on the machine that a cluster is joined from."""
    monkeypatch.setattr("harness.cli.show.screen.screen.width", 200)
    told = "note: torch sees no GPU on this machine: this is laid out for one elsewhere"
    asks = "; run --address HOST:PORT asks the cluster what it has"
    for pack, sizes in (("auto", ", and packs are sized for 8 GB"), (1, "")):
        line = ["plan", campaigns.write_study(tmp_path, STUDY, device="cuda", pack=pack), "--out", tmp_path / "out"]
        status, out, err = in_process(*line)
        assert (status, err) == (0, "")
        assert f"{told}{sizes}{asks}\n" in out
        assert "on a GPU as fast as an H200 (from constants)" in out
        found = json.loads(in_process(*line, "--json")[1])
        assert (found["device"], found["assumed_gpu_gigabytes"]) == ("cuda", 8)
        assert f"note: {found['notes'][-1]}" == f"{told}{sizes}{asks}"
        assert found["forecast_seconds"] > 0
    assert not (tmp_path / "out").exists()


@no_gpu
def test_a_plan_for_any_device_says_what_a_cluster_may_have(tmp_path, in_process, monkeypatch):
    def notes(**changes: Any) -> str:
        line = ["plan", campaigns.write_study(tmp_path, STUDY, **changes), "--out", tmp_path / "out", "--json"]
        found = json.loads(in_process(*line)[1])
        assert (found["device"], found["assumed_gpu_gigabytes"]) == ("cpu", None)
        return "\n".join(found["notes"])

    told = "laid out for the CPU of this machine (device: any), and a cluster may have GPUs"
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    assert told not in notes(device="any")
    assert told in notes(device="any", resources={"accelerator_type": "H100"})
    monkeypatch.setenv("RAY_ADDRESS", "127.0.0.1:6379")
    assert told in notes(device="any")
    assert told not in notes(device="cpu")


@no_gpu
def test_a_study_for_a_gpu_is_compared_without_one(tmp_path, in_process):
    """What a trial is depends on no device: what has changed is told where nothing of it could run."""
    out = tmp_path / "out"
    campaigns.run(campaigns.load(campaigns.write_study(tmp_path, STUDY | {"methods": {"lora": {}}} | FEW), out))

    def changes(**now: Any) -> list[str]:
        file = campaigns.write_study(tmp_path, STUDY | {"methods": {"lora": {}}} | FEW, device="cuda", **now)
        return json.loads(in_process("status", file, "--out", out, "--json")[1])["changes"]

    assert changes() == []
    assert changes(seeds=[1])[1:] == ["1 record of 'lora' would be set aside: there is no seed '0' any more"]


@pytest.fixture
def ray_executor(monkeypatch):
    """``ray_executor([{"CPU": 2}])``: the Ray executor on a made-up cluster with these nodes; ray is not started."""

    from harness.executors.ray import executor

    def make(nodes: list[dict[str, float]]):
        about = {"Alive": True, "NodeID": "n", "NodeManagerAddress": "127.0.0.1"}
        monkeypatch.setattr(executor.ray, "nodes", lambda: [about | {"Resources": each} for each in nodes])
        return executor.RayExecutor(types.SimpleNamespace(check=lambda: None, ours=True), lambda text: None)

    return make


def job(threads: int = 1, device: str = "cpu") -> Any:
    return types.SimpleNamespace(cpus=threads, gpus=float(device == "cuda"), device=device, name="pack")


def test_ray_knows_its_devices(ray_executor):
    assert [ray_executor([{"CPU": 4, "GPU": 1}]).device(wanted).kind for wanted in ("cuda", "any", "cpu")] == [
        "cuda",
        "cuda",
        "cpu",
    ]
    assert ray_executor([{"CPU": 4}]).device("any").kind == "cpu"
    error = refused(ray_executor([{"CPU": 4}]).device, "cuda")
    assert "Ray cluster has none" in error.what


def test_ray_refuses_what_no_node_has(ray_executor):
    """Ray would wait for ever; two nodes of two cores are not one of four."""
    executor = ray_executor([{"CPU": 2}, {"CPU": 2}])
    work = Work(lambda job, report: pytest.fail("it ran"), lambda *_: pytest.fail("it ran"))
    assert executor.run([], work, lambda *_: None) == []

    def error(needed: Any) -> InputError:
        return refused(executor.run, [needed], work, lambda *_: None)

    assert "needs 4 CPU, and no node of the Ray cluster has that: there are 2, with 2 CPU" in error(job(threads=4)).what
    assert "needs 1 CPU and 1 GPU" in error(job(device="cuda")).what


class Elsewhere(LocalExecutor):
    """Its jobs run on machines with another torch than the one that was asked what there is."""

    def ask(self, question, device):
        return question() | {"torch": "0.1", "digest": "other"}


def test_numbers_of_two_stacks_stand_in_no_folder_together(load, tmp_path):
    """A machine that joins a cluster later may have something else."""
    error = refused(campaigns.run, load(), Elsewhere())
    assert f"differs from that which the base model's scores are of: torch {torch.__version__} here" in error.what
    assert "0.1 there" in error.what
    assert not (tmp_path / "out" / "base.json").exists()


# -- sizes and roles --------------------------------------------------------------------------------------------------


def test_more_examples_than_rows_are_all_rows_and_said(load):
    found = load(training={"examples": 1024, "batch": 8})
    assert {pack.examples for pack in found.plan.packs} == {(512, 512)}
    assert any("1024 examples" in line and "toy_recall 512" in line for line in found.remarks)
    assert not any("asked for" in line for line in load(training={"examples": 512, "batch": 8}).remarks)
    error = refused(load, training={"examples": 1024, "batch": 1024})
    assert "'toy_recall' has 512 training rows, fewer than one batch (1024)" in error.what
    assert str(error.where).endswith("mine.yaml:streams")


def test_a_probe_in_a_stream_is_refused(load):
    error = refused(load, streams={"order": ["toy_recall", "toy_text"]}, probes=[])
    assert "'toy_text' has no training split" in error.what
    assert "probe" in error.what


def test_a_split_without_rows_is_refused(load):
    error = refused(load, scoring={"items": 8, "split": "validation"})
    assert "'toy_text' has no rows in its validation split" in error.what


def test_names_are_checked_before_the_model_is_made(load, monkeypatch):
    monkeypatch.setattr(campaign.model_files, "resolve_model", lambda name: pytest.fail("made first"))
    hub_copies.write_small_index()
    assert "unknown task" in refused(load, streams={"order": ["toy_recal"]}).what


def test_lm_evals_own_tasks_stand_in_a_study(load, tmp_path, monkeypatch):
    monkeypatch.setenv("LORABENCH_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("LORABENCH_DATASETS", str(tmp_path / "mirror"))
    lm_eval_index.write_index(hub_copies.FOLDERS)
    for name in ("arc_easy", "lambada_openai"):
        hub_copies.copy_of(tmp_path / "mirror", name)
    found = load(streams={"order": ["toy_recall", "arc_easy"]}, probes=["lambada_openai"], training=SMALL)
    assert set(found.task_digests) == {"toy_recall", "arc_easy", "lambada_openai"}
    (few,) = load(streams={"order": ["arc_easy"]}, probes=[]).plan.packs[0].examples
    assert few == 24, "all of its 30 rows, in whole batches"
    error = refused(load, streams={"order": ["arc_easy"]}, probes=[], training={"examples": 64, "batch": 32})
    assert "'arc_easy' has 30 training rows, fewer than one batch (32)" in error.what
    error = refused(load, streams={"order": ["lambada_openai"]}, probes=[], training=SMALL)
    assert "'lambada_openai' has no training split" in error.what
    error = refused(load, streams={"order": ["sciq"]}, probes=[], training=SMALL)
    assert "needs the data set allenai/sciq of the hub" in error.what


def test_a_study_of_the_projects_own_tasks_reads_no_index(load, monkeypatch):
    monkeypatch.setattr(lm_eval_index, "index", lambda: pytest.fail("the index was read"))
    assert load().plan.trials


def test_the_plan_is_the_same_every_time(load):
    first, second = load(), load()
    assert [t.fingerprint for t in first.plan.trials] == [t.fingerprint for t in second.plan.trials]
    assert [pack.name for pack in first.plan.packs] == [pack.name for pack in second.plan.packs]
    assert campaign.read_state(first).todo == first.plan.packs
    assert set(campaign.read_state(first).statuses.values()) == {"missing"}


# -- custom models ----------------------------------------------------------------------------------------------------


@pytest.fixture
def model_folder(load, tmp_path) -> Path:
    """A copy of the tiny model that may be spoilt."""
    import shutil

    return Path(shutil.copytree(load().model.path, tmp_path / "model"))


def test_a_models_folder_is_taken(load, model_folder):
    found, catalogue = load(model=str(model_folder)), load()
    assert found.model.digest == catalogue.model.digest, "the same files are the same model"
    assert found.study.model == str(model_folder)


def test_a_folder_without_safetensors_is_refused(load, model_folder):
    for path in model_folder.glob("*.safetensors"):
        path.rename(path.with_name("pytorch_model.bin"))
    error = refused(load, model=str(model_folder))
    assert "no *.safetensors" in error.what
    assert "pytorch_model.bin" in error.what


def cpu(path: Path, **settings: Any):
    return load_model(path, dtype=torch.float32, device=torch.device("cpu"), **settings)


def test_a_quantised_base_is_refused(model_folder):
    config = json.loads((model_folder / "config.json").read_text())
    config["quantization_config"] = {"quant_method": "bitsandbytes", "load_in_4bit": True}
    (model_folder / "config.json").write_text(json.dumps(config))
    error = refused(cpu, model_folder)
    assert "quantised" in error.what
    assert "config.json:quantization_config" in str(error.where)


def save_random(kind: str, folder: Path) -> Path:
    import transformers as tf

    layers: dict[str, Any] = {"num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}
    size: dict[str, Any] = {"vocab_size": 64, "hidden_size": 16, **layers}
    model = {
        "gpt2": lambda: tf.GPT2LMHeadModel(tf.GPT2Config(vocab_size=64, n_embd=16, n_layer=1, n_head=2, n_positions=8)),
        "neox": lambda: tf.GPTNeoXForCausalLM(tf.GPTNeoXConfig(**size)),
        "gemma2": lambda: tf.Gemma2ForCausalLM(tf.Gemma2Config(**size, num_key_value_heads=1, head_dim=8)),
    }[kind]()
    model.save_pretrained(folder)
    return folder


def test_a_family_without_the_projections_is_refused(tmp_path):
    """GPT-2 has Conv1D layers only; asked for one of them by name, the message says so."""
    folder = save_random("gpt2", tmp_path / "gpt2")
    error = refused(cpu, folder)
    assert "GPT2LMHeadModel has no projection named" in error.what
    assert "q_proj" in error.what
    assert "no nn.Linear layer" in str(error.remedy)
    error = refused(cpu, folder, targets=("c_attn",))
    assert "c_attn is a Conv1D" in error.what


def test_a_family_with_other_names_is_told_them(tmp_path):
    folder = save_random("neox", tmp_path / "neox")
    error = refused(cpu, folder)
    for name in ("query_key_value", "dense_h_to_4h"):
        assert name in str(error.remedy)
    targets = ("query_key_value", "dense_h_to_4h")
    assert {slot.projection for slot in cpu(folder, targets=targets).slots} == set(targets)


def test_a_family_without_sdpa_is_taken(tmp_path):
    """Gemma 2 caps its attention scores: transformers has it in eager form only."""
    assert cpu(save_random("gemma2", tmp_path / "gemma2")).slots


def test_records_no_longer_asked_for_are_moved_aside(tmp_path):
    from harness.store.superseded import supersede

    folder = tmp_path / "out" / "trials"
    folder.mkdir(parents=True)
    for name in ("kept", "old"):
        (folder / f"{name}.json").write_text(name)
    assert supersede(tmp_path / "out", {"kept"}) == ["old.json"]
    assert [path.name for path in folder.iterdir()] == ["kept.json"]
    assert (tmp_path / "out" / "superseded" / "old.json").read_text() == "old", "nothing is lost"


def family_folder(folder: Path, model_folder: Path, name: str, **changes: Any) -> Path:
    """A tiny random model of a family, with the byte tokenizer."""
    import transformers as tf

    size = {"vocab_size": 259, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2,
            "num_attention_heads": 4, "num_key_value_heads": 2, "pad_token_id": 258, "eos_token_id": 257}  # fmt: skip
    config = tf.AutoConfig.for_model(name, **(size | changes))
    torch.manual_seed(0)
    tf.AutoModelForCausalLM.from_config(config).save_pretrained(folder)
    tf.AutoTokenizer.from_pretrained(model_folder).save_pretrained(folder)
    return folder


def test_a_plan_says_which_projections_a_model_has_not(load, model_folder, tmp_path):
    folder = family_folder(tmp_path / "neox", model_folder, "gpt_neox")
    error = refused(load, model=str(folder))
    assert "GPTNeoXForCausalLM has no projection named" in error.what
    assert "query_key_value" in str(error.remedy)
    own = {"adapter": {"targets": ["query_key_value", "dense"]}}
    assert load(model=str(folder), **own).remarks == ()
    arms = {"methods": {"lora": {}, "lora@odd": {"adapter": {"targets": ["q_proj"]}}}}
    assert "no projection named q_proj" in refused(load, model=str(folder), **own, **arms).what


def test_a_family_that_bears_less_is_planned_with_a_remark(load, model_folder, tmp_path):
    """Short convolutions read their neighbour in the row, whatever a mask says."""
    layers = {"layer_types": ["conv", "full_attention"], "block_ff_dim": 48}
    folder = family_folder(tmp_path / "lfm2", model_folder, "lfm2", **layers)
    adapter = {"adapter": {"targets": ["q_proj", "v_proj", "w1"]}}
    (remark,) = load(model=str(folder), **adapter).remarks
    assert remark.startswith("Lfm2ForCausalLM is scored one request a row")


def test_a_family_that_is_not_taken_is_refused_before_any_work(load, model_folder, tmp_path):
    folder = family_folder(tmp_path / "mamba", model_folder, "mamba", state_size=8)
    error = refused(load, model=str(folder), adapter={"targets": ["in_proj", "dt_proj"]})
    assert error.what.startswith("MambaForCausalLM is not taken: in generation with a cache its logits are off by")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("file", ["tokenizer.json", "tokenizer_config.json"])
def test_a_broken_tokenizer_is_said_by_the_plan(load, model_folder, file):
    (model_folder / file).write_text("{}" if file == "tokenizer.json" else "[")
    assert str(model_folder / file).removesuffix(".json") in str(refused(load, model=str(model_folder)).where)
