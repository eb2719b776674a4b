"""What other tools call a study's keys (``lr``, ``r``, ``batch_size``), for the error that refuses them.

A key means one thing and has one name here, so none of these is taken; but whoever comes from PEFT, from HF's Trainer
or from lm-eval is told the name, and where it stands.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence

from harness.errors import InputError

#: Our key, as a path in a study's file -> what it is called elsewhere.  ``*`` is an entry of ``methods``.
OTHER_NAMES: Mapping[str, Sequence[str]] = {
    "methods.*.learning_rate": ("lr", "rate", "learning-rate", "eta", "step_size", "learningrate"),
    "methods.*.ema_decay": ("ema", "decay", "beta_ema"),
    "adapter.rank": ("r", "lora_r", "lora_rank", "dim", "lora_dim", "network_dim"),
    "adapter.alpha": ("lora_alpha", "a", "scaling", "network_alpha"),
    "adapter.targets": ("target_modules", "lora_target_modules", "modules", "target", "lora_target"),
    "training.batch": (
        "bs", "batch_size", "batchsize", "train_batch_size", "per_device_train_batch_size", "micro_batch_size",
        "global_batch_size",
    ),
    "training.examples": (
        "samples", "num_examples", "n_examples", "train_size", "max_samples", "max_train_samples", "epochs", "epoch",
        "num_epochs", "num_train_epochs", "steps", "max_steps", "num_steps", "train_steps",
    ),
    "training.warmup_steps": ("warmup", "num_warmup_steps", "warmup_ratio", "lr_warmup_steps"),
    "training.clip": ("max_grad_norm", "grad_clip", "gradient_clipping", "clip_grad_norm", "max_norm"),
    "training.weight_decay": ("wd", "l2"),
    "training.max_length": ("max_seq_length", "max_seq_len", "max_len", "cutoff_len", "block_size", "seq_len"),
    "training.between_tasks": ("between", "reinit"),
    "scoring.items": ("limit", "n_items", "num_items", "test_size", "max_items"),
    "scoring.num_fewshot": ("fewshot", "shots", "n_shot", "num_shots", "nshot", "fewshots"),
    "scoring.batch_tokens": ("eval_batch_size", "per_device_eval_batch_size"),
    "scoring.chat_template": ("apply_chat_template", "chat"),
    "model": ("base", "base_model", "model_name", "model_name_or_path", "base_model_name_or_path", "checkpoint"),
    "dtype": ("precision", "torch_dtype", "bf16", "fp16", "fp32"),
    "seeds": ("seed", "random_seed", "n_seeds", "num_seeds"),
    "streams": ("tasks", "stream", "orders", "order", "sequence", "sequences", "datasets", "dataset"),
    "methods": ("arms", "method", "arm", "algorithms", "baselines"),
    "probes": ("probe", "eval_tasks", "eval", "general", "holdout"),
    "keep_adapters": ("save_adapters", "save_strategy", "save_total_limit"),
    "tuning.settings": ("n_trials", "num_trials"),
    "threads": ("num_threads", "n_threads"),
    "resources.num_gpus": ("gpus", "n_gpus"),
}  # fmt: skip
#: What a key that doesn't mean quite the same has to be told with.
BUT: Mapping[str, str] = {
    **dict.fromkeys(
        ("epochs", "epoch", "num_epochs", "num_train_epochs"),
        "every task is seen once, so its length is a number of examples",
    ),
    **dict.fromkeys(("steps", "max_steps", "num_steps", "train_steps"), "a task's steps are examples / batch"),
    "warmup_ratio": "it is a number of steps",
}


#: The place of an entry of ``methods``.
ENTRY = "methods.*"


def unknown_key(
    kind: str, key: str, here: Sequence[str], others: Mapping[str, Sequence[str]], *, where: str, place: str = ""
) -> InputError:
    """The error for a key that has no meaning at its ``place``, with the one that is meant, or where it belongs.

    ``place`` is a block of the study (``training``; empty at the top; :data:`ENTRY`), ``here`` are its keys, ``others``
    those of the study's blocks.
    """
    hint = _hint(key.lower().replace("-", "_"), here, others, place) or _near(key, here)
    known = f"known{' keys' * (kind == 'key')}: {', '.join(here) or 'none'}"
    return InputError(f"unknown {kind} '{key}'", where=where, remedy=f"{hint}{known}")


def _hint(key: str, here: Sequence[str], others: Mapping[str, Sequence[str]], place: str) -> str:
    paths = [path for path, names in OTHER_NAMES.items() if key in names]
    paths += [f"{block}.{key}" for block, names in others.items() if key in names]
    but = f" ({BUT[key]})" if key in BUT else ""
    for path in paths:
        block, _, name = path.rpartition(".")
        if name in here and (block == place or place == ENTRY):
            return f"did you mean '{name}'{but}? "
    close = _near(key, here, 0.8)
    return close or (f"{_where(paths[0], place)}{but}; " if paths else "")


def _near(key: str, here: Sequence[str], cutoff: float = 0.5) -> str:
    near = difflib.get_close_matches(key, here, n=1, cutoff=cutoff)
    return f"did you mean '{near[0]}'? " if near else ""


def _where(path: str, place: str) -> str:
    """Where a key stands, in words."""
    block, _, name = path.rpartition(".")
    if block == ENTRY:
        return f"that is '{name}' of a method, as in `methods: {{lora: {{{name}: ...}}}}`"
    if block == "adapter" and place == ENTRY:
        return f"that is `adapter: {{{name}: ...}}`, here or for the whole study"
    return f"that is '{name}' under '{block}:'" if block else f"that is '{name}', at the top of the file"
