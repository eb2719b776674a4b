"""What is known so far of each trial of a pack, and the record it becomes.

The ledger is plain data: it goes into the boundary checkpoint as it is, so that a resumed pack writes the same records.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import fields

from pydantic import BaseModel

from harness.engine.environment import host
from harness.engine.step import Spent
from harness.running.job import Job
from harness.scoring.scorer import Score
from harness.store.clone import clone
from harness.store.intruders import Intruders
from harness.store.packed import Floats
from harness.store.records import (
    BaseRecord,
    Costs,
    Curve,
    Failure,
    Status,
    TaskScores,
    TrialRecord,
    pack_bits,
)
from harness.study.config import Study
from harness.study.plan import Pack, PlannedTrial


class TrialSoFar(BaseModel):
    """One trial so far.  ``scores`` has one list a task, T + 1 long; ``points`` one list a stage, (examples, score).

    ``students`` is like ``points``, both ends of a stage included but for the base model; empty where none is scored.
    """

    scores: dict[str, list[float | None]]
    stderrs: dict[str, list[float | None]]
    correct: dict[str, list[str | None]]
    points: list[list[tuple[int, float]]]
    students: list[list[tuple[int, float]]]
    losses: list[list[float]] = []
    intruders: list[Intruders | None]
    lost_energy: list[float | None] = []
    #: By what tokens were spent on (the fields of ``Spent``), one a stage: examples seen -> tokens so far on this task.
    tokens: dict[str, list[dict[int, int]]]
    failure: Failure | None = None


class Ledger(BaseModel):
    """Every trial so far by fingerprint, with the times and the memory of the pack."""

    notes: dict[str, TrialSoFar]
    stages: int
    row_of: dict[str, int]
    batch: int
    seconds: dict[str, float] = {"train": 0.0, "score": 0.0, "analysis": 0.0}
    peak_memory_gib: float = 0.0
    eager: str = ""  #: why a pack on a GPU trained or wrote answers without graphs, if it did
    joined: int = 0  #: tokens of the longest rows that may have stood behind each other instead of being padded
    pack_tokens: int = 0

    @classmethod
    def fresh(cls, pack: Pack, study: Study, base: BaseRecord) -> Ledger:
        """Row 0 of every matrix is the base model's."""
        stages = len(pack.rows[0].stream)
        notes = {}
        for trial in pack.trials:
            names = (*trial.spec.stream, *study.probes)
            notes[trial.fingerprint] = TrialSoFar(
                scores={name: [base.scores[name].score] + [None] * stages for name in names},
                stderrs={name: [base.scores[name].stderr] + [None] * stages for name in names},
                correct={name: [base.scores[name].correct] + [None] * stages for name in names},
                points=[[] for _ in range(stages)],
                students=[[] for _ in range(stages)],
                intruders=[None] * stages,
                tokens={field.name: [{} for _ in range(stages)] for field in fields(Spent)},
            )
        row_of = {trial.fingerprint: index for index, row in enumerate(pack.rows) for trial in row.trials}
        return cls(notes=notes, stages=stages, row_of=row_of, batch=study.training.batch)

    # -- what happens to a trial ----------------------------------------------------------------------------------

    def alive(self, trial: str) -> bool:
        return self.notes[trial].failure is None

    def diverge(self, trial: str, phase: str) -> None:
        """The numbers of this trial are no longer finite; only the first place counts."""
        notes = self.notes[trial]
        if notes.failure is None:
            notes.failure = Failure(phase=phase, message="a loss, gradient, rate or log-probability is not finite")

    def take_scores(self, trial: str, stage: int, scores: dict[str, Score] | None) -> None:
        if scores is None:
            self.diverge(trial, f"scoring after task {stage + 1}")
            return
        notes = self.notes[trial]
        for name, score in scores.items():
            notes.scores[name][stage + 1] = score.value
            notes.stderrs[name][stage + 1] = score.stderr
            notes.correct[name][stage + 1] = None if score.correct is None else pack_bits(score.correct)

    def take_curve(self, trial: str, stage: int, seen: int, scores: dict[str, Score] | None) -> None:
        if scores is None:
            self.diverge(trial, f"scoring task {stage + 1} after {seen} examples")
            return
        self.notes[trial].points[stage].extend((seen, score.value) for score in scores.values())

    def take_student(self, trial: str, stage: int, seen: int, scores: dict[str, Score] | None) -> None:
        """The student of a trial that scores an average, on the task that it learns."""
        if scores is None:
            self.diverge(trial, f"scoring the student on task {stage + 1} after {seen} examples")
            return
        self.notes[trial].students[stage].extend((seen, score.value) for score in scores.values())

    def take_intruders(self, trial: str, stage: int, summary: dict | None) -> None:
        if summary is None:
            self.diverge(trial, f"counting intruder dimensions after task {stage + 1}")
            return
        self.notes[trial].intruders[stage] = Intruders.of(summary, by_layer=stage == self.stages - 1)

    def take_lost_energy(self, trial: str, stage: int, share: float) -> None:
        """What the weights that were scored leave out of the average that they are of."""
        notes = self.notes[trial]
        notes.lost_energy = notes.lost_energy or [None] * self.stages
        notes.lost_energy[stage] = share

    def take_losses(self, losses: Sequence[Sequence[float]]) -> None:
        """Losses of one stage, one list a row; cut at the first that is not finite."""
        for trial, row in self.row_of.items():
            values = list(losses[row])
            finite = next((i for i, value in enumerate(values) if not math.isfinite(value)), len(values))
            self.notes[trial].losses.append(values[:finite])

    def count_tokens(self, stage: int, seen: int, spent: Spent) -> None:
        """Tokens of one step; ``seen`` is how many examples of the task that makes."""
        self.pack_tokens += sum(spent.student)
        for trial, row in self.row_of.items():
            for what, stages in self.notes[trial].tokens.items():
                stages[stage][seen] = stages[stage].get(seen - self.batch, 0) + getattr(spent, what)[row]

    def count_read(self, stage: int, seen: int, tokens: Sequence[int]) -> None:
        """Tokens that each row's parts read at an end of a task, ``seen`` of whose examples it has trained on."""
        for trial, row in self.row_of.items():
            student = self.notes[trial].tokens["student"][stage]
            if tokens[row]:
                student[seen] = student.get(seen, 0) + tokens[row]

    def spend(self, what: str, seconds: float) -> None:
        self.seconds[what] += seconds

    def memory(self, gib: float) -> None:
        self.peak_memory_gib = max(self.peak_memory_gib, gib)

    # -- the record -----------------------------------------------------------------------------------------------

    def record(
        self, trial: PlannedTrial, job: Job, base: BaseRecord, trained: int, scored: int, kept: int
    ) -> TrialRecord:
        """The trial's record; nulls and a failure block where it has diverged.

        ``trained`` numbers are trained at a time, ``scored`` ones are what remains beside the base at the end;
        ``kept`` are the bytes of its state there (:mod:`harness.engine.state`).
        """
        notes, spec = self.notes[trial.fingerprint], trial.spec
        status: Status = "ok" if notes.failure is None else "diverged"

        def column(name: str) -> TaskScores:
            return base.scores[name].column(notes.scores[name], notes.stderrs[name], notes.correct[name])

        return TrialRecord(
            fingerprint=trial.fingerprint,
            study=job.study.name,
            status=status,
            spec=spec,
            facts=trial.facts,
            stack=dict(job.stack),
            tasks={name: column(name) for name in spec.stream},
            probes={name: column(name) for name in spec.probes},
            curves=tuple(self._curves(notes, spec.stream)) if status == "ok" else (),
            train_loss=tuple(map(Floats.of, notes.losses)),
            intruders=tuple(notes.intruders),
            lost_energy=tuple(notes.lost_energy),
            costs=self._costs(notes, trained, scored, kept),
            host={
                **host(job.device),
                **job.extras,
                "pack": job.name,
                **({"eager": self.eager} if self.eager else {}),
                **({"joins_rows_of": self.joined} if self.joined else {}),
            },
            sources=job.sources_of(spec),
            commit=clone().commit,
            clean=clone().clean,
            failure=notes.failure,
        )

    def _curves(self, notes: TrialSoFar, stream: Sequence[str]) -> list[Curve]:
        """Both ends of a curve are entries of the matrix: the score before the task, and after it."""
        curves = []
        for stage, task in enumerate(stream):
            counts = [stages[stage] for stages in notes.tokens.values()]
            points = [
                (0, notes.scores[task][stage]),
                *notes.points[stage],
                (max(counts[0]), notes.scores[task][stage + 1]),
            ]
            curves.append(
                Curve(
                    task=task,
                    examples=tuple(n for n, _ in points),
                    score=tuple(value for _, value in points),
                    tokens=tuple(sum(spent.get(n, 0) for spent in counts) for n, _ in points),
                    student=self._student(notes, task, stage),
                )
            )
        return curves

    def _student(self, notes: TrialSoFar, task: str, stage: int) -> tuple[float, ...]:
        """The student's scores at the points of its average's curve; it starts as the base model."""
        base = notes.scores[task][0]
        start = (base,) if base is not None and stage == 0 and notes.students[stage] else ()
        return (*start, *(value for _, value in notes.students[stage]))

    def _costs(self, notes: TrialSoFar, trained: int, scored: int, kept: int) -> Costs:
        """Times are the pack's, divided by its trials; tokens are what the trial's method spends by itself."""
        trials = len(self.notes)
        total = {
            what: sum(max(counts.values(), default=0) for counts in stages) for what, stages in notes.tokens.items()
        }
        train = self.seconds["train"]
        return Costs(
            shared_by=trials,
            train_seconds=train / trials,
            score_seconds=self.seconds["score"] / trials,
            analysis_seconds=self.seconds["analysis"] / trials,
            train_tokens=total["student"],
            teacher_tokens=total["teacher"],
            prompt_tokens=total["prompt"],
            sampled_tokens=total["sampled"],
            tokens_per_second=self.pack_tokens / train if train else None,
            peak_memory_gib=self.peak_memory_gib,
            adapter_bytes=4 * scored,
            trained_parameters=trained,
            state_bytes=kept,
        )
