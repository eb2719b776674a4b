"""Verbs that say what there is: methods, tasks, studies; and doctor, whether this machine is ready."""

from __future__ import annotations

import json
from typing import Annotated, Any

import typer

from harness.cli.options import AsJson
from harness.cli.terminal import say


def doctor(as_json: AsJson = False) -> None:
    """Check Python, libraries, device, disk, cached files and Ray."""
    from harness.cli import doctor as checkup

    if not checkup.show(as_json):
        raise typer.Exit(1)


def methods(
    check: Annotated[str | None, typer.Option(help="Check one method against the contract, and list none.")] = None,
    as_json: AsJson = False,
) -> None:
    """List the methods, one line each; with --check see whether one keeps the contract."""
    from harness.method.registry import methods as registry

    if check is not None:
        from harness import checks as contract

        for rule in contract.check(check, registry()):
            say(f"ok  {rule}")
        say(f"{check} keeps the contract")
        return
    _list([{"name": m.name, "summary": m.summary, "source": m.source} for m in registry().values()], as_json)


def tasks(
    pattern: Annotated[str, typer.Argument(help="Only names that match, such as 'arc_*'.")] = "*",
    lm_eval: Annotated[bool, typer.Option("--lm-eval", help="lm-eval's own tasks instead of the project's.")] = False,
    as_json: AsJson = False,
) -> None:
    """List the tasks and probes, one line each; with --lm-eval those that lm-eval brings along."""
    from harness.data.tasks import listing

    _list(listing.lm_eval_tasks(pattern, _note) if lm_eval else listing.project_tasks(pattern), as_json)


def studies(as_json: AsJson = False) -> None:
    """List the studies, one line each."""
    from harness.data import paths
    from harness.study.load import load_study

    rows = []
    for path in sorted(paths.studies_dir().glob("*.yaml")):
        study = load_study(path)
        trials = f"{len(study.streams)} order(s), {len(study.seeds)} seed(s)"
        rows.append({"name": study.name, "title": study.title, "model": study.model, "size": trials})
    _list(rows, as_json)


def _note(line: str) -> None:
    """A line for the person that waits, out of the way of what is printed."""
    say(line, err=True)


def _list(rows: list[dict[str, Any]], as_json: bool) -> None:
    if as_json:
        print(json.dumps(rows, indent=1))
        return
    words = {None: "-", True: "yes", False: "no"}
    shown = [[words[v] if v is None or isinstance(v, bool) else str(v) for v in row.values()] for row in rows]
    widths = [max(map(len, column)) for column in zip(*shown, strict=True)]
    for line in shown:
        say("  ".join(map(str.ljust, line, widths)).rstrip())
