"""``lorabench new``: the start of a study, of a custom method or of a task."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from harness.cli.options import ModelName, names

app = typer.Typer(help="Start a study, a custom method or a custom task.", no_args_is_help=True)


@app.command("study")
def new_study(
    name: Annotated[str, typer.Argument(metavar="NAME", help="Of the study: NAME.yaml, in this folder.")],
    model: ModelName = None,
    tasks: Annotated[str | None, typer.Option("--tasks", help="What is trained on, comma-separated.")] = None,
    probes: Annotated[str | None, typer.Option("--probes", help="What is scored only, comma-separated.")] = None,
    methods: Annotated[str | None, typer.Option("--methods", help="Methods, comma-separated.")] = None,
) -> None:
    """Write a study with comments that plans as it is, to be changed."""
    from harness.cli import new_study as written

    given = {"tasks": tasks, "arms": methods}
    chosen: dict[str, Any] = {key: names(text) for key, text in given.items() if text is not None}
    if model is not None:
        chosen["model"] = model
    # Probes of our own go with tasks of our own: who names tasks names probes as well.
    own = () if tasks is not None else written.PROBES
    file = written.new_study(name, probes=names(probes) if probes is not None else own, **chosen)
    typer.echo(f"{file}\nplan it with: lorabench plan {file}")


@app.command("method")
def new_method(
    name: Annotated[str, typer.Argument(metavar="NAME", help="Lower-case letters, digits and '_'.")],
) -> None:
    """Write a method that trains, in the clone or in the folder of --plugins, to be changed."""
    from harness.cli import scaffold

    file = scaffold.new_method(name)
    typer.echo(f"{file}\ncheck it with: lorabench methods --check {name}")


@app.command("task")
def new_task(
    name: Annotated[str, typer.Argument(metavar="NAME", help="Lower-case letters, digits and '_'.")],
    source: Annotated[Path, typer.Option("--from", help="A JSONL file: a question and its answer a row.")],
    question: Annotated[str, typer.Option("--question", help="The column of the questions.")] = "question",
    answer: Annotated[str, typer.Option("--answer", help="The column of the answers.")] = "answer",
    choices: Annotated[str, typer.Option("--choices", help="The column of lists to choose from, if any.")] = "choices",
    answers: Annotated[
        str | None,
        typer.Option("--answers", help="Beside choices: text, index (from 0), index1 (from 1); else what fits."),
    ] = None,
    licence: Annotated[str, typer.Option("--licence", help="Of the rows.")] = "not stated",
) -> None:
    """Make a task of given rows, in the clone or in the folder of --plugins, and build its splits."""
    from harness.cli import scaffold
    from harness.data.new_task import Columns

    task, note = scaffold.new_task(name, source, Columns(question, answer, choices, answers), licence)
    sizes = ", ".join(f"{count} {split}" for split, count in task.task.splits.items())
    typer.echo(f"{task.task.folder}\n{note}\n{sizes}; digest {task.digest[:16]}")
