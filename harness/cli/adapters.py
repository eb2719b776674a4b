"""Verbs that take trained adapters: audit those made elsewhere, mitigate their intruder dimensions."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from harness.cli.options import (
    AsJson,
    ModelName,
    OutFolder,
    model_option,
    names,
    one_of,
    out_option,
    resolve,
    shares,
    shots,
)
from harness.cli.terminal import say, when_stopped
from harness.words import plural

if TYPE_CHECKING:
    from harness.report.pages.mitigation import About


def audit(
    adapters: Annotated[
        list[Path], typer.Argument(metavar="ADAPTER...", help="Folders that PEFT wrote; of one run, in training order.")
    ],
    model: Annotated[str, model_option("The base: a catalogue name, a folder, or a hub id.")],
    tasks: Annotated[str, typer.Option("--tasks", help="What it was trained on, comma-separated, in that order.")] = "",
    probes: Annotated[str, typer.Option("--probes", help="What it was not trained on, comma-separated.")] = "",
    out: Annotated[Path | None, out_option("Instead of results/audit-<first adapter>.")] = None,
    independent: Annotated[
        bool, typer.Option("--independent", help="Not one training run, though there is an adapter for each task.")
    ] = False,
    another_base: Annotated[
        bool, typer.Option("--another-base", help="Take adapters that name another base, if they fit this one.")
    ] = False,
    dtype: Annotated[str, typer.Option("--dtype", help="float32 or bfloat16.")] = "float32",
    split: Annotated[str, typer.Option("--split", help="test or validation.")] = "test",
    items: Annotated[int | None, typer.Option("--items", help="At most this many items a task.")] = None,
    probe_items: Annotated[int | None, typer.Option("--probe-items", help="The same for probes.")] = None,
    num_fewshot: Annotated[
        str | None, typer.Option("--num-fewshot", help="Examples before each question: 5, or by name: a=5,b=0.")
    ] = None,
    chat_template: Annotated[bool, typer.Option("--chat-template", help="Use the model's chat template.")] = False,
    threads: Annotated[int | None, typer.Option("--threads", help="CPU threads.")] = None,
    batch_tokens: Annotated[int | None, typer.Option("--batch-tokens", help="Token budget of one pass.")] = None,
    max_length: Annotated[int | None, typer.Option("--max-length", help="Tokens; longer items are cut.")] = None,
    as_json: AsJson = False,
) -> None:
    """Score adapters made elsewhere: tasks, probes, what the base lost, intruder dimensions, on one page."""
    from harness.cli.show.found import show_table
    from harness.cli.show.progress import progress
    from harness.cli.show.screen import preparing, print_json, screen
    from harness.executors import make_executor
    from harness.posthoc import audit as audits
    from harness.report import write_audit
    from harness.report.pages.audit import changes, glance
    from harness.report.sequence import of_sequence
    from harness.report.text.audit import verdict

    scoring = {"split": split, "items": items, "probe_items": probe_items, "max_length": max_length,
               "batch_tokens": batch_tokens, "chat_template": chat_template,
               "num_fewshot": shots(num_fewshot)}  # fmt: skip
    values = {"model": model, "dtype": dtype, "tasks": names(tasks), "probes": names(probes), "threads": threads,
              "independent": independent, "another_base": another_base, "scoring": _given(scoring)}  # fmt: skip
    with preparing("preparing the audit"):
        loaded = audits.load_audit(adapters, _given(values), out)
    said: list[str] = []
    nothing_kept = "an audit keeps nothing half-way: the same command starts again"
    with when_stopped(nothing_kept), progress(loaded.folder.name) as watcher:
        device = make_executor("local").device("any").kind
        record = audits.run(loaded, device, watcher, of_sequence, said.append)
    for line in said:
        say(line, err=True)
    write_audit(record, loaded.folder)
    if as_json:
        # Which items were right is in audit.json, and a screen long.
        bits = {
            "tasks": {"__all__": {"base": {"correct"}}},
            "adapters": {"__all__": {"scores": {"__all__": {"correct"}}}},
        }
        print_json({"page": str(loaded.folder / "audit.html"), **record.model_dump(mode="json", exclude=bits)})
        return
    for sentence in verdict(record):
        screen.print(sentence)
    show_table(glance(record))
    show_table(changes(record))
    say(f"report: {loaded.folder / 'audit.html'}")


def _given(values: dict[str, Any]) -> dict[str, Any]:
    """Without what was left to its default."""
    return {key: value for key, value in values.items() if value is not None}


def mitigate(
    target: Annotated[
        str, typer.Argument(metavar="TRIAL|STUDY", help="A trial's fingerprint, or a study: all of its.")
    ],
    which: Annotated[
        str, typer.Option("--which", help="Intruders of a matrix: the first, as in the paper, or all, as in PEFT.")
    ] = "first",
    keep: Annotated[str, typer.Option("--keep", help="Parts of them that are kept, comma-separated; 1: a check.")] = (
        "0,0.25,0.5,0.75"
    ),
    study: Annotated[str, typer.Option("--study", help="The study that a TRIAL belongs to.")] = "auto",
    model: ModelName = None,
    out: OutFolder = None,
    as_json: AsJson = False,
) -> None:
    """Scale the intruder dimensions of trained adapters and score them again, beside a shrink of the same size."""
    from harness.cli.show.progress import progress
    from harness.cli.show.screen import preparing
    from harness.data import paths
    from harness.executors import make_executor
    from harness.posthoc import mitigation, variants
    from harness.report.pages.mitigation import About
    from harness.running.campaign import load_campaign

    keeps, chosen = shares(keep), one_of(which, "--which", variants.WHICH)
    known = {path.stem for path in paths.studies_dir().glob("*.yaml")}
    whole = target == "auto" or target.endswith((".yaml", ".yml")) or target in known
    with preparing("preparing the mitigation"):
        device = make_executor("local").device
        campaign = load_campaign(resolve(target if whole else study), model=model, out=out, device=device)
        trials = mitigation.find_trials(campaign.folder, campaign.plan.fingerprints, None if whole else target)
        adapters, left_out = mitigation.read_adapters(campaign.folder, trials)
    for reason in left_out:
        say(f"left out: {reason}", err=True)
    nothing_kept = "a mitigation keeps nothing half-way: the same command starts again; the trials are as they were"
    with when_stopped(nothing_kept), progress(campaign.study.name) as watcher:
        rows = mitigation.mitigate(
            campaign.study, campaign.model.path, adapters, chosen, keeps, device(campaign.study.device).kind, watcher
        )
    folder = mitigation.results_folder(campaign.folder, chosen, None if whole else trials[0])
    one = None if whole else trials[0].fingerprint
    about = About(campaign.study.name, chosen, keeps, len(adapters), tuple(left_out), one)
    _show_mitigation(rows, about, folder, as_json=as_json)
    if rows and not as_json and (differ := mitigation.differ_from_records(rows)):
        say(f"scored again, {differ} of them differ from their records by the rounding of {campaign.study.dtype}: "
            "what variants change is against `rescored`")  # fmt: skip


def _show_mitigation(rows: list[dict[str, Any]], about: About, folder: Path, *, as_json: bool) -> None:
    """Write its files where there are any, and say what they say."""
    from harness.cli.show.found import show_table
    from harness.cli.show.screen import print_json
    from harness.posthoc.mitigation import COLUMNS
    from harness.report import write_mitigation, write_mitigation_page
    from harness.report.text.mitigation import mitigation_table

    if rows:
        write_mitigation(rows, COLUMNS, folder)
        write_mitigation_page(rows, about, folder)
    touched = len({row["trial"] for row in rows})
    if as_json:
        page = str(folder / "mitigation.html") if rows else None
        print_json({"page": page, "trials": about.trials, "with_intruders": touched, "left_out": about.left_out,
                    "rows": rows})  # fmt: skip
    elif not rows:
        say(f"no intruder dimensions in {plural(about.trials, 'trial')}: nothing to mitigate")
    else:
        show_table(mitigation_table(about.which, rows))
        say(f"{touched} of {plural(about.trials, 'trial')} have intruder dimensions; results: {folder}")
        say(f"page: {folder / 'mitigation.html'}")
