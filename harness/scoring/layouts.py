"""Requests of lm-eval as rows of passes, and back: whose answer each number is, and which documents are complete."""

from __future__ import annotations

import itertools
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from lm_eval.api.instance import Instance

from harness.scoring.forward import ScoringBatch
from harness.scoring.trees import TreeRow


@dataclass(frozen=True)
class RequestLayout:
    """Requests as rows; ``owner[i]`` is the place among the instances of the one that token request i belongs to."""

    rows: list[TreeRow]
    owner: np.ndarray
    place: dict[tuple, int]  # of every instance among them, by its key
    alone: bool  # whether every instance has one token request
    documents: list[Documents]  # of those whose instances have one token request each
    passes: dict[int, list[Pass]]  # for the number of trials that run side by side

    def answered_by(self, asked: np.ndarray) -> list[Documents]:
        """The documents all of whose answers are among these, as they are where one row holds them."""
        found = np.zeros(len(self.owner), dtype=bool)
        found[asked] = True
        return [some for each in self.documents if (some := each.where(np.all(found[each.requests], axis=1))).numbers]


@dataclass(frozen=True)
class Documents:
    """Documents of one task that ask equally many things: their numbers [D], and their token requests [D, n]."""

    task: str
    numbers: tuple[int, ...]
    requests: np.ndarray

    def where(self, chosen: np.ndarray) -> Documents:
        return Documents(self.task, tuple(itertools.compress(self.numbers, chosen)), self.requests[chosen])


@dataclass(frozen=True)
class Pass:
    """A pass, and the documents that are answered when it is done."""

    batch: ScoringBatch
    documents: list[Documents]


#: (the documents, their log-probabilities [K, D, n], which of them are greedy [K, D, n])
Ahead = Callable[[Documents, np.ndarray, np.ndarray], None]


@dataclass(frozen=True)
class Scored:
    """Log-probabilities of requests and whether each is greedy, [K, n]; ``place`` is that of each of them."""

    place: dict[tuple, int]
    total: np.ndarray
    greedy: np.ndarray

    def of(self, key: tuple, trial: int) -> tuple[float, bool]:
        place = trial, self.place[key]
        return self.total[place].item(), self.greedy[place].item()


def summed(layout: RequestLayout, logprob: np.ndarray, greedy: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Of instances, [K, n], from those of their token requests: the windows of one text add up."""
    if layout.alone:
        return logprob, greedy
    total = np.zeros((len(logprob), len(layout.place)))
    every = np.ones(total.shape, dtype=bool)
    for trial in range(len(logprob)):
        np.add.at(total[trial], layout.owner, logprob[trial])
        np.logical_and.at(every[trial], layout.owner, greedy[trial])
    return total, every


def documents_of(instances: Sequence[Instance], owner: np.ndarray, alone: np.ndarray) -> list[Documents]:
    """Those whose instances are ``alone`` [n] in having one token request; ``owner`` is whose each of these is."""
    requests: dict[tuple, list[int]] = defaultdict(list)
    for number, place in enumerate(owner):
        requests[instances[place].task_name, instances[place].doc_id].append(number)
    alike: dict[tuple, list[int]] = defaultdict(list)
    for (task, document), numbers in requests.items():
        if alone[owner[numbers]].all():
            alike[task, len(numbers)].append(document)
    return [
        Documents(task, tuple(documents), np.asarray([requests[task, document] for document in documents]))
        for (task, _), documents in alike.items()
    ]


def request_key(instance: Instance) -> tuple:
    """What identifies a request of lm-eval within a suite."""
    return (instance.request_type, instance.task_name, instance.doc_id, instance.idx)
