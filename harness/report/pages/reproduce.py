"""How to get a study's trials again: commands, the commit, and a study file that asks for the same trials."""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from harness.report.leaderboard import BoardRow
from harness.report.pages.trials import DIGITS, commit_of
from harness.report.study import StudyResults
from harness.store.records import TrialRecord

#: Settings of a trial that stand at the top of a study file, not in its block of training.
ON_TOP = ("adapter", "dtype", "root_seed")
#: What an arm may have otherwise than the study.
OF_ARMS = ("adapter", "between_tasks", "examples")
#: Text that YAML reads as that text without quotes, but for what it reads as something else.
PLAIN, NO_WORDS = (
    re.compile(r"[A-Za-z_][\w.-]*", re.ASCII),
    {"null", "true", "false", "yes", "no", "on", "off", "y", "n"},
)
#: What would be markup on a page.
ESCAPED = str.maketrans({sign: f"\\u{ord(sign):04x}" for sign in "<>&"})
#: Settings that records have in two forms, and of which the first is made of the second.
MADE_OF = {"ema_decay": "ema_window"}


@dataclass(frozen=True)
class Reproduction:
    """Of one study of the results: commands with what they do, commits, and the file."""

    commands: list[tuple[str, str]]
    commits: list[str]
    file: str  #: its name
    yaml: str


def reproduction(study: StudyResults, board: Sequence[BoardRow], name: str) -> Reproduction:
    """Of the study of this name; commands take its file: a shipped study of that name may have other settings."""
    file = f"{name}.yaml"
    quoted = shlex.quote(file)
    records = [record for record in study.records if record.study == name]
    shown = next((row.arm for row in board if row.arm.trials), None)
    record = shown.trials[0].record if shown else records[0]
    spec = record.spec
    fingerprint = record.fingerprint[:DIGITS]
    # A name that a shell would read otherwise is left to the fingerprint.
    plain = all(shlex.quote(name) == name for name in (spec.arm, spec.order))
    of_arm = f" --arm {spec.arm}" if plain else ""
    adapter = f"DIR --study {quoted} --arm {spec.arm} --order {spec.order} --seed {spec.seed}"
    commands = [
        (f"lorabench run {quoted}", "trains what is missing; what is done stays"),
        (f"lorabench report {quoted}", "this page"),
        (f"lorabench trials {quoted}{of_arm}", "trials, with their fingerprints"),
        (f"lorabench run {quoted} --trial {fingerprint}", "one of them"),
        (f"lorabench export {adapter if plain else f'{fingerprint} DIR --study {quoted}'}", "its adapter"),
    ]
    commits = list(dict.fromkeys(commit_of(each) for each in records if each.commit))
    return Reproduction(commands, commits, file, study_yaml(records))


def study_yaml(records: Sequence[TrialRecord]) -> str:
    """A study file that plans these trials, from what the records say: every setting is written out.

    Settings that no trial depends on (packs, resources, what is kept) have their defaults.
    """
    first = records[0]
    same = _settings_of_most(records)
    lines = [f"model: {_text(first.spec.model)}", *(f"{key}: {_text(same[key])}" for key in ON_TOP if key in same)]
    if "threads" in first.stack:
        lines.append(f"threads: {_text(first.stack['threads'])}")
    lines.append(f"seeds: {_text(sorted({record.spec.seed for record in records}))}")
    lines.append("streams:")
    streams = {record.spec.order: record.spec.stream for record in records}
    lines += [f"  {_text(order)}: {_text(stream)}" for order, stream in sorted(streams.items())]
    lines.append(f"probes: {_text(first.spec.probes)}")
    lines.append("methods:")
    lines += [f"  {_text(arm)}: {_text(_arm(record, same))}" for arm, record in _arms(records).items()]
    for block, values in (("training", {k: v for k, v in same.items() if k not in ON_TOP}),
                          ("scoring", first.spec.scoring)):  # fmt: skip
        lines.append(f"{block}:")
        lines += [f"  {key}: {_text(value)}" for key, value in values.items()]
    return "\n".join(lines) + "\n"


def _arms(records: Sequence[TrialRecord]) -> dict[str, TrialRecord]:
    """The first record of every arm."""
    first: dict[str, TrialRecord] = {}
    for record in records:
        first.setdefault(record.spec.arm, record)
    return first


def _settings_of_most(records: Sequence[TrialRecord]) -> dict[str, Any]:
    """Settings of training as most arms have them; the others get theirs of their own."""
    arms = list(_arms(records).values())
    same = dict(arms[0].spec.training)
    for key in OF_ARMS:
        values = [
            json.dumps(record.spec.training[key], sort_keys=True) for record in arms if key in record.spec.training
        ]
        if values:
            same[key] = json.loads(max(sorted(set(values)), key=values.count))
    return same


def _arm(record: TrialRecord, same: dict[str, Any]) -> dict[str, Any]:
    """An arm's settings, and what it has otherwise than the study."""
    spec, facts = record.spec, record.facts
    given = {key: value for key, value in spec.parameters.items() if spec.parameters.get(MADE_OF.get(key, "")) is None}
    own = {key: spec.training[key] for key in OF_ARMS if facts.trains and spec.training.get(key) != same.get(key)}
    if "adapter" in own:
        own["adapter"] = {key: value for key, value in own["adapter"].items() if value != same["adapter"].get(key)}
    return given | own


def _text(value: Any) -> str:
    """JSON is YAML; plain words need no quotes, and no text is markup."""
    if isinstance(value, str) and PLAIN.fullmatch(value) and value.lower() not in NO_WORDS:
        return value
    if isinstance(value, (list, tuple)):
        return f"[{', '.join(map(_text, value))}]"
    if isinstance(value, dict):
        return f"{{{', '.join(f'{_text(key)}: {_text(each)}' for key, each in value.items())}}}"
    return json.dumps(value, ensure_ascii=False).translate(ESCAPED)
