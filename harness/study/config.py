"""Study files: strict YAML, frozen and typed.

    model: smollm2-135m-instruct
    streams: {order1: [bbc_topics, tomi]}
    methods:
      lora:                                 # defaults of the method: the row ``lora``
      lora@hot: {learning_rate: 0.002}      # one more setting: the row ``lora@hot``
      stable_lora: {shrink: [0.001, 0.01]}  # a grid: the rows ``stable_lora@shrink=0.001`` and ``...=0.01``
      lora@rank2: {adapter: {rank: 2}}      # a custom adapter, and ``between_tasks``: harness/study/overrides.py

They are found and read in harness/study/load.py; every error names ``file:key``.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from harness.errors import InputError, SettingError
from harness.study import limits
from harness.study.limits import shown, twice

NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,63}\Z")
RESERVED = {"reference", "perf"}  # folders under results/ that are not studies


class _Settings(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class AdapterSettings(_Settings):
    """Shape of the low-rank adapter (scaling alpha / rank); an arm may have some of it otherwise."""

    rank: limits.Rank = Field(default=8, description="columns of A and B")
    alpha: limits.Number = Field(default=16, gt=0, description="the change is alpha / rank times B A")
    targets: tuple[str, ...] = Field(
        default=("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"),
        min_length=1,
        description="names of the projections that are adapted, in every layer",
    )


class TrainingSettings(_Settings):
    """Every method's training budget."""

    examples: limits.Examples = Field(
        default=512, description="training examples of each task, one pass; of a task with fewer all, in whole batches"
    )
    batch: limits.BatchSize = Field(default=8, description="examples of one optimizer step of one trial")
    warmup_steps: limits.Steps = Field(default=5, description="linear warm-up at the start of each task, then constant")
    clip: limits.Number = Field(default=1.0, gt=0, description="norm of one trial's whole gradient")
    weight_decay: limits.Number = Field(default=0.0, ge=0, description="of the optimizer, decoupled from the gradient")
    max_length: limits.Length = Field(default=512, description="tokens; longer examples lose their beginning")
    pass_tokens: limits.PassTokens = Field(
        default=49152, description="padded tokens of a pack that go through the model at once"
    )
    between_tasks: Literal["continue", "reinit"] = Field(
        default="continue",
        description="one adapter goes on, or what is scored is frozen and a fresh adapter starts on it",
    )

    @model_validator(mode="after")
    def _whole_steps(self) -> TrainingSettings:
        if self.examples % self.batch:
            raise ValueError(f"examples ({self.examples}) must be a multiple of batch ({self.batch})")
        return self

    @property
    def steps(self) -> int:
        """Optimizer steps of a task."""
        return self.examples // self.batch

    def fitting(self, rows: int, asked: int) -> int:
        """Of a task with so many training rows, where so many examples are asked for: whole batches."""
        return min(asked, rows // self.batch * self.batch)


class ScoringSettings(_Settings):
    """What is scored, when, and on how many items."""

    split: Literal["test", "validation"] = Field(default="test", description="whose items are scored")
    items: limits.Items = Field(default=None, description="at most this many items a task; null: all")
    probe_items: limits.ItemsByName = Field(default=None, description="the same for probes, or for each by name")
    curve: tuple[limits.Mark, ...] = Field(
        default=(),
        max_length=limits.MOST_POINTS,
        description="examples after which the task being learnt is scored; 0 and all of them always are",
    )
    probes_after: Literal["every_task", "last_task"] = Field(default="every_task", description="when probes are scored")
    intruders_after: Literal["every_task", "last_task", "never"] = Field(
        default="every_task", description="when intruder dimensions are counted"
    )
    batch_tokens: limits.PassTokens = Field(
        default=16384,
        description="token budget of one scoring pass; part of the stack. On a GPU up to four times as many tokens are "
        "prompts and written answers at once, where its memory allows",
    )
    max_length: limits.Length = Field(
        default=2048, description="tokens; longer items lose their beginning, as in lm-eval"
    )
    num_fewshot: limits.ShotsByName = Field(
        default=None,
        description="examples before a scored question, of all tasks or by name; null: what the task says",
    )
    answers: Literal["ranked", "generated"] = Field(
        default="ranked",
        description="of choices in the streams: the likeliest one, or what the model writes, with the choices in the "
        "prompt, training's too",
    )
    chat_template: bool = Field(
        default=False, description="put prompts, training's too, into the model's chat template"
    )

    @property
    def identity(self) -> dict[str, Any]:
        """What of it is part of a trial's identity: all, but for what came later and is as it was before."""
        return self.model_dump(mode="json", exclude={"answers"} if self.answers == "ranked" else None)

    @field_validator("curve")
    @classmethod
    def _rising(cls, value: tuple[int, ...]) -> tuple[int, ...]:
        if list(value) != sorted(set(value)):
            raise ValueError("must rise, without repeats")
        return value


class TuningSettings(_Settings):
    """What `lorabench tune` spends on every arm."""

    settings: limits.Settings = Field(default=5, description="tried for every arm; of a larger grid a seeded choice")
    seeds: tuple[limits.Seed, ...] = Field(
        default=(1000, 1001), min_length=1, description="none of them is a seed of the study"
    )
    grids: dict[str, dict[str, Annotated[list[Any], Field(min_length=1)]]] = Field(
        default={}, description="by key of methods: the values of each setting, instead of the method's own grid"
    )

    @field_validator("seeds")
    @classmethod
    def _distinct(cls, value: tuple[int, ...]) -> tuple[int, ...]:
        if (again := twice(value)) is not None:
            raise ValueError(f"the seed {again} stands here twice, and would count twice")
        return value


class ResourceSettings(_Settings):
    """What a pack takes of a Ray cluster.  It moves no number, and is in no trial's identity."""

    accelerator_type: str | None = Field(
        default=None, min_length=1, description="the kind of GPU, as Ray names it (H100); null: there is but one"
    )
    num_cpus: limits.Cpus = Field(default=None, description="CPUs that Ray counts for a pack; null: threads")
    num_gpus: limits.CardShare = Field(
        default=1.0, description="share of a GPU that Ray counts for a pack; plan: as much of its memory as it needs"
    )
    wait_minutes: limits.Minutes = Field(
        default=10, description="how long a node of a cluster is waited for that is large enough for a pack"
    )


class CommonSettings(_Settings):
    """What a study and an audit have in common: all that scores depend on beside the adapter."""

    model: limits.ModelName = Field(description="the base: a name of the catalogue, a folder, or a hub id")
    dtype: Literal["float32", "bfloat16"] = Field(default="bfloat16", description="of the base; adapters are float32")
    threads: limits.Threads = Field(default=2, description="CPU threads of every pack, whoever runs it")
    probes: limits.Tasks = Field(default=(), description="tasks that are scored and never trained on")
    scoring: ScoringSettings = Field(default=ScoringSettings(), description="what is scored, when, on how much")

    def items(self, task: str) -> int | None:
        """At most how many items of a task or probe are scored; None for all."""
        if task not in self.probes:
            return self.scoring.items
        limit = self.scoring.probe_items
        return limit.get(task) if isinstance(limit, dict) else limit

    def fewshot(self, task: str) -> int | None:
        """Examples before each scored question of a task or probe; None for what the task itself says."""
        shots = self.scoring.num_fewshot
        return shots.get(task) if isinstance(shots, dict) else shots


class Study(CommonSettings):
    """One study: ``study -> trials -> packs -> records -> tables and figures``."""

    name: str = ""
    title: str = Field(default="", description="a line for lists and reports")
    device: Literal["cpu", "cuda", "any"] = Field(
        default="any", description="what it has to run on; any: a GPU where there is one"
    )
    pack: limits.PackSize = Field(
        default="auto",
        description="trainings side by side; auto: as many as model and device suggest",
    )
    root_seed: limits.Seed = Field(default=0, description="what every other seed is derived from")
    seeds: tuple[limits.Seed, ...] = Field(
        min_length=1, description="which examples are drawn, in which order, where adapters start; 3 at least for tests"
    )
    streams: dict[str, limits.Tasks] = Field(
        min_length=1, description="orders by name: tasks that are trained on one after another"
    )
    methods: dict[str, dict[str, Any]] = Field(
        min_length=1, description="arms: METHOD or METHOD@NAME, with settings; a list of values is a grid"
    )
    reference: str | None = Field(
        default=None, description="the arm that others are compared with, or a method: its arms; null: lora"
    )
    adapter: AdapterSettings = Field(default=AdapterSettings(), description="shape of the adapters")
    training: TrainingSettings = Field(default=TrainingSettings(), description="every method's budget")
    keep_adapters: Literal["none", "last", "all"] = Field(
        default="last", description="after which tasks what is scored is kept, for export, audit and mitigate"
    )
    stall_minutes: float = Field(
        default=30, ge=0.1, description="a pack that gives no sign of life for so long is stopped"
    )
    resources: ResourceSettings = Field(default=ResourceSettings(), description="what a pack takes of a Ray cluster")
    tuning: TuningSettings = Field(default=TuningSettings(), description="what `lorabench tune` spends on every arm")
    published: str | None = Field(default=None, description="a file of tasks/published: numbers for the report to show")
    claims: str | None = Field(default=None, description="a file of tasks/claims: what sources claim, for the report")
    cl_benchmark: str | None = Field(
        default=None,
        min_length=1,
        description="the folder CL_Benchmark, which tasks scl_* then read instead of the hub",
    )

    @field_validator("methods", mode="before")
    @classmethod
    def _empty_settings(cls, value: Any) -> Any:
        return {key: settings or {} for key, settings in value.items()} if isinstance(value, dict) else value

    @field_validator("seeds")
    @classmethod
    def _distinct(cls, value: tuple[int, ...]) -> tuple[int, ...]:
        if (again := twice(value)) is not None:
            raise ValueError(f"the seed {again} stands here twice")
        return value

    @field_validator("cl_benchmark")
    @classmethod
    def _found_anywhere(cls, value: str | None) -> str | None:
        """Workers may stand in another folder."""
        return None if value is None else str(Path(value).expanduser().absolute())

    @field_validator("streams")
    @classmethod
    def _streams(cls, value: dict[str, tuple[str, ...]]) -> dict[str, tuple[str, ...]]:
        for name, tasks in value.items():
            if not tasks:
                raise ValueError(f"stream '{name}' is empty")
            if again := twice(tasks):
                raise ValueError(f"stream '{name}' names a task twice: {again}")
        return value

    @model_validator(mode="after")
    def _consistent(self) -> Study:
        if too_far := [n for n in self.scoring.curve if n > self.training.examples]:
            raise ValueError(
                f"scoring.curve asks for {too_far[0]} examples; training.examples is {self.training.examples}"
            )
        if odd := [n for n in self.scoring.curve if n % self.training.batch]:
            raise ValueError(f"scoring.curve: {odd[0]} is not a multiple of training.batch ({self.training.batch})")
        limits = self.scoring.probe_items
        if isinstance(limits, dict) and (unknown := sorted(set(limits) - set(self.probes))):
            raise ValueError(f"scoring.probe_items names '{unknown[0]}', which is not a probe of this study")
        shots = self.scoring.num_fewshot
        if isinstance(shots, dict) and (unknown := sorted(set(shots) - {*self.tasks, *self.probes})):
            raise ValueError(f"scoring.num_fewshot names '{unknown[0]}', which is not a task or probe of this study")
        if stray := [key for key in self.tuning.grids if key not in self.methods]:
            raise ValueError(f"tuning.grids names '{stray[0]}', which is not a key of methods")
        if both := sorted(set(self.probes) & set(self.tasks)):
            raise ValueError(f"'{both[0]}' is a probe and stands in a stream; a probe is never trained on")
        return self

    @property
    def tasks(self) -> tuple[str, ...]:
        """Every task of every stream, in order of first appearance."""
        return tuple(dict.fromkeys(task for stream in self.streams.values() for task in stream))

    @property
    def cpus(self) -> float:
        """CPUs that Ray counts for a pack."""
        return self.resources.num_cpus or self.threads

    @property
    def steps_per_task(self) -> int:
        """Of an arm that trains on as many examples as the study says."""
        return self.training.steps

    def curve(self, examples: int) -> tuple[int, ...]:
        """The grid of the sample-efficiency curve of an arm that trains on so many, with its two ends."""
        return (0, *(point for point in self.scoring.curve if point < examples), examples)


def check_name(name: str, kind: str, where: str | None = None) -> str:
    """A name that is safe as a folder: [a-z0-9][a-z0-9._-]{0,63}."""
    if not NAME.match(name):
        raise InputError(
            f"'{name}' is not a name for a {kind}",
            where=where,
            remedy="use lower-case letters, digits, '.', '_' and '-', at most 64, starting with a letter or digit",
        )
    return name


def first_problem(error: ValidationError, where: str, separator: str = ":") -> InputError:
    """The first problem as ``file:key: what``; ``separator`` is "." where ``where`` has a key already."""
    problem = error.errors()[0]
    key = ".".join(str(part) for part in problem["loc"])
    message = problem["msg"].removeprefix("Value error, ")
    value = problem.get("input")
    got = f" (got {shown(value)})" if isinstance(value, str | int | float | bool | list) else ""
    raised = problem.get("ctx", {}).get("error")
    remedy = raised.remedy if isinstance(raised, SettingError) else "correct the study file"
    return InputError(f"{message}{got}", where=f"{where}{separator}{key}" if key else where, remedy=remedy)
