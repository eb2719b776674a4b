"""The contract outside of the tests: every rule can be broken, and names the method, itself and the place."""

from __future__ import annotations

from pathlib import Path

import broken_losses
import broken_methods
import pytest
import torch

from harness import checks as contract
from harness.errors import InputError
from harness.method.registry import methods

BROKEN = [*broken_methods.BROKEN, *broken_losses.BROKEN]
SOURCES = [Path(module.__file__) for module in (broken_methods, broken_losses)]


@pytest.mark.parametrize(("method", "rule", "line"), BROKEN, ids=[method.name for method, _, _ in BROKEN])
def test_a_broken_rule_is_named_with_its_place(method, rule, line):
    with pytest.raises(InputError) as error:
        list(contract.check(method.name, {**methods(), method.name: method}))
    assert f"the method '{method.name}' breaks the rule '{rule}'" in error.value.what
    file, _, number = str(error.value.where).rpartition(":")
    assert Path(file) in SOURCES
    assert line in Path(file).read_text().splitlines()[int(number) - 1]
    assert error.value.remedy


def test_every_rule_is_broken_by_some_method():
    assert {rule for _, rule, _ in BROKEN} == set(contract.RULES)


@pytest.mark.parametrize("name", ["frozen", "lora"])  # of all methods: tests/contract
def test_the_rules_that_are_kept_are_listed(name):
    assert list(contract.check(name, methods())) == list(contract.RULES)


def test_an_unknown_name_has_a_nearest():
    with pytest.raises(InputError, match="did you mean 'lora'"):
        list(contract.check("lorra", methods()))


def test_watching_leaves_tensors_as_they_were():
    originals = {name: getattr(torch.Tensor, name) for name in ("tolist", "numpy", "cpu")}
    list(contract.check("lora", methods()))
    assert {name: getattr(torch.Tensor, name) for name in originals} == originals
