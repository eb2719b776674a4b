"""Regular expressions that strangers wrote, matched in bounded time.

PEFT matches with ``re``, whose time is exponential for some expressions, and nothing in this process can interrupt it.
So that every valid expression means what it means to PEFT, ``re`` it stays: in a separate process, which is killed.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from harness.errors import InputError

SECONDS = 20.0  #: for all expressions of a key; those of real adapters take well under one
LONGEST, MOST = 10_000, 20_000  #: characters of an expression, expressions of a key
SCRIPT = Path(__file__).with_name("match_patterns.py")
REMEDY = "write plain names of modules instead"


@dataclass(frozen=True)
class Pattern:
    """An expression, how it is matched (``match`` or ``fullmatch``), and ``file:key`` of what it is made from."""

    expression: str
    how: str
    where: str


def match_all(patterns: Sequence[Pattern], names: Sequence[str]) -> list[list[str]]:
    """The names that each pattern matches, in their order.

    Raises InputError for a pattern that is invalid, too long, or takes too long.
    """
    if not patterns:
        return []
    if len(patterns) > MOST:
        raise InputError(f"{len(patterns)} patterns, and at most {MOST} are matched", where=patterns[0].where,
                         remedy=REMEDY)  # fmt: skip
    for pattern in patterns:
        if len(pattern.expression) > LONGEST:
            what = f"the pattern has {len(pattern.expression)} characters, and at most {LONGEST} are matched"
            raise InputError(what, where=pattern.where, remedy=REMEDY)
    answers, why = _ask([[pattern.how, pattern.expression] for pattern in patterns], names)
    if len(answers) < len(patterns):
        raise InputError(f"the pattern can't be matched: {why}", where=patterns[len(answers)].where, remedy=REMEDY)
    matched: list[list[str]] = []
    for pattern, answer in zip(patterns, answers, strict=True):
        if isinstance(answer, str):
            what = f"not a regular expression, as PEFT reads it: {answer}"
            raise InputError(what, where=pattern.where, remedy=f"correct the pattern, or {REMEDY}")
        matched.append([names[place] for place in answer])
    return matched


def _ask(asked: list[list[str]], names: Sequence[str]) -> tuple[list[list[int] | str], str]:
    """(the answers that came, why no more did)."""
    task = json.dumps({"names": list(names), "asked": asked}).encode()
    try:  # -I and -S: no module of a working directory, and no second spent on importing site
        done = subprocess.run(
            [sys.executable, "-I", "-S", SCRIPT], input=task, capture_output=True, timeout=SECONDS, check=False
        )
        output, why = done.stdout, f"Python ended with status {done.returncode}"
    except subprocess.TimeoutExpired as error:
        output, why = error.stdout or b"", f"it takes more than {SECONDS:g} seconds"
    return [json.loads(line) for line in output.splitlines(keepends=True) if line.endswith(b"\n")], why
