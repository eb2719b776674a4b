"""Single trials from the command line: listed, exported with a card, or as lm-eval's results."""

from __future__ import annotations

import json
import stat
from pathlib import Path
from typing import Any

import pytest
import synthetic
import torch
import yaml

from harness.cli.show.trials import Listed, _cells, listed, show_trials
from harness.engine.adapters.files import adapter_path, save_adapters
from harness.engine.adapters.layout import Layout, Slot
from harness.method.registry import methods
from harness.store import write_trial
from harness.store.choice import Choice
from harness.store.results import Readout
from harness.study.config import AdapterSettings
from harness.study.load import build_study
from harness.study.plan import Inputs, Plan, build_plan

STREAM = ("toy_recall", "toy_digits")
#: In place of the smoke study's own settings: what a card shows.
TRAINING = {
    "examples": 96, "batch": 8, "warmup_steps": 5, "clip": 1.0, "weight_decay": 0.0, "between_tasks": "continue",
    "adapter": {"rank": 2, "alpha": 4.0, "targets": ["q_proj"]}, "dtype": "float32", "root_seed": 0,
}  # fmt: skip
SCORING = {"split": "test", "items": 200, "num_fewshot": {"toy_digits": 2}, "chat_template": False, "max_length": 2048}


@pytest.fixture
def folder(in_shared_cache, monkeypatch, tmp_path) -> Path:
    """Results of six made-up trials, one of which failed and one of which has an adapter."""
    monkeypatch.chdir(tmp_path)
    place = tmp_path / "results" / "mine"
    for arm, seed in (("frozen", 0), ("lora", 0), ("lora", 1), ("combined", 0), ("combined", 1)):
        write_trial(place, record(arm, seed))
    write_trial(place, synthetic.failed("lora", STREAM, status="oom", seed=2))
    made = record("lora", 1)
    layout = Layout((Slot("model.layers.0.self_attn.q_proj", 64, 64),), 2)
    settings = AdapterSettings(rank=2, alpha=4, targets=("q_proj",))
    values = torch.linspace(-1, 1, layout.size)
    save_adapters(
        adapter_path(place, made.fingerprint), layout, [(made.fingerprint, values)], "tiny-random-llama", settings
    )
    return place


def record(arm: str, seed: int) -> Any:
    spec = synthetic.spec(arm, STREAM, seed=seed, model="tiny-random-llama", training=TRAINING, scoring=SCORING,
                          probes=("toy_text",))  # fmt: skip
    probes = {"toy_text": synthetic.trial(arm, STREAM, seed=seed).probes["plain_text"]}
    return synthetic.trial(arm, STREAM, seed=seed, spec=spec, probes=probes, study="mine", commit="c" * 40)


def test_trials_are_listed_with_what_tells_them_apart(folder, in_process):
    status, out, err = in_process("trials", "mine")
    head, *lines = [line.split() for line in out.splitlines()]
    assert (status, err) == (0, "")
    assert head[:5] == ["arm", "order", "seed", "trial", "status"]
    assert [(line[0], line[2], line[4]) for line in lines] == [
        ("combined", "0", "ok"), ("combined", "1", "ok"), ("frozen", "0", "ok"), ("lora", "0", "ok"),
        ("lora", "1", "ok"), ("lora", "2", "oom"),
    ]  # fmt: skip
    assert lines[4][3] == record("lora", 1).fingerprint[:12]
    assert lines[4][-1] == "c" * 12
    assert lines[5][5:] == ["–", "–", "–", "–"]


def test_trials_as_json_have_their_scores(folder, in_process):
    rows = json.loads(in_process("trials", "mine", "--arm", "lora", "--seed", "1", "--json")[1])
    made = record("lora", 1)
    last = [made.tasks[task].score[-1] for task in STREAM]
    assert [row["trial"] for row in rows] == [made.fingerprint]
    assert rows[0]["average_accuracy"] == pytest.approx(sum(last) / 2)
    failed = json.loads(in_process("trials", "mine", "--seed", "2", "--json")[1])
    assert (failed[0]["status"], failed[0]["failure"]) == ("oom", "loss is not finite")
    assert failed[0]["average_accuracy"] is None


def planned(**changes: Any) -> Plan:
    """A study with a grid, whose arms are more than one pack; orders and arms stand in no alphabet's order."""
    data = {"name": "s", "model": "m", "seeds": [0], "streams": {"two": ["a", "b"], "one": ["b", "a"]},
            "methods": {"stable_lora": {"shrink": [0.1, 0.01]}, "frozen": {}, "lora_ema": {}, "lora": {}}}  # fmt: skip
    study = build_study(data | changes, where="s.yaml")
    digests = Inputs("model", dict.fromkeys("ab", "task"), dict.fromkeys(methods(), "source"))
    return build_plan(study, methods(), digests, 8, "s.yaml")


def test_before_a_run_trials_stand_in_the_studys_order():
    rows = listed(Readout([], {}), planned())
    arms = ["stable_lora@shrink=0.1", "stable_lora@shrink=0.01", "frozen", "lora_ema", "lora"]
    assert [(row.spec.arm, row.spec.order) for row in rows] == [
        (arm, order) for arm in arms for order in ("two", "one")
    ]
    assert {row.status for row in rows} == {"missing"}
    assert all(row.row["planned"] == row.fingerprint for row in rows)


def test_a_record_of_another_version_is_stale_on_one_line():
    old, new = planned(), planned(training={"examples": 16, "batch": 8})
    kept = [trial for trial in (*old.trials, *new.trials) if trial.spec.order == "two" and trial.spec.arm == "lora"]
    gone = synthetic.trial("rslora", ("a", "b"), order="two")
    records = [*(synthetic.trial("lora", ("a", "b"), spec=trial.spec) for trial in kept[:1]), gone]
    rows = {(row.spec.arm, row.spec.order): row for row in listed(Readout(records, {}), new)}
    assert len(rows) == len(listed(Readout(records, {}), new)) == len(new.trials) + 1, "a line each"
    stale = rows["lora", "two"]
    assert (stale.status, stale.fingerprint) == ("stale", kept[0].fingerprint)
    assert stale.row["planned"] == kept[1].fingerprint
    assert stale.row["average_accuracy"] is not None
    assert rows["lora", "one"].status == "missing"
    assert (rows["rslora", "two"].status, rows["rslora", "two"].planned) == ("stale", None)
    assert list(rows)[-1] == ("rslora", "two"), "after the arms of the study"
    both = listed(Readout([*records, synthetic.trial("lora", ("a", "b"), spec=kept[1].spec)], {}), new)
    assert [row.status for row in both if row.spec == kept[1].spec] == ["ok"]
    assert {row.status for row in listed(Readout(records, {}), None)} == {"ok"}, "without a plan nobody knows"


def test_a_table_marks_what_is_stale_and_has_a_real_minus(capsys, tmp_path):
    record = synthetic.trial("rslora", ("a", "b"))
    row = Listed(record.spec, record.fingerprint, record, stale=True)
    show_trials(tmp_path, {}, [row], Choice(), as_json=False)
    out, err = capsys.readouterr()
    assert out.splitlines()[1].split()[4] == "stale"
    assert "the next run sets these aside" in err
    gained = {**dict.fromkeys(row.row), "arm": "a", "order": "o", "seed": 0, "trial": "f", "status": "ok"}
    assert _cells({**gained, "forgetting": -0.031})[-2:] == ["−3.1", "–"]


def test_no_trial_is_said(folder, in_process):
    assert in_process("trials", "mine", "--arm", "frozen", "--seed", "1") == (
        0, "", f"{folder}: no trial is of arm frozen, seed 1\n",
    )  # fmt: skip
    status, out, err = in_process("trials", "smoke@another")
    assert (status, out) == (0, "")
    assert err.endswith("no trials yet\n")


@pytest.mark.parametrize("verb", ["trials", "status"])
def test_a_name_that_is_no_study_is_not_one_that_has_yet_to_run(folder, in_process, verb):
    status, out, err = in_process(verb, "quikc")
    assert (status, out) == (2, "")
    assert "unknown study 'quikc'\n  -> did you mean 'quick'?" in err
    assert in_process(verb, "smoke@another")[0] == 0, "another model's results, before there are any"
    assert in_process(verb, "mine")[0] == 0, "results whose study file is elsewhere"


def test_an_export_has_a_card_and_is_for_everybody(folder, in_process, tmp_path):
    status, out, _ = in_process("export", "--arm", "lora", "--seed", "1", "--study", "mine", tmp_path / "to")
    assert status == 0
    to = tmp_path / "to"
    assert {path.name for path in to.iterdir()} == {"README.md", "adapter_config.json", "adapter_model.safetensors"}
    assert {stat.S_IMODE(path.stat().st_mode) for path in to.iterdir()} == {0o644}
    config = json.loads((to / "adapter_config.json").read_text())
    assert Path(config["base_model_name_or_path"]).name.startswith("tiny-random-llama")
    assert (Path(config["base_model_name_or_path"]) / "config.json").is_file()
    first, *lines = out.splitlines()
    made = record("lora", 1)
    assert first == f"lora, order a, seed 1 ({made.fingerprint[:12]}) -> {to}"
    assert len(lines) == 3
    card = (to / "README.md").read_text()
    assert "\n".join(line.strip() for line in lines) in card
    head = yaml.safe_load(card.split("---")[1])
    assert head == {
        "library_name": "peft",
        "license": "apache-2.0",
        "tags": ["lora", "continual-learning", "lorabench"],
    }
    row = next(line for line in card.splitlines() if line.startswith("| toy_recall "))
    base, last = (100 * made.tasks["toy_recall"].score[at] for at in (0, -1))
    assert f"| acc | 200 | 25.0 | {base:.1f} ± " in row
    assert f" | {last:.1f} ± " in row
    assert "plain LoRA, one adapter through the stream" in card
    assert "toy_recall: Apache-2.0; toy_digits: Apache-2.0" in card
    assert f"lorabench run mine --trial {made.fingerprint[:12]}" in card
    assert "c" * 40 in card


def test_what_export_prints_loads_the_adapter(folder, in_process, tmp_path):
    _, out, _ = in_process("export", record("lora", 1).fingerprint[:8], tmp_path / "to", "--study", "mine")
    names: dict[str, Any] = {}
    exec("\n".join(line.strip() for line in out.splitlines()[1:]), names)
    weight = names["model"].base_model.model.model.layers[0].self_attn.q_proj.lora_A["default"].weight
    assert torch.equal(weight.flatten(), torch.linspace(-1, 1, 256)[:128])


def test_a_folder_that_holds_something_is_left(folder, in_process, tmp_path):
    (tmp_path / "to").mkdir()
    (tmp_path / "to" / "mine.txt").write_text("mine")
    words = ("export", "--arm", "lora", "--seed", "1", "--study", "mine", tmp_path / "to")
    status, _, err = in_process(*words)
    assert status == 2
    assert "this folder holds something" in err
    assert [path.name for path in (tmp_path / "to").iterdir()] == ["mine.txt"]
    assert in_process(*words, "--force")[0] == 0
    assert (tmp_path / "to" / "mine.txt").read_text() == "mine"


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["to"], "TRIAL: no trial is named"),
        (["", "to"], "TRIAL: this is empty"),
        (["a", "to", "more"], "more: there are too many words"),
        (["--arm", "lroa", "to"], "did you mean 'lora'?"),
        (["--arm", "lora", "to"], "say which: lora, order a, seed 0 ("),
        (["--arm", "frozen", "to"], "'frozen' trains nothing"),
        (["--arm", "combined", "--seed", "0", "to"], "no adapter of trial"),
        (["--arm", "lora", "--seed", "2", "--lm-eval", "to"], "this trial did not finish: oom"),
        (["--arm", "lora", "--seed", "1", ""], "TO: this is empty"),
    ],
)
def test_what_can_t_be_exported_leaves_nothing(folder, in_process, tmp_path, words, said):
    status, out, err = in_process("export", *words, "--study", "mine")
    assert (status, out) == (2, "")
    assert said in err
    assert not (tmp_path / "to").exists()


def test_scores_in_lm_evals_format_are_read_by_its_tools(folder, in_process, tmp_path):
    from lm_eval.utils import make_table

    words = ("export", "--arm", "lora", "--seed", "1", "--study", "mine", "--lm-eval", tmp_path / "to")
    assert in_process(*words)[0] == 0
    (file,) = (tmp_path / "to").glob("results_*.json")
    results = json.loads(file.read_text())
    made = record("lora", 1)
    found = results["results"]["toy_digits"]
    assert found["acc,none"] == made.tasks["toy_digits"].score[-1]
    assert found["acc_stderr,none"] == made.tasks["toy_digits"].stderr[-1]
    assert results["n-shot"] == {"toy_recall": 0, "toy_digits": 2, "toy_text": 0}
    assert results["n-samples"]["toy_recall"] == {"original": 128, "effective": 200}
    assert results["higher_is_better"]["toy_text"] == {"bits_per_byte": False}
    table = [[cell.strip() for cell in line.split("|")[1:-1]] for line in make_table(results).splitlines()]
    score, error = (f"{found[key]:.4f}" for key in ("acc,none", "acc_stderr,none"))
    assert ["toy_digits", "1", "none", "2", "acc", "↑", score, "±", error] in table
    assert len(table) == 2 + 3
    status, _, err = in_process(*words)
    assert status == 2
    assert "this file is there" in err
    assert in_process(*words, "--force")[0] == 0


def test_the_frozen_base_has_scores_to_export(folder, in_process, tmp_path):
    assert in_process("export", "--arm", "frozen", "--study", "mine", "--lm-eval", tmp_path / "to")[0] == 0
