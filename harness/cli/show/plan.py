"""The plan of a study: its arms, its packs, what is done, and how long the rest takes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from pydantic import ValidationError

from harness.cli.show.screen import clock, damaged_lines, folded, print_json, screen, table
from harness.executors.hardware import emulates_bfloat16
from harness.executors.ray.settings import address as address_of_cluster
from harness.method.registry import methods
from harness.running.estimate import forecast_left
from harness.store.records import FINAL
from harness.study.overrides import differences
from harness.study.plan import PlannedTrial
from harness.study.reference import lines
from harness.words import plural

if TYPE_CHECKING:
    from harness.running.campaign import Campaign, State
    from harness.study.config import Study
    from harness.study.stack import Device

EMULATED = "this CPU has no instructions for bfloat16, so a study takes two to three times its first forecast"


def seen_from_here(study: Study, device: Device) -> tuple[str, ...]:
    """What a plan for this machine's likely ``device`` can't know of a cluster that the study may be for; a line each.

    Of ``device: any`` nothing is said unless study or environment speak of a cluster: elsewhere this is the machine.
    """
    asks = "run --address HOST:PORT asks the cluster what it has"
    if device.assumed:
        sizes = f", and packs are sized for {device.gigabytes:g} GB" if study.pack == "auto" else ""
        return (f"torch sees no GPU on this machine: this is laid out for one elsewhere{sizes}; {asks}",)
    of_cluster = study.resources.accelerator_type or address_of_cluster()
    if study.device == "any" and device.kind == "cpu" and of_cluster:
        return (f"this is laid out for the CPU of this machine (device: any), and a cluster may have GPUs; {asks}",)
    return ()


def show_plan(
    campaign: Campaign, state: State, device: Device, notes: Sequence[str] = (), *, as_json: bool = False
) -> None:
    """Trials by arm, packs, what is done, how long the rest takes, and ``notes`` on where this is for."""
    if as_json:
        print_json(_data(campaign, state, device, notes))
        return
    study, plan = campaign.study, campaign.plan
    done = Counter(trial.spec.arm for trial in plan.trials if state.statuses[trial.fingerprint] in FINAL)
    rows = []
    for arm, trials in plan.by_arm.items():
        values = own_settings(study, trials[0])
        shown = ", ".join(f"{key}={' '.join(str(value).split())}" for key, value in values.items())
        rows.append((folded(arm), str(len(trials)), str(done[arm]), shown or "defaults"))
    table(f"{study.name}: {study.title}", ("arm", "trials", "done", "settings that differ from the defaults"), rows)
    orders = "; ".join(f"{name}: {' → '.join(stream)}" for name, stream in study.streams.items())
    screen.print(f"model {study.model} ({study.dtype}, {device.kind}); {plural(len(study.seeds), 'seed')}; {orders}")
    trainings = sum(len(pack.rows) for pack in plan.packs)
    screen.print(
        f"{plural(len(plan.trials), 'trial')}, {plural(trainings, 'training')} in {plural(len(plan.packs), 'pack')}, "
        f"{plural(len(state.todo), 'pack')} to run; results in {campaign.folder}"
    )
    if not campaign.searches:
        for line in lines(campaign.reference):
            screen.print(line)
    for remark in (*campaign.warnings, *campaign.remarks, *notes):
        screen.print(f"note: {remark}", style="yellow")
    for line in (*damaged_lines(state.damaged), *state.changes.lines):
        screen.print(line, style="yellow")
    if state.todo:
        left = forecast_left(campaign, state, device)
        place = "a GPU as fast as an H200" if device.assumed else f"this {device.kind}"
        screen.print(f"forecast: about {clock(left.seconds)} on {place} ({left.basis})")
        if _emulated(study, device):
            screen.print(f"note: {EMULATED}", style="yellow")


def _emulated(study: Study, device: Device) -> bool:
    return device.kind == "cpu" and study.dtype == "bfloat16" and emulates_bfloat16()


def own_settings(study: Study, trial: PlannedTrial) -> dict[str, Any]:
    """Settings of a trial that are not its method's defaults, and what it trains with otherwise than its study."""
    spec = trial.spec
    try:
        kind = methods()[spec.method].settings
        usual = kind().resolved(trial.examples // spec.training["batch"]).model_dump()
    except (ValidationError, KeyError):  # a setting without a default
        usual = {}
    own = {key: value for key, value in spec.parameters.items() if key not in usual or usual[key] != value}
    return own | differences(study, spec.training)


def _data(campaign: Campaign, state: State, device: Device, said: Sequence[str]) -> dict[str, Any]:
    """The same for a program, with every trial."""
    study, plan = campaign.study, campaign.plan
    pack_of = {trial.fingerprint: pack.name for pack in plan.packs for trial in pack.trials}
    left = forecast_left(campaign, state, device) if state.todo else None
    trials = [
        {"trial": trial.fingerprint, "arm": arm, "order": trial.spec.order, "seed": trial.spec.seed,
         "status": state.statuses[trial.fingerprint], "pack": pack_of.get(trial.fingerprint),
         "settings": own_settings(study, trial)}
        for arm, members in plan.by_arm.items() for trial in members
    ]  # fmt: skip
    notes = [*campaign.warnings, *campaign.remarks, *said, *([EMULATED] if left and _emulated(study, device) else [])]
    return {
        "study": study.name, "title": study.title, "folder": str(campaign.folder), "model": study.model,
        "dtype": study.dtype, "device": device.kind,
        "assumed_gpu_gigabytes": device.gigabytes if device.assumed else None,
        "orders": {name: list(s) for name, s in study.streams.items()},
        "trials": trials, "packs": len(plan.packs), "packs_to_run": [pack.name for pack in state.todo],
        "forecast_seconds": left.seconds if left else 0.0, "forecast_basis": left.basis if left else None,
        "reference": campaign.reference.model_dump(mode="json") if campaign.reference else None,
        "notes": notes, "damaged": dict(state.damaged), "changes": list(state.changes.lines),
    }  # fmt: skip
