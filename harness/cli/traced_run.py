"""A verb of ``lorabench`` in this process, with a note of how long parts of it took: ``perf campaign`` starts it.

Run as a module, with the file to write, a JSON of part -> seconds of each call, and then the words of the verb.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any


def main(out: Path, words: list[str]) -> int:
    start = time.perf_counter()
    from harness.cli import main as verb

    parts = parts_of_a_run()
    spent: dict[str, list[float]] = {part: [] for *_, part in parts}
    for owner, name, part in parts:
        setattr(owner, name, _timed(getattr(owner, name), spent, part))
    spent["imports"] = [time.perf_counter() - start]
    status: Any = 0
    sys.argv = ["lorabench", *words]
    try:
        verb()
    except SystemExit as stop:
        status = stop.code
    out.write_text(json.dumps(spent), encoding="utf-8")
    return status if isinstance(status, int) else 1 if status else 0


def parts_of_a_run() -> tuple[tuple[Any, str, str], ...]:
    """(module or class, a function of it, the part that a call of it is).

    Those whose names begin with a dot are within ``base`` and ``packs``, and ``decomposition`` is within ``packs``.
    """
    from harness.cli import study
    from harness.engine.spectra import Spectra
    from harness.engine.spectra_ahead import SpectraAhead
    from harness.engine.trunk import Trunk
    from harness.running import worker
    from harness.scoring.lm import PackedLM
    from harness.scoring.scorer import Scorer

    return (
        (worker, "run_base", "base"),
        (worker, "run_pack", "packs"),
        (Spectra, "__init__", "decomposition"),
        (SpectraAhead, "wait", "decomposition"),  # for what is made beside a pack
        (study, "renew_report", "report"),
        (Trunk, "_capture", ".graphs"),
        (PackedLM, "_answer_scored", ".log-probabilities"),
        (PackedLM, "_answer_generated", ".written answers"),
        (Scorer, "_judge_ahead", ".judging ahead"),  # within .log-probabilities, while a GPU computes
        (Scorer, "_judge", ".judging"),
    )


def _timed(function: Callable[..., Any], spent: dict[str, list[float]], part: str) -> Callable[..., Any]:
    def call(*args: Any, **kwargs: Any) -> Any:
        start = time.perf_counter()
        try:
            return function(*args, **kwargs)
        finally:
            spent[part].append(time.perf_counter() - start)

    return call


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]), sys.argv[2:]))
