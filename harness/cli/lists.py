"""Verbs that say what there is: methods, tasks, studies; and doctor, whether this machine is ready."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from harness.cli.options import AsJson, method_names
from harness.cli.terminal import say
from harness.words import plural


def doctor(as_json: AsJson = False) -> None:
    """Check Python, libraries, device, disk, cached files and Ray."""
    from harness.cli import doctor as checkup

    if not checkup.show(as_json):
        raise typer.Exit(1)


def methods(
    check: Annotated[
        str | None,
        typer.Option(help="Check one method against the contract, and list none.", autocompletion=method_names),
    ] = None,
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
    rows = [{"name": m.name, "summary": m.summary, "source": m.source} for m in registry().values()]
    _list(rows, as_json, "no method is there")


def tasks(
    pattern: Annotated[str, typer.Argument(help="Only names that match, such as 'arc_*'.")] = "*",
    lm_eval: Annotated[bool, typer.Option("--lm-eval", help="lm-eval's own tasks instead of the project's.")] = False,
    as_json: AsJson = False,
) -> None:
    """List the tasks and probes, one line each; with --lm-eval those that lm-eval brings along."""
    from harness.data.tasks import listing

    rows = listing.lm_eval_tasks(pattern, _note) if lm_eval else listing.project_tasks(pattern)
    elsewhere = "" if lm_eval else "; lm-eval's own are listed with --lm-eval"
    _list(rows, as_json, f"no task matches '{pattern}'{elsewhere}")


def studies(
    as_json: AsJson = False,
    schema: Annotated[
        bool, typer.Option("--schema", help="Print the JSON schema of a study's file, for editors, instead.")
    ] = False,
) -> None:
    """List the studies, one line each; with --schema what a study's file may say."""
    if schema:
        from harness.cli.documentation import schema_text

        typer.echo(schema_text(), nl=False)
        return
    from harness.data import paths
    from harness.study.load import load_study

    rows = []
    for path in sorted(paths.studies_dir().glob("*.yaml")):
        study = load_study(path)
        size = f"{plural(len(study.streams), 'order')}, {plural(len(study.seeds), 'seed')}"
        rows.append({"name": study.name, "title": study.title, "model": study.model, "size": size})
    _list(rows, as_json, "no study is there")


def _note(line: str) -> None:
    """A line for the person that waits, out of the way of what is printed."""
    say(line, err=True)


def _list(rows: list[dict[str, Any]], as_json: bool, nothing: str) -> None:
    """A row each under a header; ``nothing`` says on stderr that there is none."""
    from harness.cli.show.screen import listing, print_json

    if as_json:
        print_json(rows)
    elif not rows:
        _note(nothing)
    else:
        listing([name.replace("_", " ") for name in rows[0]], [list(map(_cell, row.values())) for row in rows])


def _cell(value: Any) -> str:
    return {None: "-", True: "yes", False: "no"}[value] if value is None or isinstance(value, bool) else str(value)
