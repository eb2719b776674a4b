"""All the records of one results folder as arms that may be compared, or the reason why they may not."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Protocol

from harness.errors import InputError
from harness.report.arms import Arm, adapter_of
from harness.report.evidence import Yardstick, learnt_on_one_task
from harness.report.headroom import Headroom, headroom, unlearnt
from harness.report.trial import Trial, measure
from harness.store.published import PublishedRow
from harness.store.records import TrialRecord
from harness.store.reference import Reference
from harness.store.source_claims import SourceClaim
from harness.store.tuning import Choice, Tuning
from harness.study.reference import DEFAULT, Candidate, decide

#: What must have one version each, besides stack and base model.
KINDS = ("task", "order", "arm")


class Readout(Protocol):
    """What ``harness.store.read_trials`` gives."""

    @property
    def records(self) -> Sequence[TrialRecord]: ...

    @property
    def quarantined(self) -> Collection[str]: ...

    @property
    def expected(self) -> Mapping[str, int] | None: ...

    @property
    def published(self) -> Sequence[PublishedRow]: ...

    @property
    def reference(self) -> Reference | None: ...

    @property
    def claims(self) -> Sequence[SourceClaim]: ...


@dataclass(frozen=True)
class StudyResults:
    """A results folder, ready to report.  ``arms`` are in order of name; ``mixtures`` is empty unless allowed."""

    name: str
    arms: list[Arm]
    records: list[TrialRecord]  #: in order of arm, order, seed
    quarantined: list[str]
    mixtures: list[str]
    published: list[PublishedRow]  #: others' numbers on the same benchmark
    compared: Reference | None  #: whom the arms are compared with, by name
    claims: tuple[SourceClaim, ...] = ()  #: what sources claim, for the report to test

    @cached_property
    def trials(self) -> list[Trial]:
        return [trial for arm in self.arms for trial in arm.trials]

    @property
    def planned(self) -> int:
        """Trials of the plan."""
        return sum(arm.expected for arm in self.arms)

    @property
    def partial(self) -> bool:
        """Whether trials of the plan have no record (yet)."""
        return any(arm.missing for arm in self.arms)

    @cached_property
    def reference(self) -> Arm | None:
        """The arm that others are compared with where they have no other partner."""
        return self.named(self.compared.arm) if self.compared else None

    def partner(self, arm: Arm) -> Arm | None:
        """Whom an arm is compared with; None for the reference itself, and where there is none."""
        name = self.compared.partner(arm.name) if self.compared else None
        return self.named(name) if name else None

    @cached_property
    def partners(self) -> list[Arm]:
        """Every arm that another is compared with, the reference first."""
        others = [partner for arm in self.arms if (partner := self.partner(arm)) and partner is not self.reference]
        return list({arm.name: arm for arm in ([self.reference] if self.reference else []) + others}.values())

    @property
    def called(self) -> str:
        """What an arm is compared with, as a sentence has it."""
        if len(self.partners) > 1:
            return "its reference"
        return called(self.partners[0].name) if self.partners else ""

    def named(self, name: str) -> Arm | None:
        """The arm of this name; None where there is none."""
        return next((arm for arm in self.arms if arm.name == name), None)

    @cached_property
    def streams(self) -> dict[str, tuple[str, ...]]:
        """The finished trials' orders: name -> tasks."""
        return {trial.record.spec.order: trial.record.spec.stream for trial in sorted(self.trials, key=_key)}

    @cached_property
    def tasks(self) -> list[str]:
        """All tasks of all orders, in the first order's order."""
        return list(dict.fromkeys(task for stream in self.streams.values() for task in stream))

    @cached_property
    def headroom(self) -> dict[str, Headroom]:
        """Whether each task can be learnt by itself, where a control tells."""
        return headroom(self.records)

    def common(self, key: Callable[[TrialRecord], dict[str, Any]]) -> tuple[dict[str, Any], list[str]]:
        """The settings that all records agree on, and the names of those that vary."""
        seen: dict[str, set[str]] = defaultdict(set)
        before: dict[str, Any] = {}
        for record in self.records:
            settings = key(record)
            if settings == before:  # nearly always, and a dump takes longer
                continue
            before = settings
            for name, value in settings.items():
                seen[name].add(json.dumps(value, sort_keys=True))
        same = {name: json.loads(next(iter(values))) for name, values in sorted(seen.items()) if len(values) == 1}
        return same, sorted(name for name, values in seen.items() if len(values) > 1)


def called(arm: str) -> str:
    """The reference, as a sentence has it."""
    return "plain LoRA" if arm == DEFAULT else arm


def _key(trial: Trial) -> tuple[str, int]:
    return trial.key


def gather(
    readout: Readout, *, allow_mixed: bool = False, where: str | None = None, tuning: Tuning | None = None
) -> StudyResults:
    """Group the records into arms and compute every trial's metrics; ``tuning`` is what stands beside them.

    Raises ``InputError`` if no trial finished, if two records are the same arm, order and seed, and, unless
    ``allow_mixed``, if records differ in what makes scores comparable.
    """
    records = sorted(readout.records, key=lambda r: (r.spec.arm, r.spec.order, r.spec.seed, r.fingerprint))
    finished = [record for record in records if record.status == "ok"]
    if not finished:
        raise InputError(
            f"no finished trial to report ({len(records)} failed, {len(readout.quarantined)} damaged)",
            where=where,
            remedy="run the study first: lorabench run STUDY",
        )
    _refuse_duplicates(records, where)
    mixtures = find_mixtures(records)
    if mixtures and not allow_mixed:
        raise InputError(
            "these trials may not share a board: " + "; ".join(mixtures),
            where=where,
            remedy="run all trials on one stack, or ask for a mixed board (--allow-mixed), which says so in a banner",
        )
    compared = readout.reference or _reference(records, readout.expected or {})
    arms = _arms(records, readout.expected, compared, tuning.arms if tuning else {})
    name = ", ".join(dict.fromkeys(record.study for record in records))
    return StudyResults(
        name, arms, records, sorted(readout.quarantined), mixtures, list(readout.published), compared,
        tuple(readout.claims),
    )  # fmt: skip


def _reference(records: Sequence[TrialRecord], expected: Iterable[str]) -> Reference | None:
    """Of a folder whose ``study.json`` says nothing of it: as a study would decide that names none."""
    first = {record.spec.arm: record for record in reversed(records)}
    order = dict.fromkeys([name for name in expected if name in first])
    return decide([
        Candidate(name, first[name].spec.method, first[name].spec.parameters | adapter_of(first[name]))
        for name in (*order, *(name for name in sorted(first) if name not in order))
    ])  # fmt: skip


def _arms(
    records: Sequence[TrialRecord],
    expected: Mapping[str, int] | None,
    compared: Reference | None,
    choices: Mapping[str, Choice],
) -> list[Arm]:
    finished = [record for record in records if record.status == "ok"]
    by_name: dict[str, Arm] = {}
    for record in records:
        spec = record.spec
        by_name.setdefault(spec.arm, Arm(spec.arm, spec.method, spec.setting, 0))
    for name in expected or {}:
        method, _, setting = name.partition("@")
        by_name.setdefault(name, Arm(name, method, setting or "default", 0))
    yardstick = Yardstick.of(record for record in finished if compared and record.spec.arm == compared.arm)
    on_one_task, not_learnt = learnt_on_one_task(finished), unlearnt(headroom(finished))
    for record in records:
        arm = by_name[record.spec.arm]
        if record.status == "ok":
            arm.trials.append(measure(record, yardstick, on_one_task, not_learnt))
        else:
            arm.unfinished.append(record)
    of_method: dict[str, int] = defaultdict(int)
    for arm in by_name.values():
        arm.expected = max((expected or {}).get(arm.name, 0), len(arm.trials) + len(arm.unfinished))
        arm.choice = choices.get(arm.name)
        of_method[arm.method] += arm.choice.tried if arm.choice and arm.tuned else 1
    for arm in by_name.values():
        arm.settings_tried = of_method[arm.method]
    return [by_name[name] for name in sorted(by_name)]


def _refuse_duplicates(records: Iterable[TrialRecord], where: str | None) -> None:
    """Two records of one arm, order and seed are one trial counted twice, or an old setting beside the new one."""
    seen: dict[tuple[str, str, int], str] = {}
    for record in records:
        key = (record.spec.arm, record.spec.order, record.spec.seed)
        if key in seen:
            arm, order, seed = key
            raise InputError(
                f"two records of arm '{arm}', order '{order}', seed {seed}: {seen[key]} and {record.fingerprint}",
                where=where,
                remedy="the study changed since the older one ran: remove that file, or report from another folder",
            )
        seen[key] = record.fingerprint


def find_mixtures(records: Sequence[TrialRecord], kinds: Collection[str] = KINDS) -> list[str]:
    """Differences that make scores incomparable: stack, base model, task contents, streams, settings within an arm."""
    mixtures = []
    stacks = {record.stack.get("digest"): record.stack for record in records}
    if len(stacks) > 1:
        mixtures.append(
            f"{len(stacks)} stacks, which differ in {_differences(list(stacks.values())) or 'their digest'}"
        )
    if len({record.spec.model_digest for record in records}) > 1:
        mixtures.append("more than one base model")
    tasks: dict[str, set[str]] = defaultdict(set)
    streams: dict[str, set[tuple[str, ...]]] = defaultdict(set)
    arms: dict[str, set[str]] = defaultdict(set)
    for record in records:
        spec = record.spec
        for task, digest in spec.task_digests.items():
            tasks[task].add(digest)
        streams[spec.order].add(spec.stream)
        training = spec.training
        adapter = [training.get("adapter"), training.get("between_tasks", "continue"), training.get("examples")]
        arms[spec.arm].add(json.dumps([spec.parameters, spec.method_digest, *adapter], sort_keys=True))
    for kind, groups in (("task", tasks), ("order", streams), ("arm", arms)):
        if kind in kinds and (mixed := sorted(name for name, values in groups.items() if len(values) > 1)):
            mixtures.append(f"{kind} {', '.join(mixed)} in more than one version")
    return mixtures


def _differences(stacks: Sequence[dict[str, Any]]) -> str:
    keys = sorted({key for stack in stacks for key in stack} - {"digest"})
    values = {key: sorted({str(stack.get(key)) for stack in stacks}) for key in keys}
    return ", ".join(f"{key} ({' / '.join(seen)})" for key, seen in values.items() if len(seen) > 1)
