"""The page of an audit: audit.html, audit.md, audit.csv and the figures, from the record alone."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Any

from harness.report import metrics
from harness.report.csv_files import write_csv
from harness.report.figures.audit import draw_audit, figures_of
from harness.report.metric import Metric
from harness.report.numbers import NOTHING, number, p_text, percent
from harness.report.pages.render import write_pair
from harness.report.text.audit import change_text, notes, of_sequence, score_text, standing, verdict
from harness.report.text.table import Table, settings
from harness.store.audit import AuditedAdapter, AuditRecord

CAPTIONS = {
    "score_change": (
        "Change against the base",
        "Score of the adapter minus the base model's on the same items; bars are two standard errors of the paired "
        "difference. Hollow: not beyond them. Without bars: a single item.",
    ),
    "intruders": (
        "Intruder dimensions by projection",
        "Left singular vectors among the top ten of W0 + ΔW that resemble none of W0's (best |cosine| below 0.5), "
        "summed over the adapted matrices of a type, and how far the top ten are from the nearest of W0's on average.",
    ),
    "accuracy_matrix": (
        "Accuracy matrix",
        "Score on each task (columns) of the base model and after each training task (rows). Framed: the task just "
        "learnt.",
    ),
}
#: Columns of audit.csv around those of the weights; one of the latter has another name than in trials.csv.
ADAPTER, FILE = ("adapter", "status", "mean_probe_loss"), (
    "base_named", "ranks", "alpha", "targets", "matrices", "trained_parameters", "bytes", "sha256",
)  # fmt: skip
RENAMED = {"intruder_energy_share": "energy_share"}
OF_TASK = ("score", "stderr", "difference", "difference_stderr", "p", "clear")


def write_audit(record: AuditRecord, folder: Path) -> list[Path]:
    """Write table, figures and pages of an audit into ``folder``; returns the paths written."""
    columns = [*ADAPTER, *_of_weights(), *FILE, *(f"{task.name}_{name}" for task in record.tasks for name in OF_TASK)]
    written = [write_csv(folder / "audit.csv", columns, rows(record))]
    written += draw_audit(record, folder / "figures")
    return written + write_pair(
        "audit", _context(record), {name: CAPTIONS[name] for name in figures_of(record)}, folder
    )


def rows(record: AuditRecord) -> list[dict[str, Any]]:
    """Of ``audit.csv``: the base, then every adapter."""
    return [_base_row(record), *map(_csv_row, record.adapters)]


def _of_weights() -> dict[str, Metric]:
    """Column -> metric."""
    return {RENAMED.get(metric.name, metric.name): metric for metric in metrics.taken_of("weights")}


def _base_row(record: AuditRecord) -> dict[str, Any]:
    row: dict[str, Any] = {"adapter": "(base)", "status": "ok", "base_named": record.model}
    for task in record.tasks:
        row |= {f"{task.name}_score": task.base.score, f"{task.name}_stderr": task.base.stderr}
    return row


def _csv_row(adapter: AuditedAdapter) -> dict[str, Any]:
    file, taken = adapter.file, adapter.intruders
    row: dict[str, Any] = {
        "adapter": adapter.name, "status": adapter.status, "mean_probe_loss": adapter.mean_probe_loss,
        **{column: metric.value(taken) for column, metric in _of_weights().items()},
        "base_named": file.base_named, "ranks": " ".join(map(str, file.ranks)),
        "alpha": file.alpha, "targets": " ".join(file.targets), "matrices": file.matrices,
        "trained_parameters": file.trained_parameters, "bytes": file.bytes, "sha256": file.sha256,
    }  # fmt: skip
    for name, score in adapter.scores.items():
        change = adapter.changes[name]
        values = (score.score, score.stderr, change.difference, change.stderr, change.p, change.clear)
        row |= {f"{name}_{key}": value for key, value in zip(OF_TASK, values, strict=True)}
    return row


def _context(record: AuditRecord) -> dict[str, Any]:
    return {
        "title": record.name,
        "model": record.model,
        "tasks": ", ".join(task.name for task in record.stream),
        "probes": ", ".join(task.name for task in record.tasks if task.probe),
        "verdict": verdict(record),
        "glance": glance(record),
        "notes": notes(record),
        "tables": [
            changes(record), _scores(record), *_stream(record), _weights(record), _projections(record), _files(record),
        ],
        "settings": settings({"model": record.model, "model digest": record.model_digest, **record.scoring}),
        "stack": settings(record.stack),
        "command": command(record),
    }  # fmt: skip


def glance(record: AuditRecord) -> Table:
    """One row per adapter: how it compares with the base, and what it did to the weights."""
    probes = [task for task in record.tasks if task.probe]
    kinds = {name: tasks for name, tasks in (("Tasks", record.stream), ("Probes", probes)) if tasks}
    table = Table(
        "At a glance",
        ["Adapter", *kinds, "Mean loss, probes (points)", "Intruders", "Intruder distance", "Trained parameters"],
        caption="Above, below: by more than two standard errors of the paired difference to the base. Mean loss: base "
        "minus adapter, over the probes where higher is better.",
    )
    for adapter in record.adapters:
        table.rows.append(
            [
                adapter.name if adapter.status == "ok" else f"{adapter.name} (not finite)",
                *(standing(adapter, tasks) for tasks in kinds.values()),
                number(adapter.mean_probe_loss, 1, 100, sign=True),
                str(adapter.intruders.count),
                number(adapter.intruders.distance, 5),
                number(adapter.file.trained_parameters, 0),
            ]
        )
    return table


def changes(record: AuditRecord) -> Table:
    """Of every adapter on every task: the difference to the base, its error, and how sure it is."""
    table = Table(
        "Differences to the base",
        ["Task", "Items", *(adapter.name for adapter in record.adapters)],
        caption="Adapter minus base ± one standard error of the paired difference, in points or the metric's own unit; "
        "p of McNemar's exact test. Marked ●: beyond two standard errors.",
    )
    for task in record.tasks:
        cells = []
        for adapter in record.adapters:
            change = adapter.changes.get(task.name)
            p = "" if change is None or change.p is None else f" (p {p_text(change.p)})"
            mark = " ●" if change and change.clear else ""
            cells.append(f"{change_text(task, change)}{p}{mark}" if change else NOTHING)
        table.rows.append([_named(task), str(task.items), *cells])
    return table


def _named(task: Any) -> str:
    return f"{task.name} (probe)" if task.probe else task.name


def _scores(record: AuditRecord) -> Table:
    table = Table(
        "Scores",
        ["Task", "Metric", "Items", "Chance", "Base", *(adapter.name for adapter in record.adapters)],
        caption="± one standard error over the items. Shares in per cent.",
    )
    for task in record.tasks:
        scores = [adapter.scores.get(task.name) for adapter in record.adapters]
        table.rows.append(
            [
                _named(task),
                task.metric,
                str(task.items),
                percent(task.chance),
                score_text(task, task.base.score, task.base.stderr),
                *(score_text(task, score.score, score.stderr) if score else NOTHING for score in scores),
            ]
        )
    return table


def _stream(record: AuditRecord) -> list[Table]:
    """Continual-learning metrics of a sequence."""
    if not record.continual:
        return []
    rows = [[metric.name_in_sentence.capitalize(), text] for metric, text in of_sequence(record)]
    return [
        Table(
            "The training run",
            ["Metric", "Value"],
            rows,
            "Over the accuracy matrix of the base and the adapters in the order given; –: not defined here.",
        )
    ]


def _weights(record: AuditRecord) -> Table:
    listed = metrics.taken_of("weights")
    table = Table(
        "What it did to the weights",
        ["Adapter", "Matrices", *(metric.heading for metric in listed)],
        caption="Intruders are a sum over the matrices that the adapter touches, the others are means over them.",
    )
    for adapter in record.adapters:
        values = [(metric, metric.value(adapter.intruders)) for metric in listed]
        # A count of one adapter is a whole number, and not a mean as in the report of a study.
        cells = [str(value) if isinstance(value, int) else metric.text(value) for metric, value in values]
        table.rows.append([adapter.name, str(adapter.intruders.matrices), *cells])
    return table


def _projections(record: AuditRecord) -> Table:
    names = dict.fromkeys(name for adapter in record.adapters for name in adapter.intruders.by_type.names)
    table = Table(
        "Intruders by projection",
        ["Projection", *(adapter.name for adapter in record.adapters)],
        caption="Intruder dimensions, summed over the matrices of the type; in brackets the mean intruder distance.",
    )
    for name in names:
        parts = [adapter.intruders.by_type.get(name) for adapter in record.adapters]
        table.rows.append([name, *(f"{p.count} ({number(p.distance, 5)})" if p else NOTHING for p in parts)])
    return table


def _files(record: AuditRecord) -> Table:
    table = Table(
        "The adapters",
        ["Adapter", "Made for", "Rank", "Alpha", "Scaling", "Projections", "Matrices", "Parameters", "MB", "sha256"],
        caption="As their folders say. sha256 is of adapter_model.safetensors; all of it is in audit.json.",
    )
    for adapter in record.adapters:
        file = adapter.file
        table.rows.append(
            [adapter.name, file.base_named or NOTHING, _range(file.ranks), f"{file.alpha:g}", _range(file.scalings),
             ", ".join(file.targets), str(file.matrices), number(file.trained_parameters, 0),
             number(file.bytes, 2, 1e-6), file.sha256[:12]]
        )  # fmt: skip
    return table


def _range(values: tuple[float, ...]) -> str:
    return f"{values[0]:.4g}" if len(values) == 1 else f"{values[0]:.4g}–{values[-1]:.4g}"


def command(record: AuditRecord) -> str:
    """The command that makes this record again."""
    words = [adapter.file.folder for adapter in record.adapters] + ["--model", record.model]
    groups = {"--tasks": [t.name for t in record.stream], "--probes": [t.name for t in record.tasks if t.probe]}
    for flag, names in groups.items():
        words += [flag, ",".join(names)] if names else []
    if any(adapter.file.names_base is False for adapter in record.adapters):
        words.append("--another-base")
    if not record.sequence and 1 < len(record.stream) == len(record.adapters):
        words.append("--independent")
    if record.scoring.get("chat_template"):
        words.append("--chat-template")
    values = {"dtype": record.stack["dtype"], "threads": record.stack["threads"]} | record.scoring
    if isinstance(shots := values.get("num_fewshot"), dict):
        values["num_fewshot"] = ",".join(f"{name}={count}" for name, count in shots.items())
    for key in ("dtype", "split", "items", "probe_items", "num_fewshot", "threads", "batch_tokens", "max_length"):
        if values.get(key) is not None:
            words += [f"--{key.replace('_', '-')}", str(values[key])]
    return "lorabench audit " + " ".join(shlex.quote(word) for word in words)
