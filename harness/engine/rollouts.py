"""The student's own answers to its own prompts, for K trials at once: what an on-policy loss is computed on.

What a trial draws is a function of the seed of its step and of the place of the example in it; its neighbours in the
pack change its logits by rounding alone.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass

import numpy as np
import torch

from harness.engine.batches import PASS_OVERHEAD, Batch, Example
from harness.engine.generate import Draws, Pick, generate, greedy
from harness.engine.lines import cheapest_cuts
from harness.engine.model.packed import PackedModel
from harness.errors import InputError
from harness.method.parts import Sampling


@dataclass(frozen=True)
class Rollout:
    """The examples of a step with the student's answers in the place of the given ones, and what they took."""

    rows: list[list[Example]]
    prompt_tokens: tuple[int, ...]  # read by each trial before it could answer
    sampled_tokens: tuple[int, ...]  # drawn by each trial


def own_answers(model: PackedModel, batch: Batch, sampling: Sampling) -> Rollout:
    """One answer a prompt from the trials whose adapters are in place; all of a step's rows have one.

    Prompts are cut on the left where the longest answer would not fit the model's positions behind them.
    """
    limits = [[_limit(example, batch.end, sampling) for example in trial] for trial in batch.rows]
    room = model.max_length - max(map(max, limits))
    if room < 1:
        raise InputError(
            f"an own answer may have {sampling.max_tokens} tokens, and the model has {model.max_length} positions",
            where="sample_tokens",
            remedy="lower it in the study's settings of the method",
        )
    prompts = [[example.prompt[-room:] for example in trial] for trial in batch.rows]
    answers = _answers(model, prompts, limits, batch, sampling)
    rows = [
        [
            Example(np.concatenate([prompt, said]), len(prompt), None if given.shown is None else given.shown[-room:])
            for given, prompt, said in zip(*trial, strict=True)
        ]
        for trial in zip(batch.rows, prompts, answers, strict=True)
    ]
    return Rollout(
        rows,
        tuple(sum(map(len, trial)) for trial in prompts),
        tuple(sum(map(len, trial)) for trial in answers),
    )


def _limit(example: Example, end: int, sampling: Sampling) -> int:
    """Most tokens of a student's answer: as many as the given answer has, where that doesn't stop with ``end``."""
    return sampling.max_tokens if example.ids[-1] == end else min(sampling.max_tokens, len(example.answer))


def _answers(
    model: PackedModel,
    prompts: list[list[np.ndarray]],
    limits: list[list[int]],
    batch: Batch,
    sampling: Sampling,
) -> list[list[list[int]]]:
    """``answers[k][i]`` to ``prompts[k][i]``, drawn in groups of rows that fit the step's budget."""
    trials, size, longest = len(prompts), len(prompts[0]), max(map(max, limits))
    order = [sorted(range(size), key=lambda i, each=each: -len(each[i])) for each in prompts]
    widths = [trials * max(len(prompts[k][order[k][i]]) + longest for k in range(trials)) for i in range(size)]
    overhead = (longest + 1) * PASS_OVERHEAD.get(model.device.type, PASS_OVERHEAD["cpu"])
    uniform = None
    if sampling.temperature > 0:
        drawn = [np.random.default_rng(seed).random((size, sampling.max_tokens)) for seed in batch.seeds]
        uniform = torch.from_numpy(np.stack([each[rows] for each, rows in zip(drawn, order, strict=True)]))
        uniform = uniform.to(model.device, non_blocking=True)
    answers: list[list[list[int]]] = [[[] for _ in each] for each in prompts]
    for start, stop in itertools.pairwise(cheapest_cuts(widths, batch.budget, overhead)):
        places = [rows[start:stop] for rows in order]

        def finished(
            spoken: list[tuple[int, int]], said: list[list[int]], places: list[list[int]] = places
        ) -> list[bool]:
            return [
                tokens[-1] == batch.end or len(tokens) == limits[k][places[k][i]]
                for (k, i), tokens in zip(spoken, said, strict=True)
            ]

        asked = [[prompts[k][i].tolist() for i in places[k]] for k in range(trials)]
        most = max(limits[k][i] for k in range(trials) for i in places[k])
        pick: Pick = greedy if uniform is None else Draws(uniform[:, start:stop], sampling.temperature)
        said, _ = generate(model, asked, most, finished, pick=pick)
        for k, i in itertools.product(range(trials), range(stop - start)):
            answers[k][places[k][i]] = said[k][i]
    return answers
