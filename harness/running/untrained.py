"""Trials that train nothing: their matrix repeats the base model's scores, and their adapter is zero."""

from __future__ import annotations

from collections.abc import Sequence

from harness.engine.environment import host
from harness.running.job import Job
from harness.store.clone import clone
from harness.store.intruders import Intruders
from harness.store.records import BaseRecord, BaseScore, Costs, Curve, TaskScores, TrialRecord
from harness.store.results import write_trial
from harness.study import forecast
from harness.study.plan import PlannedTrial


def write_untrained(job: Job, base: BaseRecord, trials: Sequence[PlannedTrial]) -> None:
    """Write the missing records of arms without an adapter."""
    for trial in trials:
        if trial.fingerprint in job.write:
            write_trial(job.folder, _record(job, base, trial))


def _record(job: Job, base: BaseRecord, trial: PlannedTrial) -> TrialRecord:
    spec, study = trial.spec, job.study
    stages = len(spec.stream)
    probed = [True, *(forecast.scores_probes(study, stage, stages) for stage in range(stages))]
    curves = [study.curve(examples) for examples in trial.stage_examples]
    nothing = Intruders(
        matrices=0,
        count=0,
        count_low=0,
        count_high=0,
        cosine_error=0.0,
        distance=0.0,
        energy_share=0.0,
        delta_norm=0.0,
        relative_spectral_norm=0.0,
        effective_rank=0.0,
    )
    return TrialRecord(
        fingerprint=trial.fingerprint,
        study=study.name,
        status="ok",
        spec=spec,
        facts=trial.facts,
        stack=dict(job.stack),
        tasks={name: _repeated(base.scores[name], [True] * (stages + 1)) for name in spec.stream},
        probes={name: _repeated(base.scores[name], probed) for name in spec.probes},
        curves=tuple(
            Curve(
                task=name,
                examples=curve,
                score=(base.scores[name].score,) * len(curve),
                tokens=(0,) * len(curve),
            )
            for name, curve in zip(spec.stream, curves, strict=True)
        ),
        intruders=tuple(nothing if forecast.takes_intruders(study, s, stages) else None for s in range(stages)),
        costs=Costs(trained_parameters=0, adapter_bytes=0, state_bytes=0),
        host={**host(), **job.extras},
        sources=job.sources_of(spec),
        commit=clone().commit,
        clean=clone().clean,
    )


def _repeated(base: BaseScore, scored: list[bool]) -> TaskScores:
    """The base model's scores in every row that is scored."""
    return base.column(
        (base.score if here else None for here in scored),
        (base.stderr if here else None for here in scored),
        (base.correct if here else None for here in scored),
    )
