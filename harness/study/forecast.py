"""How much work a pack is, in units of one token's forward pass.

Workers count their progress in the same units, so the estimate of the remaining time needs no knowledge of what is
being done.  How long a unit of each kind of work takes is for :mod:`harness.study.pace`.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from harness.store.records import BaseRecord
from harness.study.config import AdapterSettings, Study
from harness.study.inspection import Inspection, When
from harness.study.memory import TABLE_RANK
from harness.study.methods import LossLike, RecipeLike
from harness.study.plan import Pack, PlannedTrial, Row

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
#: The same of a change that has no low rank: every matrix is taken whole, 4 s of them in place of half a second.
DENSE_INTRUDERS = 8.0
#: Cost of a token under a full change over that under factors of rank 8, by products as large as the base's, which are
#: not measured: in training 5 for 2 (the change forward, back, and its own gradient), in scoring 2 for 1.
DENSE_TRAIN, DENSE_SCORE = 2.5, 2.0
#: A token that is read at an end of a task: a pass, and the second moments of what every matrix reads.
READ_UNITS = 2.0
#: Cost of a multiply-add in fp64, where starts and rules decompose, over one of a pass (135M on 2 CPU cores).
PRODUCT_UNITS = 4.0
#: Work that does not depend on tokens: loading a model and building requests, in forward tokens.
START_UNITS = 5000.0

#: What is decomposed at the ends of tasks takes the time of training, at a pace of its own.
Activity = Literal["train", "score", "analysis", "decompose"]
#: What a part of the work is done with: low-rank factors; these and vectors beside them; full matrices; low-rank
#: factors of students that sample.
Kind = Literal["low-rank", "scaled", "dense", "sampling"]
Effort = tuple[Activity, Kind]
#: Kinds that are scored, the most costly first.
SCORED: tuple[Kind, ...] = ("dense", "scaled", "low-rank")


@dataclass(frozen=True)
class Counts:
    """What a pack does so often, whatever its tokens are: a GPU is long at it where these are few."""

    tasks: int
    steps: int
    passes: int = 1  #: of a step through the model: the student's, and a teacher's
    samples: bool = False  #: whether students draw answers of their own in every step


def pack_counts(study: Study, pack: Pack) -> Counts:
    """Of a pack, whose rows take their steps side by side."""
    losses = [row.trials[0].recipe.loss for row in pack.rows]
    steps = sum(pack.examples) // study.training.batch
    taught = any(loss.teacher is not None for loss in losses)
    return Counts(len(pack.examples), steps, 1 + taught, any(loss.sampling is not None for loss in losses))


def trained_kind(trial: PlannedTrial) -> Kind:
    """What a trial trains.  Trials of one pack agree on it."""
    adapter, loss = trial.recipe.adapter, trial.recipe.loss
    if adapter.trained_rank(trial.adapter.rank) is None:
        return "dense"
    if loss.sampling is not None:
        return "sampling"
    return "scaled" if adapter.vectors else "low-rank"


def scored_kind(trial: PlannedTrial) -> Kind:
    """What of a trial is scored and analysed: what it trains, or an average that has no low rank."""
    average = trial.recipe.average
    if trial.facts.scored == "average" and average is not None and average.is_dense:
        return "dense"
    trained = trained_kind(trial)
    return "low-rank" if trained == "sampling" else trained


def scoring_units(study: Study, base: BaseRecord, tasks: tuple[str, ...]) -> float:
    return float(sum(base.scores[name].tokens for name in tasks))


def token_units(loss: LossLike, taught: bool = True) -> float:
    """Work of training with this loss on a token of a given example, all that it asks for included.

    ``taught``: a teacher is asked, as in all steps but a task's first ones.
    """
    samples = taught and loss.sampling is not None
    read = (DEMONSTRATED if loss.demonstration else 1) if taught and loss.teacher else 0
    return TRAIN_UNITS * (loss.given + samples) + TEACHER_UNITS * read + SAMPLING_UNITS * samples


def adapter_weight(pack: Pack, stage: int, *, merged: bool = False) -> float:
    """Work of a token at this stage over that with adapters of rank 8, which the constants were measured with.

    ``merged``: under what is made of the adapters of all tasks so far, where any trial scores that.

    By the products alone: the numbers of the factors, with those that earlier tasks have left, over the model's.
    """
    stacked = stage + 1 if pack.stacks or (merged and pack.merges) else 1
    return 1 + pack.shares.factors * max(0.0, stacked - TABLE_RANK / pack.adapter.rank)


def train_weight(pack: Pack, stage: int) -> float:
    """Work of training on a token at this stage over that with adapters of rank 8."""
    dense = trained_kind(pack.trials[0]) == "dense"
    return adapter_weight(pack, stage) * (DENSE_TRAIN if dense else 1)


def score_weight(pack: Pack, stage: int, dense: bool) -> float:
    """The same of scoring what the pack has trained, or a ``dense`` change that was made of it."""
    return adapter_weight(pack, stage, merged=True) * (DENSE_SCORE if dense else 1)


def intruder_units(adapter: AdapterSettings, kind: Kind = "low-rank") -> float:
    """Work of the intruders of one trial after one task: as much for each type of matrix."""
    each = INTRUDER_UNITS * (1 if kind == "low-rank" else DENSE_INTRUDERS)
    return each * len(adapter.targets) / len(AdapterSettings().targets)


def stage_train_units(base: BaseRecord, pack: Pack, stage: int) -> float:
    """Training every row of the pack on its task number ``stage``, without the scores in between."""
    tokens = (base.train_tokens[row.stream[stage]] * token_units(row.trials[0].recipe.loss) for row in pack.rows)
    return pack.examples[stage] * train_weight(pack, stage) * sum(tokens)


def inspection_units(base: BaseRecord, pack: Pack, stage: int, *whens: When) -> dict[Activity, float]:
    """What is read and decomposed at these ends of task number ``stage``, by all rows."""
    read = decomposed = 0.0
    sizes = pack.shares.decomposed
    for row, inspection in _inspections(pack, stage, whens):
        tokens = inspection.tokens(row.examples[stage], base.train_tokens[row.stream[stage]], sizes)
        read += tokens * (TRAIN_UNITS if inspection.gradient else READ_UNITS)
        decomposed += inspection.products(sizes)
    return {"train": read * adapter_weight(pack, stage), "decompose": PRODUCT_UNITS * decomposed}


def _inspections(pack: Pack, stage: int, whens: tuple[When, ...]) -> Iterator[tuple[Row, Inspection]]:
    """Those at these ends of a task; with the first one, adapters that are alike start once for rows of one seed."""
    started: set[tuple[int, str]] = set()
    for row in pack.rows:
        recipe = row.trials[0].recipe_at(stage)
        parts = [*recipe.updates]
        start = (row.init_seed, repr(recipe.adapter))
        if stage == 0 and start not in started:
            parts.append(recipe.adapter)
            started.add(start)
        elif stage and recipe.between in ("reinit", "fresh"):
            parts.append(recipe.adapter)
        yield from ((row, each) for part in parts for each in part.inspects if each.when in whens)


def takes_spectra(study: Study, recipe: RecipeLike) -> bool:
    """Whether trials of this recipe look at the SVDs of the base's matrices."""
    if recipe.adapter is None:
        return False
    own = any(part.takes_spectra for part in (recipe.adapter, *recipe.updates))
    return own or study.scoring.intruders_after != "never"


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
    return len(study.curve(row.examples[stage])) - (stage == 0) if averaged and study.scoring.curve else 0


def pack_work(study: Study, base: BaseRecord, pack: Pack) -> dict[Effort, float]:
    """The work of a pack by part and kind, without its start.

    Trials of a pack may be scored with different kinds; then all of that part is of the most costly.
    """
    stages = range(max(len(row.stream) for row in pack.rows))
    kinds: list[Kind] = [scored_kind(trial) for trial in pack.trials]
    most = min(kinds, key=SCORED.index)
    taken = sum(takes_intruders(study, stage, len(stages)) for stage in stages)
    scores = (_row_scores(study, base, pack, row, stage) for stage in stages for row in pack.rows)
    trained = trained_kind(pack.trials[0])
    beside = [inspection_units(base, pack, stage, "start", "begin", "end") for stage in stages]
    steps = sum(stage_train_units(base, pack, stage) for stage in stages)
    return {
        ("train", trained): steps + sum(each["train"] for each in beside),
        ("decompose", trained): sum(each["decompose"] for each in beside),
        ("score", most): sum(scores),
        ("analysis", most): taken * sum(intruder_units(pack.adapter, kind) for kind in kinds),
    }


def _row_scores(study: Study, base: BaseRecord, pack: Pack, row: Row, stage: int) -> float:
    """Scores of a row's trials at and within its task number ``stage``, and of its student."""
    inner = len(study.curve(pack.examples[stage])) - 2
    task = scoring_units(study, base, (row.stream[stage],))
    asked = scoring_units(study, base, row.stream) + inner * task
    if scores_probes(study, stage, len(row.stream)):
        asked += scoring_units(study, base, study.probes)
    kinds = [scored_kind(trial) for trial in row.trials]
    student = score_weight(pack, stage, trained_kind(row.trials[0]) == "dense") * task
    of_trials = sum(score_weight(pack, stage, kind == "dense") for kind in kinds) * asked
    return of_trials + student_scores(study, row, stage) * student


def pack_units(study: Study, base: BaseRecord, pack: Pack) -> float:
    """All the work of a pack."""
    return START_UNITS + sum(pack_work(study, base, pack).values())
