"""How much work a pack is, in units of one token's forward pass, and how long that takes.

Workers count their progress in the same units, so the estimate of the remaining time needs no knowledge of what is
being done.
"""

from __future__ import annotations

from harness.store.records import BaseRecord
from harness.study.config import AdapterSettings, Study
from harness.study.memory import TABLE_RANK
from harness.study.methods import LossLike
from harness.study.plan import Pack, Row

#: Cost of training on a token, in tokens of scoring: 3 by FLOPs, and the padding and short passes of the quick study (2
#: CPU cores, 135M, bf16: 4.3).
TRAIN_UNITS = 4.3
#: The same for a teacher's pass over it.
TEACHER_UNITS = 2.0
#: A teacher's prompt that shows the answer, in lengths of the student's: the question twice, and the answer.
DEMONSTRATED = 2.1
#: Cost of a token read or drawn while students sample: a pass over the prompts, and as much again for answers of 1 to 5
#: tokens, each a separate pass of hardly more than overhead.  An estimate, not a measurement.
SAMPLING_UNITS = 4.0
#: Cost of the intruders of one trial after one task (135M: half a second for 210 matrices on 2 CPU cores), all of the
#: default targets adapted.
INTRUDER_UNITS = 500.0
#: Work that does not depend on tokens: loading a model and building requests, in forward tokens.
START_UNITS = 5000.0


def scoring_units(study: Study, base: BaseRecord, tasks: tuple[str, ...]) -> float:
    return float(sum(base.scores[name].tokens for name in tasks))


def token_units(loss: LossLike, taught: bool = True) -> float:
    """Work of training with this loss on a token of a given example, all that it asks for included.

    ``taught``: a teacher is asked, as in all steps but a task's first ones.
    """
    samples = taught and loss.sampling is not None
    read = (DEMONSTRATED if loss.demonstration else 1) if taught and loss.teacher else 0
    return TRAIN_UNITS * (loss.given + samples) + TEACHER_UNITS * read + SAMPLING_UNITS * samples


def adapter_weight(pack: Pack, stage: int) -> float:
    """Work of a token at this stage over that with adapters of rank 8, which the constants were measured with.

    By the products alone: the numbers of the factors, with those that earlier tasks have left, over the model's.
    """
    stacked = stage + 1 if pack.stacks else 1
    return 1 + pack.share * max(0.0, stacked - TABLE_RANK / pack.adapter.rank)


def intruder_units(adapter: AdapterSettings) -> float:
    """Work of the intruders of one trial after one task: as much for each type of matrix."""
    return INTRUDER_UNITS * len(adapter.targets) / len(AdapterSettings().targets)


def stage_train_units(base: BaseRecord, pack: Pack, stage: int) -> float:
    """Training every row of the pack on its task number ``stage``, without the scores in between."""
    tokens = (base.train_tokens[row.stream[stage]] * token_units(row.trials[0].recipe.loss) for row in pack.rows)
    return pack.examples * adapter_weight(pack, stage) * sum(tokens)


def scores_probes(study: Study, stage: int, stages: int) -> bool:
    return study.scoring.probes_after == "every_task" or stage == stages - 1


def takes_intruders(study: Study, stage: int, stages: int) -> bool:
    when = study.scoring.intruders_after
    return when == "every_task" or (when == "last_task" and stage == stages - 1)


def student_scores(study: Study, row: Row, stage: int) -> int:
    """How often a row's student is scored on its task number ``stage``, for the curve beside that of its averages.

    Once for all trials that score an average of it, at every point but the first one's start, which is the base.
    """
    averaged = any(trial.facts.scored == "average" for trial in row.trials)
    return len(study.curve(row.trials[0].examples)) - (stage == 0) if averaged and study.scoring.curve else 0


def pack_units(study: Study, base: BaseRecord, pack: Pack) -> float:
    """All the work of a pack."""
    total = START_UNITS
    stages = max(len(row.stream) for row in pack.rows)
    inner = len(study.curve(pack.examples)) - 2
    probes = scoring_units(study, base, study.probes)
    streams = {row.stream: scoring_units(study, base, row.stream) for row in pack.rows}
    for stage in range(stages):
        total += stage_train_units(base, pack, stage)
        weight = adapter_weight(pack, stage)
        asked = probes if scores_probes(study, stage, stages) else 0.0
        intruders = intruder_units(pack.adapter) if takes_intruders(study, stage, stages) else 0.0
        for row in pack.rows:
            task = scoring_units(study, base, (row.stream[stage],))
            total += len(row.trials) * (weight * (streams[row.stream] + asked + inner * task) + intruders)
            total += student_scores(study, row, stage) * weight * task
    return total
