"""The record of an audit: what adapters that were made elsewhere do to a base model, one JSON file.

Everything in it but ``host`` is a function of the adapters, the model, the tasks, the settings and the ``stack``: an
audit that is run again gives the same numbers on a CPU.
"""

from __future__ import annotations

from typing import Any, Literal

from pydantic import model_validator

from harness.store.intruders import Intruders, packed
from harness.store.values import Frozen, Scalar, Score

AUDIT_SCHEMA_VERSION = 2  # 1 had a summary of intruders a type and a layer
AUDIT_FILE = "audit.json"


class AuditScore(Frozen):
    """A score on the items of one task."""

    score: Score
    stderr: Score | None  #: over the items; null for a single one
    correct: str | None  #: per-item correctness as packed bits (``store.records.unpack_bits``)


class AuditTask(Frozen):
    """A task or probe, and the base model's score on it."""

    name: str
    probe: bool
    metric: str
    higher_is_better: bool
    items: int
    chance: Score | None
    digest: str  #: of prompt template and items
    truncated: int  #: items that lost their beginning because they are longer than the context
    base: AuditScore


class AuditChange(Frozen):
    """An adapter's score minus the base model's, on the same items."""

    difference: Score  #: in the metric's unit and direction
    loss: Score  #: the same as forgetting: positive where the adapter is worse than the base
    stderr: Score | None  #: of the paired difference; null for a single item
    p: Score | None  #: McNemar's exact test, two-sided; null where items are not right or wrong
    clear: bool | None  #: the difference is more than two standard errors; null without one


class AdapterFile(Frozen):
    """What the adapter's folder says about itself."""

    folder: str
    base_named: str | None
    names_base: bool | None  #: whether that is the model of the audit, by the last parts of the names
    sha256: str  #: of adapter_model.safetensors
    bytes: int  #: of the same file
    trained_parameters: int
    ranks: tuple[int, ...]  #: those that occur, rising
    alpha: Score  #: lora_alpha
    scalings: tuple[Score, ...]  #: the factors of B A that occur, rising
    targets: tuple[str, ...]  #: types of projection
    matrices: int


class AuditedAdapter(Frozen):
    """One adapter: where it is from, what it scores, what it did to the weights."""

    name: str
    file: AdapterFile
    status: Literal["ok", "diverged"]  #: diverged: a log-probability was not finite, so there are no scores
    scores: dict[str, AuditScore]
    changes: dict[str, AuditChange]
    mean_probe_loss: Score | None  #: over the probes where higher is better; null without any
    intruders: Intruders


class AuditRecord(Frozen):
    """One audit.  ``continual`` is there where the adapters are one training run: number i was saved after task i."""

    schema_version: Literal[2] = AUDIT_SCHEMA_VERSION
    name: str
    model: str
    model_digest: str
    scoring: dict[str, Any]
    tasks: tuple[AuditTask, ...]  #: tasks, then probes
    adapters: tuple[AuditedAdapter, ...]
    sequence: bool
    continual: dict[str, Score | None]  #: metrics of ``harness.analysis.continual`` by name
    stack: dict[str, Scalar]
    host: dict[str, Scalar]

    @model_validator(mode="before")
    @classmethod
    def _of_schema_1(cls, record: Any) -> Any:
        if not isinstance(record, dict) or record.get("schema_version") != 1:
            return record
        adapters = [
            {**adapter, "intruders": packed(adapter["intruders"], by_layer=True)} for adapter in record["adapters"]
        ]
        return {**record, "adapters": adapters, "schema_version": AUDIT_SCHEMA_VERSION}

    @property
    def stream(self) -> tuple[AuditTask, ...]:
        return tuple(task for task in self.tasks if not task.probe)

    def matrix(self) -> list[list[float]]:
        """R[i][j], (T+1) x T, of a sequence: score on task j of adapter i; row 0 is the base model."""
        names = [task.name for task in self.stream]
        rows = [[task.base.score for task in self.stream]]
        return rows + [[adapter.scores[name].score for name in names] for adapter in self.adapters]
