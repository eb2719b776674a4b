"""The checksum that tells whether a method has written to the base."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from harness.engine.model import checksum as module
from harness.engine.model.checksum import checksum


@pytest.fixture(autouse=True)
def small_parts(monkeypatch):
    monkeypatch.setattr(module, "CHUNK", 8)


def weights(*sizes: int, dtype: torch.dtype = torch.bfloat16) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(size, generator=generator).to(dtype) for size in sizes]


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32, torch.float64, torch.int8])
def test_a_number_that_changes_by_a_bit_changes_it(dtype):
    before = checksum(weights(3, 20, dtype=dtype))
    for place in range(20):
        changed = weights(3, 20, dtype=dtype)
        changed[1].view(module._BITS[changed[1].element_size()])[place] ^= 1
        assert checksum(changed) != before
    assert checksum(weights(3, 20, dtype=dtype)) == before


@given(st.integers(0, 19), st.integers(0, 19))
def test_numbers_that_change_places_change_it(first, second):
    before, swapped = weights(20), weights(20)
    swapped[0][[first, second]] = before[0][[second, first]]
    assert (checksum(swapped) == checksum(before)) == (before[0][first] == before[0][second]).item()


def test_tensors_that_change_places_change_it():
    one, other = weights(8, 8)
    assert checksum([one, other]) != checksum([other, one])


def test_a_part_of_zeros_counts():
    assert checksum([torch.zeros(8), torch.ones(8)]) != checksum([torch.ones(8), torch.zeros(8)])
