"""The trial record: the unit of results, one JSON file a trial, and the only truth about it.

A record is *done* when its file validates against this schema.  Everything in it, except ``costs`` and ``host``, is a
function of the study and the ``stack``: running the study again gives the same bits on a CPU.
Non-finite numbers never enter a record: a trial that leaves the numbers is ``diverged``, with nulls.
"""

from __future__ import annotations

import base64
from collections.abc import Iterable, Sequence
from typing import Any, Literal, cast, get_args

import numpy as np
from pydantic import Field, model_validator

from harness.store.fingerprint import digest
from harness.store.intruders import Intruders
from harness.store.packed import Floats
from harness.store.values import Frozen, Scalar, Score

SCHEMA_VERSION = 7  # with every change of a field; harness/store/migrations.py reads the older ones

Status = Literal["ok", "diverged", "oom", "error", "timeout"]
STATUSES: tuple[Status, ...] = get_args(Status)
#: A record with one of these is an answer, and is written once; anything else is tried again by the next run.
FINAL = ("ok", "diverged")
#: What happens between tasks: one adapter goes on; what is scored is frozen under a fresh one; a fresh one alone.
Between = Literal["continue", "reinit", "fresh"]


class Facts(Frozen):
    """What kind of arm a trial is of, as its recipe knows it.  Reports ask this, never a method's name."""

    trains: bool  #: false for the base model as it is
    sequential: bool  #: it meets the tasks one after the other: what lies between two scores is one task's doing
    control: bool  #: it is there to compare with (a bound, a reference), not as a remedy
    has_rank: bool  #: its adapter has a rank and an alpha
    between: Between | None  #: what happens between its tasks; null where nothing trains
    chooses_between: bool  #: its method decides that; else the study does
    scored: Literal["base", "student", "average"]  #: whose weights count as its result


class TrialSpec(Frozen):
    """What a trial is.  Its fingerprint is a digest of this and nothing else."""

    model: str  #: name in the catalogue, folder or hub id
    model_digest: str  #: of the weights and the tokenizer
    method: str
    setting: str = "default"  #: names one point of the method's grid; the board shows ``method@setting``
    parameters: dict[str, Scalar]  #: every hyper-parameter the method used, learning rate included
    method_digest: str  #: of the sources that define the method
    order: str  #: name of the stream
    stream: tuple[str, ...]  #: the tasks, in training order
    probes: tuple[str, ...]  #: tasks that are scored and never trained on
    task_digests: dict[str, str]  #: of prompt template and items of every task and probe, and of what a start reads
    seed: int
    training: dict[str, Any]  #: adapter, batch, steps, dtype, ... as the study says
    scoring: dict[str, Any]  #: splits, item counts, curve grid, ... as the study says
    #: Whether ``tune`` had chosen it, and of how many, when it ran; what a board says is read from ``tuning.json``.
    tuned: bool = False
    settings_tried: int = 1

    @property
    def arm(self) -> str:
        """The row of the board: ``method``, or ``method@setting`` where it is not the default."""
        return self.method if self.setting == "default" else f"{self.method}@{self.setting}"

    @property
    def fingerprint(self) -> str:
        """Names a trial by what it is.  How many settings were tried beside it does not change what it is."""
        return digest(self.model_dump(mode="json", exclude={"settings_tried", "tuned"}))[:32]


class Curve(Frozen):
    """Score on the task being learnt, against examples seen and tokens spent on it."""

    task: str
    examples: tuple[int, ...]  #: 0 first
    score: tuple[Score, ...]
    tokens: tuple[int, ...]  #: student + teacher + prompt + sampled tokens spent on this task so far
    #: Where the score is an average's: the student's at the same points.  Empty elsewhere, or where it was not taken.
    student: tuple[Score, ...] = ()


class TaskScores(Frozen):
    """Scores of one task or probe after each stage: entry 0 is the base model, entry t after training task t."""

    metric: str  #: the task's first metric, ``acc`` for multiple choice
    higher_is_better: bool
    items: int  #: test items behind every score
    chance: Score | None  #: score of guessing; null where that has no meaning
    score: tuple[Score | None, ...]  #: T + 1 long; null where it was not scored
    stderr: tuple[Score | None, ...]  #: T + 1 long: of each score over the test items; null where it is not known
    #: Share of the scored items that have the most frequent right answer (the same place among the choices, or the same
    #: text): what always giving it would score.  Null where that has no meaning, or before schema 7.
    majority: Score | None = None
    correct: tuple[str | None, ...] = ()  #: T + 1 long, per-item correctness as packed bits (``unpack_bits``)
    truncated: int = 0  #: items that lost their beginning because they are longer than the context


class Costs(Frozen):
    """What a trial cost.  Where a pack shares the work, its cost divided by its trials (``shared_by`` of them)."""

    shared_by: int = 1
    train_seconds: Score | None = None
    score_seconds: Score | None = None
    analysis_seconds: Score | None = None
    train_tokens: int | None = None  #: real (not padding) tokens through the student
    teacher_tokens: int | None = None
    prompt_tokens: int | None = None  #: of the prompts that the student read in order to sample
    sampled_tokens: int | None = None  #: of the student's answers
    tokens_per_second: Score | None = None  #: of the whole pack while it trained: student tokens of all its rows
    peak_memory_gib: Score | None = None  #: of the whole pack: device memory on a GPU, resident memory on a CPU
    adapter_bytes: int | None = None
    trained_parameters: int | None = None
    #: What it keeps on the device between steps at its end: adapter, moments, averages, ...; null before schema 6.
    state_bytes: int | None = None
    energy_kwh: Score | None = None


class Failure(Frozen):
    """Why a trial has no scores."""

    phase: str  #: e.g. ``train task 2 (tomi), step 17``
    message: str
    traceback: str = ""


class TrialRecord(Frozen):
    """One trial: one method with one setting, through one stream, with one seed."""

    schema_version: Literal[7] = SCHEMA_VERSION
    fingerprint: str
    study: str
    status: Status
    spec: TrialSpec
    facts: Facts
    stack: dict[str, Scalar]  #: versions, device kind, dtype, threads, scoring batch; ``digest`` is over the rest
    tasks: dict[str, TaskScores] = Field(
        default_factory=dict
    )  #: the stream's tasks: the full (T+1) x T matrix, by column
    probes: dict[str, TaskScores] = Field(default_factory=dict)
    curves: tuple[Curve, ...] = ()  #: one a task of the stream, in order
    train_loss: tuple[Floats, ...] = ()  #: one array a task: the loss of every optimizer step
    intruders: tuple[Intruders | None, ...] = ()  #: T long: after each task; null where not taken
    lost_energy: tuple[Score | None, ...] = ()  #: T long where what is scored was cut to a rank: the share left out
    costs: Costs = Costs()
    host: dict[str, Scalar] = Field(default_factory=dict)
    sources: dict[str, str] = Field(default_factory=dict)  #: of every task and probe: where its rows came from
    commit: str | None = None  #: of the clone that the code ran from; null where it was an installed package
    clean: bool | None = None  #: whether the code in it was as committed; null where that isn't known
    failure: Failure | None = None

    @model_validator(mode="after")
    def _complete(self) -> TrialRecord:
        if self.status == "ok":
            stages = len(self.spec.stream) + 1
            if missing := [task for task in self.spec.stream if task not in self.tasks]:
                raise ValueError(f"status is ok but these tasks have no scores: {missing}")
            for name, scores in (self.tasks | self.probes).items():
                if not len(scores.score) == len(scores.stderr) == stages:
                    raise ValueError(f"{name} has {len(scores.score)} scores, expected {stages} with a stderr each")
            if any(value is None for task in self.tasks.values() for value in task.score):
                raise ValueError("status is ok but the accuracy matrix has holes")
        elif self.failure is None:
            raise ValueError(f"status is {self.status} but there is no failure block")
        return self

    def matrix(self) -> list[list[float]]:
        """R[i][j], (T+1) x T: score on the stream's j-th task after training the i-th; row 0 is the base model."""
        # Without holes where the status is ok.
        columns = [cast("tuple[float, ...]", self.tasks[task].score) for task in self.spec.stream]
        return [[float(column[i]) for column in columns] for i in range(len(self.spec.stream) + 1)]


def pack_bits(correct: Sequence[bool]) -> str:
    """Per-item correctness as base64 of packed bits, first item in the highest bit."""
    return base64.b64encode(np.packbits(np.asarray(correct, dtype=bool)).tobytes()).decode("ascii")


def unpack_bits(text: str, items: int) -> np.ndarray:
    """The inverse of :func:`pack_bits`: a boolean array of length ``items``."""
    return np.unpackbits(np.frombuffer(base64.b64decode(text), dtype=np.uint8), count=items).astype(bool)


class BaseScore(Frozen):
    """The base model's score on one task or probe."""

    metric: str
    higher_is_better: bool
    items: int
    chance: Score | None
    score: Score
    stderr: Score | None  #: over the test items
    correct: str | None
    truncated: int = 0  #: items that lost their beginning because they are longer than the context
    majority: Score | None = None  #: as in :class:`TaskScores`
    tokens: int  #: of one trial's scoring pass over this task

    def column(
        self, score: Iterable[Score | None], stderr: Iterable[Score | None], correct: Iterable[str | None]
    ) -> TaskScores:
        """A trial's scores on this task, one a row of its matrix."""
        return TaskScores(
            metric=self.metric,
            higher_is_better=self.higher_is_better,
            items=self.items,
            chance=self.chance,
            majority=self.majority,
            score=tuple(score),
            stderr=tuple(stderr),
            correct=tuple(correct),
            truncated=self.truncated,
        )


class BaseRecord(Frozen):
    """The base model on every task and probe of a study: row 0 of every trial's matrix, scored once."""

    schema_version: Literal[2, 3, 4, 5, 6, 7] = SCHEMA_VERSION  #: 3 to 7 have changed nothing here
    key: str  #: digest of everything the scores depend on, stack included
    scores: dict[str, BaseScore]
    train_tokens: dict[str, float]  #: mean tokens of a training example, by task; for forecasts
    score_seconds: float
    peak_memory_gib: float
