"""How long what is left of a campaign takes: by what its finished trials cost on this stack, else by constants."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from harness.data.tasks import prepare_task, read_split
from harness.store.records import BaseRecord, BaseScore, TrialRecord
from harness.store.results import base_path, read_some
from harness.study import forecast
from harness.study.pace import Pace, Sample, learn
from harness.study.plan import Pack
from harness.study.stack import Device, agrees, plain_stack

if TYPE_CHECKING:
    from harness.running.campaign import Campaign, State

#: Units (`harness.study.forecast`) a second: SmolLM2-135M on 2 CPU cores (bf16), on one H100 in packs of several rows.
FIRST_GUESS = {"cpu": 900.0, "cuda": 50_000.0}
#: Seconds of a pack beside that: on one H200 packs of `quick` take 14 to 16 s, whatever is in them, and those of its
#: tuning 8 to 14: steps that run before their shapes are captured, and the captures.
FIRST_START = {"cpu": 0.0, "cuda": 10.0}
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
    seconds = sum(pace.seconds(forecast.pack_work(campaign.study, base, pack)) for pack in state.todo)
    seconds += 0 if base.score_seconds else tokens * pace.otherwise
    if pace.records:
        return Forecast(seconds, f"from {pace.records} record{'s'[: pace.records != 1]} of this stack")
    return Forecast(seconds, "from the base model's speed" if _measured(base, device) else "from constants")


def pace_of(campaign: Campaign, statuses: Mapping[str, str], base: BaseRecord, device: Device) -> Pace:
    """How long a unit of work takes; ``statuses`` of trials by fingerprint say which records may tell."""
    tokens = sum(score.tokens for score in base.scores.values())
    otherwise = base.score_seconds / tokens if tokens and _measured(base, device) else 1 / FIRST_GUESS[device.kind]
    return learn(_samples(campaign, statuses, base, device), otherwise, FIRST_START[device.kind])


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
    """Token counts from the length of the rows (four characters a token), before anything has been tokenised."""
    study, scores, train = campaign.study, {}, {}
    for name in (*study.tasks, *study.probes):
        prepared = prepare_task(name)
        rows = read_split(prepared, study.scoring.split)
        limit = study.items(name)
        mean = sum(len(" ".join(map(str, row.values()))) for row in rows) / len(rows) / 4 + 2
        items = min(limit or len(rows), len(rows))
        train[name] = mean
        scores[name] = BaseScore(
            metric="",
            higher_is_better=True,
            items=items,
            chance=None,
            score=0.0,
            stderr=None,
            correct=None,
            tokens=int(mean * items),
        )
    return BaseRecord(key="", scores=scores, train_tokens=train, score_seconds=0.0, peak_memory_gib=0.0)
