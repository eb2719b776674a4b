"""``lorabench new``: the start of a custom method or task."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

app = typer.Typer(help="Start a custom method or task.", no_args_is_help=True)


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
