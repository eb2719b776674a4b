"""Methods are listed, checked and planned without a model library: torch alone takes seconds to import."""

from __future__ import annotations

import subprocess
import sys

import pytest

LIST = """
from harness.method.registry import method_digest, methods
registry = methods()
digests = {name: method_digest(method) for name, method in registry.items()}
"""
PLAN = (
    LIST
    + """
from harness.study.config import Study
from harness.study.plan import Inputs, build_plan
given = {name: {} for name in registry}
shown = {"demonstration": True, "teacher_prompt": "{demonstration} {prompt}"}
given["self_distill@jsd"] = {"divergence": "jsd(0.5)", **shown}
for between in ("continue", "reinit"):
    training = {"examples": 64, "batch": 8, "between_tasks": between}
    study = Study(model="m", seeds=(0, 1), streams={"a": ("t", "u")}, methods=given, training=training)
    inputs = Inputs("model", {"t": "t", "u": "u"}, digests, text_digests={"plain_text": "p"})
    plan = build_plan(study, registry, inputs, 4, "s.yaml", lambda copies: 3)
    assert len(plan.trials) == 2 * len(given)
"""
)
TRY = """
from harness.method import losses, prompts
import harness.engine.batches
assert "torch" in sys.modules
"""


@pytest.mark.parametrize(("code", "absent"), [(LIST, True), (PLAN, True), (TRY, False)], ids=["list", "plan", "engine"])
def test_no_model_library_is_imported(code, absent):
    """The last one shows that the question can be answered with yes."""
    heavy = "heavy = {'torch', 'transformers', 'peft', 'lm_eval', 'datasets', 'ray'} & set(sys.modules)"
    code = f"import sys\n{code}\n{heavy}\nassert (not heavy) == {absent}, heavy"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
