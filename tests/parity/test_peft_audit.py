"""An audit of adapters that PEFT made, against lm-eval's HFLM on ``PeftModel.from_pretrained`` of the same folders."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import datasets
import pytest
import torch
from campaigns import QUIET
from lm_eval.evaluator import evaluate
from lm_eval.models.huggingface import HFLM
from lm_eval.tasks import TaskManager
from peft import LoraConfig, PeftModel, get_peft_model
from transformers import AutoModelForCausalLM, AutoTokenizer

from harness.data import tasks
from harness.posthoc import audit as audits
from harness.report.sequence import of_sequence
from harness.store.records import unpack_bits

NAMES = ("toy_recall", "toy_digits", "toy_text")
ITEMS = 24
#: What PEFT is asked for; ranks, scalings and matrices all differ, and all are audited in one pack.
ADAPTERS: dict[str, dict[str, Any]] = {
    "plain": {"r": 4, "lora_alpha": 8, "target_modules": ["q_proj", "v_proj"]},
    "patterns": {
        "r": 4, "lora_alpha": 6, "target_modules": ["q_proj", "k_proj", "up_proj", "down_proj"],
        "rank_pattern": {"up_proj": 2, r"layers\.1\.self_attn\.q_proj": 7},
        "alpha_pattern": {"down_proj": 3, r"layers\.0\.self_attn\.k_proj": 11},
    },
    "rslora": {"r": 6, "lora_alpha": 5, "use_rslora": True, "target_modules": "all-linear",
               "rank_pattern": {"o_proj": 3}},
    "one_layer": {"r": 3, "lora_alpha": 9, "target_modules": ["o_proj", "gate_proj"], "layers_to_transform": [1]},
}  # fmt: skip


def base(path: Path):
    return AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32)


@pytest.fixture(scope="module")
def folders(llama, tmp_path_factory) -> dict[str, Path]:
    """Adapters that PEFT made and saved, with A and B far from zero."""
    made = {}
    for seed, (name, settings) in enumerate(ADAPTERS.items()):
        made[name] = tmp_path_factory.mktemp("peft") / name
        with torch.random.fork_rng(), torch.no_grad():
            torch.manual_seed(seed)
            model = get_peft_model(base(llama), LoraConfig(task_type="CAUSAL_LM", **settings))
            for parameter_name, parameter in model.named_parameters():
                if "lora_" in parameter_name:
                    parameter.normal_(0, 0.25)
        model.save_pretrained(made[name])
    return made


@pytest.fixture(scope="module")
def record(llama, folders, shared_cache, tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LORABENCH_CACHE", str(shared_cache))
        values = {"model": str(llama), "probes": NAMES, "scoring": {"probe_items": ITEMS}}
        audit = audits.load_audit(list(folders.values()), values, tmp_path_factory.mktemp("audit"))
        yield audits.run(audit, "cpu", QUIET, of_sequence)


def reference(model, path: Path) -> tuple[dict, dict]:
    """lm-eval from end to end on the same items."""
    found = {}
    for name in NAMES:
        prepared = tasks.prepare_task(name)
        rows = datasets.Dataset.from_list(tasks.read_split(prepared, "test")[:ITEMS])
        hidden = ("training_split", "validation_split", "fewshot_split")
        config = {key: value for key, value in prepared.task.config.items() if key not in hidden}
        config |= {"task": name, "custom_dataset": lambda rows=rows, **_: {"test": rows}}
        found |= TaskManager(include_defaults=False).load([config])["tasks"]
    lm = HFLM(pretrained=model.eval(), tokenizer=AutoTokenizer.from_pretrained(path), batch_size=4)
    results = evaluate(lm=lm, task_dict={"tasks": found}, bootstrap_iters=0, log_samples=True)
    assert results is not None
    return results["results"], results["samples"]


def same(scores, results: dict, samples: dict) -> None:
    for name in NAMES:
        metric = "bits_per_byte" if name == "toy_text" else "acc"
        assert scores[name].score == pytest.approx(results[name][f"{metric},none"], rel=1e-5)
        if metric == "acc":
            wanted = [bool(s["acc"]) for s in sorted(samples[name], key=lambda sample: sample["doc_id"])]
            assert unpack_bits(scores[name].correct, ITEMS).tolist() == wanted


@pytest.mark.parametrize("name", ADAPTERS)
def test_scores_are_those_of_peft_and_lm_eval(record, folders, llama, name):
    adapter = next(adapter for adapter in record.adapters if adapter.name == name)
    same(adapter.scores, *reference(PeftModel.from_pretrained(base(llama), folders[name]), llama))


def test_the_base_s_scores_are_those_of_lm_eval(record, llama):
    same({task.name: task.base for task in record.tasks}, *reference(base(llama), llama))


def test_the_adapters_matter(record):
    """Guards the tests above against agreeing on nothing."""
    texts = [adapter.scores["toy_text"].score for adapter in record.adapters]
    assert len({round(text, 3) for text in (*texts, record.tasks[2].base.score)}) == 5


@pytest.mark.parametrize("name", ADAPTERS)
def test_weights_are_those_of_peft_s_merge(record, folders, llama, name):
    """||dW||_F of every adapted matrix, from PEFT's own merged model."""
    plain = dict(base(llama).named_parameters())
    merged = PeftModel.from_pretrained(base(llama), folders[name]).merge_and_unload()
    changes = {n: (p - plain[n]).norm().item() for n, p in merged.named_parameters() if not torch.equal(p, plain[n])}
    taken = next(adapter for adapter in record.adapters if adapter.name == name)
    assert taken.file.matrices == taken.intruders.matrices == len(changes)
    assert taken.intruders.delta_norm == pytest.approx(sum(changes.values()) / len(changes), rel=1e-4)
