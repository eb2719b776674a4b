"""What `outside.py` shares with the harness: what a record says of its trial, and the rows that it trains and scores.

Tokens and scores are made by lm-eval's HF model all the same.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, cast

import numpy as np
from outside_training import METHODS, Budget, Method, Text
from torch import Tensor, nn

from harness.data.tasks import prepare_task, read_split
from harness.engine.adapters.layout import Layout, Slot
from harness.engine.batches import draw
from harness.errors import InputError
from harness.scoring import metrics
from harness.scoring.encoding import Encoder
from harness.scoring.lm_eval_task import FEWSHOT_SEED, Prompting, TaskData
from harness.scoring.suite import Suite, chosen_rows
from harness.store.records import TrialRecord
from harness.study.config import AdapterSettings, CommonSettings, ScoringSettings, TrainingSettings
from harness.study.seeds import derive


@dataclass(frozen=True)
class Trial:
    """A record, as far as it says what to train."""

    record: TrialRecord
    stream: tuple[str, ...]  #: the first tasks of its stream

    @property
    def name(self) -> str:
        spec = self.record.spec
        return f"{spec.arm}, {spec.order}, seed {spec.seed} ({self.record.fingerprint[:8]})"

    @property
    def method(self) -> Method:
        return METHODS[self.record.spec.method]

    @property
    def training(self) -> TrainingSettings:
        given = self.record.spec.training
        return TrainingSettings(**{key: given[key] for key in TrainingSettings.model_fields if key in given})

    @property
    def budget(self) -> Budget:
        given = self.training
        return Budget(given.batch, given.warmup_steps, given.clip, given.weight_decay)

    @property
    def adapter(self) -> AdapterSettings:
        return AdapterSettings(**self.record.spec.training["adapter"])

    @property
    def exact(self) -> bool:
        """Whether the record is of a base in float32, as ours is."""
        return self.record.spec.training["dtype"] == "float32"

    def setting(self, name: str, position: int) -> Any:
        """A hyper-parameter of the method at the task in this position: some depend on a task's steps."""
        by_task = self.record.spec.training.get("by_task", {})
        return by_task[name][position] if name in by_task else self.record.spec.parameters[name]

    def seed(self, *axis: str) -> int:
        spec = self.record.spec
        return derive(spec.training["root_seed"], spec.order, spec.seed, *axis)

    def start(self, base: nn.Module) -> dict[str, Tensor]:
        """A [rank, n] of every matrix, by its name, where the trial's seed has it start."""
        targets = set(self.adapter.targets)
        found = [(name, module) for name, module in base.named_modules() if name.rpartition(".")[2] in targets]
        slots = tuple(Slot(name, linear.out_features, linear.in_features) for name, linear in cast(Any, found))
        layout = Layout(slots, self.adapter.rank)
        pairs = layout.split(layout.initial(self.seed("init"))[None])
        return {slot.module: a[0] for slot, (a, _) in zip(slots, pairs, strict=True)}


def refuse_unknown(record: TrialRecord) -> None:
    """Raises InputError for a trial that is not trained here."""
    spec = record.spec
    if spec.method not in METHODS:
        what = f"the method '{spec.method}' is not written here; there are {', '.join(METHODS)}"
    elif record.status != "ok":
        what = f"it is {record.status}, and has no scores to compare with"
    elif record.facts.between != "continue":
        what = f"between its tasks is '{record.facts.between}'; here one adapter goes through the stream"
    elif spec.parameters.get("tokens", "given") != "given":
        what = "its divergence is on the student's own answers; here it is on the given ones"
    elif spec.scoring["chat_template"] or spec.scoring.get("answers", "ranked") != "ranked":
        what = "its prompts are chats, or its choices are written out; here they are plain and ranked"
    else:
        return
    raise InputError(what, where=f"trial {record.fingerprint}", remedy="name other trials with --trials")


@dataclass(frozen=True)
class Scored:
    """A model on a task: its score, what every item adds to it, and how near each one's second answer comes, in nats.

    ``gaps`` is None where an item is not the likeliest of its answers.
    """

    value: float
    items: np.ndarray
    gaps: np.ndarray | None


class Data:
    """The rows of a trial's tasks: as training examples, and as lm-eval's own objects that score a model."""

    def __init__(self, trial: Trial, lm: Any) -> None:
        """``lm`` is lm-eval's HF model, which makes the tokens.  Raises InputError where the rows have changed."""
        spec, self.trial, self.lm = trial.record.spec, trial, lm
        settings = CommonSettings(model=spec.model, probes=spec.probes, scoring=ScoringSettings(**spec.scoring))
        self.prompting = Prompting({name: settings.fewshot(name) for name in trial.stream})
        self.tasks: dict[str, TaskData] = {}
        for name in trial.stream:
            prepared = prepare_task(name)
            if prepared.digest != spec.task_digests[name]:
                raise InputError(f"the task '{name}' has changed since", where=f"trial {trial.record.fingerprint}")
            splits = {split: read_split(prepared, split) for split in prepared.files}
            task = TaskData(name, prepared.config, splits, prepared.task.chance, prepared.shuffled)
            rows = chosen_rows(task, settings.scoring.split, settings.items(name))
            self.tasks[name] = TaskData(name, prepared.config, rows, task.chance, task.shuffled)
        self.suite = Suite([*self.tasks.values()], split="test", items={}, prompting=self.prompting)

    def texts(self, position: int) -> list[Text]:
        """The examples that the trial trains on at this position, in their order, cut to its lengths."""
        trial, name = self.trial, self.trial.stream[position]
        demonstrates = trial.method.distils and trial.setting("demonstration", position)
        template = trial.setting("teacher_prompt", position) if demonstrates else None
        rows = self.suite.training_examples(name, Encoder(self.lm._encode_pair, self.lm.eot_token_id), template)
        count = trial.training.fitting(len(rows), trial.training.examples)
        positions = int(self.lm.model.config.get_text_config().max_position_embeddings)
        chosen = rows.choose(draw(count, len(rows), trial.seed("data", name)))
        cut = [example.truncated(trial.training.max_length, positions) for example in chosen]
        return [Text(example.ids, example.teacher_ids, len(example.answer)) for example in cut]

    def score(self, lm: Any) -> dict[str, Scored]:
        """What lm-eval says of one of its models on every task."""
        from lm_eval.evaluator import evaluate

        tasks = {name: self._lm_evals(name) for name in self.tasks}
        results = cast(Any, evaluate(lm=lm, task_dict={"tasks": tasks}, bootstrap_iters=0, log_samples=True))
        return {name: _scored(tasks[name], results["results"][name], results["samples"][name]) for name in tasks}

    def _lm_evals(self, name: str) -> Any:
        """lm-eval's object of a task, made anew from its configuration and rows."""
        import datasets
        from lm_eval.tasks import TaskManager

        data = self.tasks[name]
        rows = {split: datasets.Dataset.from_list([dict(row) for row in each]) for split, each in data.splits.items()}
        keys = {"training_split": "train", "validation_split": "validation", "test_split": "test"}
        config = {key: value for key, value in data.config.items() if key not in keys}
        config |= {key: split for key, split in keys.items() if split in rows} | metrics.with_source(data.config, name)
        config |= {"task": name, "custom_dataset": lambda **_: rows}
        task = TaskManager(include_defaults=False).load([config])["tasks"][name]
        task.set_config("num_fewshot", self.prompting.shots(data))
        task.set_fewshot_seed(seed=FEWSHOT_SEED)
        return task


def _scored(task: Any, results: Mapping[str, Any], samples: Sequence[Mapping[str, Any]]) -> Scored:
    """Of lm-eval's results and samples; a task with several filters is scored by its first."""
    metric = next(iter(task.aggregation()))
    value = next(value for key, value in results.items() if key.partition(",")[0] == metric)
    first = sorted((s for s in samples if s["filter"] == samples[0]["filter"]), key=lambda sample: sample["doc_id"])
    gaps = None
    if metric == "acc" and task.OUTPUT_TYPE == "multiple_choice":
        answers = [np.sort([logprob for logprob, _ in sample["filtered_resps"]]) for sample in first]
        gaps = np.array([each[-1] - each[-2] for each in answers])
    return Scored(float(value), np.array([sample[metric] for sample in first], dtype=object), gaps)


def hf_model(model: Any, path: Path, trial: Trial, batch: int) -> Any:
    """lm-eval's HF model around a model that is there; ``path`` has its tokenizer, ``batch`` requests go together."""
    from lm_eval.models.huggingface import HFLM
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(path, local_files_only=True)
    most = min(trial.record.spec.scoring["max_length"], model.config.get_text_config().max_position_embeddings)
    lm = cast(Any, HFLM)(pretrained=model, tokenizer=tokenizer, batch_size=batch, max_length=most)
    for name in ("loglikelihood", "loglikelihood_rolling", "generate_until"):
        setattr(lm, name, partial(getattr(lm, name), disable_tqdm=True))  # these bars ignore TQDM_DISABLE
    return lm
