"""How a generation request is decoded: greedily, until when, and what the model's settings of generation add."""

from __future__ import annotations

from typing import Any, NamedTuple, cast

from lm_eval.api.instance import Instance
from lm_eval.models.utils import handle_stop_sequences, normalize_gen_kwargs

from harness.errors import InputError

#: What transformers would do to greedy decoding beside a repetition penalty: setting -> its value that does nothing.
PLAIN = {
    "num_beams": 1, "no_repeat_ngram_size": 0, "min_length": 0, "min_new_tokens": 0, "guidance_scale": 1,
    "encoder_repetition_penalty": 1, "encoder_no_repeat_ngram_size": 0, "penalty_alpha": 0, "bad_words_ids": None,
    "suppress_tokens": None, "begin_suppress_tokens": None, "sequence_bias": None, "forced_bos_token_id": None,
    "forced_eos_token_id": None, "exponential_decay_length_penalty": None, "watermarking_config": None,
    "dola_layers": None, "constraints": None, "force_words_ids": None,
}  # fmt: skip


class Decoding(NamedTuple):
    """Requests of one decoding may share a batch."""

    until: tuple[str, ...]  #: stop strings
    most: int  #: tokens of an answer
    penalty: float  #: of tokens that the prompt or the answer has already; 1 changes nothing


def decoding(instance: Instance, defaults: Any, end: str, max_length: int) -> Decoding:
    """Of a ``generate_until`` request.

    ``defaults`` is the model's ``generation_config`` (or None), which a request overrides; ``end`` is the text of the
    token that ends an answer.  Raises InputError for what is not greedy decoding.
    """
    arguments: tuple[Any, ...] = instance.args  # lm-eval leaves open of what
    settings = cast(dict[str, Any], normalize_gen_kwargs(dict(arguments[1]), 256))
    asked = f"{instance.task_name}:generation_kwargs"
    if settings.get("do_sample"):
        raise InputError(
            "the task asks for sampling, and scores here are of greedy decoding",
            where=f"{asked}.do_sample",
            remedy="set do_sample: false",
        )
    for key, plain in PLAIN.items():
        models = key not in settings
        value = getattr(defaults, key, None) if models else settings[key]
        if value not in (None, plain, []):
            raise InputError(
                f"scores here are of plain greedy decoding, and {key} is {value!r}",
                where=f"generation_config.json:{key}" if models else f"{asked}.{key}",
                remedy=f"set it to {plain!r}, or leave it out",
            )
    until, most = handle_stop_sequences(settings.get("until"), eos=end), int(settings["max_gen_toks"])
    if most >= max_length:
        raise InputError(
            f"max_gen_toks ({most}) must be less than max_length ({max_length})", where=f"{asked}.max_gen_toks"
        )
    penalty = settings.get("repetition_penalty", getattr(defaults, "repetition_penalty", None))
    return Decoding(tuple(until), most, 1.0 if penalty is None else float(penalty))
