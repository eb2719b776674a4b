"""Train one LoRA adapter with HF's Trainer and PEFT, as a script around the two does it, for as long as it is told.

Run by its path with a JSON file of settings; it imports nothing of ours.  It says when its model was there, once it is
warm.  Then for every line of its input, ``{"kind": ..., "seconds": ..., "threads": ...}``, it trains for so long on the
examples of that kind and answers with the moments (of the machine's monotonic clock) at which its steps ended.  It ends
with its input, so that it does not outlive whoever started it.
"""

from __future__ import annotations

import gc
import json
import os
import sys
import time
from pathlib import Path
from typing import Any, cast

os.environ.update(HF_HUB_OFFLINE="1", HF_DATASETS_OFFLINE="1", TQDM_DISABLE="1", TOKENIZERS_PARALLELISM="false")

import torch
from peft import LoraConfig, get_peft_model
from transformers import (
    AutoModelForCausalLM,
    LlamaConfig,
    Trainer,
    TrainerCallback,
    TrainingArguments,
    logging,
)  # fmt: skip

#: Steps of a time of training that are not counted, and how many are at least.
WARM_UP_STEPS, LEAST_STEPS = 3, 3
IGNORED = -100  # the label of a token that is in no loss


class Clock(TrainerCallback):
    """Notes when steps end, and ends the training when its time is over."""

    def __init__(self, seconds: float) -> None:
        self.until, self.ends = time.monotonic() + seconds, []

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        if state.global_step >= WARM_UP_STEPS:
            self.ends.append(time.monotonic())
        if time.monotonic() > self.until and len(self.ends) > LEAST_STEPS:
            control.should_training_stop = True


def make_model(settings: dict[str, Any]) -> Any:
    """The base, of random weights where no folder is named, under an adapter that PEFT keeps in float32."""
    options: dict[str, Any] = {"dtype": getattr(torch, settings["dtype"]), "attn_implementation": "sdpa"}
    torch.manual_seed(0)
    with torch.device(settings["device"]):
        if settings["path"] is None:
            base = AutoModelForCausalLM.from_config(LlamaConfig(**settings["config"]), **options)
        else:
            base = AutoModelForCausalLM.from_pretrained(settings["path"], local_files_only=True, **options)
    return get_peft_model(cast(Any, base).to(settings["device"]), LoraConfig(lora_dropout=0.0, **settings["lora"]))


def collate(rows: list[tuple[list[int], int]]) -> dict[str, torch.Tensor]:
    """Rows (ids, where the answer starts), padded on the right to the longest."""
    longest = max(len(ids) for ids, _ in rows)
    ids, mask = torch.zeros(len(rows), longest, dtype=torch.long), torch.zeros(len(rows), longest, dtype=torch.long)
    labels = torch.full_like(ids, IGNORED)
    for i, (tokens, start) in enumerate(rows):
        ids[i, : len(tokens)], mask[i, : len(tokens)] = torch.tensor(tokens), 1
        labels[i, start : len(tokens)] = torch.tensor(tokens[start:])
    return {"input_ids": ids, "attention_mask": mask, "labels": labels}


def train(model: Any, settings: dict[str, Any], kind: str, seconds: float) -> list[float]:
    """When the steps of so many seconds of training ended, from the last of those that warm up."""
    clock = Clock(seconds)
    arguments = TrainingArguments(
        output_dir=settings["folder"], per_device_train_batch_size=settings["batch"], max_steps=10**6,
        learning_rate=5e-4, lr_scheduler_type="constant", weight_decay=0.0, max_grad_norm=1.0, logging_steps=10,
        save_strategy="no", report_to="none", bf16=settings["dtype"] == "bfloat16", disable_tqdm=True,
        remove_unused_columns=False, use_cpu=settings["device"] == "cpu",
    )  # fmt: skip
    Trainer(
        model=model, args=arguments, train_dataset=settings["kinds"][kind], data_collator=collate, callbacks=[clock]
    ).train()
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()  # whoever comes next may want the memory
    return clock.ends


def main(path: str) -> None:
    """Serve what comes in on standard input; answers go where standard output was, all else to standard error."""
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    logging.set_verbosity_error()
    settings = json.loads(Path(path).read_text(encoding="utf-8"))
    torch.set_num_threads(settings["threads"])
    model = make_model(settings)
    loaded = time.monotonic()
    for kind in settings["kinds"]:
        train(model, settings, kind, 0.0)

    def say(**answer: Any) -> None:
        print(json.dumps(answer), file=answers, flush=True)

    say(ready=True, loaded=loaded)
    for line in sys.stdin:
        asked = json.loads(line)
        torch.set_num_threads(asked["threads"])
        say(ends=train(model, settings, asked["kind"], asked["seconds"]), peak_gib=peak_gib())


def peak_gib() -> float | None:
    return torch.cuda.max_memory_allocated() / 2**30 if torch.cuda.is_available() else None


if __name__ == "__main__":
    main(sys.argv[1])
