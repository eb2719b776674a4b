"""Packed arrays: every bit comes back, the text is the same for the same values, and what is none is refused."""

from __future__ import annotations

import base64
import math
import struct

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.store.intruders import ByLayer, ByType, Intruders
from harness.store.packed import Floats, Integers

PART = {"matrices": 2, "count": 3, "distance": 0.1, "energy_share": 0.0, "delta_norm": 1 / 3,
        "relative_spectral_norm": 0.1, "effective_rank": 2.0, "cosine_error": 0.5}  # fmt: skip


@given(st.lists(st.floats(allow_nan=False, allow_infinity=False)))
def test_floats_come_back_bit_by_bit(values):
    found = Floats.parse(Floats.of(values).text)
    assert [struct.pack("<d", value) for value in found.tolist()] == [struct.pack("<d", value) for value in values]
    assert [found[i] for i in range(len(found))] == values


def test_floats_that_have_no_sum_come_back():
    assert Floats.parse(Floats.of([1.7e308] * 3).text).tolist() == [1.7e308] * 3
    with pytest.raises(ValueError, match="finite"):
        Floats.parse(f"f8:{base64.b64encode(struct.pack('<2d', math.inf, -math.inf)).decode()}")


@given(st.lists(st.integers(-(2**63), 2**63 - 1)))
def test_integers_come_back(values):
    found = Integers.parse(Integers.of(values).text)
    assert found.tolist() == values
    assert all(type(value) is int for value in found.tolist())


@pytest.mark.parametrize(("values", "kind"), [
    ([0, 127], "i1"), ([0, 128], "i2"), ([-40_000], "i4"), ([2**31], "i8"),
])  # fmt: skip
def test_the_smallest_type_is_taken(values, kind):
    assert Integers.of(values).kind == kind


def test_losses_of_float32_take_four_bytes():
    losses = np.array([4.83221626, 0.1], dtype=np.float32)
    assert Floats.of(losses.tolist()).text == f"f4:{base64.b64encode(losses.astype('<f4').tobytes()).decode()}"
    assert Floats.of([0.1]).kind == "f8"
    assert Floats.of([1e300]).kind == "f8"


@pytest.mark.parametrize(("kind", "values", "why"), [
    (Floats, [0.1, math.nan], "finite"), (Floats, [-math.inf], "finite"), (Floats, ["a"], "no floats"),
    (Integers, [0.5], "no integers"), (Integers, [True], "no integers"), (Integers, [2**64], "no i"),
    (Floats, [[1.0], [2.0]], "no floats"),
])  # fmt: skip
def test_other_values_are_refused(kind, values, why):
    with pytest.raises(ValueError, match=why):
        kind.of(values)


@pytest.mark.parametrize(("kind", "text", "why"), [
    (Floats, "f4:AADAfw==", "finite"), (Floats, "f8:AAAAAAAA8P8=", "finite"), (Floats, "f4:AAAA", "3 bytes"),
    (Floats, "f4:AAAAAA", "base64"), (Floats, "f4:AAAAAA==AAAAAA==", "base64"), (Floats, "f4:AAA AAA==", "base64"),
    (Floats, "f2:AAA=", "begins with 'f2'"), (Floats, "i1:AA==", "begins with 'i1'"), (Floats, "", "begins with ''"),
    (Integers, "f4:AAAAAA==", "begins with 'f4'"), (Integers, "i4:AA==", "1 bytes"),
])  # fmt: skip
def test_other_text_is_refused(kind, text, why):
    with pytest.raises(ValueError, match=why):
        kind.parse(text)


def test_places_keep_what_is_shown_of_them():
    found = Intruders.of({**PART, "by_type": {"q_proj": PART, "v_proj": {**PART, "count": 0}}, "by_layer": {"7": PART}})
    again = Intruders.model_validate_json(found.model_dump_json())
    assert again == found
    part = again.by_type["q_proj"]
    assert (part.matrices, part.count, part.distance, part.delta_norm) == (2, 3, 0.1, 1 / 3)
    assert [name for name, _ in again.by_type.items()] == ["q_proj", "v_proj"]
    assert again.by_layer["7"].distance == 0.1
    assert (again.by_layer["7"].delta_norm, again.by_layer.get("8")) == (None, None)
    with pytest.raises(KeyError):
        again.by_type["k_proj"]


def test_no_places_are_null():
    assert Intruders.of(PART).model_dump(mode="json")["by_type"] is None
    assert Intruders.of({**PART, "by_layer": {"0": PART}}, by_layer=False).by_layer == ByLayer()
    assert len(ByType.of({})) == 0


def test_a_name_that_would_be_two_is_refused():
    with pytest.raises(ValueError, match="a name with spaces: 'q proj'"):
        ByType.of({"q proj": PART})
