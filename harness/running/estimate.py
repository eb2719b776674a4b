"""How long what is left of a campaign takes: by what its finished trials cost on this stack, else by constants."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from harness.data import paths
from harness.data.tasks import prepare_task, read_split
from harness.store.records import BaseRecord, BaseScore, TrialRecord
from harness.store.results import base_path, read_some
from harness.store.spectra import Wanted, find
from harness.study import forecast
from harness.study.config import Study
from harness.study.memory import parameters
from harness.study.pace import Beside, FirstGuess, Pace, Sample, learn
from harness.study.plan import Pack, PlannedTrial
from harness.study.stack import Device, agrees, plain_stack

if TYPE_CHECKING:
    from harness.running.campaign import Campaign, State

#: By kind of device; units are those of `harness.study.forecast`.  SmolLM2-135M on 2 CPU cores (bf16); and on one H200:
#: - training takes 1 ms for each row of 8 x 41 tokens beyond the 7 ms of a step (`perf train`, 1, 10, 30 rows), so
#:   350,000 tokens a second; texts of all lengths, as those of the standard benchmark, are padded to 1.4 to 1.9 times;
#: - scoring takes 0.95 s for 391,000 tokens of 15 trials, a third of it judgements that are made meanwhile now;
#: - intruders of a trial take 0.02 to 0.1 s, and 10,000 tokens of the base alone a second, with all that comes first;
#: - packs of `quick` take 14 s, whatever is in them, and 19 s with a teacher: shapes that run before they are captured,
#:   captures, and scorings of 0.2 s.  Longer texts have more shapes.  Samples are not measured: some six eager passes.
FIRST_GUESS = {
    "cpu": FirstGuess(base=900.0),
    "cuda": FirstGuess(
        base=10_000.0,
        units={"train": 900_000.0, "score": 600_000.0, "analysis": 10_000.0},
        beside=Beside(pack=2.0, task=2.0, shapes=1.5, step=0.007, samples=0.3),
    ),
}
#: Seconds of an fp64 multiply-add where starts and rules decompose: of a thread of a CPU, measured (products and
#: eigenvectors of 576 and 1536 inputs); of a GPU an estimate.
PRODUCT_SECONDS = {"cpu": 5e-11, "cuda": 3e-11}
#: Seconds of the SVD of a matrix [m, n], over m n min(m, n): of a thread of a CPU, and on one H200.
SVD_SECONDS = {"cpu": 5e-10, "cuda": 1.5e-10}
#: Packs that a pace is learnt from at most, a record each: trials of a pack share its costs.
MOST_PACKS = 100


@dataclass(frozen=True)
class Forecast:
    """Seconds for what is left, and what that rests on, for a person."""

    seconds: float
    basis: str


def forecast_left(campaign: Campaign, state: State, device: Device) -> Forecast:
    """The time that is left, from costs in records of the same stack, the base model's speed, or constants."""
    base = _any_base(campaign.folder) or _guessed_base(campaign)
    if not {*campaign.study.tasks, *campaign.study.probes} <= set(base.scores):
        base = _guessed_base(campaign)
    tokens = sum(score.tokens for score in base.scores.values())
    pace = pace_of(campaign, state.statuses, base, device)
    seconds = sum(pack_seconds(campaign.study, base, pace, pack) for pack in state.todo)
    seconds += 0 if base.score_seconds else tokens * pace.otherwise
    seconds += _svd_seconds(campaign, state, device, of_this_stack=pace.records > 0)
    if pace.records:
        return Forecast(seconds, f"from {pace.records} record{'s'[: pace.records != 1]} of this stack")
    return Forecast(seconds, "from the base model's speed" if _measured(base, device) else "from constants")


def pace_of(campaign: Campaign, statuses: Mapping[str, str], base: BaseRecord, device: Device) -> Pace:
    """How long a unit of work takes; ``statuses`` of trials by fingerprint say which records may tell."""
    tokens = sum(score.tokens for score in base.scores.values())
    guess = FIRST_GUESS[device.kind]
    otherwise = base.score_seconds / tokens if tokens and _measured(base, device) else 1 / guess.base
    guessed: dict[forecast.Activity, float] = {part: 1 / units for part, units in guess.units.items()}
    product = PRODUCT_SECONDS[device.kind] / _threads(campaign, device)
    guessed["decompose"] = product * parameters(campaign.model.path) / forecast.PRODUCT_UNITS
    first = Pace(otherwise, guessed=guessed, beside=guess.beside)
    return learn(_samples(campaign, statuses, base, device), first)


def pack_seconds(study: Study, base: BaseRecord, pace: Pace, pack: Pack) -> float:
    """How long a pack takes at this pace."""
    return pace.seconds(forecast.pack_work(study, base, pack), forecast.pack_counts(study, pack))


def _threads(campaign: Campaign, device: Device) -> int:
    return campaign.study.threads if device.kind == "cpu" else 1


def _svd_seconds(campaign: Campaign, state: State, device: Device, of_this_stack: bool) -> float:
    """Decomposing the base, for intruder dimensions and the starts that ask for it, where this cache has not got it.

    Nor a trial that has finished, where some are ``of_this_stack``: the nodes of a cluster have caches of their own.
    """
    study, source = campaign.study, campaign.model
    finished = {targets for trial, targets, _ in _decomposing(study, campaign.plan.packs)
                if of_this_stack and state.statuses.get(trial.fingerprint) == "ok"}  # fmt: skip
    chosen = {targets: pack for _, targets, pack in _decomposing(study, state.todo) if targets not in finished}
    absent = (pack for targets, pack in chosen.items()
              if find(paths.cache_dir() / "spectra", Wanted(source.digest, study.dtype, targets)) is None)  # fmt: skip
    whole = sum(pack.shares.decomposed.matrices for pack in absent) * parameters(source.path)
    return SVD_SECONDS[device.kind] * whole / _threads(campaign, device)


def _decomposing(study: Study, packs: Sequence[Pack]) -> Iterator[tuple[PlannedTrial, frozenset[str], Pack]]:
    """The trials that look at the base's SVDs, each with the projections that are adapted and its pack."""
    for pack in packs:
        targets = frozenset(pack.adapter.targets)
        yield from ((each, targets, pack) for each in pack.trials if forecast.takes_spectra(study, each.recipe))


def _measured(base: BaseRecord, device: Device) -> bool:
    """Whether the base's speed says something: a GPU scores the one model far below the speed of a pack."""
    return bool(base.score_seconds) and device.kind == "cpu"


def _samples(campaign: Campaign, statuses: Mapping[str, str], base: BaseRecord, device: Device) -> Iterator[Sample]:
    """A trial of each pack that has a finished one of this stack; of at most ``MOST_PACKS`` packs, spread over all."""
    done: dict[str, Pack] = {}
    for pack in campaign.plan.packs:
        trial = next((trial for trial in pack.trials if statuses.get(trial.fingerprint) == "ok"), None)
        if trial:
            done[trial.fingerprint] = pack
    if not done:
        return
    plain = plain_stack(campaign.study, device)
    chosen = sorted(done)[:: -(-len(done) // MOST_PACKS)]
    for record in read_some(campaign.folder, chosen):
        if agrees(record.stack, plain):
            yield _sample(campaign, base, done[record.fingerprint], record)


def _sample(campaign: Campaign, base: BaseRecord, pack: Pack, record: TrialRecord) -> Sample:
    """A record's costs are its share of its pack's, and so is the work that is expected."""
    work = forecast.pack_work(campaign.study, base, pack)
    return Sample({each: units / len(pack.trials) for each, units in work.items()}, record.costs)


def _any_base(folder: Path) -> BaseRecord | None:
    try:
        return BaseRecord.model_validate_json(base_path(folder).read_bytes())
    except (OSError, ValueError):
        return None


def _guessed_base(campaign: Campaign) -> BaseRecord:
    """Token counts from the length of the rows, before anything has been tokenised."""
    study, scores, train = campaign.study, {}, {}
    for name in (*study.tasks, *study.probes):
        prepared = prepare_task(name)
        if name in study.tasks:
            train[name] = _tokens(read_split(prepared, "train"), study.training.max_length)
        rows = read_split(prepared, study.scoring.split)
        items = min(study.items(name) or len(rows), len(rows))
        scores[name] = BaseScore(
            metric="",
            higher_is_better=True,
            items=items,
            chance=None,
            score=0.0,
            stderr=None,
            correct=None,
            tokens=int(_tokens(rows, study.scoring.max_length) * items),
        )
    return BaseRecord(key="", scores=scores, train_tokens=train, score_seconds=0.0, peak_memory_gib=0.0)


def _tokens(rows: Sequence[Mapping[str, object]], longest: int) -> float:
    """Mean tokens of these rows, of which at most so many are read, at four characters a token."""
    lengths = (min(longest, len(" ".join(map(str, row.values()))) / 4 + 2) for row in rows)
    return sum(lengths) / len(rows)
