"""``lorabench perf score``: scoring a checkpoint, against lm-eval's HF model on the same adapters and items.

Agreement comes first, speed after it.  The reference is measured twice: kept alive in this process, where a checkpoint
costs one ``evaluate`` on tasks that are loaded already, and in a fresh process a checkpoint, as a script around lm-eval
does it; both at the batch size that is best for it here.
"""

from __future__ import annotations

import json
import statistics
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from scipy.stats import binomtest
from torch import Tensor

from harness.data.models import resolve_model
from harness.engine.adapters.files import export_peft, save_adapters
from harness.engine.environment import device_name, use_threads
from harness.engine.model.load import load_model
from harness.errors import LorabenchError
from harness.perf.common import save, this_device, timed
from harness.perf.hflm import in_a_fresh_process
from harness.perf.questions import questions
from harness.perf.trained import trained
from harness.scoring.lm import PackedLM
from harness.scoring.lm_eval_task import TaskData
from harness.scoring.scorer import Scorer
from harness.scoring.suite import Suite
from harness.study.config import AdapterSettings

MAX_LENGTH = 2048
ADAPTER = AdapterSettings()
#: What is timed: a GPU scores in bfloat16; on a CPU a study may want either, float32 first as in lm-eval's default.
DTYPES = {"cuda": ("bfloat16",), "cpu": ("float32", "bfloat16")}
#: Tokens of a pass of ours (in float32 a CPU is a fifth slower at 4,096), and the reference's choice of batch sizes.
BATCH_TOKENS = {"cuda": 131072, "cpu": 1024}
BATCH_SIZES = {"cuda": (32, 128, 512), "cpu": (1, 8, 32)}
#: Four answers of 4-12 tokens behind 50-80 tokens; for bfloat16 against float32, short ones of two.
LONG = {"context": (50, 80), "answer": (4, 12), "choices": 4}
SHORT = {"context": (15, 30), "answer": (1, 1), "choices": 2}


@dataclass(frozen=True)
class Size:
    """What is measured: adapters side by side, documents a checkpoint, items of both agreements, repetitions.

    The last number of adapters is the one that ratios are of.
    """

    trials: tuple[int, ...]
    documents: int
    exact_items: int
    changed_items: int
    repeats: int


#: What is measured where nothing else is asked for; on a CPU a checkpoint costs as much beside others as alone.
ON_GPU = Size((1, 15), 500, 100, 5000, 3)
ON_CPU = Size((1,), 200, 100, 5000, 3)
SMALL = Size((1, 4), 20, 20, 200, 1)


def main(model_name: str, size: Size, out: Path) -> None:
    """Check the agreement, time all contenders, print a table, write ``score-<device>.json``."""
    device = this_device()
    use_threads(2 if device.type == "cpu" else 8)
    with tempfile.TemporaryDirectory() as folder:
        contest = Contest(resolve_model(model_name).path, device, size, Path(folder))
        print(f"{device_name(device)}, {model_name}, {', '.join(map(str, size.trials))} adapters", flush=True)
        agreement = {"float32": contest.exact(size.exact_items), "bfloat16": contest.changes(size.changed_items)}
        print(json.dumps(agreement), flush=True)
        rows = [row for dtype in DTYPES[device.type] for row in contest.time(size, dtype)]
    headline = _headline(rows, "cpu" if device.type == "cpu" else "gpu_135m")
    items = {"documents": size.documents, "requests": size.documents * LONG["choices"], "tokens": LONG}
    about = {"model": Path(model_name).name, "trials": size.trials, **items}
    save(out, "score", device, {**about, "agreement": agreement, "rows": rows, "headline": headline})
    print(json.dumps(headline))


def _headline(rows: Sequence[dict[str, Any]], where: str) -> dict[str, float]:
    """How many times a checkpoint costs the reference what it costs the engine, by what is timed first, then others."""
    # The last of the engine's
    seconds = {(row["dtype"], row["contender"]): row["seconds_per_checkpoint"] for row in rows}
    ratios = {}
    for place, dtype in enumerate(dict.fromkeys(row["dtype"] for row in rows)):
        suffix = f"_{dtype}" if place else ""
        for kind, contender in (("alive", "hflm kept alive"), ("fresh", "hflm in a fresh process")):
            ratios[f"{where}_vs_hflm_{kind}{suffix}"] = seconds[dtype, contender] / seconds[dtype, "engine"]
        for row in rows:
            if (row["contender"], row["dtype"]) == ("engine", dtype):
                ratios[f"score_tokens_per_second_k{row['trials']}{suffix}"] = row["tokens_per_second"]
    return {"cpu_vs_hflm": ratios["cpu_vs_hflm_alive"], **ratios} if where == "cpu" else ratios


class Contest:
    """One base model and its adapters, as the engine and as lm-eval's HF model hold them."""

    def __init__(self, path: Path, device: torch.device, size: Size, folder: Path) -> None:
        from transformers import AutoTokenizer

        self.path, self.device, self.folder, trials = path, device, folder, max(size.trials)
        self.tokenizer = AutoTokenizer.from_pretrained(path, local_files_only=True)
        model = load_model(path, dtype=torch.bfloat16, device=device)
        self.layout = model.layout(ADAPTER.rank)
        self.values = trained(model, self.tokenizer, trials, ADAPTER, context=SHORT["context"], answer=SHORT["answer"])
        entries = [(f"trial{k}", self.values[k]) for k in range(trials)]
        save_adapters(folder / "pack.safetensors", self.layout, entries, str(path), ADAPTER)
        for k in range(trials):
            export_peft(folder / "pack.safetensors", k, folder / f"trial{k}")

    # -- the two contenders -----------------------------------------------------------------------------------------

    def engine(self, data: TaskData, dtype: torch.dtype) -> Scorer:
        model = load_model(self.path, dtype=dtype, device=self.device)
        lm = PackedLM(model, self.tokenizer, max_length=MAX_LENGTH, batch_tokens=BATCH_TOKENS[self.device.type])
        return Scorer(model, Suite([data], split="test", items={}), lm, model.layout(ADAPTER.rank))

    def packed(self, scorer: Scorer, trials: int) -> tuple[Tensor, Tensor]:
        values = self.values[:trials].to(self.device)
        return values, torch.full((trials,), ADAPTER.alpha / ADAPTER.rank, device=self.device)

    def answers(self, scorer: Scorer) -> np.ndarray:
        """Our log-probabilities of every request, for the first adapter."""
        values, scaling = self.packed(scorer, 1)
        instances = scorer.suite.tasks["questions"].task.instances
        with scorer.model.adapted(scorer.layout, values, scaling, precise=True):
            scorer.lm.answer(instances, 1, lambda tokens: None)
        return np.array([value for value, _ in scorer.lm.loglikelihood(instances)])

    def their_answers(self, instances: list[Any], dtype: torch.dtype, batch: int) -> np.ndarray:
        return np.array([value for value, _ in self.reference(dtype, batch, precise=True).loglikelihood(instances)])

    def reference(self, dtype: torch.dtype, batch: int, precise: bool = False) -> Any:
        """lm-eval's HF model on the first adapter, loaded as lm-eval loads it; ``precise``: softmax in float32."""
        from lm_eval.models.huggingface import HFLM
        from peft import PeftModel
        from transformers import AutoModelForCausalLM

        base = AutoModelForCausalLM.from_pretrained(self.path, dtype=dtype)
        model = PeftModel.from_pretrained(cast(Any, base).to(self.device), self.folder / "trial0")
        softmax = torch.float32 if precise else None
        lm = cast(Any, HFLM)(  # whose registry hides its parameters
            pretrained=model.eval(), tokenizer=self.tokenizer, batch_size=batch, max_length=MAX_LENGTH,
            softmax_dtype=softmax,
        )  # fmt: skip
        lm.loglikelihood = partial(lm.loglikelihood, disable_tqdm=True)  # its bars ignore TQDM_DISABLE
        return lm

    # -- agreement --------------------------------------------------------------------------------------------------

    def exact(self, items: int) -> dict[str, Any]:
        """In float32: the largest difference, in units of what is allowed, and predictions that differ."""
        data = questions(self.tokenizer, items, **LONG, seed=1)
        scorer = self.engine(data, torch.float32)
        instances = scorer.suite.tasks["questions"].task.instances
        theirs = self.their_answers(instances, torch.float32, 16)
        ours = self.answers(scorer)
        worst = float((np.abs(ours - theirs) / (1e-4 * np.maximum(1, np.abs(theirs) / 100))).max())
        differ = int((_predictions(ours, 4) != _predictions(theirs, 4)).sum())
        if worst > 1:
            raise LorabenchError(f"log-probabilities differ by {worst:.1f} times what is allowed", where="float32")
        return {"items": items, "worst_of_allowed": worst, "predictions_that_differ": differ}

    def changes(self, items: int) -> dict[str, Any]:
        """In bfloat16: predictions that differ from those in float32, ours and the reference's at batch size 64.

        The reference has its softmax in float32, as ours is (``softmax_dtype``): by default lm-eval rounds
        log-probabilities to bfloat16, where close answers tie and the first of them wins.  ``p`` is one-sided (McNemar,
        exact): small where more of ours differ.
        """
        data = questions(self.tokenizer, items, **SHORT, seed=2)
        scorer = self.engine(data, torch.bfloat16)
        instances = scorer.suite.tasks["questions"].task.instances
        exact, rounded = (self.their_answers(instances, dtype, 64) for dtype in (torch.float32, torch.bfloat16))
        ours, theirs = (_predictions(found, 2) != _predictions(exact, 2) for found in (self.answers(scorer), rounded))
        only_ours, only_theirs = int((ours & ~theirs).sum()), int((theirs & ~ours).sum())
        both = only_ours + only_theirs
        p = float(binomtest(only_ours, both, 0.5, alternative="greater").pvalue) if both else 1.0
        return {"items": items, "softmax_dtype": "float32", "differ_from_float32": int(ours.sum()),
                "differ_from_float32_of_reference": int(theirs.sum()), "p": p}  # fmt: skip

    # -- speed ------------------------------------------------------------------------------------------------------

    def time(self, size: Size, name: str) -> list[dict[str, Any]]:
        """Seconds a checkpoint of every contender in this dtype; the engine's have what it spends before its first one.

        A checkpoint of the engine is a share of as many as are scored side by side.
        """
        data, dtype = questions(self.tokenizer, size.documents, **LONG), getattr(torch, name)
        start = time.perf_counter()
        scorer = self.engine(data, dtype)
        packs = {trials: self.packed(scorer, trials) for trials in size.trials}
        setup = time.perf_counter() - start
        ours = {trials: partial(scorer.score, ["questions"], *pack) for trials, pack in packs.items()}
        first = {trials: timed(score, self.device) for trials, score in ours.items()}  # lays out rows; a warm-up
        batch = self._best_batch(data, dtype)
        alive = self._alive(data, dtype, batch)
        spent: dict[int, list[float]] = {trials: [] for trials in ours}
        theirs: list[float] = []
        for _ in range(size.repeats):  # in turns, so that a slow spell of the machine hits all
            for trials, score in ours.items():
                spent[trials].append(timed(score, self.device) / trials)
            theirs.append(timed(alive, self.device))
        fresh = [self._fresh(data, name, batch) for _ in range(max(1, size.repeats - 1))]
        about = {"batch_tokens": BATCH_TOKENS[self.device.type]}
        tokens = scorer.tokens(["questions"])
        rows = [
            _row("engine", name, seconds, **about, trials=trials, setup_seconds=setup + first[trials],
                 tokens_per_second=tokens / statistics.median(seconds))
            for trials, seconds in spent.items()
        ]  # fmt: skip
        rows += [
            _row("hflm kept alive", name, theirs, batch_size=batch),
            _row("hflm in a fresh process", name, fresh, batch_size=batch),
        ]
        for row in rows:
            contender = f"{row['contender']}, {row['trials']} adapters" if "trials" in row else row["contender"]
            print(f"{contender:24} {name:9} {row['seconds_per_checkpoint']:9.3f} s a checkpoint", flush=True)
        return rows

    def _alive(self, data: TaskData, dtype: torch.dtype, batch: int) -> Any:
        """A function that scores the first adapter once, with lm-eval alone."""
        import datasets
        from lm_eval.evaluator import evaluate
        from lm_eval.tasks import TaskManager

        rows = datasets.Dataset.from_list([dict(row) for row in data.splits["test"]])
        config = {**data.config, "task": data.name, "custom_dataset": lambda **_: {"test": rows}}
        tasks, lm = TaskManager(include_defaults=False).load([config]), self.reference(dtype, batch)
        return lambda: evaluate(lm=lm, task_dict=tasks, bootstrap_iters=0, log_samples=False)

    def _best_batch(self, data: TaskData, dtype: torch.dtype) -> int:
        """The reference's fastest batch size, on a tenth of the documents."""
        rows = data.splits["test"][: max(40, len(data.splits["test"]) // 10)]
        part = TaskData(data.name, data.config, {"test": rows}, data.chance)
        seconds = {}
        for batch in BATCH_SIZES[self.device.type]:
            score = self._alive(part, dtype, batch)
            score()
            seconds[batch] = timed(score, self.device)
        return min(seconds, key=lambda batch: seconds[batch])

    def _fresh(self, data: TaskData, dtype: str, batch: int) -> float:
        hflm = {"pretrained": str(self.path), "peft": str(self.folder / "trial0"), "dtype": dtype,
                "batch_size": batch, "max_length": MAX_LENGTH, "device": self.device.type}  # fmt: skip
        return in_a_fresh_process([data], hflm, self.folder)


def _predictions(values: np.ndarray, choices: int) -> np.ndarray:
    return values.reshape(-1, choices).argmax(1)


def _row(contender: str, dtype: str, seconds: list[float], **settings: float) -> dict[str, Any]:
    return {
        "contender": contender,
        "dtype": dtype,
        **settings,
        "seconds_per_checkpoint": statistics.median(seconds),
        "seconds": seconds,
    }
