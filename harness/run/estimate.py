"""How long what is left of a campaign takes."""

from __future__ import annotations

from pathlib import Path

from harness.data.tasks import prepare_task, read_split
from harness.run.campaign import Campaign, State
from harness.store.records import BaseRecord, BaseScore
from harness.store.results import base_path
from harness.study import forecast

#: Units (`harness.study.forecast`) a second: SmolLM2-135M on 2 CPU cores (bf16), on one H100 in packs of several rows.
FIRST_GUESS = {"cpu": 900.0, "cuda": 50_000.0}


def seconds_left(campaign: Campaign, state: State, device: str) -> float:
    """Seconds for what is left; from the base model's measured speed where there is one."""
    base = _any_base(campaign.folder) or _guessed_base(campaign)
    if not {*campaign.study.tasks, *campaign.study.probes} <= set(base.scores):
        base = _guessed_base(campaign)
    tokens = sum(score.tokens for score in base.scores.values())
    # A GPU scores the one base model far below the speed of a pack, so that says nothing there.
    measured = base.score_seconds and device == "cpu"
    speed = tokens / base.score_seconds if measured else FIRST_GUESS[device]
    units = sum(forecast.pack_units(campaign.study, base, pack) for pack in state.todo)
    return (units + (0 if base.score_seconds else tokens)) / speed


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
