"""How a pack trains: K trials through their streams, side by side, from fresh adapters to finished records.

    for each task of the stream:
        train on its examples, with a score of that task at every inner point of the curve
        score every task of the stream and the probes
        count intruder dimensions
        write the boundary checkpoint

A pack that is killed goes on from its last boundary; on a CPU its records are then the same, bit for bit, as those of
an uninterrupted run, but for ``costs`` and ``host``.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import torch

from harness.engine.adapters_file import save_adapters
from harness.engine.batches import Example, draw, make_step
from harness.engine.job import Bench, Job, Report, set_up
from harness.engine.ledger import Ledger
from harness.engine.optimizer import AdamWSettings
from harness.engine.spectra import Spectra
from harness.engine.stack import peak_memory_gib, reset_peak_memory, synchronize
from harness.engine.trainer import RowSpec, Trainer
from harness.errors import LorabenchError
from harness.scoring.scorer import Score
from harness.store.checkpoints import checkpoint_path, load_checkpoint, save_checkpoint
from harness.store.records import BaseRecord
from harness.store.results import read_base, write_trial
from harness.study import forecast
from harness.study.plan import Pack, PlannedTrial, Row


def run_pack(job: Job, report: Report) -> list[str]:
    """Train and score a pack and write its missing records; returns their statuses, in the order of its trials."""
    assert job.pack is not None, "a job without a pack is the base model's (harness.engine.base)"
    base = read_base(job.folder, job.base_key)
    if base is None:
        raise LorabenchError(
            "the base model's scores are not there",
            where=str(job.folder / "base.json"),
            remedy="run the study again: it scores the base first",
        )
    report(0, "loading the model and the tasks")
    run = PackRun(job, job.pack, base, report)
    run.train_all()
    return run.finish()


class PackRun:
    """One pack on its way through its stages."""

    def __init__(self, job: Job, pack: Pack, base: BaseRecord, report: Report) -> None:
        self.job, self.pack, self.study, self.base = job, pack, job.study, base
        self.bench: Bench = set_up(job)
        self.device = self.bench.model.device
        reset_peak_memory(self.device)
        self.digest_before = self.bench.model.digest()
        self.stages = len(pack.rows[0].stream)
        self.trainer = self._trainer()
        self.ledger = Ledger.fresh(pack, self.study, base)
        self.owner = [(index, trial) for index, row in enumerate(pack.rows) for trial in row.trials]
        self._examples: dict[str, Sequence[Example]] = {}
        self._spectra: Spectra | None = None
        self._report, self.units = report, forecast.START_UNITS

    def _trainer(self) -> Trainer:
        training, adapter = self.study.training, self.study.adapter
        rows = [
            RowSpec(
                recipe=row.trials[0].recipe,
                learning_rate=row.trials[0].learning_rate,
                init_seed=row.init_seed,
                also_average=tuple(t.recipe.average for t in row.trials if t.recipe.average is not None),
            )
            for row in self.pack.rows
        ]
        settings = AdamWSettings(weight_decay=training.weight_decay, clip=training.clip)
        return Trainer(self.bench.model, rows, adapter.rank, adapter.alpha, settings)

    # -- the stream -----------------------------------------------------------------------------------------------

    def train_all(self) -> None:
        for stage in range(self._resume(), self.stages):
            self._train(stage)
            self._score(stage)
            self._count_intruders(stage)
            if self.study.keep_adapters == "all":
                self._save_adapters(f"{self.pack.name}-task{stage + 1}")
            self._checkpoint(stage)

    def _train(self, stage: int) -> None:
        """One pass over the examples of each row's task, in steps of all rows, with the curve's inner scores."""
        order = [self._draw(row, stage) for row in self.pack.rows]
        losses: list[torch.Tensor] = []
        for start, stop in itertools.pairwise(self.study.curve):
            with self._clock("train"):
                for seen in range(start, stop, self.study.training.batch):
                    losses.append(self._step(stage, order, seen))
            if stop < self.study.training.examples:
                self._score_curve(stage, stop)
        self.ledger.take_losses(torch.stack(losses, dim=1).tolist())

    def _step(self, stage: int, order: Sequence[Sequence[Example]], seen: int) -> torch.Tensor:
        """The optimizer step of every row on its next examples; ``seen`` have been seen before it."""
        training = self.study.training
        rows = [examples[seen : seen + training.batch] for examples in order]
        step = make_step(rows, self.bench.lm.eot_token_id, self.device, training.pass_tokens)
        warmup = min(1.0, (seen // training.batch + 1) / (training.warmup_steps + 1))
        losses, taught = self.trainer.step(step, warmup, seen / training.examples)
        self.ledger.count_tokens(stage, seen + training.batch, step.tokens, taught)
        units = forecast.TRAIN_UNITS + forecast.TEACHER_UNITS * taught
        self._advance(step.real_tokens * units, f"task {stage + 1}/{self.stages}: training")
        return losses

    def _draw(self, row: Row, stage: int) -> list[Example]:
        """The examples a row sees of its task number ``stage``: a function of its own seed alone."""
        task = row.stream[stage]
        if task not in self._examples:
            lm = self.bench.lm
            self._examples[task] = self.bench.suite.training_examples(task, lm._encode_pair, lm.eot_token_id)
        available, longest = self._examples[task], self.study.training.max_length
        drawn = draw(self.study.training.examples, len(available), row.data_seeds[stage])
        return [available[i].truncated(longest) for i in drawn]

    # -- scores ---------------------------------------------------------------------------------------------------

    def _score(self, stage: int) -> None:
        """Every task of each trial's stream, those to come included, and the probes where they are due."""
        probes = self.study.probes if forecast.scores_probes(self.study, stage, self.stages) else ()
        for trial, scores in self._ask(lambda trial: (*trial.spec.stream, *probes), stage):
            self.ledger.take_scores(trial.fingerprint, stage, scores)

    def _score_curve(self, stage: int, seen: int) -> None:
        for trial, scores in self._ask(lambda trial: (trial.spec.stream[stage],), stage):
            self.ledger.take_curve(trial.fingerprint, stage, seen, scores)

    def _ask(
        self, tasks: Callable[[PlannedTrial], tuple[str, ...]], stage: int
    ) -> Iterator[tuple[PlannedTrial, dict[str, Score] | None]]:
        """Scores of every live trial; trials with the same questions are asked together."""
        self._note_diverged(stage)
        groups: dict[tuple[str, ...], list[tuple[int, PlannedTrial]]] = {}
        for row, trial in self.owner:
            if self.ledger.alive(trial.fingerprint):
                groups.setdefault(tuple(sorted(tasks(trial))), []).append((row, trial))
        for names, members in groups.items():
            label = f"task {stage + 1}/{self.stages}: scoring"
            values = torch.stack([self.trainer.weights(row, trial.recipe) for row, trial in members])
            scaling = torch.stack([self.trainer.bank.scaling[row] for row, _ in members])
            with self._clock("score"):
                found = self.bench.scorer.score(names, values, scaling, lambda n, label=label: self._advance(n, label))
            yield from zip([trial for _, trial in members], found, strict=True)

    def _note_diverged(self, stage: int) -> None:
        alive = self.trainer.alive.tolist()
        for row, trial in self.owner:
            if not alive[row]:
                self.ledger.diverge(trial.fingerprint, f"training on task {stage + 1} ({trial.spec.stream[stage]})")

    def _count_intruders(self, stage: int) -> None:
        if not forecast.takes_intruders(self.study, stage, self.stages):
            return
        with self._clock("analysis"):
            label = f"task {stage + 1}/{self.stages}: intruder dimensions"
            live = [(row, trial) for row, trial in self.owner if self.ledger.alive(trial.fingerprint)]
            if live:
                if self._spectra is None:
                    self._spectra = Spectra(
                        self.bench.model, self.job.cache / "spectra", lambda text: self._advance(0, f"{label}: {text}")
                    )
                values = torch.stack([self.trainer.weights(row, trial.recipe) for row, trial in live])
                scaling = torch.stack([self.trainer.bank.scaling[row] for row, _ in live])
                found = self._spectra.intruders(self.trainer.bank.layout, values, scaling)
                for (_, trial), summary in zip(live, found, strict=True):
                    self.ledger.take_intruders(trial.fingerprint, stage, summary)
            self._advance(forecast.INTRUDER_UNITS * len(self.owner), label)

    # -- boundaries -----------------------------------------------------------------------------------------------

    def _resume(self) -> int:
        """The first stage that is still to do, with the state of the last boundary in place."""
        found = load_checkpoint(checkpoint_path(self.job.folder, self.pack.name), self._key())
        if found is None:
            return 0
        tensors, data = found
        self.trainer.load(tensors)
        self.ledger = Ledger.model_validate(data["ledger"])
        self.units = data["units"]
        return data["stage"] + 1

    def _checkpoint(self, stage: int) -> None:
        self.ledger.memory(peak_memory_gib(self.device))
        data = {"stage": stage, "units": self.units, "ledger": self.ledger.model_dump(mode="json")}
        path = checkpoint_path(self.job.folder, self.pack.name)
        save_checkpoint(path, self._key(), self.trainer.state(), data)

    def _key(self) -> str:
        """A checkpoint goes on only where the same pack runs on the same stack."""
        return f"{self.pack.name} {self.job.base_key}"

    def finish(self) -> list[str]:
        """Check that the base is untouched, write the missing records, and drop the checkpoint."""
        if self.bench.model.digest() != self.digest_before:
            raise LorabenchError(
                "the frozen base model changed while a pack trained; its results are void",
                where=f"pack {self.pack.name}",
                remedy="report this as a bug",
            )
        if self.study.keep_adapters == "last":
            self._save_adapters(self.pack.name)
        size = self.trainer.bank.layout.size
        self.ledger.memory(peak_memory_gib(self.device))
        records = [self.ledger.record(trial, self.job, self.base, size) for trial in self.pack.trials]
        for record in records:
            if record.fingerprint in self.job.write:
                write_trial(self.job.folder, record)
        checkpoint_path(self.job.folder, self.pack.name).unlink(missing_ok=True)
        return [record.status for record in records]

    def _save_adapters(self, name: str) -> None:
        # Only those whose record this run writes: another's adapter is the one that was scored then.
        entries = [
            (trial.fingerprint, self.trainer.weights(row, trial.recipe))
            for row, trial in self.owner
            if trial.fingerprint in self.job.write and self.ledger.alive(trial.fingerprint)
        ]
        if not entries:
            return
        path = self.job.folder / "adapters" / f"{name}.safetensors"
        save_adapters(path, self.trainer.bank.layout, entries, self.study.model, self.study.adapter)

    # -- bookkeeping ----------------------------------------------------------------------------------------------

    def _advance(self, units: float, what: str) -> None:
        self.units += units
        self._report(self.units, what)

    @contextmanager
    def _clock(self, what: str) -> Iterator[None]:
        start = time.monotonic()
        yield
        synchronize(self.device)
        self.ledger.spend(what, time.monotonic() - start)
