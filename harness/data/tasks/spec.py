"""What a task is: as it is declared (``Task``), and with its splits in the cache (``PreparedTask``)."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from harness.data import paths
from harness.data.sources.cl_benchmark import BenchmarkFiles
from harness.data.sources.hub_data import HubData
from harness.data.sources.wheels import Wheel

Kind = Literal["multiple_choice", "generate_until", "loglikelihood_rolling", "loglikelihood"]
Role = Literal["stream", "probe", "toy"]
Origin = Literal["lorabench", "lm-eval"]
SPLITS = ("train", "validation", "test")
FEWSHOT = "fewshot"  # of lm-eval's tasks only: the split of worked examples where that is a fourth one


@dataclass(frozen=True)
class Task:
    """A task as its YAML says it, nothing fetched yet."""

    name: str
    yaml: Path
    config: dict[str, Any]  #: the YAML; lm-eval's with digests in the place of its functions
    kind: Kind
    version: int | float | str
    licence: str
    source: str
    chance: float | None
    splits: dict[str, int]  #: items of train, validation and test; empty for lm-eval's tasks before they are prepared
    role: Role
    origin: Origin = "lorabench"
    wheel: Wheel | None = field(default=None, repr=False)
    hub: HubData | None = field(default=None, repr=False)
    files: BenchmarkFiles | None = field(default=None, repr=False)  #: where their folder is named, and nothing else is
    split_seed: int = 0
    group: str | None = None  #: documents with the same value of this field stay in one split

    @property
    def folder(self) -> Path:
        return self.yaml.parent

    def where(self, key: str) -> str:
        """``tasks/foo/foo.yaml:key``, as errors name it."""
        return f"{paths.shown(self.yaml)}:{key}"


@dataclass(frozen=True)
class PreparedTask:
    """A task whose splits lie in the cache."""

    task: Task  #: with the items of every split
    files: dict[str, Path]  #: split -> JSONL; a split of 0 items has none
    digest: str  #: sha256 over the canonical config and every split's content
    config: dict[str, Any]  #: for lm-eval: functions resolved, splits under our names, no ``dataset_path``
    shuffled: bool  #: False where the rows have the order of the data set they come from
    source: str  #: where the rows come from, and what of it became of them
