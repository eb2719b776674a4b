"""The smoke study from end to end, in this process's children: the same results wherever it runs, and no work twice."""

from __future__ import annotations

import csv
import json

import pytest
from folders import records, state

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

ON_POLICY = {"sdft", "combined_on_policy"}
METHODS = {"frozen", "lora", "stable_lora", "lora_ema", "self_distill", "combined"} | ON_POLICY
FIRST_COLUMNS = [
    "method", "trials", "average_accuracy", "average_accuracy_ci_low", "average_accuracy_ci_high",
    "backward_transfer", "forgetting", "learning_accuracy", "general_delta", "plain_text_delta",
    "sample_efficiency_auc", "intruder_count", "intruder_distance", "tokens_per_second", "peak_memory_gib",
    "settings_tried",
]  # fmt: skip


def board(folder) -> dict[str, dict[str, str]]:
    with (folder / "leaderboard.csv").open(newline="") as file:
        return {row["method"]: row for row in csv.DictReader(file)}


def test_every_trial_is_there_and_ok(local_run):
    found = records(local_run).values()
    assert {(r["spec"]["method"], r["spec"]["seed"]) for r in found} == {(m, s) for m in METHODS for s in (0, 1)}
    assert {record["status"] for record in found} == {"ok"}
    assert len(found) == 2 * len(METHODS)
    assert not list((local_run / "running").iterdir()), "no checkpoint, claim or progress file stays"


def test_ray_gives_the_same_records_bit_for_bit(local_run, ray_run):
    ours, theirs = records(local_run), records(ray_run)
    assert list(ours) == list(theirs)
    for name in ours:
        assert ours[name] == theirs[name], name


def adapters(folder) -> dict[str, tuple[dict, dict[str, bytes]]]:
    """File name -> (metadata, bytes of every tensor); safetensors writes its metadata in no fixed order."""
    from safetensors import safe_open

    found = {}
    for path in sorted((folder / "adapters").glob("*.safetensors")):
        with safe_open(path, framework="numpy") as file:
            tensors = {name: file.get_tensor(name).tobytes() for name in file.keys()}  # noqa: SIM118
            found[path.name] = (file.metadata(), tensors)
    return found


def test_ray_gives_the_same_adapters_and_base_scores(local_run, ray_run):
    ours, theirs = adapters(local_run), adapters(ray_run)
    specs = {path.stem: json.loads(path.read_text())["spec"] for path in (local_run / "trials").glob("*.json")}
    low_rank = {name for name, spec in specs.items() if spec["method"] not in ("frozen", "full_finetune")}
    assert set(ours) == {f"{name}.safetensors" for name in low_rank}
    assert ours == theirs
    base = [json.loads((folder / "base.json").read_text()) for folder in (local_run, ray_run)]
    assert base[0]["key"] == base[1]["key"]
    assert base[0]["scores"] == base[1]["scores"]


def test_records_say_where_they_ran(local_run, ray_run):
    for folder, executor in ((local_run, "local"), (ray_run, "ray")):
        for path in (folder / "trials").glob("*.json"):
            assert json.loads(path.read_text())["host"]["executor"] == executor


def test_costs_that_are_counts_are_the_same_too(local_run, ray_run):
    """Seconds differ; tokens, parameters and bytes don't."""
    counts = (
        "shared_by", "train_tokens", "teacher_tokens", "prompt_tokens", "sampled_tokens", "adapter_bytes",
        "trained_parameters", "state_bytes",
    )  # fmt: skip
    for path in (local_run / "trials").glob("*.json"):
        ours = json.loads(path.read_text())["costs"]
        theirs = json.loads((ray_run / "trials" / path.name).read_text())["costs"]
        assert {key: ours[key] for key in counts} == {key: theirs[key] for key in counts}


def test_a_second_run_has_nothing_to_do(local_run, lorabench):
    before = state(local_run)
    said = lorabench("run", "smoke", "--executor", "local", "--out", local_run)
    after = state(local_run)
    assert "nothing to do" in said
    assert {name: digest for name, (digest, _) in after.items()} == {
        name: digest for name, (digest, _) in before.items()
    }
    kept = [name for name in before if name.startswith(("trials/", "adapters/", "base.json"))]
    assert len(kept) >= 14
    assert all(after[name] == before[name] for name in kept), "written again"


def test_the_report_has_the_same_bytes_twice(local_run, lorabench):
    lorabench("report", "smoke", "--out", local_run)
    first = state(local_run)
    lorabench("report", "smoke", "--out", local_run)
    second = state(local_run)
    assert {name: digest for name, (digest, _) in first.items()} == {
        name: digest for name, (digest, _) in second.items()
    }
    assert {"report.html", "report.md", "leaderboard.csv", "trials.csv"} <= set(first)
    assert first["report.html"][1] < second["report.html"][1], "the second report was not written"


def test_the_leaderboard_begins_as_promised(local_run):
    with (local_run / "leaderboard.csv").open(newline="") as file:
        header = next(csv.reader(file))
    assert header[: len(FIRST_COLUMNS)] == FIRST_COLUMNS
    found = board(local_run)
    assert set(found) == METHODS
    assert {row["trials"] for row in found.values()} == {"2/2"}


def test_methods_learn(local_run):
    """Chance is 0.25; every trained method must be far above it, the base must not.

    But those that learn from a teacher that has read the answer: a random model can't read.
    """
    learnt = {name: float(row["learning_accuracy"]) for name, row in board(local_run).items()}
    assert learnt["lora"] > 0.8
    assert learnt["frozen"] < 0.5
    assert all(learnt[name] > 0.6 for name in METHODS - ON_POLICY - {"frozen"})


def test_tokens_are_counted_by_what_they_were_for(local_run):
    """Two tasks of 256 examples, each with an answer of one token; only on-policy methods read prompts and draw."""
    for path in (local_run / "trials").glob("*.json"):
        record = json.loads(path.read_text())
        costs, method = record["costs"], record["spec"]["method"]
        if method == "frozen":
            continue
        own = method in ON_POLICY
        assert costs["sampled_tokens"] == (512 if own else 0)
        assert costs["prompt_tokens"] == (costs["train_tokens"] - 512 if own else 0)
        assert (costs["teacher_tokens"] > 0) == (own or method in {"self_distill", "combined"})
        if own:
            assert costs["teacher_tokens"] > 2 * costs["train_tokens"], "it reads the question twice"
        spent = sum(costs[f"{what}_tokens"] for what in ("train", "teacher", "prompt", "sampled"))
        assert sum(curve["tokens"][-1] for curve in record["curves"]) == spent


def test_methods_are_not_one_another(local_run):
    scores = {}
    for record in records(local_run).values():
        if record["spec"]["seed"] == 0:
            scores[record["spec"]["method"]] = json.dumps([record["probes"], record["intruders"], record["curves"]])
    assert len(set(scores.values())) == len(METHODS)


def test_frozen_forgets_exactly_nothing(local_run):
    row = board(local_run)["frozen"]
    assert float(row["forgetting"]) == 0
    assert float(row["backward_transfer"]) == 0
    assert float(row["intruder_count"]) == 0
    for record in records(local_run).values():
        if record["spec"]["method"] == "frozen":
            for scores in (record["tasks"] | record["probes"]).values():
                assert len(set(scores["score"])) == 1


def test_row_0_is_the_base_for_every_method(local_run):
    base = json.loads((local_run / "base.json").read_text())["scores"]
    for record in records(local_run).values():
        for name, scores in (record["tasks"] | record["probes"]).items():
            assert scores["score"][0] == base[name]["score"]


def test_the_base_is_as_it_was(local_run, cache):
    """The files of the model, and the digest that every record carries."""
    from harness.data.models.folder import folder_digest

    (model,) = (cache / "models").glob("tiny-random-llama-*")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LORABENCH_CACHE", str(local_run / "no-cache"))  # hash it now, not from what is remembered
        digest = folder_digest(model)
    digests = {json.loads(p.read_text())["spec"]["model_digest"] for p in (local_run / "trials").glob("*.json")}
    assert digests == {digest}


@pytest.mark.parametrize("method", ["lora", "combined"])
def test_an_export_loads_with_peft_and_scores_as_recorded(local_run, lorabench, cache, tmp_path, method):
    """From the folder that ``export`` writes, PEFT gives the accuracy that the record says."""
    import torch
    from peft import PeftModel
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from harness.data.tasks import prepare_task, read_split

    (name, record) = next((n, r) for n, r in records(local_run).items() if r["spec"]["method"] == method)
    lorabench("export", name[:12], tmp_path / "adapter", "--study", "smoke", "--out", local_run)
    (folder,) = (cache / "models").glob("tiny-random-llama-*")
    plain = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    model = PeftModel.from_pretrained(plain, tmp_path / "adapter").eval()
    tokenizer = AutoTokenizer.from_pretrained(folder)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LORABENCH_CACHE", str(cache))
        rows = read_split(prepare_task("toy_digits"), "test")[:64]
    letters = torch.tensor([tokenizer.encode(letter)[0] for letter in "wxyz"])
    ids = torch.tensor([tokenizer.encode(row["text"]) for row in rows])
    with torch.no_grad():
        said = model(ids).logits[:, -1, letters].argmax(-1)
    right = (said == torch.tensor([row["label"] for row in rows])).double().mean().item()
    assert record["tasks"]["toy_digits"]["score"][-1] == pytest.approx(right)


def test_frozen_has_no_adapter_to_export(local_run, cache, tmp_path, monkeypatch, in_process):
    name = next(n for n, r in records(local_run).items() if r["spec"]["method"] == "frozen")
    monkeypatch.setenv("LORABENCH_CACHE", str(cache))
    status, _, said = in_process("export", name[:12], tmp_path / "x", "--out", local_run)
    assert status == 2
    assert "trains nothing" in said
