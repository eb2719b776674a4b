"""What several verbs share: options, which study ``auto`` is, and what the texts of options mean."""

from __future__ import annotations

from collections.abc import Iterable
from functools import partial
from pathlib import Path
from stat import S_ISDIR
from typing import Annotated, Any

import typer

from harness.errors import InputError


def out_folder(text: str | Path, where: str = "--out") -> Path:
    """A folder to write to, which need not be there yet; what stands in its way is refused before any work."""
    if not str(text).strip():
        raise InputError("this is empty", where=where, remedy="name a folder")
    path = Path(text).absolute()
    for place in (path, *path.parents):
        try:
            there = S_ISDIR(place.stat().st_mode)
        except (FileNotFoundError, NotADirectoryError):
            continue
        except OSError as error:  # too long, a loop of links, a folder that is closed to us
            what = f"{place}: {error.strerror}"
            raise InputError(what, where=where, remedy="name another folder") from error
        if not there:
            raise InputError(f"{place} is a file, not a folder", where=where, remedy="name another folder")
        break
    return Path(text)


def model_text(text: str) -> str:
    """A model as it may be looked for."""
    from harness.study.limits import model_name

    try:
        return model_name(text)
    except ValueError as error:
        raise InputError(str(error), where="--model", remedy="leave the option out for the study's own") from error


def kind_of(path: Path) -> str:
    """``folder``, ``file``, or nothing; a name that can't be one is nothing."""
    try:
        return "folder" if path.is_dir() else "file" if path.exists() else ""
    except (OSError, ValueError):
        return ""


def model_option(help_text: str) -> Any:
    return typer.Option("--model", parser=model_text, metavar="TEXT", help=help_text)


def out_option(help_text: str, flag: str = "--out") -> Any:
    return typer.Option(flag, parser=partial(out_folder, where=flag), metavar="PATH", help=help_text)


def study_names(incomplete: str) -> list[str]:
    """For the shell: studies that begin so."""
    from harness.data import paths

    return sorted(path.stem for path in paths.studies_dir().glob("*.yaml") if path.stem.startswith(incomplete))


def method_names(incomplete: str) -> list[str]:
    """For the shell: methods that begin so."""
    from harness.method.registry import methods

    return sorted(name for name in methods() if name.startswith(incomplete))


StudyName = Annotated[
    str,
    typer.Argument(
        metavar="STUDY",
        help="A name of `lorabench studies`, a YAML file, or auto: core with a GPU, else quick.",
        autocompletion=study_names,
    ),
]
ModelName = Annotated[str | None, model_option("Another model: a catalogue name, a folder, or a hub id.")]
OutFolder = Annotated[Path | None, out_option("Where results go, instead of results/<study>.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]


def resolve(study: str) -> str:
    """``auto`` is the study that suits this machine.

    Anything else is the path of a YAML file, or a name: of a study, or of its results with another model
    (``core@smollm2``).  A name never leads out of the folder of studies or results.
    """
    from harness.study.config import check_name

    if study != "auto":
        if not study.endswith((".yaml", ".yml")):
            name, at, model = study.partition("@")
            check_name(name, "study", "STUDY")
            if at:
                check_name(model, "model", "STUDY")
        return study
    import shutil
    import subprocess

    if shutil.which("nvidia-smi") is None:
        return "quick"
    listed = subprocess.run(["nvidia-smi", "-L"], capture_output=True, text=True, check=False)
    return "core" if "GPU 0" in listed.stdout else "quick"


def refuse_unknown(study: str, folder: Path) -> None:
    """A study that has no results and no file is a mistyped name, not one that has yet to run."""
    from harness.data import paths
    from harness.study.load import find_study

    if kind_of(folder) != "folder":
        is_file = study.endswith((".yaml", ".yml"))
        find_study(study if is_file else study.partition("@")[0], paths.studies_dir())


def names(text: str) -> list[str]:
    """The parts of a comma-separated list."""
    return [name.strip() for name in text.split(",") if name.strip()]


def shots(text: str | None) -> int | dict[str, int] | None:
    """``5``, or ``a=5,b=0`` by task."""
    if text is None:
        return None
    pairs = [part.partition("=") for part in names(text)]
    if not _is_number(text) and not (pairs and all(name and _is_number(count) for name, _, count in pairs)):
        raise InputError(f"'{text}' is not a number of examples", where="--num-fewshot", remedy="for example 5 or a=5")
    return int(text) if _is_number(text) else {name: int(count) for name, _, count in pairs}


def _is_number(text: str) -> bool:
    return text.isdecimal() and len(text) <= 9


def one_of(text: str, where: str, choices: Iterable[str]) -> Any:
    """The text, which must be one of the choices."""
    if text not in choices:
        raise InputError(f"'{text}' is none of {', '.join(choices)}", where=where, remedy="choose one of them")
    return text


def shares(text: str) -> tuple[float, ...]:
    """``0,0.5``: parts from 0 to 1, each once."""
    try:
        parts = tuple(dict.fromkeys(float(part) for part in text.split(",")))
    except ValueError:
        parts = ()
    if not parts or not all(0 <= part <= 1 for part in parts):
        raise InputError(f"'{text}' is not a list of parts to keep, 0 to 1", where="--keep", remedy="0,0.5")
    return parts


def numbers(text: str, where: str, example: str, most: int) -> tuple[int, ...]:
    """Whole numbers from 1 to ``most``, comma-separated."""
    parts = text.split(",")
    if not all(_is_number(part) and 1 <= int(part) <= most for part in parts):
        raise InputError(
            f"'{text}' is not a list of numbers from 1 to {most:,}", where=where, remedy=f"for example {example}"
        )
    return tuple(int(part) for part in parts)
