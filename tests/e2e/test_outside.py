"""``examples/outside.py``: a study's records are found again without the engine, and a wrong method is not."""

from __future__ import annotations

import ast
import importlib
import sys
from collections.abc import Callable
from types import ModuleType
from typing import Any

import campaigns
import numpy as np
import pytest
from places import ROOT

from harness.store import read_trials
from harness.store.records import TaskScores, pack_bits

#: At a rate at which 16 steps teach something, so that what they do to scores and to teachers is seen.
FAST = {"learning_rate": 0.01}
#: Every part that is written twice: a latch that closes, each teacher and divergence, an average that warms up.
METHODS = {
    "lora": FAST,
    "stable_lora": FAST,
    "stable_lora@latch": {"learning_rate": 0.02, "shrink": 0.05},
    "lora_ema": FAST,
    "lora_ema@warm": FAST | {"ema_decay": 0.9, "ema_warmup": True},
    "self_distill": FAST,
    "self_distill@base": FAST | {
        "teacher": "base", "demonstration": True, "divergence": "kl_student_teacher", "temperature": 2.0,
        "skip_tokens": 1,
    },
    "self_distill@snapshot": FAST | {"teacher": "snapshot", "divergence": "jsd(0.3)", "distill_weight": 0.5},
    "self_distill@live": FAST | {"teacher": "live", "demonstration": True},
    "combined": FAST,
    "rslora": {},
}  # fmt: skip
STUDY = campaigns.TOY | {
    "methods": METHODS, "streams": {"order": ["toy_recall", "toy_words"]}, "keep_adapters": "all",
    "training": {"examples": 64, "batch": 8, "warmup_steps": 2},
    "scoring": {"items": 24, "curve": [], "intruders_after": "never"},
}  # fmt: skip
#: Written answers of several tokens, which the toys that ship have not.
WORDS = """
task: toy_words
output_type: generate_until
training_split: train
validation_split: validation
test_split: test
doc_to_text: "{{text}}"
doc_to_target: word
target_delimiter: ""
generation_kwargs: {until: ["."], max_gen_toks: 8, do_sample: false}
metric_list: [{metric: exact_match, aggregation: mean, higher_is_better: true}]
metadata:
  {version: 1, role: toy, licence: Apache-2.0, source: made in code, chance: 0.0, split_seed: 1,
   splits: {train: 128, validation: 16, test: 32}}
"""
ROWS = """
def rows(source):
    for first in "bcdfghjklmnpqrst":
        for second, word in {"a": "red", "e": "blue", "i": "green", "o": "yellow"}.items():
            for third in "vwx":
                yield {"text": f"{first}{third}{second}>", "word": f"{word}."}
"""


@pytest.fixture(scope="module")
def outside() -> ModuleType:
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(ROOT / "examples")
        return importlib.import_module("outside")


@pytest.fixture
def training(outside) -> ModuleType:
    return sys.modules["outside_training"]


@pytest.fixture(scope="module")
def results(shared_cache, tmp_path_factory):
    folder = tmp_path_factory.mktemp("outside")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LORABENCH_CACHE", str(shared_cache))
        patch.setenv("LORABENCH_PLUGINS", str(folder))
        (folder / "tasks" / "toy_words").mkdir(parents=True)
        for name, text in (("toy_words.yaml", WORDS), ("prepare.py", ROWS)):
            (folder / "tasks" / "toy_words" / name).write_text(text)
        campaigns.run(campaigns.load(campaigns.write_study(folder, STUDY), folder / "out"))
        yield folder / "out"


@pytest.fixture
def again(outside, results, capsys) -> Callable[..., tuple[int, str]]:
    """(status, what is said) of the trial of an arm."""

    def call(arm: str, *more: str) -> tuple[int, str]:
        (record,) = [record for record in read_trials(results).records if record.spec.arm == arm]
        status = outside.main([str(results), "--trials", record.fingerprint, "--threads", "1", *more])
        said = capsys.readouterr()
        return status, said.err + said.out

    return call


@pytest.mark.parametrize("arm", [arm for arm in METHODS if arm != "rslora"])
def test_records_are_found_again(again, arm):
    status, said = again(arm)
    assert status == 0, said
    assert said.count("factors after toy_") == 2
    assert said.count("toy_words (export)") == 2


def test_the_latch_of_that_arm_closes(training, again, monkeypatch):
    """For some matrices, after some steps: else it would be tested nowhere here."""
    seen: list[int] = []
    shrink = training.shrink

    def counted(pairs: Any, latched: set[str], rate: float) -> None:
        shrink(pairs, latched, rate)
        seen.append(len(latched))

    monkeypatch.setattr(training, "shrink", counted)
    again("stable_lora@latch", "--tasks", "1")
    assert len(seen) == 2 * 8, "of the trial and of its twin"
    assert seen[0] == 0 < seen[7] < 14


def test_by_default_lora_and_stable_lora(outside, results, capsys):
    assert outside.main([str(results), "--tasks", "1", "--threads", "1"]) == 0
    said = capsys.readouterr().out
    assert said.index("\nlora, order, seed 0") < said.index("\nstable_lora, order, seed 0")
    assert said.count("agrees") == 2
    assert "toy_words" not in said


def put_wrong(outside: ModuleType, monkeypatch: Any, name: str, change: Callable[[Any], Any]) -> None:
    """Have a setting of every trial another value than its record says."""
    setting = outside.Trial.setting

    def changed(trial: Any, asked: str, position: int) -> Any:
        value = setting(trial, asked, position)
        return change(value) if asked == name else value

    monkeypatch.setattr(outside.Trial, "setting", changed)


#: What is wrong -> the arm, the setting and what is made of it.
WRONG: dict[str, tuple[str, str, Callable[[Any], Any]]] = {
    "a rate that is a twentieth higher": ("lora", "learning_rate", lambda rate: 1.05 * rate),
    "no shrink": ("stable_lora", "shrink", lambda share: 0.0),
    "a shrink that goes by the rate": ("stable_lora", "shrink", lambda share: 0.1 * share),
    "another average": ("lora_ema", "ema_decay", lambda decay: decay**2),
    "another teacher": ("self_distill", "teacher", lambda teacher: "snapshot"),
    "the other divergence": ("combined", "divergence", lambda formula: "kl_student_teacher"),
    "a distillation from the first step on": ("self_distill@base", "distill_warmup", lambda share: 0.0),
    "no token left out": ("self_distill@base", "skip_tokens", lambda tokens: 0),
}


@pytest.mark.parametrize("name", WRONG)
def test_a_wrong_method_is_seen(outside, again, monkeypatch, name):
    arm, setting, change = WRONG[name]
    put_wrong(outside, monkeypatch, setting, change)
    status, said = again(arm)
    assert status == 1, said
    assert "differ" in said.splitlines()[-1]


def test_a_latch_that_never_closes_is_seen(training, again, monkeypatch):
    monkeypatch.setattr(training, "shrink", lambda pairs, latched, rate: [a.mul_(1 - rate) for a, _ in pairs.values()])
    status, said = again("stable_lora@latch")
    assert status == 1, said


def test_a_record_in_bfloat16_decides_nothing(outside, results, capsys, monkeypatch):
    monkeypatch.setattr(outside.Trial, "exact", False)
    put_wrong(outside, monkeypatch, "learning_rate", lambda rate: 2 * rate)
    assert outside.main([str(results), "--tasks", "1", "--threads", "1"]) == 0
    assert capsys.readouterr().out.count("nothing is decided") == 2


def test_what_is_not_written_there_is_refused(again):
    status, said = again("rslora")
    assert (status, "'rslora' is not written here" in said) == (2, True)
    status, said = again("lora", "--tasks", "3")
    assert (status, "has no first 3" in said) == (2, True)


def row(outside: ModuleType, wrong: int, gap: float | None, moved: float = 0.0, flipped: int = 0) -> Any:
    """What is found of ten items that a record has right, of which lm-eval has some ``wrong``.

    Their second answers are ``gap`` nats off, and moved by so much in the twin, which has ``flipped`` others wrong.
    """
    bits = pack_bits([True] * 10)
    column = TaskScores(
        metric="acc", higher_is_better=True, items=10, chance=None, score=(1.0,), stderr=(0.0,), correct=(bits,)
    )
    found = np.arange(10) >= wrong
    twin = found & (np.arange(10) < 10 - flipped)
    gaps = [None if gap is None else np.full(10, gap + more) for more in (0.0, moved)]
    each = [outside.Scored(float(items.mean()), items, gaps[i]) for i, items in enumerate((found, twin))]
    return outside.compared(0, "toy_recall", column, *each, outside.Limits())


def test_only_ties_may_fall_otherwise(outside):
    assert row(outside, 2, 1e-4).agrees
    assert not row(outside, 1, 0.1).agrees
    assert row(outside, 1, 0.1, moved=0.02).agrees
    assert not row(outside, 1, 0.1, moved=0.002).agrees


def test_written_answers_may_fall_as_in_the_twin(outside):
    assert row(outside, 1, None).agrees
    assert not row(outside, 2, None).agrees
    assert row(outside, 3, None, flipped=1).agrees
    assert not row(outside, 4, None, flipped=1).agrees


def test_losses_may_be_apart_as_far_as_the_twin_has_come(outside):
    """And no further before it has."""

    def faults(record: list[float], twin: list[float]) -> list[str]:
        losses = outside.Losses("toy_recall", np.array(record), np.ones(3), np.array(twin))
        return outside.Report(None, outside.Limits(), losses=[losses]).faults

    assert faults([1, 1, 1.00001], [1, 1, 1]) == []
    assert faults([1, 1, 1.01], [1, 1, 1]) == ["losses differ: toy_recall, from step 3 on"]
    assert faults([1, 1, 1.01], [1, 1.01, 1]) == []
    assert faults([1.01, 1, 1], [1, 1.01, 1]) == ["losses differ: toy_recall, from step 1 on"]


def test_what_trains_there_imports_nothing_of_ours():
    tree = ast.parse((ROOT / "examples" / "outside_training.py").read_text(encoding="utf-8"))
    named = [node.module or "" for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)]
    named += [alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names]
    assert {name.partition(".")[0] for name in named} <= {
        *sys.stdlib_module_names,
        "numpy",
        "torch",
        "transformers",
        "peft",
    }
