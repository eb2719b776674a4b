"""The ``README.md`` of an exported adapter: what it is, how it was trained, its scores, and how it is loaded."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import yaml

from harness.analysis import continual
from harness.data.models import Loadable
from harness.store.files import atomic_write
from harness.store.records import TaskScores, TrialRecord

CARD = "README.md"
BETWEEN = {
    "continue": "One adapter goes on from task to task",
    "reinit": "A fresh adapter for each task, on top of what was scored before",
    "fresh": "A fresh adapter for each task, alone",
}
SCORED = {"base": "the base", "student": "the adapter as it was trained", "average": "an average of the adapter"}


@dataclass(frozen=True)
class About:
    """What a card says that is in no record."""

    base: Loadable
    method: str  #: what it is, in a line; empty where it isn't known here
    source: str  #: of the method
    licences: Mapping[str, str]  #: by task


def loading_lines(base: Loadable, target: Path) -> tuple[str, str, str]:
    """The three lines of Python that load the adapter."""
    revision = f', revision="{base.revision}"' if base.revision else ""
    return (
        "from peft import PeftModel",
        "from transformers import AutoModelForCausalLM",
        f'model = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained("{base.name}"{revision}), "{target}")',
    )


def write_card(record: TrialRecord, about: About, target: Path) -> Path:
    """Write the card into the folder of the adapter; returns the file."""
    path = target / CARD
    parts = (_head(about), _what(record, about), _trained(record), _scores(record), _load(about, target),
             _licences(about), _again(record))  # fmt: skip
    atomic_write(path, "\n\n".join(parts) + "\n")
    path.chmod(0o644)
    return path


def _head(about: About) -> str:
    """The block that the hub reads."""
    head: dict[str, object] = {"base_model": about.base.name} if about.base.is_hub else {}  # the hub takes no paths
    head["library_name"] = "peft"
    if about.base.licence:
        head["license"] = about.base.licence.lower()
    head["tags"] = ["lora", "continual-learning", "lorabench"]
    return f"---\n{yaml.safe_dump(head, sort_keys=False).strip()}\n---"


def _what(record: TrialRecord, about: About) -> str:
    spec = record.spec
    what = f" ({_plain(about.method)}; {_plain(about.source)})" if about.method else ""
    origin = f", which is {about.base.origin}" if about.base.origin else ""
    return (
        f"# {_plain(spec.arm)} after {_plain(' → '.join(spec.stream))}\n\n"
        f"A LoRA adapter for `{about.base.name}`{origin}. It is one trial of the study `{record.study}` of lorabench, "
        f"of the method `{spec.method}`{what}: what was scored after the last task, seed {spec.seed}."
    )


def _trained(record: TrialRecord) -> str:
    spec, costs = record.spec, record.costs
    training, adapter = spec.training, spec.training["adapter"]
    settings = ", ".join(f"`{key}` {_plain(str(value))}" for key, value in spec.parameters.items())
    tokens = f", {costs.train_tokens:,} tokens in all" if costs.train_tokens else ""
    lines = [
        f"Tasks, in this order: {_plain(', '.join(spec.stream))}; {training['examples']} examples of each, one pass, "
        f"batches of {training['batch']}{tokens}.",
        f"{BETWEEN[record.facts.between or training['between_tasks']]}; what is scored, and saved here, is "
        f"{SCORED[record.facts.scored]}.",
        f"Settings: {settings or 'none'}.",
        f"Adapter of the study: rank {adapter['rank']}, alpha {adapter['alpha']:g}, on {', '.join(adapter['targets'])} "
        "(what is saved may have a higher rank where adapters were added up; `adapter_config.json` says so).",
        f"Numbers: {training['dtype']}; warm-up {training['warmup_steps']} steps, gradients clipped at "
        f"{training['clip']:g}, weight decay {training['weight_decay']:g}, root seed {training['root_seed']}.",
    ]
    return "## How it was trained\n\n" + "\n".join(f"- {line}" for line in lines)


def _scores(record: TrialRecord) -> str:
    spec = record.spec
    rows = ["| task | metric | items | chance | base | this adapter |", "|---|---|--:|--:|--:|--:|"]
    for name, scores in (record.tasks | record.probes).items():
        kind = "" if name in spec.stream else " (never trained on)"
        cells = (_one(scores, scores.chance), _one(scores, scores.score[0], scores.stderr[0]),
                 _one(scores, scores.score[-1], scores.stderr[-1]))  # fmt: skip
        rows.append(f"| {_plain(name)}{kind} | {scores.metric} | {scores.items} | {' | '.join(cells)} |")
    shots = spec.scoring["num_fewshot"]
    said = (
        f"On the {spec.scoring['split']} split, by lm-eval's definitions; shares in per cent, ± one standard error "
        f"over the items. Examples before a question: {'as each task says' if shots is None else _plain(str(shots))}."
    )
    return "\n".join(["## Scores", "", *rows, "", said, *_metrics(record)])


def _metrics(record: TrialRecord) -> list[str]:
    if not all(record.tasks[task].higher_is_better for task in record.spec.stream):
        return []
    matrix = record.matrix()
    said = f"Average accuracy {100 * continual.average_accuracy(matrix):.1f} %"
    forgetting = continual.forgetting(matrix) if record.facts.sequential else None
    return ["", said + (f", forgetting {100 * forgetting:.1f} points." if forgetting is not None else ".")]


def _one(scores: TaskScores, value: float | None, error: float | None = None) -> str:
    if value is None:
        return "–"
    scale, digits = (100, 1) if scores.higher_is_better else (1, 3)
    return f"{scale * value:.{digits}f}" + (f" ± {scale * error:.{digits}f}" if error is not None else "")


def _load(about: About, target: Path) -> str:
    return "## Load it\n\n```python\n" + "\n".join(loading_lines(about.base, target)) + "\n```"


def _licences(about: About) -> str:
    base = about.base.licence or "as its publisher says"
    tasks = "; ".join(f"{_plain(name)}: {_plain(licence)}" for name, licence in about.licences.items())
    return f"## Licences\n\nThe base: {base}. The data it was trained on: {tasks}."


def _again(record: TrialRecord) -> str:
    commit = ""
    if record.commit:
        state = "" if record.clean else ", with changes" if record.clean is False else ""
        commit = f" at commit `{record.commit}`{state}"
    versions = ", ".join(f"{name} {record.stack[name]}" for name in ("torch", "transformers") if name in record.stack)
    return (
        f"## Make it again\n\n`lorabench run {record.study} --trial {record.fingerprint[:12]}`, lorabench "
        f"{record.stack.get('lorabench', '')}{commit}; {versions}; {record.stack.get('device', '')}. "
        f"The trial's fingerprint is `{record.fingerprint}`."
    )


def _plain(text: str) -> str:
    """Text that stays text in Markdown, in a line."""
    return "".join(f"\\{letter}" if letter in "\\`*[]<>|#~$" else letter for letter in " ".join(text.split()))
