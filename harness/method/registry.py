"""The registry of methods: every module of ``baselines`` with a ``METHOD``, plug-in folders, and installed plug-ins.

A plug-in folder (``--plugins DIR``) has its methods in ``DIR/methods``; an installed package has an entry point of the
group ``lorabench.methods`` that names a :class:`~harness.method.recipe.Method`.
"""

from __future__ import annotations

import importlib
import inspect
import re
import traceback
from collections.abc import Callable
from functools import cache, partial
from importlib.metadata import entry_points
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

from harness.errors import InputError
from harness.store.fingerprint import source_digest
from harness.study.limits import shown

if TYPE_CHECKING:
    from harness.method.recipe import Method

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")


@cache
def methods() -> dict[str, Method]:
    """Every method by name, in the order of their names.

    Raises InputError for a plug-in that can't be imported, or whose ``METHOD`` is no ``Method`` or composes no recipe.
    """
    import baselines

    by_name: dict[str, Method] = {}
    files: dict[str, Path] = {}
    for folder in baselines.__path__:
        for file in sorted(Path(folder).glob("[!_]*.py")):
            if file.stem in files:
                what = f"there are two modules of this name; the other is {files[file.stem]}"
                raise InputError(what, where=str(file), remedy="rename one of them")
            files[file.stem] = file
            method = _load(lambda file=file: importlib.import_module(f"baselines.{file.stem}"), str(file))
            if hasattr(method, "METHOD"):
                _add(by_name, method.METHOD, str(file))
    for entry in entry_points(group="lorabench.methods"):
        _add(by_name, _load(entry.load, f"entry point {entry.name}"), f"entry point {entry.name}")
    return dict(sorted(by_name.items()))


def _load(load: Callable[[], Any], where: str) -> Any:
    """What ``load`` gives; whatever it raises, ``SystemExit`` included, names the line of the file, not ours."""
    try:
        return load()
    except KeyboardInterrupt:  # Ctrl-C
        raise
    except BaseException as error:
        lines = [f.lineno for f in traceback.extract_tb(error.__traceback__) if f.filename == where]
        line = error.lineno if isinstance(error, SyntaxError) else (lines or [None])[-1]
        raise InputError(
            f"can't be imported: {type(error).__name__}: {error}",
            where=f"{where}:{line}" if line else where,
            remedy="correct it, or leave it out",
        ) from error


def _add(by_name: dict[str, Method], method: object, where: str) -> None:
    from harness.method.recipe import Method, Recipe

    remedy = "start from a file that `lorabench new method` writes"
    if not isinstance(method, Method):
        raise InputError(f"METHOD is a {type(method).__name__}, not a Method", where=where, remedy=remedy)
    # What follows looks at what a plug-in gives, which nothing has held to its annotations.
    named = isinstance(method.name, str)  # pyright: ignore[reportUnnecessaryIsInstance]  # see above
    if not named or not NAME.fullmatch(method.name):
        raise InputError(
            f"{shown(method.name)} is not a name for a method",
            where=where,
            remedy="use letters, digits, '_', '-' and '.', at most 64: a study writes name@setting",
        )
    if method.name in by_name:
        raise InputError(f"there are two methods named '{method.name}'", where=where, remedy="rename one of them")
    try:
        recipe = method.compose(method.settings().resolved(64))
    except KeyboardInterrupt:
        raise
    except BaseException as error:
        what = f"'{method.name}' can't be composed from its defaults: {type(error).__name__}: {error}"
        raise InputError(what, where=where, remedy=remedy) from error
    if not isinstance(recipe, Recipe):  # pyright: ignore[reportUnnecessaryIsInstance]  # see above
        what = f"compose of '{method.name}' gives a {type(recipe).__name__}, not a Recipe"
        raise InputError(what, where=where, remedy=remedy)
    if getattr(_module(method), "__file__", None) is None:
        what = f"compose of '{method.name}' has no source file, so a record can't say what it was"
        raise InputError(what, where=where, remedy="make it a function of the module")
    by_name[method.name] = method


def method_digest(method: Method) -> str:
    """sha256 of the sources that define a method: its module and every ``baselines`` module that it builds on."""
    module = _module(method)
    assert module is not None, "the registry takes no method without a file"
    return source_digest(_sources(module))


def _module(method: Method) -> ModuleType | None:
    """Where a method's recipe is composed; a partial function is at home where what it calls is."""
    compose: Any = method.compose
    while isinstance(compose, partial):
        compose = compose.func
    return inspect.getmodule(compose)


def _sources(module: ModuleType, seen: frozenset[Path] = frozenset()) -> frozenset[Path]:
    """The module's file and those of the modules it names, as long as they stand in the same package."""
    path = Path(inspect.getfile(module))
    if path in seen:
        return seen
    seen |= {path}
    package = module.__name__.rpartition(".")[0]
    for value in vars(module).values():
        other = value if inspect.ismodule(value) else inspect.getmodule(value)
        if other is not None and package and other.__name__.rpartition(".")[0] == package:
            seen |= _sources(other, seen)
    return seen
