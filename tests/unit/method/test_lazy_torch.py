"""torch by name in files that are read without it."""

from __future__ import annotations

import pickle
import subprocess
import sys

import pytest
import torch

from harness.method import lazy, losses


def test_it_has_what_torch_has():
    assert lazy.torch.where is torch.where
    assert isinstance(torch.ones(2), lazy.torch.Tensor)
    assert pickle.loads(pickle.dumps(lazy.torch)).bfloat16 is torch.bfloat16


def test_torch_is_imported_with_the_first_name():
    code = (
        "import sys; from harness.method.lazy import torch; from harness.method import losses, prompts;"
        "losses.divergence('jsd(0.5)'); assert 'torch' not in sys.modules; torch.ones; assert 'torch' in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.slow
def test_a_compiler_sees_through_it():
    """A loss that is written with it is one graph: nothing breaks it where a name of torch is looked up."""
    student, teacher = torch.randn(2, 5, 7)
    compiled = torch.compile(losses.jsd, backend="eager", fullgraph=True)
    assert torch.equal(compiled(student, teacher, 0.5), losses.jsd(student, teacher, 0.5))
