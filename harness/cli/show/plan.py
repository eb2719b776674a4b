"""The plan of a study: its arms, its packs, what is done, and how long the rest takes."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

from harness.cli.show.screen import clock, damaged_lines, screen, table
from harness.executors.hardware import emulates_bfloat16
from harness.run.estimate import forecast_left
from harness.store.records import FINAL
from harness.study.overrides import differences
from harness.study.reference import lines

if TYPE_CHECKING:
    from harness.run.campaign import Campaign, State
    from harness.study.stack import Device


def show_plan(campaign: Campaign, state: State, device: Device) -> None:
    """Trials by arm, packs, what is done, and how long the rest takes."""
    study, plan = campaign.study, campaign.plan
    done = Counter(trial.spec.arm for trial in plan.trials if state.statuses[trial.fingerprint] in FINAL)
    rows = []
    for arm, trials in plan.by_arm.items():
        spec = trials[0].spec
        values = spec.parameters | differences(study, spec.training)
        shown = ", ".join(f"{key}={' '.join(str(value).split())}" for key, value in values.items())
        rows.append((arm, str(len(trials)), str(done[arm]), shown))
    table(f"{study.name}: {study.title}", ("method", "trials", "done", "settings"), rows)
    orders = "; ".join(f"{name}: {' → '.join(stream)}" for name, stream in study.streams.items())
    screen.print(f"model {study.model} ({study.dtype}, {device.kind}); {len(study.seeds)} seeds; {orders}")
    trainings = sum(len(pack.rows) for pack in plan.packs)
    screen.print(
        f"{len(plan.trials)} trials, {trainings} trainings in {len(plan.packs)} packs, {len(state.todo)} packs to run; "
        f"results in {campaign.folder}"
    )
    if not campaign.searches:
        for line in lines(campaign.reference):
            screen.print(line)
    for remark in (*campaign.warnings, *campaign.remarks):
        screen.print(f"note: {remark}", style="yellow")
    for line in (*damaged_lines(state.damaged), *state.changes.lines):
        screen.print(line, style="yellow")
    if state.todo:
        left = forecast_left(campaign, state, device)
        screen.print(f"forecast: about {clock(left.seconds)} on this {device.kind} ({left.basis})")
        if device.kind == "cpu" and study.dtype == "bfloat16" and emulates_bfloat16():
            remark = "this CPU has no instructions for bfloat16, so a study takes two to three times its first forecast"
            screen.print(f"note: {remark}", style="yellow")
