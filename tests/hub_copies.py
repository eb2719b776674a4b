"""Copies of hub data sets, made up, with the columns of the real ones; what ``LORABENCH_DATASETS`` points at."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

from harness.data.tasks.lm_eval import index as lm_eval_index

#: Where lm-eval keeps the tasks of these tests: an index of the whole takes 10 s.
FOLDERS = ("arc", "hellaswag", "super_glue/boolq", "sciq", "winogrande", "gsm8k", "wikitext", "lambada", "mmlu/default")


def copy(root: Path, repo: str, config: str, splits: Mapping[str, Sequence[dict]]) -> Path:
    """Write ``root/org/name`` with a README that names the configuration, as a repository of the hub has it."""
    folder = root / repo
    (folder / config).mkdir(parents=True, exist_ok=True)
    files = []
    for split, rows in splits.items():
        (folder / config / f"{split}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        files.append({"split": split, "path": f"{config}/{split}.jsonl"})
    front = json.dumps({"configs": [{"config_name": config, "data_files": files}]})
    (folder / "README.md").write_text(f"---\n{front}\n---\n")
    return folder


def _arc(i: int) -> dict:
    texts = [f"answer {i}", "water", "stone", "air"]
    return {"id": f"q{i}", "question": f"What is number {i}?", "answerKey": "ABCD"[i % 4],
            "choices": {"text": texts, "label": list("ABCD")}}  # fmt: skip


def _boolq(i: int) -> dict:
    return {"question": f"is {i} even", "passage": f"Number {i} is here.", "idx": i, "label": i % 2}


def _sciq(i: int) -> dict:
    return {"question": f"Which gas is {i}?", "distractor3": "neon", "distractor1": "argon", "distractor2": "xenon",
            "correct_answer": f"gas {i}", "support": f"Gas {i} is known."}  # fmt: skip


def _winogrande(i: int) -> dict:
    return {"sentence": f"Ann paid Eve {i} coins because _ was kind.", "option1": "Ann", "option2": "Eve",
            "answer": str(1 + i % 2)}  # fmt: skip


def _hellaswag(i: int) -> dict:
    endings = [f"opens door {i} and walks {way} until night falls." for way in ("in", "out [laughs]", "on", "back")]
    return {"ind": i, "activity_label": "Walking", "ctx_a": f"A man walks to house {i}.", "ctx_b": "he",
            "ctx": f"A man walks to house {i}. he", "endings": endings, "label": str(i % 4)}  # fmt: skip


def _gsm8k(i: int) -> dict:
    return {"question": f"What is {i} and 1?", "answer": f"It is <<{i}+1={i + 1}>>{i + 1}.\n#### {i + 1}"}


def _wikitext(i: int) -> dict:
    return {"page": f" = Page {i} = \n\n It has {i} words , more or less . \n"}


def _mmlu(i: int) -> dict:
    return {"question": f"How many bones are {i}?", "subject": "anatomy", "choices": ["1", "2", "3", "4"],
            "answer": i % 4}  # fmt: skip


#: task: (repository, configuration, row of a number, rows a split)
DATA = {
    "arc_easy": ("allenai/ai2_arc", "ARC-Easy", _arc, {"train": 30, "validation": 8, "test": 12}),
    "boolq": ("aps/super_glue", "boolq", _boolq, {"train": 40, "validation": 10, "test": 5}),
    "sciq": ("allenai/sciq", "default", _sciq, {"train": 20, "validation": 6, "test": 7}),
    "winogrande": ("allenai/winogrande", "winogrande_xl", _winogrande, {"train": 30, "validation": 9, "test": 5}),
    "hellaswag": ("Rowan/hellaswag", "default", _hellaswag, {"train": 20, "validation": 9}),
    "gsm8k": ("openai/gsm8k", "main", _gsm8k, {"train": 60, "test": 8}),
    "wikitext": (
        "EleutherAI/wikitext_document_level", "wikitext-2-raw-v1", _wikitext, {"train": 12, "validation": 4, "test": 5},
    ),
    "mmlu_anatomy": ("cais/mmlu", "anatomy", _mmlu, {"test": 9, "validation": 4, "dev": 5}),
    "lambada_openai": ("EleutherAI/lambada_openai", "default", lambda i: {"text": f"He saw the {i} men"}, {"test": 6}),
}  # fmt: skip


def rows(task: str) -> dict[str, list[dict]]:
    """The splits of a task's made-up data set; no row is in two splits."""
    _, _, row, sizes = DATA[task]
    starts = dict(zip(sizes, (0, 1000, 2000), strict=False))
    return {split: [row(starts[split] + number) for number in range(size)] for split, size in sizes.items()}


def copy_of(root: Path, task: str) -> Path:
    """Write the copy that a task reads."""
    repo, config, _, _ = DATA[task]
    return copy(root, repo, config, rows(task))


def write_small_index() -> None:
    """Two names of lm-eval's in the cache that is set now: where a name is unknown, the whole would be made (10 s)."""
    entry = {"yaml": "arc/arc_easy.yaml", "output_type": "multiple_choice", "dataset_path": "allenai/ai2_arc"}
    task = entry | {"kind": "task", "training_split": True, "members": []}
    tag = {"kind": "tag", "yaml": None, "output_type": None, "dataset_path": None, "training_split": False}
    file = lm_eval_index.index_file()
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps({"arc_easy": task, "ai2_arc": tag | {"members": ["arc_easy"]}}))
