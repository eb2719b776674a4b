"""A tiny folder of the standard continual-learning benchmark, made up, in the layout that a clone has."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path

#: Sentences of the tasks whose rows are more than a text, as the benchmark writes them.
SENTENCES: dict[str, Callable[[int], str]] = {
    "NLI/MNLI": lambda i: f"sentence 1: It is {i}.\nsentence 2: Is it {i}?",
    "NLI/CB": lambda i: f"sentence 1: It is {i}.\nsentence 2: Is it {i}?",
    "NLI/RTE": lambda i: f"sentence 1: It is {i}.\nsentence 2: Is it {i}?",
    "QQP/QQP": lambda i: f"first sentence: Why {i}?\nsecond sentence: Why not {i}?",
    "BoolQA/BoolQA": lambda i: f"question: is {i} a number\npassage: Numbers -- {i} is one.",
    "WiC/WiC": lambda i: f"word: bank\nThe bank of river {i}.\nA bank with {i} coins.",
    "COPA/COPA": lambda i: (
        f'Which sentence is the {("cause", "effect")[i % 2]} of "Man {i} fell."? Choose one between A and B.\n'
        f"A: He slipped {i} times.\nB: He saw {i} birds."
    ),
    "MultiRC/MultiRC": lambda i: f"paragraph: Story {i // 5}. \nquestion: Who is {i}?\ncandidate answer: Ann {i}",
    "SC/SST-2": lambda i: f"Text: a film of {i} hours . ",
}


def plain(i: int) -> str:
    return f"Title: number {i}\nText: This is about {i}.\n"


def write(
    root: Path, path: str, labels: Sequence[str], train: int | None = 60, test: int | None = 20, first: int = 0
) -> Path:
    """Write ``root/path`` with so many rows of each file (None: without it); labels take turns, no two texts agree."""
    folder = root / path
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "labels.json").write_text(json.dumps(list(labels)))
    sentence = SENTENCES.get(path, plain)
    starts = {"train": first, "test": first + 10_000}
    for part, count in (("train", train), ("test", test)):
        if count is not None:
            rows = [{"sentence": sentence(starts[part] + i), "label": labels[i % len(labels)]} for i in range(count)]
            (folder / f"{part}.json").write_text(json.dumps(rows))
    return folder


def change(folder: Path, part: str, alter: Callable[[list[dict]], object]) -> None:
    """Put what ``alter`` makes of the rows of a file into it (what it returns, or the list that it has changed)."""
    path = folder / f"{part}.json"
    rows = json.loads(path.read_text())
    path.write_text(json.dumps(alter(rows) or rows))
