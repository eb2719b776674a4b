"""What an audit of adapters is asked: the settings that it has in common with a study, and its own."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from harness.study import limits
from harness.study.config import CommonSettings
from harness.study.limits import twice


class AuditSettings(CommonSettings):
    """One audit: adapters that were made elsewhere, on tasks and probes."""

    dtype: Literal["float32", "bfloat16"] = "float32"
    tasks: limits.Tasks = ()
    another_base: bool = Field(default=False, description="take adapters that name another base than the model")
    independent: bool = Field(default=False, description="never take the adapters as a sequence")

    @model_validator(mode="after")
    def _distinct(self) -> AuditSettings:
        names = (*self.tasks, *self.probes)
        if not names:
            raise ValueError("there is nothing to score: name tasks, probes or both")
        if again := twice(names):
            raise ValueError(f"'{again}' is named twice among tasks and probes")
        shots = self.scoring.num_fewshot
        if isinstance(shots, dict) and (unknown := sorted(set(shots) - set(names))):
            raise ValueError(f"num_fewshot names '{unknown[0]}', which is not among tasks and probes")
        return self
