"""What scores adapters: a base model, the tasks of a study as lm-eval's objects, and a scorer over both."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from harness.data.tasks import prepare_task, read_split
from harness.data.tasks.text import unscored
from harness.engine.batches import Example
from harness.engine.model.load import load_tokenizer
from harness.engine.model.packed import PackedModel
from harness.errors import InputError
from harness.scoring.examples import TrainingExamples
from harness.scoring.lm import PackedLM
from harness.scoring.lm_eval_task import Prompting, TaskData
from harness.scoring.scorer import Scorer
from harness.scoring.suite import Suite
from harness.study.config import CommonSettings


@dataclass(frozen=True)
class Bench:
    """A base model, a suite of tasks and a scorer: the things that a job uses and does not change."""

    model: PackedModel
    tokenizer: Any
    suite: Suite
    lm: PackedLM
    scorer: Scorer
    _examples: dict[tuple[str, str | None], TrainingExamples] = field(default_factory=dict, repr=False)
    _texts: dict[str, list[Example]] = field(default_factory=dict, repr=False)

    def training_examples(self, task: str, demonstration: str | None = None) -> TrainingExamples:
        """The training rows of a task, in their order, each rendered once.

        ``demonstration`` is the template of a teacher's prompt that shows the answer.  Raises InputError for a probe.
        """
        key = (task, demonstration)
        if key not in self._examples:
            self._examples[key] = self.suite.training_examples(task, self.lm.encoder, demonstration)
        return self._examples[key]

    def text(self, task: str, seed: int) -> list[Example]:
        """The documents of a task that are in none of its splits, as they would be scored, in the order of the seed."""
        if task not in self._texts:
            start = self.lm.prefix_token_id
            tokens = ([start, *self.lm.tok_encode(text)][: self.model.max_length] for text in unscored(task))
            self._texts[task] = [Example(np.asarray(ids, dtype=np.int64), 1) for ids in tokens]
        documents = self._texts[task]
        return [documents[i] for i in np.random.default_rng(seed).permutation(len(documents))]


def make_bench(settings: CommonSettings, names: tuple[str, ...], model: PackedModel, path: Path, rank: int) -> Bench:
    """What scores adapters of this rank on these tasks; ``path`` is the model's folder, for its tokenizer."""
    tokenizer = load_tokenizer(path)
    scoring = settings.scoring
    lm = PackedLM(model, tokenizer, max_length=scoring.max_length, batch_tokens=scoring.batch_tokens)
    _refuse_long_batches(model, lm.max_length, path)
    suite = load_suite(settings, names, _prompting(settings, names, lm, path))
    return Bench(model, tokenizer, suite, lm, Scorer(model, suite, lm, model.layout(rank)))


def _refuse_long_batches(model: PackedModel, length: int, path: Path) -> None:
    """Refuse rotary embeddings that depend on the longest text of a batch, where texts may get so long.

    transformers switches those of ``longrope`` for all rows of a batch at once: a short item would be read otherwise
    beside a long one than alone.
    """
    settings = getattr(model.module.config.get_text_config(), "rope_parameters", None) or {}
    for rope in (settings, *(part for part in settings.values() if isinstance(part, dict))):
        most = rope.get("original_max_position_embeddings")
        if rope.get("rope_type") == "longrope" and isinstance(most, int) and length > most:
            raise InputError(
                f"beyond {most} tokens this model reads a short text otherwise beside a long one than alone",
                where=f"{path}/config.json:rope_parameters.rope_type",
                remedy=f"set scoring.max_length in the study to at most {most}",
            )


def _prompting(settings: CommonSettings, names: tuple[str, ...], lm: PackedLM, model: Path) -> Prompting:
    """How prompts are put.  Raises InputError for a chat template that the model does not have."""
    chat = settings.scoring.chat_template
    if chat and not lm.has_chat_template:
        raise InputError(
            "a chat template is asked for, and the tokenizer has none",
            where=f"{model}/tokenizer_config.json:chat_template",
            remedy="set scoring.chat_template: false in the study, or choose an instruction-tuned model",
        )
    return Prompting({name: settings.fewshot(name) for name in names}, lm.apply_chat_template if chat else None)


def load_suite(settings: CommonSettings, names: tuple[str, ...], prompting: Prompting) -> Suite:
    """lm-eval's task objects for these names, with the study's split, item counts and prompts."""
    data = []
    for name in names:
        prepared = prepare_task(name)
        splits = {split: read_split(prepared, split) for split in prepared.files}
        generated = (
            settings.scoring.answers == "generated"
            and name not in settings.probes
            and prepared.config["output_type"] == "multiple_choice"
        )
        data.append(TaskData(name, prepared.config, splits, prepared.task.chance, prepared.shuffled, generated))
    items = {name: settings.items(name) for name in names}
    return Suite(data, split=settings.scoring.split, items=items, prompting=prompting)
