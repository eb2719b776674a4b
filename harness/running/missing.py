"""What a run does: the base model's scores, trials that train nothing, then every pack that has work left."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property, partial
from typing import TYPE_CHECKING, Any

from harness.data import paths
from harness.engine.environment import base_key, versions
from harness.errors import LorabenchError
from harness.executors.interface import Executor, Outcome, Watch
from harness.running.estimate import pace_of, pack_seconds
from harness.running.job import Job, forget
from harness.running.untrained import write_untrained
from harness.running.worker import WORK
from harness.store.records import FINAL, BaseRecord
from harness.store.results import read_base, write_base
from harness.study import forecast
from harness.study.halving import halves
from harness.study.memory import card_share, device_class
from harness.study.pace import longest_first
from harness.study.plan import Pack
from harness.study.stack import Device

if TYPE_CHECKING:
    from harness.running.campaign import Campaign, State
    from harness.running.progress import Tracker


@dataclass(frozen=True)
class Run:
    """What every job of one run shares."""

    campaign: Campaign
    executor: Executor
    device: Device
    extras: Mapping[str, Any]
    state: State  #: when it began
    progress: Watch
    tracker: Tracker

    @cached_property
    def stack(self) -> dict[str, Any]:
        """What the records' numbers depend on, as it is where the jobs run."""
        return self.executor.ask(partial(versions, self.campaign.study, self.device.kind), self.device)

    @cached_property
    def base_key(self) -> str:
        campaign = self.campaign
        return base_key(campaign.study, self.stack, campaign.model.digest, campaign.task_digests)

    def job(self, pack: Pack | None) -> Job:
        """The job of a pack, or (None) of the base model."""
        study, model, folder = self.campaign.study, self.campaign.model, self.campaign.folder
        trials = pack.trials if pack else self.campaign.plan.untrained
        write = frozenset(each.fingerprint for each in trials if self.state.statuses[each.fingerprint] not in FINAL)
        return Job(
            study,
            pack,
            model.path,
            folder,
            paths.cache_dir(),
            self.device.kind,
            self.base_key,
            self.stack,
            write,
            self.extras,
            model_digest=model.digest,
            task_digests=self.campaign.task_digests,
            task_sources=self.campaign.task_sources,
            card=self._card(pack),
            number=self.tracker.number(pack) if pack else None,
            file=self.campaign.file,
        )

    def _card(self, pack: Pack | None) -> float:
        """The share of a GPU that a job takes: what the study says, or as much of its memory as the plan gives it."""
        study, asked = self.campaign.study, self.campaign.study.resources.num_gpus
        if asked != "plan" or self.device.gigabytes is None:
            return 1.0 if asked == "plan" else asked
        kind = device_class(self.device.gigabytes)
        rows, copies = (len(pack.rows), pack.copies) if pack else (1, 0.0)
        return card_share(study, self.campaign.model.path, kind, rows, copies)

    def carry_out(self, *packs: Pack | None) -> list[Outcome]:
        return self.executor.run([self.job(pack) for pack in packs], WORK, self.progress)


def run_missing(run: Run, total: Callable[[float], None]) -> list[Outcome]:
    """The base model's scores, trials that train nothing, then all packs that still have work, longest first.

    Gives the outcomes of all packs, of those that failed and of their halves too.
    """
    found: list[Outcome] = []
    try:
        campaign, todo = run.campaign, run.state.todo
        base = read_base(campaign.folder, run.base_key) or _scored_base(run)
        total(run.tracker.begin(lambda pack: forecast.pack_units(campaign.study, base, pack)))
        write_untrained(run.job(None), base, campaign.plan.untrained)
        pace = pace_of(campaign, run.state.statuses, base, run.device)
        while todo:
            todo = longest_first(todo, partial(pack_seconds, campaign.study, base, pace))
            outcomes = run.carry_out(*todo)
            found += outcomes
            # One bad trial fails its whole pack: its halves are tried until what fails stands alone.
            failed = [pack for pack, outcome in zip(todo, outcomes, strict=True) if outcome.failed]
            todo = tuple(half for pack in failed for half in halves(pack))
    finally:
        forget()
    return found


def _scored_base(run: Run) -> BaseRecord:
    """The base model's scores, from the cache or from a job; put where the packs look for them."""
    folder, key = run.campaign.folder, run.base_key
    cache = paths.cache_dir() / "bases" / key
    base = read_base(cache, key)
    if base is None:
        run.carry_out(None)
        base = read_base(folder, key)
        assert base is not None, "the base job writes base.json or raises"
        with suppress(LorabenchError):  # the results are whole without it
            write_base(cache, base)
    else:
        write_base(folder, base)
    return base
