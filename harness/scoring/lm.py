"""lm-eval's model interface over the packed engine: one object that answers for every trial of a pack."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from lm_eval.api.instance import Instance
from lm_eval.models.utils import postprocess_generated_text

from harness.engine.generate import Penalised, Progress, generate, greedy
from harness.engine.model.packed import PackedModel
from harness.scoring.decoding import Decoding, decoding
from harness.scoring.encoding import EncodingLM
from harness.scoring.forward import ScoringBatch, collate, score_batches
from harness.scoring.trees import TokenRequest, TreeRow, batch_rows, build_rows


@dataclass(frozen=True)
class _Layout:
    """Requests as rows; ``owner[i]`` is the place among the instances of the one that token request i belongs to."""

    rows: list[TreeRow]
    owner: np.ndarray
    documents: tuple[np.ndarray, ...]  # the token requests of each whose instances have one each, in their order
    document: np.ndarray  # of every token request, its place among these, or -1
    batches: dict[int, list[ScoringBatch]]  # for the number of trials that run side by side

    def answered_by(self, asked: np.ndarray) -> Iterator[np.ndarray]:
        """The documents all of whose answers are among these, as they are where one row holds them."""
        places, counts = np.unique(self.document[asked], return_counts=True)
        for place, count in zip(places, counts, strict=True):
            if place >= 0 and count == len(self.documents[place]):
                yield self.documents[place]


#: (an instance of the document, its log-probabilities [K, n], which of them are greedy [K, n])
Ahead = Callable[[Instance, np.ndarray, np.ndarray], None]


def request_key(instance: Instance) -> tuple:
    """What identifies a request of lm-eval within a suite."""
    return (instance.request_type, instance.task_name, instance.doc_id, instance.idx)


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
        self.trial = 0
        self.broken: set[int] = set()  # trials with an answer that is not finite
        self._encoded: dict[tuple, list[TokenRequest]] = {}
        self._layouts: dict[tuple, _Layout] = {}
        self._answers: dict[tuple, list[Any]] = {}

    def answer(
        self, instances: Sequence[Instance], trials: int, progress: Progress, ahead: Ahead | None = None
    ) -> None:
        """Compute the answers of all ``trials`` to these requests; earlier answers are forgotten.

        ``ahead`` is told a document's answers as soon as they are known, while a GPU computes others.
        """
        self._answers, self.broken = {}, set()
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
        return [self._answers[request_key(request)][self.trial] for request in requests]

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

    def _layout(self, instances: Sequence[Instance]) -> _Layout:
        """How these requests lie in rows; the same questions are laid out once."""
        key = tuple(request_key(instance) for instance in instances)
        if key not in self._layouts:
            self._layouts[key] = self._lay_out(instances)
        return self._layouts[key]

    def _lay_out(self, instances: Sequence[Instance]) -> _Layout:
        requests: list[TokenRequest] = []
        groups: dict[tuple, list[tuple[int, TokenRequest]]] = defaultdict(list)
        for instance in instances:
            for part, request in enumerate(self._tokens(instance)):
                window = (part,) if instance.request_type == "loglikelihood_rolling" else ()
                groups[(instance.task_name, instance.doc_id, *window)].append((len(requests), request))
                requests.append(request)
        owners = {request_key(instance): i for i, instance in enumerate(instances)}
        rows = build_rows(list(groups.values()), self.max_length, self.model.window, self.model.branches)
        owner = np.asarray([owners[request.key] for request in requests], dtype=np.int64)  # also of none
        documents = defaultdict(list)
        for number in range(len(requests)):
            documents[instances[owner[number]].task_name, instances[owner[number]].doc_id].append(number)
        single = np.bincount(owner, minlength=len(instances)) == 1
        whole = tuple(np.asarray(numbers) for numbers in documents.values() if single[owner[numbers]].all())
        document = np.full(len(requests), -1)
        for place, numbers in enumerate(whole):
            document[numbers] = place
        return _Layout(rows, owner, whole, document, {})

    def _answer_scored(
        self, instances: Sequence[Instance], trials: int, progress: Progress, ahead: Ahead | None
    ) -> None:
        layout = self._layout(instances)
        if trials not in layout.batches:
            layout.batches.clear()  # trials that diverge don't come back
            cut = batch_rows(layout.rows, self.batch_tokens, trials)
            layout.batches[trials] = [collate(rows, self.model.device) for rows in cut]
        logprob = np.full((trials, len(layout.owner)), np.nan)
        greedy = np.zeros(logprob.shape, dtype=bool)
        for asked, values, likeliest in score_batches(
            self.model, layout.batches[trials], len(layout.owner), trials, progress
        ):
            logprob[:, asked], greedy[:, asked] = values, likeliest
            if ahead is not None:
                for document in layout.answered_by(asked):
                    ahead(instances[int(layout.owner[document[0]])], logprob[:, document], greedy[:, document])
        total = np.zeros((trials, len(instances)))
        every = np.ones((trials, len(instances)), dtype=bool)
        for trial in range(trials):  # the windows of one text add up
            np.add.at(total[trial], layout.owner, logprob[trial])
            np.logical_and.at(every[trial], layout.owner, greedy[trial])
        self._note_broken(np.all(np.isfinite(total), axis=1))
        for i, instance in enumerate(instances):
            values = total[:, i].tolist()
            rolling = instance.request_type == "loglikelihood_rolling"
            self._answers[request_key(instance)] = (
                values if rolling else list(zip(values, every[:, i].tolist(), strict=True))
            )

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
            size = max(1, self.batch_tokens // (width * trials))
            chosen = [i for i in order[start : start + size] if how[i] == way]
            texts = self._generate([prompts[i][-room:] for i in chosen], trials, way, progress)
            for place, i in enumerate(chosen):
                self._answers[request_key(instances[i])] = [texts[k][place] for k in range(trials)]
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
        reach = max((len(stop.encode()) for stop in until), default=0) + 4  # no token is shorter than a byte

        def finished(_: list[tuple[int, int]], rows: list[list[int]]) -> list[bool]:
            tails = self.tokenizer.batch_decode([row[-reach:] for row in rows])
            return [
                row[-1] in ends or any(stop in tail and stop in self.tokenizer.decode(row) for stop in until)
                for row, tail in zip(rows, tails, strict=True)
            ]

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
