"""lm-eval's model interface over the packed engine: one object that answers for every trial of a pack."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence
from typing import Any

from lm_eval import utils
from lm_eval.api.instance import Instance
from lm_eval.api.model import TemplateLM
from lm_eval.models.utils import (
    handle_stop_sequences,
    has_bos_prefix,
    normalize_gen_kwargs,
    postprocess_generated_text,
)

from harness.engine.model import PackedModel
from harness.errors import InputError
from harness.scoring.forward import generate_greedy, score_rows
from harness.scoring.trees import TokenRequest, build_rows


def request_key(instance: Instance) -> tuple:
    """What identifies a request of lm-eval within a suite."""
    return (instance.request_type, instance.task_name, instance.doc_id, instance.idx)


class PackedLM(TemplateLM):
    """Answers lm-eval's requests for K trials at once, then hands each trial its own answers.

    Encoding is lm-eval's (``TemplateLM._encode_pair``), with the special tokens of its HF model.  Requests are encoded
    once and remembered.  Use: :meth:`answer` for the trials whose adapters are in place, then ``lm_eval.evaluate`` for
    each trial with :attr:`trial` set.
    """

    def __init__(self, model: PackedModel, tokenizer: Any, *, max_length: int, batch_tokens: int) -> None:
        super().__init__()
        self.model, self.tokenizer = model, tokenizer
        self.max_length = min(max_length, model.max_length)
        self.batch_tokens = batch_tokens
        self.trial = 0
        self.broken: set[int] = set()  # trials whose logits were not finite while they generated
        self._encoded: dict[tuple, list[TokenRequest]] = {}
        self._answers: dict[tuple, list[Any]] = {}

    @property
    def eot_token_id(self) -> int:
        return self.tokenizer.eos_token_id

    @property
    def prefix_token_id(self) -> int:
        bos = self.tokenizer.bos_token_id
        return self.eot_token_id if bos is None else bos

    def tok_encode(self, string: str, add_special_tokens: bool | None = None, **kwargs: Any) -> list[int]:
        """As lm-eval's HF model encodes: special tokens as the tokenizer adds them, no second BOS."""
        if add_special_tokens is None and has_bos_prefix(string, self.tokenizer.decode(self.prefix_token_id)):
            add_special_tokens = False
        extra = {} if add_special_tokens is None else {"add_special_tokens": add_special_tokens}
        return self.tokenizer.encode(string, **extra)

    def answer(self, instances: Sequence[Instance], trials: int, progress: Callable[[int], None]) -> None:
        """Compute the answers of all ``trials`` to these requests; earlier answers are forgotten."""
        self._answers, self.broken = {}, set()
        scored = [instance for instance in instances if instance.request_type != "generate_until"]
        if scored:
            self._answer_scored(scored, trials, progress)
        if generated := [instance for instance in instances if instance.request_type == "generate_until"]:
            self._answer_generated(generated, trials, progress)

    def token_count(self, instances: Sequence[Instance]) -> int:
        """Tokens of one trial's forward pass over these requests, shared prefixes counted once."""
        scored = [instance for instance in instances if instance.request_type != "generate_until"]
        generated = [instance for instance in instances if instance.request_type == "generate_until"]
        rows, _ = self._rows(scored)
        prompts = sum(len(self.tok_encode(i.args[0])) + self._limits(i)[1] for i in generated)
        return sum(len(row.ids) for row in rows) + prompts

    # -- what lm-eval calls ---------------------------------------------------------------------------------------

    def loglikelihood(self, requests: list[Instance], disable_tqdm: bool = False) -> list[tuple[float, bool]]:
        return self._recall(requests)

    def loglikelihood_rolling(self, requests: list[Instance], disable_tqdm: bool = False) -> list[float]:
        return self._recall(requests)

    def generate_until(self, requests: list[Instance], disable_tqdm: bool = False) -> list[str]:
        return self._recall(requests)

    def _loglikelihood_tokens(self, requests: list, **kwargs: Any) -> list[tuple[float, bool]]:
        raise NotImplementedError("abstract in TemplateLM; requests are answered for all trials in `answer`")

    def _recall(self, requests: Sequence[Instance]) -> list[Any]:
        return [self._answers[request_key(request)][self.trial] for request in requests]

    # -- log-likelihoods ------------------------------------------------------------------------------------------

    def _tokens(self, instance: Instance) -> list[TokenRequest]:
        """One token request; several for a rolling one that is longer than the context."""
        key = request_key(instance)
        if key not in self._encoded:
            if instance.request_type == "loglikelihood_rolling":
                pairs = self._rolling_windows(instance.args[0])
            else:
                pairs = [self._encode(*instance.args)]
            self._encoded[key] = [TokenRequest(key, tuple(context), tuple(answer)) for context, answer in pairs]
        return self._encoded[key]

    def _encode(self, context: str, continuation: str) -> tuple[list[int], list[int]]:
        """lm-eval's encoding of one request, the empty context included (``TemplateLM.loglikelihood``)."""
        if context:
            pair = self._encode_pair(context, continuation)
        else:
            answer = self.tok_encode(continuation, add_special_tokens=False)
            prefix = self.prefix_token_id
            pair = ([prefix], answer) if answer[0] != prefix else (answer[:1], answer[1:])
        if not pair[1] or len(pair[1]) > self.max_length:
            raise InputError(
                f"an answer has {len(pair[1])} tokens; it needs at least 1 and at most max_length ({self.max_length})",
                where=repr(continuation[:60]),
                remedy="correct the task, or raise scoring.max_length in the study",
            )
        return pair

    def _rolling_windows(self, text: str) -> list[tuple[list[int], list[int]]]:
        windows = utils.get_rolling_token_windows(
            token_list=self.tok_encode(text),
            prefix_token=self.prefix_token_id,
            max_seq_len=self.max_length,
            context_len=1,
        )
        return [utils.make_disjoint_window(window) for window in windows]

    def _rows(self, instances: Sequence[Instance]) -> tuple[list, list[TokenRequest]]:
        """Rows of the forward pass, and the token requests that they number."""
        requests: list[TokenRequest] = []
        groups: dict[tuple, list[tuple[int, TokenRequest]]] = defaultdict(list)
        for instance in instances:
            for part, request in enumerate(self._tokens(instance)):
                own = (part,) if instance.request_type == "loglikelihood_rolling" else ()
                groups[(instance.task_name, instance.doc_id, *own)].append((len(requests), request))
                requests.append(request)
        return build_rows(list(groups.values()), self.max_length, self.model.window), requests

    def _answer_scored(self, instances: Sequence[Instance], trials: int, progress: Callable[[int], None]) -> None:
        rows, requests = self._rows(instances)
        logprob, greedy = score_rows(self.model, rows, len(requests), trials, self.batch_tokens, progress)
        columns: dict[tuple, list[int]] = defaultdict(list)
        for number, request in enumerate(requests):
            columns[request.key].append(number)
        for instance in instances:
            where = columns[request_key(instance)]
            total, all_greedy = logprob[:, where].sum(1), greedy[:, where].all(1)
            if instance.request_type == "loglikelihood_rolling":
                answers: list[Any] = [float(value) for value in total]
            else:
                answers = [(float(value), bool(flag)) for value, flag in zip(total, all_greedy, strict=True)]
            self._answers[request_key(instance)] = answers

    # -- generation -----------------------------------------------------------------------------------------------

    def _limits(self, instance: Instance) -> tuple[list[str], int]:
        """(stop strings, most tokens) of a generation request; only greedy decoding is taken."""
        settings = normalize_gen_kwargs(dict(instance.args[1]), 256)
        if settings.get("do_sample"):
            raise InputError(
                "the task asks for sampling, and scores here are of greedy decoding",
                where=f"{instance.task_name}:generation_kwargs.do_sample",
                remedy="set do_sample: false",
            )
        until = handle_stop_sequences(settings.get("until"), eos=self.tokenizer.decode(self.eot_token_id))
        most = int(settings["max_gen_toks"])
        if most >= self.max_length:
            raise InputError(
                f"max_gen_toks ({most}) must be less than max_length ({self.max_length})",
                where=f"{instance.task_name}:generation_kwargs.max_gen_toks",
            )
        return list(until), most

    def _answer_generated(self, instances: Sequence[Instance], trials: int, progress: Callable[[int], None]) -> None:
        prompts = [self.tok_encode(instance.args[0]) for instance in instances]
        limits = [self._limits(instance) for instance in instances]
        # Longest first, and never two different limits in one batch.
        order = sorted(range(len(instances)), key=lambda i: (limits[i], -len(prompts[i]), i))
        start = 0
        while start < len(order):
            until, most = limits[order[start]]
            width = min(len(prompts[order[start]]), self.max_length - most) + most
            size = max(1, self.batch_tokens // (width * trials))
            chosen = [i for i in order[start : start + size] if limits[i] == (until, most)]
            texts = self._generate(
                [prompts[i][-(self.max_length - most) :] for i in chosen], trials, until, most, progress
            )
            for place, i in enumerate(chosen):
                self._answers[request_key(instances[i])] = [texts[k][place] for k in range(trials)]
            start += len(chosen)

    def _generate(
        self, prompts: list[list[int]], trials: int, until: list[str], most: int, progress: Callable[[int], None]
    ) -> list[list[str]]:
        end = self.eot_token_id

        def finished(trial: int, prompt: int, tokens: list[int]) -> bool:
            return tokens[-1] == end or any(stop in self.tokenizer.decode(tokens) for stop in until)

        def text(tokens: list[int]) -> str:
            # Other special tokens are dropped from the text, as lm-eval's HF model does.
            kept = tokens[: tokens.index(end)] if end in tokens else tokens
            return postprocess_generated_text(
                self.tokenizer.decode(kept, skip_special_tokens=True), stop=until, think_end_token=None
            )

        tokens, finite = generate_greedy(self.model, prompts, trials, most, finished, progress)
        self.broken |= {trial for trial, good in enumerate(finite) if not good}
        return [[text(row) for row in trial] for trial in tokens]
