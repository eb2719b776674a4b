"""The contract of a method, and all that a method's file imports of it::

    from harness.method import Method, MethodSettings, Recipe

:mod:`~harness.method.recipe` is what a method says, :mod:`~harness.method.parts` what it says it with,
:mod:`~harness.method.bound` what parts become when they train.  Types of the engine that parts are given
(``AdapterBank``, ``Layout``, ``Example``) are for annotations, under ``if TYPE_CHECKING``, from
:mod:`harness.engine.adapters` and :mod:`harness.engine.batches`; torch comes from :mod:`harness.method.lazy`, or by
``import torch``.
"""

from harness.method import eigen
from harness.method.bound import (
    BoundAverage,
    BoundLoss,
    BoundOptimizer,
    BoundPart,
    BoundUpdate,
    CurrentTask,
    Start,
    check_room,
)
from harness.method.parts import (
    AdamW,
    Adapter,
    Average,
    CrossEntropy,
    Loss,
    LowRank,
    Optimizer,
    Sampling,
    TaskExamples,
    Teacher,
    UpdateRule,
    Vector,
)
from harness.method.recipe import Method, MethodSettings, NoSettings, Recipe
from harness.study.inspection import Inspection

__all__ = [
    "AdamW",
    "Adapter",
    "Average",
    "BoundAverage",
    "BoundLoss",
    "BoundOptimizer",
    "BoundPart",
    "BoundUpdate",
    "CrossEntropy",
    "CurrentTask",
    "Inspection",
    "Loss",
    "LowRank",
    "Method",
    "MethodSettings",
    "NoSettings",
    "Optimizer",
    "Recipe",
    "Sampling",
    "Start",
    "TaskExamples",
    "Teacher",
    "UpdateRule",
    "Vector",
    "check_room",
    "eigen",
]  # fmt: skip
