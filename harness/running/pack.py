"""How a pack trains: K rows through their streams, side by side, from fresh adapters to finished records.

    for each task of the stream:
        train on its examples, with a score of that task at every inner point of the curve (where that of an average is
            the result, of its student as well)
        score every task of the stream and the probes
        count intruder dimensions
        leave a checkpoint, which is written while the next task trains; after the last task write the records

A pack that is killed goes on from the last boundary whose checkpoint was written; on a CPU its records are then the
same, bit for bit, as those of an uninterrupted run, but for ``costs`` and ``host``.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import replace
from functools import partial

import torch

from harness.analysis.intruders import Spectrum
from harness.engine.adapters.files import adapter_path, save_adapters
from harness.engine.adapters.layout import DenseLayout
from harness.engine.batches import Example, draw, make_batch
from harness.engine.environment import peak_memory_gib, reset_peak_memory, synchronize
from harness.engine.optimizer import OptimizerSettings
from harness.engine.rows import Rows, RowSpec, ScoredWeights
from harness.engine.schedule import make_schedule
from harness.engine.spectra import Spectra
from harness.engine.state import state_bytes
from harness.engine.step import take_step
from harness.errors import FolderError, LorabenchError
from harness.executors.interface import Report
from harness.method.recipe import Recipe
from harness.running.boundary import CheckpointWriter
from harness.running.gauge import Gauge
from harness.running.groups import grouped
from harness.running.job import Job, set_up
from harness.running.ledger import Ledger
from harness.scoring.bench import Bench
from harness.scoring.scorer import Score
from harness.store.checkpoints import checkpoint_path, load_checkpoint
from harness.store.records import BaseRecord, TrialRecord
from harness.store.results import read_base, unless_finished, write_trial
from harness.study import forecast
from harness.study.inspection import When
from harness.study.plan import Pack, PlannedTrial, Row
from harness.study.seeds import derive

#: Of what a checkpoint holds, which is :meth:`Rows.state` and the ledger: a file of another version is left alone, and
#: its pack starts anew.  Raise it with every change of either.
CHECKPOINT_VERSION = 3


class BaseChangedError(LorabenchError):
    """A method wrote to the frozen base model, so that the results of its whole pack are void."""


def run_pack(job: Job, report: Report) -> None:
    """Train and score a pack and write its missing records.

    Raises :class:`BaseChangedError`; the next job loads the base anew.
    """
    assert job.pack is not None, "a job without a pack is the base model's (harness.running.base)"
    base = read_base(job.folder, job.base_key)
    if base is None:
        raise FolderError(
            "the base model's scores are not there",
            where=str(job.folder / "base.json"),
            remedy="run the study again: it scores the base first",
        )
    report(0, "loading the model and the tasks")
    PackRun(job, job.pack, base, report).run()


class PackRun:
    """One pack on its way through its stages."""

    def __init__(self, job: Job, pack: Pack, base: BaseRecord, report: Report) -> None:
        self.job, self.pack, self.study, self.base = job, pack, job.study, base
        self.loaded = set_up(job)
        self.bench: Bench = self.loaded.bench
        self.device = self.bench.model.device
        reset_peak_memory(self.device)
        self.digest_before = self.bench.model.digest()
        self.stages, self.stage = len(pack.rows[0].stream), 0
        self.schedule = make_schedule(self.study.training)
        self._report, self.units, self._gauge = report, forecast.START_UNITS, Gauge(self.device)
        self._advance(0, "making the adapters")
        self.rows = self._fresh_rows()
        self.ledger = Ledger.fresh(pack, self.study, base)
        #: Every trial with the number of its row.
        self.trials = [(index, trial) for index, row in enumerate(pack.rows) for trial in row.trials]
        self.checkpoints = CheckpointWriter(checkpoint_path(job.folder, pack.name), self._key())

    def _specs(self, stage: int) -> list[RowSpec]:
        """What trains in each row at this stage: a setting may be a share of its task's steps."""
        return [
            RowSpec(
                recipe=row.trials[0].recipe_at(stage),
                learning_rate=row.trials[0].learning_rate,
                init_seed=row.init_seed,
                also_average=tuple(
                    recipe.average for t in row.trials if (recipe := t.recipe_at(stage)).average is not None
                ),
            )
            for row in self.pack.rows
        ]

    def _fresh_rows(self) -> Rows:
        training, adapter, rows = self.study.training, self.pack.adapter, self._specs(0)
        settings = OptimizerSettings(weight_decay=training.weight_decay, clip=training.clip)
        return Rows(
            self.bench.model, rows, adapter.rank, adapter.alpha, settings, self._spectra_to_start_from, self.bench.text
        )

    def _base_spectra(self) -> Spectra:
        return self.loaded.spectra(lambda text: self._advance(0, text))

    def _spectra_ahead(self) -> AbstractContextManager[None]:
        asked = any(forecast.takes_spectra(self.study, trial.recipe) for trial in self.pack.trials)
        return self.loaded.spectra_ahead() if asked else nullcontext()

    def _spectra_to_start_from(self) -> Sequence[Spectrum]:
        """For adapters that start from them.  They are made once, for the base: their time is no training time."""
        asked = time.monotonic()
        each = self._base_spectra().each
        self.ledger.spend("train", asked - time.monotonic())
        return each

    # -- the stream -----------------------------------------------------------------------------------------------

    def run(self) -> None:
        with self.checkpoints, self._spectra_ahead():
            for stage in range(self._resume(), self.stages):
                self._move_to(stage)
                self._train(stage)
                self._score(stage)
                self._count_intruders(stage)
                self._keep_adapters(stage)
                if stage + 1 < self.stages:  # a checkpoint of the end would serve for the seconds that records take
                    self._checkpoint(stage)
            self._finish()

    def _move_to(self, stage: int) -> None:
        self.stage = stage
        self.rows.become(self._specs(stage))

    def _recipe(self, trial: PlannedTrial) -> Recipe:
        """A trial's recipe at the present stage."""
        return trial.recipe_at(self.stage)

    def _train(self, stage: int) -> None:
        """One pass over the examples of each row's task, in steps of all rows, with the curve's inner scores."""
        self._advance(0, self._training(stage), stage)  # what fails in the first step has this as its place
        examples, count = [self._chosen(row, stage) for row in self.pack.rows], self.pack.examples[stage]
        losses: list[torch.Tensor] = []
        with self._clock("train"):
            self.rows.begin_task(stage, examples)
        self._advance(self._inspected(stage, "start", "begin"), self._training(stage), stage)
        self.ledger.count_read(stage, 0, self.rows.take_read_tokens())
        if stage:
            self._score_students(stage, 0)
        for start, stop in itertools.pairwise(self.study.curve(count)):
            with self._clock("train"):
                for seen in range(start, stop, self.study.training.batch):
                    losses.append(self._step(stage, examples, seen))
            if stop < count:
                self._score_curve(stage, stop)
                self._score_students(stage, stop)
        with self._clock("train"):
            self.rows.end_task()
        self._advance(self._inspected(stage, "end"), self._training(stage), stage)
        self.ledger.count_read(stage, count, self.rows.take_read_tokens())
        self.ledger.eager, self.ledger.joined = self.rows.trunk.failed, self.rows.model.joins
        self._score_students(stage, count)
        self.ledger.take_losses(torch.stack(losses, dim=1).tolist())

    def _inspected(self, stage: int, *whens: When) -> float:
        return sum(forecast.inspection_units(self.base, self.pack, stage, *whens).values())

    def _training(self, stage: int) -> str:
        slowly = " (without graphs)" if self.rows.trunk.failed else ""
        return f"task {stage + 1}/{self.stages}: training{slowly}"

    def _step(self, stage: int, examples: Sequence[Sequence[Example]], seen: int) -> torch.Tensor:
        """The optimizer step of every row on its next examples; ``seen`` have been seen before it."""
        training = self.study.training
        rows = [each[seen : seen + training.batch] for each in examples]
        # A row's seed depends on its trial, the task and the step alone: it draws the same whatever it is packed with.
        count = self.pack.examples[stage]
        step, steps = seen // training.batch, count // training.batch
        seeds = [derive(row.data_seeds[stage], "own answers", step) for row in self.pack.rows]
        end, budget = self.bench.lm.eot_token_id, training.pass_tokens
        batch = make_batch(rows, end, self.device, budget, seeds=seeds, join=self.rows.model.joins)
        factor = self.schedule.factor(step, steps)
        losses, spent = take_step(self.rows, batch, factor, seen / count)
        self.ledger.count_tokens(stage, seen + training.batch, spent)
        taught = any(spent.teacher)
        work = [forecast.token_units(row.trials[0].recipe.loss, taught) for row in self.pack.rows]
        units = sum(tokens * each for tokens, each in zip(batch.tokens, work, strict=True))
        units *= forecast.train_weight(self.pack, stage)
        self._advance(units, self._training(stage), stage, sum(batch.tokens), step=step + 1, steps=steps)
        return losses

    def _chosen(self, row: Row, stage: int) -> list[Example]:
        """The examples a row trains on at its task number ``stage``."""
        choice = row.trials[0].recipe.examples
        return choice.choose(stage, lambda task: self._drawn(row, task), row.data_seeds)

    def _drawn(self, row: Row, stage: int) -> list[Example]:
        """The examples of task number ``stage`` that a row's seed draws: a function of nothing else."""
        available = self.bench.training_examples(row.stream[stage], row.trials[0].recipe.loss.demonstration)
        longest = self.study.training.max_length
        drawn = draw(row.examples[stage], len(available), row.data_seeds[stage])
        return [example.truncated(longest, self.bench.model.max_length) for example in available.choose(drawn)]

    # -- scores ---------------------------------------------------------------------------------------------------

    def _score(self, stage: int) -> None:
        """Every task of each trial's stream, those to come included, and the probes where they are due."""
        probes = self.study.probes if forecast.scores_probes(self.study, stage, self.stages) else ()
        for trial, scores in self._ask(lambda trial: (*trial.spec.stream, *probes), stage):
            self.ledger.take_scores(trial.fingerprint, stage, scores)
        for row, trial in self.trials:
            lost = self.rows.lost_energy(row, self._recipe(trial))
            if lost is not None and self.ledger.alive(trial.fingerprint):
                self.ledger.take_lost_energy(trial.fingerprint, stage, lost)

    def _score_curve(self, stage: int, seen: int) -> None:
        for trial, scores in self._ask(lambda trial: (trial.spec.stream[stage],), stage):
            self.ledger.take_curve(trial.fingerprint, stage, seen, scores)

    def _score_students(self, stage: int, seen: int) -> None:
        """Of rows whose averages are scored: the student on the task that it learns, where a curve is asked for."""
        if not any(forecast.student_scores(self.study, row, stage) for row in self.pack.rows):
            return
        for first, scores in self._ask(lambda trial: (trial.spec.stream[stage],), stage, self._students):
            row = self.pack.rows[self.ledger.row_of[first.fingerprint]]
            for trial in row.trials:
                if self._averages(trial):
                    self.ledger.take_student(trial.fingerprint, stage, seen, scores)

    def _ask(
        self,
        tasks: Callable[[PlannedTrial], tuple[str, ...]],
        stage: int,
        weights: Callable[[], list[tuple[PlannedTrial, ScoredWeights]]] | None = None,
    ) -> Iterator[tuple[PlannedTrial, dict[str, Score] | None]]:
        """Scores of every live trial, or of these ``weights``; trials with the same questions are asked together."""
        self._note_diverged(stage)
        label = f"task {stage + 1}/{self.stages}: scoring"
        for group in grouped((weights or self._scored)(), lambda trial: tuple(sorted(tasks(trial)))):
            weight = forecast.score_weight(self.pack, stage, isinstance(group.layout, DenseLayout))
            with self._clock("score"):
                scores = self.bench.scorer.score(
                    group.key,
                    group.values,
                    group.scaling,
                    lambda tokens, weight=weight: self._advance(weight * tokens, label, stage, tokens),
                    group.layout,
                )
            yield from zip(group.trials, scores, strict=True)

    def _scored(self) -> list[tuple[PlannedTrial, ScoredWeights]]:
        """What counts as the result of every live trial so far."""
        live = [(row, trial) for row, trial in self.trials if self.ledger.alive(trial.fingerprint)]
        return [(trial, self.rows.scored(row, self._recipe(trial))) for row, trial in live]

    def _students(self) -> list[tuple[PlannedTrial, ScoredWeights]]:
        """The student of every row that has a live trial which scores an average, by the first of these."""
        first = {row: trial for row, trial in reversed(self.trials) if self._averages(trial)}
        students = [(row, t, replace(self._recipe(t), scored="student")) for row, t in sorted(first.items())]
        return [(t, self.rows.scored(row, recipe)) for row, t, recipe in students]

    def _averages(self, trial: PlannedTrial) -> bool:
        return trial.facts.scored == "average" and self.ledger.alive(trial.fingerprint)

    def _note_diverged(self, stage: int) -> None:
        alive = self.rows.alive.tolist()
        for row, trial in self.trials:
            if not alive[row]:
                self.ledger.diverge(trial.fingerprint, f"training on task {stage + 1} ({trial.spec.stream[stage]})")

    def _count_intruders(self, stage: int) -> None:
        if not forecast.takes_intruders(self.study, stage, self.stages):
            return
        with self._clock("analysis"):
            label = f"task {stage + 1}/{self.stages}: intruder dimensions"
            for group in grouped(self._scored()):
                summaries = self._base_spectra().intruders(group.layout, group.values, group.scaling)
                for trial, summary in zip(group.trials, summaries, strict=True):
                    self.ledger.take_intruders(trial.fingerprint, stage, summary)
            adapter = self.pack.adapter
            units = (forecast.intruder_units(adapter, forecast.scored_kind(trial)) for _, trial in self.trials)
            self._advance(sum(units), label, stage)

    # -- boundaries -----------------------------------------------------------------------------------------------

    def _resume(self) -> int:
        """The first stage that is still to do, with the state of the last boundary in place."""
        checkpoint = load_checkpoint(self.checkpoints.path, self._key())
        if checkpoint is None:
            return 0
        tensors, data = checkpoint
        self._move_to(data["stage"])
        self.rows.load(tensors)
        self.ledger = Ledger.model_validate(data["ledger"])
        self.units = data["units"]
        return data["stage"] + 1

    def _checkpoint(self, stage: int) -> None:
        self._check_base()  # or a run that goes on from here, on a fresh base, would take what is void for good
        self.ledger.memory(peak_memory_gib(self.device))
        data = {"stage": stage, "units": self.units, "ledger": self.ledger.model_dump(mode="json")}
        self.checkpoints.take(self.rows.state(), data)

    def _key(self) -> str:
        """A checkpoint goes on only where the same pack runs on the same stack, and both name its tensors alike."""
        return f"{self.pack.name} {self.job.base_key} {CHECKPOINT_VERSION}"

    def _finish(self) -> None:
        """Check that the base is untouched, write the missing records, and drop the checkpoint."""
        self._check_base()
        self.ledger.memory(peak_memory_gib(self.device))
        self.ledger.eager = self.ledger.eager or self.rows.model.why_eager
        for row, trial in self.trials:
            if trial.fingerprint in self.job.write:
                write_trial(self.job.folder, self._record(row, trial), partial(self._keep_last_adapter, row, trial))
        self.checkpoints.remove()

    def _check_base(self) -> None:
        if self.bench.model.digest() != self.digest_before:
            names = sorted({trial.spec.method for trial in self.pack.trials})
            raise BaseChangedError(
                "the frozen base model changed while a pack trained; its results are void",
                where=f"pack {self.pack.name} ({', '.join(names)})",
                remedy=f"`lorabench methods --check {names[0]}` and so on says which part does it, if any does",
            )

    def _record(self, row: int, trial: PlannedTrial) -> TrialRecord:
        recipe = self._recipe(trial)
        scored, trained = self.rows.scored(row, recipe), self.rows.trained_numbers(row)
        kept = sum(state_bytes(self.rows, row, recipe).values())
        return self.ledger.record(trial, self.job, self.base, trained, scored.layout.live(scored.values), kept)

    def _keep_last_adapter(self, row: int, trial: PlannedTrial) -> None:
        if self.study.keep_adapters == "last":
            self._save_adapter(row, trial, trial.fingerprint)

    def _keep_adapters(self, stage: int) -> None:
        """The adapters after a task, of trials that are not finished: another's is the one that was scored then."""
        if self.study.keep_adapters != "all":
            return
        for row, trial in self.trials:
            if trial.fingerprint in self.job.write:
                save = partial(self._save_adapter, row, trial, f"{trial.fingerprint}-task{stage + 1}")
                unless_finished(self.job.folder, trial.fingerprint, save)

    def _save_adapter(self, row: int, trial: PlannedTrial, name: str) -> None:
        if self.ledger.alive(trial.fingerprint):
            scored = self.rows.scored(row, self._recipe(trial))
            path = adapter_path(self.job.folder, name)
            entries = [(trial.fingerprint, scored.values)]
            save_adapters(path, scored.layout, entries, self.study.model, self.pack.adapter, [float(scored.scaling)])

    # -- bookkeeping ----------------------------------------------------------------------------------------------

    def _advance(self, units: float, what: str, stage: int | None = None, tokens: int = 0, **step: int) -> None:
        """Report work that is done: of this stage of the stream, once that has begun, on so many tokens."""
        self.units += units
        if stage is None:
            self._report(self.units, what)
        else:
            place = {"position": stage + 1, "positions": self.stages, **step}
            self._report(self.units, what, {**place, **self._gauge.count(tokens)})

    @contextmanager
    def _clock(self, what: str) -> Iterator[None]:
        start = time.monotonic()
        yield
        synchronize(self.device)
        self.ledger.spend(what, time.monotonic() - start)
