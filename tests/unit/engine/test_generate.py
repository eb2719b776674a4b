"""How many rows are continued together; the texts themselves are held to lm-eval's in tests/parity."""

from __future__ import annotations

import pytest

from harness.engine.generate import rows_together

#: Of 135M: a row of 35 tokens takes 0.81 MB of keys and values, and 0.79 MB of logits.
WIDTH, BUDGET, TOKEN_BYTES, VOCABULARY = 35, 65536, 23040, 49152


@pytest.mark.parametrize(
    ("memory", "rows"),
    [
        (0, 1872),  # a CPU: the budget alone
        (8e9, 1872),  # a 16th holds 313, and the budget is kept
        (80e9, 3139),
        (1e13, 4 * 1872),
    ],
)
def test_a_gpu_continues_more_rows_where_it_holds_them(memory, rows):
    assert rows_together(WIDTH, BUDGET, memory, TOKEN_BYTES, VOCABULARY) == rows


@pytest.mark.parametrize("memory", [0, 80e9])
def test_a_row_that_is_longer_than_the_budget_is_continued(memory):
    assert rows_together(2048, 64, memory, TOKEN_BYTES, VOCABULARY) >= 1
