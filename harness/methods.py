"""The registry of methods: every module of ``baselines`` with a ``METHOD``, and installed plug-ins.

A plug-in is an entry point of the group ``lorabench.methods`` that names a :class:`~harness.engine.method.Method`.
"""

from __future__ import annotations

import importlib
import inspect
import pkgutil
from functools import cache
from importlib.metadata import entry_points
from pathlib import Path
from typing import TYPE_CHECKING

from harness.errors import InputError
from harness.study.fingerprint import source_digest

if TYPE_CHECKING:
    from harness.engine.method import Method


@cache
def methods() -> dict[str, Method]:
    """Every method by name, in the order of their names."""
    import baselines

    found: dict[str, Method] = {}
    for info in pkgutil.iter_modules(baselines.__path__):
        method = getattr(importlib.import_module(f"baselines.{info.name}"), "METHOD", None)
        if method is not None:
            _add(found, method, f"baselines/{info.name}.py")
    for entry in entry_points(group="lorabench.methods"):
        _add(found, entry.load(), f"entry point {entry.name}")
    return dict(sorted(found.items()))


def _add(found: dict[str, Method], method: Method, where: str) -> None:
    if method.name in found:
        raise InputError(f"there are two methods named '{method.name}'", where=where, remedy="rename one of them")
    found[method.name] = method


def method_digest(method: Method) -> str:
    """sha256 of the sources that define a method: its module and every ``baselines`` module that it builds on."""
    return source_digest(_sources(inspect.getmodule(method.compose)))


def _sources(module: object, seen: frozenset[Path] = frozenset()) -> frozenset[Path]:
    """The module's file and those of the modules it names, as long as they stand in the same package."""
    path = Path(inspect.getfile(module))  # type: ignore[arg-type]
    if path in seen:
        return seen
    seen |= {path}
    package = module.__name__.rpartition(".")[0]  # type: ignore[attr-defined]
    for value in vars(module).values():
        other = value if inspect.ismodule(value) else inspect.getmodule(value)
        if other is not None and package and other.__name__.rpartition(".")[0] == package:
            seen |= _sources(other, seen)
    return seen
