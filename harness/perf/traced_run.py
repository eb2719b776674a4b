"""A verb of ``lorabench`` in this process, with a note of how long parts of it took.

Run as a module, with the file to write and then the words of the verb.  It stands above the command line, as a person's
shell does, so it names what it times by text.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any

#: (module, name in it, the part that a call of it is).  ``decomposition`` is within ``packs``.
PARTS = (
    ("harness.run.worker", "run_base", "base"),
    ("harness.run.worker", "run_pack", "packs"),
    ("harness.engine.spectra", "Spectra.__init__", "decomposition"),
    ("harness.cli.study", "renew_report", "report"),
)


def main(out: Path, words: list[str]) -> int:
    start = time.perf_counter()
    spent = dict.fromkeys((part for *_, part in PARTS), 0.0)
    for module, name, part in PARTS:
        owner: Any = import_module(module)
        *path, last = name.split(".")
        for step in path:
            owner = getattr(owner, step)
        setattr(owner, last, _timed(getattr(owner, last), spent, part))
    spent["imports"] = time.perf_counter() - start
    status: Any = 0
    sys.argv = ["lorabench", *words]
    try:
        import_module("harness.cli").main()
    except SystemExit as stop:
        status = stop.code
    out.write_text(json.dumps(spent), encoding="utf-8")
    return status if isinstance(status, int) else 1 if status else 0


def _timed(function: Callable[..., Any], spent: dict[str, float], part: str) -> Callable[..., Any]:
    def call(*args: Any, **kwargs: Any) -> Any:
        start = time.perf_counter()
        try:
            return function(*args, **kwargs)
        finally:
            spent[part] += time.perf_counter() - start

    return call


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]), sys.argv[2:]))
