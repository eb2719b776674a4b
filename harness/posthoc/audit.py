"""An audit from adapter folders to its record: adapters that were made elsewhere, scored like trials.

The base model and all plain adapters are the rows of one pack, the base with an adapter of zeros, so that everything
about two rows but their adapters is the same: an adapter that does nothing differs from the base by exactly nothing.
DoRA's are a pack of their own, where magnitudes scale rows; in it the base would have a scale of exactly 1.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from pydantic import ValidationError

from harness.analysis.statistics import jackknife_error, paired_change
from harness.data import models as model_files
from harness.data import paths, tasks
from harness.engine.adapters.peft import (
    PeftAdapter,
    check_base_name,
    check_fits,
    names_base,
    read_peft,
)
from harness.engine.environment import host, use_threads, versions
from harness.engine.model.load import load_model, wrap
from harness.engine.model.packed import PackedModel
from harness.engine.spectra import Spectra
from harness.errors import InputError, LorabenchError
from harness.executors.interface import Watcher
from harness.posthoc.stacks import score, stacks_of
from harness.scoring.bench import Bench, make_bench
from harness.scoring.scorer import Score
from harness.store.audit import (
    AUDIT_FILE,
    AdapterFile,
    AuditChange,
    AuditedAdapter,
    AuditRecord,
    AuditScore,
    AuditTask,
)
from harness.store.files import write_json
from harness.store.intruders import Intruders
from harness.store.records import pack_bits
from harness.store.results import MANIFEST
from harness.study import forecast
from harness.study.audit_settings import AuditSettings
from harness.study.config import first_problem
from harness.study.folders import model_label

#: More than this many standard errors is a clear difference.
CLEAR = 2.0
#: Metrics of an accuracy matrix [T+1][T] by name, as reports declare them; None where one has no meaning.
Measure = Callable[[list[list[float]]], Mapping[str, float | None]]


#: Of what is scored, keys that mean nothing to an audit.
NOT_ASKED = ("curve", "probes_after", "intruders_after")


@dataclass(frozen=True)
class Audit:
    """What is audited, everything read and checked but the base model, and where the record goes."""

    settings: AuditSettings
    adapters: Mapping[str, PeftAdapter]  #: by label, in the order given
    model: model_files.ModelSource
    tasks: Mapping[str, tasks.PreparedTask]  #: tasks, then probes
    folder: Path


def load_audit(folders: Sequence[Path], values: Mapping[str, Any], out: Path | None) -> Audit:
    """Read the adapters and make model and tasks ready; ``values`` are the fields of ``AuditSettings``.

    Raises InputError for an adapter, a name or a value that can't be used.
    """
    try:
        settings = AuditSettings.model_validate(values)
    except ValidationError as error:
        problem = first_problem(error, "audit")
        raise InputError(problem.what, where=problem.where, remedy="see lorabench audit --help") from error
    names = (*settings.tasks, *settings.probes)
    for name in names:
        tasks.load_task(name)
    adapters = dict(zip(labels(folders), [read_peft(folder.resolve()) for folder in folders], strict=True))
    if not settings.another_base:
        _check_bases(adapters.values(), settings.model)
    target = (out or Path("results") / f"audit-{model_label(next(iter(adapters)))}").resolve()
    if (target / MANIFEST).exists():
        raise InputError("this folder holds a study", where=str(target), remedy="choose another folder with --out")
    source = model_files.resolve_model(settings.model)
    return Audit(settings, adapters, source, {name: _prepare(name, settings.scoring.split) for name in names}, target)


def _check_bases(adapters: Collection[PeftAdapter], model: str) -> None:
    """Refuse an adapter that names another base, by its name or by the folder where ``model`` lies."""
    if all(names_base(adapter, model) is not False for adapter in adapters):
        return
    folder = model_files.resolve_model(model).path if model_files.model_ready(model) else None
    for adapter in adapters:
        check_base_name(adapter, model, folder)


def _prepare(name: str, split: str) -> tasks.PreparedTask:
    prepared = tasks.prepare_task(name)
    if not prepared.task.splits.get(split):
        raise InputError(f"task '{name}' has no rows in its {split} split", where="--split", remedy="choose another")
    return prepared


def labels(folders: Sequence[Path]) -> list[str]:
    """A name for each folder: its last part, with its parent's where that is not enough, numbered as a last resort."""
    full = [folder.resolve() for folder in folders]
    names = [folder.name for folder in full]
    names = [
        f"{folder.parent.name}/{name}" if names.count(name) > 1 else name
        for folder, name in zip(full, names, strict=True)
    ]
    unique: list[str] = []
    for name in names:
        numbered = (f"{name}#{number}" for number in itertools.count(1))
        unique.append(next(label for label in numbered if label not in unique) if names.count(name) > 1 else name)
    return unique


def run(
    audit: Audit, device: str, watcher: Watcher, measure: Measure, say: Callable[[str], object] = lambda _: None
) -> AuditRecord:
    """Score the base and every adapter, count intruders, and write ``audit.json``.

    ``measure`` gives the metrics of adapters that are one training run; ``say`` gets a sentence for whatever stands in
    an adapter's folder and has no effect.
    """
    watcher.progress("base", 0, "loading the model and the tasks")
    use_threads(audit.settings.threads)
    model = _load_base(audit, torch.device(device), say)
    stacks = stacks_of(audit.adapters, model)
    bench = _bench(audit, model, max(stack.layout.rank for stack in stacks))
    done, count = 0.0, len(audit.adapters)
    watcher.total(bench.scorer.tokens(list(audit.tasks)) * (count + 1) + forecast.INTRUDER_UNITS * count)

    def advance(units: float, what: str) -> None:
        nonlocal done
        done += units
        watcher.progress("audit", done, what)

    base, scores = score(bench, sorted(audit.tasks), stacks, lambda n: advance(n, "scoring"))
    if base is None:
        raise LorabenchError(
            "the base model gives log-probabilities that are not finite",
            where=str(audit.model.path),
            remedy="check the weights; in bfloat16 some models need --dtype float32",
        )
    spectra = Spectra(model, paths.cache_dir() / "spectra", lambda text: advance(0, text))
    counts = {}
    for stack in stacks:
        modules = [audit.adapters[name].factors.keys() for name in stack.names]
        found = spectra.intruders(stack.layout, stack.values[stack.first :], stack.scaling, modules)
        # None would be of factors that are not finite, and such are refused when they are read.
        counts |= {name: Intruders.of(each) for name, each in zip(stack.names, found, strict=True) if each is not None}
    advance(forecast.INTRUDER_UNITS * count, "intruder dimensions")
    asked = _tasks(audit, bench, base)
    entries = [
        _adapter(name, _file(adapter, audit), asked, scores[name], bench, counts[name])
        for name, adapter in audit.adapters.items()
    ]
    record = _record(audit, asked, entries, torch.device(device), measure)
    write_json(audit.folder / AUDIT_FILE, record.model_dump(mode="json"))
    return record


def _load_base(audit: Audit, device: torch.device, say: Callable[[str], object]) -> PackedModel:
    """The base with room for every projection that an adapter has, once all of them fit."""
    dtype = getattr(torch, audit.settings.dtype)
    base = load_model(audit.model.path, dtype=dtype, device=device, targets=())
    for name, adapter in audit.adapters.items():
        without = check_fits(adapter, base)
        if adapter.config.ignored:
            say(f"{name}: ignored in its configuration, as PEFT ignores it: {', '.join(adapter.config.ignored)}")
        if without:
            say(f"{name}: {len(without)} of the projections that its configuration names have no factors in its file "
                f"and stay as they are in the base, the first {without[0]}")  # fmt: skip
    targets = sorted({name for adapter in audit.adapters.values() for name in adapter.targets})
    return wrap(base.module, audit.model.path, dtype, targets)


def _bench(audit: Audit, model: PackedModel, rank: int) -> Bench:
    return make_bench(audit.settings, tuple(audit.tasks), model, audit.model.path, rank)


# -- the record -------------------------------------------------------------------------------------------------------


def _entry(score: Score) -> AuditScore:
    correct = None if score.correct is None else pack_bits(score.correct)
    return AuditScore(score=score.value, stderr=score.stderr, correct=correct)


def _tasks(audit: Audit, bench: Bench, base: Mapping[str, Score]) -> dict[AuditTask, Score]:
    """Every task and probe with the base's score on it, in the order given."""
    base_scores = {}
    for name, prepared in audit.tasks.items():
        task = bench.suite.tasks[name]
        entry = AuditTask(
            name=name,
            probe=name in audit.settings.probes,
            metric=task.metric,
            higher_is_better=task.higher_is_better,
            items=task.items,
            chance=task.chance,
            digest=prepared.digest,
            truncated=bench.lm.truncated(task.task.instances),
            base=_entry(base[name]),
        )
        base_scores[entry] = base[name]
    return base_scores


def _change(task: AuditTask, base: Score, score: Score, aggregate: Callable[[Sequence[Any]], float]) -> AuditChange:
    """Paired on the items: by their correctness, or by leaving items out of both scores where nothing is right."""
    difference = score.value - base.value
    loss = base.value - score.value if task.higher_is_better else difference
    if base.correct is not None and score.correct is not None:
        paired = paired_change(base.correct, score.correct)
        error, p = paired.error, paired.p
    else:

        def gained(pairs: Sequence[tuple[Any, Any]]) -> float:
            return aggregate([after for _, after in pairs]) - aggregate([before for before, _ in pairs])

        error, p = jackknife_error(list(zip(base.values, score.values, strict=True)), gained), None
    clear = None if error is None else abs(difference) > CLEAR * error
    return AuditChange(difference=difference, loss=loss, stderr=error, p=p, clear=clear)


def _adapter(
    name: str,
    file: AdapterFile,
    asked: Mapping[AuditTask, Score],
    scores: Mapping[str, Score] | None,
    bench: Bench,
    intruders: Intruders,
) -> AuditedAdapter:
    """What the record says of one adapter; without scores, it has diverged."""
    if scores is None:
        return AuditedAdapter(
            name=name, file=file, status="diverged", scores={}, changes={}, mean_probe_loss=None, intruders=intruders
        )
    changes = {
        task.name: _change(task, base, scores[task.name], bench.suite.tasks[task.name].aggregate)
        for task, base in asked.items()
    }
    probes = [changes[task.name].loss for task in asked if task.probe and task.higher_is_better]
    return AuditedAdapter(
        name=name,
        file=file,
        status="ok",
        scores={task.name: _entry(scores[task.name]) for task in asked},
        changes=changes,
        mean_probe_loss=sum(probes) / len(probes) if probes else None,
        intruders=intruders,
    )


def _file(adapter: PeftAdapter, audit: Audit) -> AdapterFile:
    return AdapterFile(
        folder=str(adapter.folder),
        base_named=adapter.config.base_model_name_or_path,
        names_base=names_base(adapter, audit.settings.model, audit.model.path),
        sha256=adapter.sha256,
        bytes=adapter.bytes,
        trained_parameters=adapter.parameters,
        ranks=adapter.ranks,
        alpha=adapter.config.lora_alpha,
        scalings=adapter.scalings,
        targets=adapter.targets,
        matrices=len(adapter.factors),
    )


def _record(
    audit: Audit,
    asked: Mapping[AuditTask, Score],
    adapters: Sequence[AuditedAdapter],
    device: torch.device,
    measure: Measure,
) -> AuditRecord:
    settings = audit.settings
    stream = [task for task in asked if not task.probe]
    sequence = 1 < len(stream) == len(adapters) and not settings.independent
    record = AuditRecord(
        name=audit.folder.name,
        model=settings.model,
        model_digest=audit.model.digest,
        scoring={key: value for key, value in settings.scoring.identity.items() if key not in NOT_ASKED},
        tasks=tuple(asked),
        adapters=tuple(adapters),
        sequence=sequence,
        continual={},
        stack=versions(settings, device.type),
        host=host(),
    )
    whole = all(adapter.status == "ok" for adapter in adapters) and all(task.higher_is_better for task in stream)
    if not sequence or not whole:
        return record
    return record.model_copy(update={"continual": dict(measure(record.matrix()))})
