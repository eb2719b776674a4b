"""What a trial keeps from step to step, in bytes: what it would be alone, whatever it is packed with."""

from __future__ import annotations

import pytest
from helpers import packed_model, random_examples, trainer

from harness.engine.state import KINDS, state_bytes
from harness.method.recipe import Recipe
from harness.method.registry import methods


def recipe(name: str, **settings: object) -> Recipe:
    method = methods()[name]
    return method.compose(method.settings(**settings).resolved(64)).under("continue")


def kept(*recipes: Recipe, tasks: int = 1) -> list[dict[str, int]]:
    """Of every row of a pack at the start of its last task."""
    engine = trainer(packed_model(), recipes, [1e-3] * len(recipes))
    for task in range(1, tasks):
        engine.end_task()
        engine.begin_task(task, [random_examples(40, seed) for seed in range(len(recipes))])
    return [state_bytes(engine, index, each) for index, each in enumerate(recipes)]


def without_nothing(found: dict[str, int]) -> dict[str, int]:
    assert tuple(found) == KINDS
    return {kind: size for kind, size in found.items() if size}


def test_plain_lora_keeps_an_adapter_and_two_moments():
    engine = trainer(packed_model(), [recipe("lora")], [1e-3])
    numbers = engine.bank.layout.size
    found = without_nothing(state_bytes(engine, 0, recipe("lora")))
    assert found == {"adapter": 4 * numbers, "optimizer": 2 * 4 * numbers + 8}, "and a count of steps"


@pytest.mark.parametrize(
    ("name", "settings", "more"),
    [
        ("stable_lora", {}, {"rules": 14}),  # a latch, one byte, for each of 7 matrices in 2 layers
        ("lora_ema", {}, {"average": "adapter"}),
        ("self_distill", {}, {"average": "adapter"}),
        ("self_distill", {"teacher": "snapshot"}, {"snapshot": "adapter", "average": "adapter"}),
        ("self_distill", {"teacher": "base"}, {"average": "adapter"}),  # which nobody learns from
        ("lora_ewc", {}, {"rules": "two adapters"}),
        ("pissa", {}, {"below": "adapter"}),
    ],
)
def test_a_method_keeps_what_it_is_made_of(name, settings, more):
    (found,), (plain,) = kept(recipe(name, **settings)), kept(recipe("lora"))
    sizes = {"adapter": plain["adapter"], "two adapters": 2 * plain["adapter"]}
    for kind, size in more.items():
        wanted = sizes.get(size, size)
        count_of_updates = 4 if kind == "average" else 0
        assert found[kind] == wanted + count_of_updates, kind
    assert {k: found[k] for k in KINDS if k not in more} == {k: plain[k] for k in KINDS if k not in more}


def test_a_neighbour_s_state_is_not_a_trial_s():
    mixed = [recipe("lora"), recipe("stable_lora"), recipe("lora_ema"), recipe("combined")]
    assert kept(*mixed) == [kept(each)[0] for each in mixed]
    taught = [recipe("self_distill", teacher="base"), recipe("self_distill", teacher="snapshot")]
    assert kept(*taught) == [kept(each)[0] for each in taught]


def test_what_lies_below_grows_with_the_tasks():
    first, second, third = (kept(recipe("o_lora"), tasks=n)[0]["below"] for n in (1, 2, 3))
    assert first == 0
    assert third == 2 * second > 0


def test_a_method_with_several_parts_has_their_sum():
    (stable,), (average,), (both,) = (kept(recipe(name)) for name in ("stable_lora", "lora_ema", "combined"))
    assert (both["rules"], both["average"]) == (stable["rules"], average["average"])
