"""Rotary embeddings that depend on the longest text of a batch."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest

from harness.errors import InputError
from harness.scoring.bench import _refuse_long_batches

LONG = {"rope_type": "longrope", "original_max_position_embeddings": 4096}


def model(rope: object) -> SimpleNamespace:
    config = SimpleNamespace(rope_parameters=rope)
    return SimpleNamespace(module=SimpleNamespace(config=SimpleNamespace(get_text_config=lambda: config)))


@pytest.mark.parametrize("rope", [LONG, {"full_attention": LONG}])
def test_they_are_refused_where_texts_may_get_so_long(rope):
    _refuse_long_batches(model(rope), 4096, Path("m"))
    with pytest.raises(InputError, match="beyond 4096 tokens") as error:
        _refuse_long_batches(model(rope), 4097, Path("m"))
    assert "scoring.max_length" in str(error.value.remedy)


@pytest.mark.parametrize("rope", [None, {}, {"rope_type": "default"}, {"rope_type": "linear", "factor": 2.0}])
def test_others_are_taken_at_any_length(rope):
    _refuse_long_batches(model(rope), 10**6, Path("m"))
