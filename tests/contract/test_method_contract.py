"""What every registered method must do, whatever it is (the name test_methods.py is taken in tests/unit)."""

from __future__ import annotations

import re
from collections import Counter

import pytest
import torch
from helpers import (
    ALPHA,
    RANK,
    Operations,
    batches,
    packed_model,
    random_examples,
    relative,
    tiny_model,
    train,
    trainer,
    with_demonstrations,
)
from places import ROOT

from harness.checks import RULES, HostReads, recipe
from harness.engine.adapters.files import export_peft, find_adapter, save_adapters
from harness.engine.step import take_step
from harness.errors import InputError
from harness.method.recipe import Recipe
from harness.method.registry import methods
from harness.store.checkpoints import load_checkpoint, save_checkpoint
from harness.study.arms import expand_arms
from harness.study.config import AdapterSettings, Study

SIZE = 4
TRAINED = [name for name, method in methods().items() if recipe(method).adapter is not None]
every_method = pytest.mark.parametrize("name", list(methods()))
every_trained = pytest.mark.parametrize("name", TRAINED)


def study(**settings) -> Study:
    return Study(model="m", seeds=(0,), streams={"a": ("t",)}, methods=settings)


def demonstrated(method: Recipe, data):
    """The examples with what this method's teacher is shown."""
    return [with_demonstrations(examples) for examples in data] if method.loss.demonstration else data


def random_data(method: Recipe, rows: int):
    return demonstrated(method, [random_examples(80, seed, longest=8 + 2 * seed) for seed in range(rows)])


#: Others may lie beside them in a clone: what those score is known to their authors, and to the rules.
OURS = {
    "frozen", "lora", "stable_lora", "lora_small_a", "lora_ema", "lora_ema_product", "self_distill", "combined",
    "full_finetune", "multitask", "single_task", "lora_replay", "lora_ewc", "o_lora", "lora_plus", "rslora", "dora",
    "pissa", "eva", "sdft", "combined_on_policy", "wise_ft", "merge_mean", "merge_ties", "lora_fa",
    "olora", "milora", "mica", "clora", "slao", "corda", "lora_null",
    "inflora", "mitigate_between", "osf",
}  # fmt: skip


def test_the_registry_is_complete():
    assert set(methods()) >= OURS
    assert "frozen" not in TRAINED


def test_the_table_of_methods_has_each_of_them_once():
    table = (ROOT / "baselines" / "README.md").read_text(encoding="utf-8")
    listed = re.findall(r"^\| `(\w+)` \|", table, re.MULTILINE)
    assert sorted(name for name in listed if name in OURS) == sorted(OURS)


def test_each_has_the_name_that_it_is_found_by():
    assert all(method.name == name for name, method in methods().items())


@every_trained  # one that trains nothing keeps most of them by doing nothing: tests/unit/test_contract_rules.py
@pytest.mark.parametrize("rule", list(RULES))
def test_it_keeps_the_rule(name, rule):
    """Those that `lorabench methods --check` goes through for custom methods."""
    RULES[rule](methods()[name], [other for other in methods().values() if other.name != name])


@every_method
def test_a_setting_of_the_wrong_type_names_file_and_key(name):
    for key in methods()[name].settings.model_fields:
        with pytest.raises(InputError) as error:
            expand_arms(study(**{name: {key: [{"not": "a value"}]}}), methods(), "s.yaml")
        assert error.value.where == f"s.yaml:methods.{name}.{key}"


@pytest.mark.parametrize(("name", "key", "value"), [
    ("lora_ema", "ema_decay", 1.0), ("lora_ema", "ema_decay", -0.1), ("lora_ema_product", "keep_rank", -1),
    ("stable_lora", "shrink", -1e-3), ("stable_lora", "shrink", 1.0), ("lora_small_a", "shrink", -0.1),
    ("lora_small_a", "shrink_steps", -1), ("lora_plus", "ratio", 0), ("lora_ewc", "ewc_strength", -1),
    ("lora_ewc", "fisher_examples", 0), ("lora_replay", "replay_every", 1), ("o_lora", "orthogonality", -0.5),
    ("o_lora", "size_penalty", -1), ("eva", "rho", 0.5), ("eva", "eva_tokens", 0),
    ("wise_ft", "share", 1.5), ("merge_mean", "weights", "0.5 0.6"), ("merge_ties", "density", 0),
    ("osf", "preserved", 1), ("inflora", "threshold", 1.5), ("mitigate_between", "keep", -0.1),
    ("mitigate_between", "which", "last"),
    ("corda", "text_tokens", -1), ("lora_null", "null_level", 0), ("merge_ties", "weight", 0),
    ("clora", "strength", -1), ("clora", "subspace", 1), ("lora_fa", "projected", "maybe"),
    ("full_finetune", "learning_rate", 0), ("lora", "learning_rate", 0), ("combined", "shrink", -1),
    ("combined", "ema_decay", 1), ("combined_on_policy", "shrink", 1), ("self_distill", "distill_weight", -1),
    ("self_distill", "distill_warmup", 1.5), ("self_distill", "teacher", "emma"), ("sdft", "divergence", "kl"),
])  # fmt: skip
def test_a_value_outside_its_meaning_names_file_and_key(name, key, value):
    with pytest.raises(InputError) as error:
        expand_arms(study(**{name: {key: value}}), methods(), "s.yaml")
    assert error.value.where == f"s.yaml:methods.{name}.{key}"


@every_method
def test_an_unknown_setting_names_file_and_key(name):
    with pytest.raises(InputError) as error:
        expand_arms(study(**{name: {"learning_rat": 1}}), methods(), "s.yaml")
    assert error.value.where == f"s.yaml:methods.{name}.learning_rat"


@every_trained
@pytest.mark.parametrize("between", ["continue", "reinit"])
def test_a_second_task_goes_on_from_a_checkpoint_and_alone(name, between, tmp_path):
    """What happens between tasks, whoever decides it: the same after a resume, and the same without neighbours."""
    model, method = packed_model(), recipe(methods()[name]).under(between)
    first = random_data(method, 3)
    second = demonstrated(method, [random_examples(80, 7 + seed) for seed in range(3)])

    def through(engine, rows, *, resume=False):
        train(engine, batches([first[row] for row in rows], SIZE, 3, seeds=rows))
        engine.end_task()
        if resume:
            save_checkpoint(tmp_path / "c.safetensors", "key", engine.state(), {})
            engine = trainer(model, [method] * 3, [1e-3] * 3)
            tensors, _ = load_checkpoint(tmp_path / "c.safetensors", "key")
            engine.load(tensors)
        scored = [engine.scored(index, method) for index in range(len(rows))]
        engine.begin_task(1, [second[row] for row in rows])
        return engine, scored, train(engine, batches([second[row] for row in rows], SIZE, 3, seeds=rows))

    engine, before, wanted = through(trainer(model, [method] * 3, [1e-3] * 3), range(3))
    again, _, found = through(trainer(model, [method] * 3, [1e-3] * 3), range(3), resume=True)
    assert torch.equal(found, wanted)
    for row in range(3):
        assert torch.equal(again.scored(row, method).values, engine.scored(row, method).values)
    alone, _, losses = through(trainer(model, [method], [1e-3], [1]), [1])
    assert torch.allclose(losses[:, 0], wanted[:, 1], rtol=1e-5, atol=1e-5)
    assert relative(alone.scored(0, method).values, engine.scored(1, method).values) <= 1e-3
    assert all(torch.isfinite(scored.values).all() for scored in before)


def changes_of(layout, values, scaling):
    """What one row does to every matrix, [m, n]."""
    weights = [weight for _, weight in packed_model().weights()]
    one = torch.tensor([float(scaling)])
    found = zip(layout.changes(values[None], one, torch.float64), weights, strict=True)
    return [change.delta(weight)[0] for change, weight in found]


#: All others score the student that trains; of what is no mean of a path there are tests by hand (test_merge_arms.py).
SCORED_BY_AVERAGE = {"lora_ema", "lora_ema_product", "combined", "combined_on_policy"}
SCORED_OTHERWISE = {"wise_ft", "merge_mean", "merge_ties", "slao"}


def test_what_is_scored_is_known_of_all():
    averaged = {name for name in OURS if recipe(methods()[name]).scored == "average"}
    assert averaged == SCORED_BY_AVERAGE | SCORED_OTHERWISE


@pytest.mark.parametrize("name", [name for name in TRAINED if name in OURS - SCORED_OTHERWISE])
def test_what_it_says_it_scores_is_what_is_scored(name):
    """The student that trains, or the mean of its own path with the decay of its setting; by hand, from every step."""
    method = recipe(methods()[name])
    assert method.scored == ("average" if name in SCORED_BY_AVERAGE else "student")
    engine = trainer(packed_model(), [method], [1e-2])
    layout, scaling, path = engine.bank.layout, engine.bank.scaling[0], [engine.bank.values[0].clone()]
    for step in batches(random_data(method, 1), SIZE, 6):
        train(engine, [step])
        path.append(engine.bank.values[0].clone())
    scored = engine.scored(0, method)
    student = changes_of(layout, path[-1], scaling)
    if method.scored == "student":
        wanted = student
    else:
        product = "product" in (method.average.shape or ())
        mean = changes_of(layout, path[0], scaling) if product else path[0]
        for t, values in enumerate(path[1:]):
            warm = (1 + t) / (10 + t) if getattr(method.average, "warm", True) else 1.0
            decay = min(method.average.decay, warm)
            now = changes_of(layout, values, scaling) if product else values
            pairs = zip(mean, now, strict=True) if product else None
            mean = [decay * m + (1 - decay) * n for m, n in pairs] if product else decay * mean + (1 - decay) * now
        wanted = mean if product else changes_of(layout, mean, scaling)
        assert max(relative(w, s) for w, s in zip(wanted, student, strict=True)) > 0.01
    found = changes_of(scored.layout, scored.values, scored.scaling)
    for ours, theirs in zip(found, wanted, strict=True):
        assert torch.allclose(ours, theirs, rtol=1e-4, atol=1e-6)


#: What they score has no low rank, and PEFT's format no place for it.
DENSE = {"full_finetune", "lora_ema_product"}


@pytest.mark.parametrize("name", [name for name in TRAINED if name in OURS])
@pytest.mark.parametrize("between", ["continue", "reinit"])
def test_an_export_computes_in_peft_what_was_scored(name, between, tmp_path):
    """After two tasks; ranks add up where something lies below, or where tasks are merged."""
    from peft import PeftModel

    method, settings = recipe(methods()[name]).under(between), AdapterSettings(rank=RANK, alpha=ALPHA)
    engine = trainer(packed_model(), [method], [1e-2])
    for task in range(2):
        if task:
            engine.begin_task(task, [random_examples(80, 7)])
        data = demonstrated(method, [random_examples(80, 7 * task)])
        train(engine, batches(data, SIZE, 3))
        engine.end_task()
    scored = engine.scored(0, method)
    path = tmp_path / "adapters" / "trial.safetensors"
    save_adapters(path, scored.layout, [("trial", scored.values)], "m", settings, [float(scored.scaling)])
    assert path.exists() == (name not in DENSE)
    if name in DENSE:
        return
    export_peft(*find_adapter(tmp_path, "trial"), tmp_path / "peft")
    model, ids = PeftModel.from_pretrained(tiny_model(), tmp_path / "peft").eval(), torch.arange(3, 23).view(2, 10)
    one = torch.tensor([float(scored.scaling)])
    with torch.no_grad(), engine.model.adapted(scored.layout, scored.values[None], one):
        ours = engine.model.logits(engine.model.hidden(ids).flatten(0, 1)).view(2, 10, -1)
        assert torch.allclose(model(input_ids=ids).logits, ours, rtol=1e-4, atol=1e-4)
        assert not torch.allclose(tiny_model()(input_ids=ids).logits, ours, atol=1e-3), "it has learnt something"


def test_the_detector_detects():
    with HostReads() as reads:
        ones = torch.ones(3)
        ones.sum().item()
        bool(ones.sum() > 1)
        ones[ones > 0]
    assert len(reads.noted) == 3


@pytest.mark.parametrize("name", [name for name in TRAINED if recipe(methods()[name]).loss.sampling is not None])
def test_of_its_own_answers_a_step_reads_each_token_once(name, monkeypatch):
    """Whoever samples has to know where an answer ends; all else is the contract's rule."""
    method = recipe(methods()[name])
    engine = trainer(packed_model(), [method] * 3, [1e-3] * 3)
    steps = batches(random_data(method, 3), SIZE, 2)
    train(engine, steps[:1])
    read_back = []
    for attribute in ("tolist", "numpy", "cpu"):
        original = getattr(torch.Tensor, attribute)

        def read(tensor, *arguments, original=original):
            read_back.append(tensor.numel())
            return original(tensor, *arguments)

        monkeypatch.setattr(torch.Tensor, attribute, read)
    with Operations() as seen:
        take_step(engine, steps[1], 0.5, 0.5)
    names = Counter(name for name, _ in seen.found.elements())
    assert not names.keys() & {"nonzero", "masked_select", "equal", "is_nonzero"}
    longest = max(len(example.answer) for trial in steps[1].rows for example in trial)
    assert 0 < sum(read_back) <= 3 * (SIZE * longest + 1), "a token of each row, and what is finite of each trial"
    assert names["_local_scalar_dense"] <= longest + 1, "transformers asks once a token whether the mask is all ones"
