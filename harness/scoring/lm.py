"""lm-eval's model interface over the packed engine: one object that answers for every trial of a pack."""

from __future__ import annotations

import operator
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np
import torch
from lm_eval.api.instance import Instance
from lm_eval.models.utils import postprocess_generated_text

from harness.engine.generate import Penalised, Progress, cached_bytes, generate, greedy, rows_together
from harness.engine.model.packed import PackedModel
from harness.scoring.decoding import Decoding, decoding
from harness.scoring.encoding import EncodingLM
from harness.scoring.forward import collate, score_batches
from harness.scoring.layouts import Ahead, Pass, RequestLayout, Scored, documents_of, request_key, summed
from harness.scoring.stops import Stops
from harness.scoring.trees import TokenRequest, batch_rows, build_rows

#: What a pass costs however short it is, in tokens: of one trial on a CPU, so that rows are cut alike whoever is scored
#: beside it, as far as the budget allows; of all trials on a GPU, where it is launching kernels.
CPU_PASS, GPU_PASS = 64, 8192

#: Numbers of trials whose passes are kept: all of a pack, those with an average of their own, and some that diverged.
KEPT_COUNTS = 4


def _by_kind(instances: Sequence[Instance]) -> tuple[list[Instance], list[Instance]]:
    """Those that are answered by log-probabilities, and those that are generated."""
    generated = [instance for instance in instances if instance.request_type == "generate_until"]
    return [instance for instance in instances if instance.request_type != "generate_until"], generated


class PackedLM(EncodingLM):
    """Answers lm-eval's requests for K trials at once, then hands each trial its answers.

    Requests are encoded once and remembered.  Use: :meth:`answer` for the trials whose adapters are in place, then
    ``lm_eval.evaluate`` for each trial with :attr:`trial` set.
    """

    def __init__(self, model: PackedModel, tokenizer: Any, *, max_length: int, batch_tokens: int) -> None:
        super().__init__(tokenizer, vocabulary=model.vocabulary, max_length=min(max_length, model.max_length))
        self.model, self.batch_tokens = model, batch_tokens
        on_gpu = model.device.type == "cuda"
        self._token_bytes = cached_bytes(model) if on_gpu else 0  # before adapters are in place
        self._memory = torch.cuda.get_device_properties(model.device).total_memory if on_gpu else 0
        self.trial = 0
        self.broken: set[int] = set()  # trials with an answer that is not finite
        self._encoded: dict[tuple, list[TokenRequest]] = {}
        self._layouts: dict[tuple, RequestLayout] = {}
        self._latest: tuple[list[Instance], RequestLayout] | None = None  # found without their keys
        self._said: dict[tuple, list[str]] = {}  # by request, what each trial said
        self._stops: dict[tuple[str, ...], Stops] = {}  # by stop strings
        self._scored: Scored | None = None

    def answer(
        self, instances: Sequence[Instance], trials: int, progress: Progress, ahead: Ahead | None = None
    ) -> None:
        """Compute the answers of all ``trials`` to these requests; earlier answers are forgotten.

        ``ahead`` is told the answers to documents as soon as they are known, while a GPU computes others.
        """
        self._said, self._scored, self.broken = {}, None, set()
        scored, generated = _by_kind(instances)
        if scored:
            self._answer_scored(scored, trials, progress, ahead)
        if generated:
            self._answer_generated(generated, trials, progress)

    def token_count(self, instances: Sequence[Instance]) -> int:
        """Tokens of one trial's forward pass over these requests, shared prefixes counted once."""
        scored, generated = _by_kind(instances)
        prompts = sum(len(self._prompt(i)) + self._decoding(i).most for i in generated)
        return sum(len(row.ids) for row in self._layout(scored).rows) + prompts

    def truncated(self, instances: Sequence[Instance]) -> int:
        """Items that lose their beginning because they are longer than the context, as in lm-eval."""
        return len({instance.doc_id for instance in instances if self._too_long(instance)})

    def _too_long(self, instance: Instance) -> bool:
        if instance.request_type == "generate_until":
            return len(self._prompt(instance)) > self.max_length - self._decoding(instance).most
        if instance.request_type == "loglikelihood_rolling":
            return False  # read in windows, to the last token
        (request,) = self._tokens(instance)
        return len(request.context) + len(request.continuation) > self.max_length + 1

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
        return [self.answered(request, self.trial) for request in requests]

    def answered(self, request: Instance, trial: int) -> Any:
        """What a trial has answered to a request, as lm-eval has it from a model."""
        key = request_key(request)
        if request.request_type == "generate_until":
            return self._said[key][trial]
        assert self._scored is not None, "answered in `answer`"
        value, greedy = self._scored.of(key, trial)
        return value if request.request_type == "loglikelihood_rolling" else (value, greedy)

    # -- log-likelihoods ------------------------------------------------------------------------------------------

    def _tokens(self, instance: Instance) -> list[TokenRequest]:
        """One token request; several for a rolling one that is longer than the context."""
        key = request_key(instance)
        if key not in self._encoded:
            if instance.request_type == "loglikelihood_rolling":
                pairs = self.rolling_windows(instance.args[0])
            else:
                pairs = [self.encode_request(*instance.args)]
            self._encoded[key] = [TokenRequest(key, tuple(context), tuple(answer)) for context, answer in pairs]
        return self._encoded[key]

    def _layout(self, instances: Sequence[Instance]) -> RequestLayout:
        """How these requests lie in rows; the same questions are laid out once."""
        latest = self._latest
        if latest is None or len(latest[0]) != len(instances) or not all(map(operator.is_, latest[0], instances)):
            key = tuple(request_key(instance) for instance in instances)
            if key not in self._layouts:
                self._layouts[key] = self._lay_out(instances)
            latest = self._latest = list(instances), self._layouts[key]
        return latest[1]

    def _lay_out(self, instances: Sequence[Instance]) -> RequestLayout:
        paired = (i for i in instances if i.request_type == "loglikelihood" and request_key(i) not in self._encoded)
        self.encode_ahead((str(i.args[0]), str(i.args[-1])) for i in paired)
        requests: list[TokenRequest] = []
        groups: dict[tuple, list[tuple[int, TokenRequest]]] = defaultdict(list)
        for instance in instances:
            for part, request in enumerate(self._tokens(instance)):
                window = (part,) if instance.request_type == "loglikelihood_rolling" else ()
                groups[(instance.task_name, instance.doc_id, *window)].append((len(requests), request))
                requests.append(request)
        place = {request_key(instance): i for i, instance in enumerate(instances)}
        rows = build_rows(list(groups.values()), self.max_length, self.model.window, self.model.branches)
        owner = np.asarray([place[request.key] for request in requests], dtype=np.int64)  # also of none
        alone = np.bincount(owner, minlength=len(instances)) == 1
        return RequestLayout(rows, owner, place, bool(alone.all()), documents_of(instances, owner, alone), {})

    def _passes(self, layout: RequestLayout, trials: int) -> list[Pass]:
        if trials in layout.passes:
            layout.passes[trials] = layout.passes.pop(trials)  # the last to be dropped
        else:
            if len(layout.passes) == KEPT_COUNTS:
                layout.passes.pop(next(iter(layout.passes)))  # trials that diverge don't come back
            device = self.model.device
            pass_cost = GPU_PASS // trials if device.type == "cuda" else CPU_PASS
            rows = batch_rows(layout.rows, self.batch_tokens // trials, pass_cost)
            batches = [collate(each, device) for each in rows]
            layout.passes[trials] = [Pass(batch, layout.answered_by(batch.asked)) for batch in batches]
        return layout.passes[trials]

    def _answer_scored(
        self, instances: Sequence[Instance], trials: int, progress: Progress, ahead: Ahead | None
    ) -> None:
        layout = self._layout(instances)
        passes = self._passes(layout, trials)
        logprob = np.full((trials, len(layout.owner)), np.nan)
        greedy = np.zeros(logprob.shape, dtype=bool)
        answers = score_batches(self.model, [each.batch for each in passes], len(layout.owner), trials, progress)
        for each, (values, likeliest) in zip(passes, answers, strict=True):
            logprob[:, each.batch.asked], greedy[:, each.batch.asked] = values, likeliest
            if ahead is not None:
                for documents in each.documents:
                    ahead(documents, logprob[:, documents.requests], greedy[:, documents.requests])
        self._scored = Scored(layout.place, *summed(layout, logprob, greedy))
        self._note_broken(np.all(np.isfinite(self._scored.total), axis=1))

    def _note_broken(self, finite: Iterable[bool]) -> None:
        self.broken |= {trial for trial, good in enumerate(finite) if not good}

    # -- generation -----------------------------------------------------------------------------------------------

    def _decoding(self, instance: Instance) -> Decoding:
        end = self.tokenizer.decode(self.eot_token_id)
        return decoding(instance, self._settings, end, self.max_length)

    @property
    def _settings(self) -> Any:
        """The model's settings of generation, or None."""
        return getattr(self.model.module, "generation_config", None)

    def _answer_generated(self, instances: Sequence[Instance], trials: int, progress: Callable[[int], None]) -> None:
        prompts = [self._prompt(instance) for instance in instances]
        how = [self._decoding(instance) for instance in instances]
        # Longest first, and never two ways of decoding in one batch.
        order = sorted(range(len(instances)), key=lambda i: (how[i], -len(prompts[i]), i))
        start = 0
        while start < len(order):
            way = how[order[start]]
            room = self.max_length - way.most
            width = min(len(prompts[order[start]]), room) + way.most
            rows = rows_together(width, self.batch_tokens, self._memory, self._token_bytes, self.vocabulary)
            size = max(1, rows // trials)
            chosen = [i for i in order[start : start + size] if how[i] == way]
            texts = self._generate([prompts[i][-room:] for i in chosen], trials, way, progress)
            for place, i in enumerate(chosen):
                self._said[request_key(instances[i])] = [texts[k][place] for k in range(trials)]
            start += len(chosen)

    def _prompt(self, instance: Instance) -> list[int]:
        key = request_key(instance)
        if key not in self._encoded:
            self._encoded[key] = [TokenRequest(key, tuple(self.tok_encode(instance.args[0])), ())]
        return list(self._encoded[key][0].context)

    @property
    def _ends(self) -> set[int]:
        """Tokens that end a text: the tokenizer's, and all that the model's generation settings name."""
        named = getattr(self._settings, "eos_token_id", None)
        return {self.eot_token_id, *(named if isinstance(named, list) else [] if named is None else [named])}

    def _generate(
        self, prompts: list[list[int]], trials: int, way: Decoding, progress: Callable[[int], None]
    ) -> list[list[str]]:
        ends, until = self._ends, list(way.until)
        if way.until not in self._stops:
            self._stops[way.until] = Stops(self.tokenizer, way.until, ends)
        stops = self._stops[way.until]

        def finished(_: list[tuple[int, int]], answers: list[list[int]]) -> list[bool]:
            return stops.reached(answers)

        def text(tokens: list[int]) -> str:
            # Other special tokens are dropped from the text, as lm-eval's HF model does.
            kept = tokens[: next((i for i, token in enumerate(tokens) if token in ends), len(tokens))]
            return postprocess_generated_text(
                self.tokenizer.decode(kept, skip_special_tokens=True), stop=until, think_end_token=None
            )

        asked = [prompts] * trials
        pick = greedy if way.penalty == 1 else Penalised(asked, way.penalty)
        tokens, finite = generate(self.model, asked, way.most, finished, progress, pick)
        self._note_broken(finite)
        return [[text(row) for row in trial] for trial in tokens]
