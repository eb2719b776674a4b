"""How much work a pack is, in units of one token's forward pass, and how long that takes.

Workers count their progress in the same units, so the estimate of the remaining time needs no knowledge of what is
being done.
"""

from __future__ import annotations

from harness.store.records import BaseRecord
from harness.study.config import Study
from harness.study.plan import Pack

#: Cost of training on a token, in tokens of scoring: 3 by FLOPs, and the padding and short passes of the quick study (2
#: CPU cores, 135M, bf16: 4.3).
TRAIN_UNITS = 4.3
#: The same for a teacher's pass over it.
TEACHER_UNITS = 2.0
#: Cost of the intruders of one trial after one task (135M: half a second for 210 matrices on 2 CPU cores).
INTRUDER_UNITS = 500.0
#: Work that does not depend on tokens: loading a model and building requests, in forward tokens.
START_UNITS = 5000.0


def scoring_units(study: Study, base: BaseRecord, tasks: tuple[str, ...]) -> float:
    return float(sum(base.scores[name].tokens for name in tasks))


def stage_train_units(study: Study, base: BaseRecord, pack: Pack, stage: int, teacher: bool) -> float:
    """Training every row of the pack on its task number ``stage``, without the scores in between."""
    tokens = sum(base.train_tokens[row.stream[stage]] for row in pack.rows) * study.training.examples
    return tokens * (TRAIN_UNITS + TEACHER_UNITS * teacher)


def scores_probes(study: Study, stage: int, stages: int) -> bool:
    return study.scoring.probes_after == "every_task" or stage == stages - 1


def takes_intruders(study: Study, stage: int, stages: int) -> bool:
    when = study.scoring.intruders_after
    return when == "every_task" or (when == "last_task" and stage == stages - 1)


def pack_units(study: Study, base: BaseRecord, pack: Pack) -> float:
    """All the work of a pack."""
    total, teacher = START_UNITS, any(row.trials[0].recipe.loss.teacher for row in pack.rows)
    stages = max(len(row.stream) for row in pack.rows)
    inner = len(study.curve) - 2
    for stage in range(stages):
        total += stage_train_units(study, base, pack, stage, teacher)
        for trial in pack.trials:
            tasks = trial.spec.stream + (study.probes if scores_probes(study, stage, stages) else ())
            total += scoring_units(study, base, tasks)
            total += inner * scoring_units(study, base, (trial.spec.stream[stage],))
            total += INTRUDER_UNITS if takes_intruders(study, stage, stages) else 0.0
    return total
