"""What several verbs share: options, which study ``auto`` is, and what the texts of options mean."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from harness.errors import InputError

StudyName = Annotated[
    str,
    typer.Argument(
        metavar="STUDY", help="A name of `lorabench studies`, a YAML file, or auto: core with a GPU, else quick."
    ),
]
ModelName = Annotated[
    str | None, typer.Option("--model", help="Another model: a catalogue name, a folder, or a hub id.")
]
OutFolder = Annotated[Path | None, typer.Option("--out", help="Where results go, instead of results/<study>.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]


def resolve(study: str) -> str:
    """``auto`` is the study that suits this machine."""
    if study != "auto":
        return study
    import shutil
    import subprocess

    if shutil.which("nvidia-smi") is None:
        return "quick"
    listed = subprocess.run(["nvidia-smi", "-L"], capture_output=True, text=True, check=False)
    return "core" if "GPU 0" in listed.stdout else "quick"


def names(text: str) -> list[str]:
    """The parts of a comma-separated list."""
    return [name.strip() for name in text.split(",") if name.strip()]


def shots(text: str | None) -> int | dict[str, int] | None:
    """``5``, or ``a=5,b=0`` by task."""
    if text is None or text.isdecimal():
        return None if text is None else int(text)
    pairs = [part.partition("=") for part in names(text)]
    if not all(name and count.isdecimal() for name, _, count in pairs):
        raise InputError(f"'{text}' is not a number of examples", where="--num-fewshot", remedy="for example 5 or a=5")
    return {name: int(count) for name, _, count in pairs}


def shares(text: str) -> tuple[float, ...]:
    """``0,0.5``: parts from 0 to below 1, each once."""
    try:
        found = tuple(dict.fromkeys(float(part) for part in text.split(",")))
    except ValueError:
        found = ()
    if not found or not all(0 <= part < 1 for part in found):
        raise InputError(f"'{text}' is not a list of parts to keep, 0 to below 1", where="--keep", remedy="0,0.5")
    return found


def numbers(text: str, where: str, example: str) -> tuple[int, ...]:
    """Positive whole numbers, comma-separated."""
    if not all(part.isdecimal() and int(part) for part in text.split(",")):
        raise InputError(f"'{text}' is not a list of numbers from 1 up", where=where, remedy=f"for example {example}")
    return tuple(int(part) for part in text.split(","))
