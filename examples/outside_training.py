"""How `outside.py` trains one trial: transformers, PEFT and torch alone; nothing of lorabench is imported here.

Written from docs/methods.md, baselines/README.md and the papers, so that the engine's arithmetic stands here a second
time: padding, logits, losses, teachers, the clip, the warm-up of the rate, Stable-LoRA's shrink and latch, averages.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F


@dataclass(frozen=True)
class Method:
    """What is added to plain LoRA."""

    shrinks: bool = False
    averages: bool = False
    distils: bool = False
    scores_average: bool = False


METHODS = {
    "lora": Method(),
    "stable_lora": Method(shrinks=True),
    "lora_ema": Method(averages=True, scores_average=True),
    "self_distill": Method(averages=True, distils=True),
    "combined": Method(shrinks=True, averages=True, distils=True, scores_average=True),
}


@dataclass(frozen=True)
class Budget:
    """What every method of a study trains with."""

    batch: int  #: examples a step
    warmup_steps: int
    clip: float  #: of the norm of the whole gradient
    weight_decay: float


@dataclass(frozen=True)
class Text:
    """A training example: what the student reads and what a teacher reads, [length] each, with one answer behind."""

    read: np.ndarray
    shown: np.ndarray
    answer: int  #: tokens of the answer


Setting = Callable[[str], Any]  #: a hyper-parameter of the method by its name


def load_base(path: Path, device: torch.device) -> nn.Module:
    from transformers import AutoModelForCausalLM

    base = AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32, local_files_only=True)
    return cast(Any, base).to(device).eval().requires_grad_(False)


def answer_logits(model: nn.Module, sequences: Sequence[np.ndarray], answers: Sequence[int]) -> Tensor:
    """Logits [N, V] at the N tokens of all answers: the last ``answers[i]`` of sequence i, padded on the right."""
    device, longest = next(model.parameters()).device, max(map(len, sequences))
    ids = torch.zeros(len(sequences), longest, dtype=torch.long)
    mask = torch.zeros_like(ids)
    for row, sequence in enumerate(sequences):
        ids[row, : len(sequence)], mask[row, : len(sequence)] = torch.from_numpy(sequence), 1
    logits = model(input_ids=ids.to(device), attention_mask=mask.to(device), use_cache=False).logits
    # A token is predicted where the one before it stands.
    each = zip(logits, map(len, sequences), answers, strict=True)
    return torch.cat([row[length - answer - 1 : length - 1] for row, length, answer in each])


def divergence(formula: str, student: Tensor, teacher: Tensor) -> Tensor:
    """By its name in docs/methods.md, of each token [N], from logits [N, V]; F.kl_div(log q, log p) is KL(p || q)."""
    kl = partial(F.kl_div, reduction="none", log_target=True)
    s, t = student.log_softmax(-1), teacher.log_softmax(-1)
    if formula == "kl_teacher_student":
        return kl(s, t).sum(-1)
    if formula == "kl_student_teacher":
        return kl(t, s).sum(-1)
    beta = float(formula.removeprefix("jsd(").removesuffix(")"))
    mean = (beta * t.exp() + (1 - beta) * s.exp()).log()
    return (beta * kl(mean, t) + (1 - beta) * kl(mean, s)).sum(-1)


def shrink(pairs: Mapping[str, tuple[Tensor, Tensor]], latched: set[str], rate: float) -> None:
    """Stable-LoRA (arXiv 2603.05204), between the gradient and AdamW: A [r, n] shrinks, of no matrix that has latched.

    One latches, for ever, once ||A|| / n <= ||B|| / m.
    """
    for name, (a, b) in pairs.items():
        if name not in latched and a.norm() / a.shape[1] <= b.norm() / b.shape[0]:
            latched.add(name)
        if name not in latched:
            a.mul_(1 - rate)


@dataclass
class Trained:
    """One trial in training: PEFT's model in float32, torch's AdamW, and what its method keeps beside them."""

    method: Method
    budget: Budget
    model: Any
    pairs: dict[str, tuple[nn.Parameter, nn.Parameter]]  #: A and B by matrix
    optimizer: torch.optim.Optimizer
    latched: set[str] = field(default_factory=set)
    average: list[Tensor] = field(default_factory=list)  #: of all factors, in the order of ``factors``
    snapshot: list[Tensor] = field(default_factory=list)  #: the factors where the task began
    updates: int = 0  #: of the average, over the whole stream

    @property
    def factors(self) -> list[nn.Parameter]:
        return [factor for pair in self.pairs.values() for factor in pair]

    @property
    def result(self) -> list[Tensor]:
        """The factors that count as the method's result."""
        return self.average if self.method.scores_average else [factor.detach() for factor in self.factors]

    def train(self, texts: Sequence[Text], setting: Setting) -> list[float]:
        """One pass over a task's examples; the loss of every step.  Everything goes on from the task before."""
        budget, losses = self.budget, []
        self.snapshot = [factor.detach().clone() for factor in self.factors]
        steps = len(texts) // budget.batch
        for step in range(steps):
            warm = min(1.0, (step + 1) / (budget.warmup_steps + 1))  # the first step moves; anew at every task
            for group in self.optimizer.param_groups:
                group["lr"] = warm * setting("learning_rate")
            losses.append(self.step(texts[step * budget.batch :][: budget.batch], step / steps, setting))
        return losses

    def step(self, batch: Sequence[Text], progress: float, setting: Setting) -> float:
        """``progress`` is the share of the task's steps that are done."""
        loss = self.loss(batch, setting, taught=self.method.distils and progress >= setting("distill_warmup"))
        self.optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(self.factors, self.budget.clip)
        with torch.no_grad():
            if self.method.shrinks:
                shrink(self.pairs, self.latched, setting("shrink"))
            self.optimizer.step()
            if self.method.averages:
                self.follow(setting("ema_decay"), warm=setting("ema_warmup"))
        return loss.item()

    def loss(self, batch: Sequence[Text], setting: Setting, *, taught: bool) -> Tensor:
        """The cross-entropy of the answers' tokens, and the divergence from the teacher; the means over all of them."""
        lengths = [text.answer for text in batch]
        theirs = self.taught(setting("teacher"), batch, lengths) if taught else None
        ours = answer_logits(self.model, [text.read for text in batch], lengths)
        target = torch.from_numpy(np.concatenate([text.read[-text.answer :] for text in batch])).to(ours.device)
        loss = F.cross_entropy(ours, target)
        if theirs is None:
            return loss
        place = torch.from_numpy(np.concatenate([np.arange(n) for n in lengths])).to(ours.device)
        each = divergence(setting("divergence"), *(logits / setting("temperature") for logits in (ours, theirs)))
        return loss + setting("distill_weight") * (each * (place >= setting("skip_tokens"))).mean()

    @torch.no_grad()
    def taught(self, teacher: str, batch: Sequence[Text], lengths: Sequence[int]) -> Tensor:
        """A teacher's logits at the answers, behind its own prompt where that shows them."""
        shown = [text.shown for text in batch]
        if teacher == "base":
            with self.model.disable_adapter():
                return answer_logits(self.model, shown, lengths)
        values = {"ema": self.average, "snapshot": self.snapshot, "live": self.factors}[teacher]
        with self.wearing(values):
            return answer_logits(self.model, shown, lengths)

    def follow(self, decay: float, *, warm: bool) -> None:
        """The exponential moving average of A and of B (arXiv 1703.01780), from a copy of where they start."""
        if warm:
            decay = min(decay, (1 + self.updates) / (10 + self.updates))
        for mean, factor in zip(self.average, self.factors, strict=True):
            mean.mul_(decay).add_(factor, alpha=1 - decay)
        self.updates += 1

    @contextmanager
    def wearing(self, values: Sequence[Tensor]) -> Iterator[None]:
        """Within this the adapter has these factors; not between a student's forward pass and its backward one."""
        own = [factor.detach().clone() for factor in self.factors]
        try:
            self._put([value.detach().clone() for value in values])
            yield
        finally:
            self._put(own)

    @torch.no_grad()
    def _put(self, values: Sequence[Tensor]) -> None:
        for factor, value in zip(self.factors, values, strict=True):
            factor.copy_(value)


def begin(method: Method, budget: Budget, base: nn.Module, rank: int, alpha: float, a: Mapping[str, Tensor]) -> Trained:
    """PEFT's adapter on the matrices of the base that ``a`` names: A [rank, n] starts there, B at zero."""
    from peft import LoraConfig, get_peft_model

    config = LoraConfig(
        r=rank, lora_alpha=cast(int, alpha), target_modules=[*a], lora_dropout=0.0, bias="none", task_type="CAUSAL_LM"
    )
    model = get_peft_model(cast(Any, base), config).eval()
    parameters = {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}
    pairs = {}
    for module, start in a.items():
        first, second = (parameters.pop(f"base_model.model.{module}.lora_{x}.default.weight") for x in "AB")
        with torch.no_grad():
            first.copy_(start)
            second.zero_()
        pairs[module] = (first, second)
    assert not parameters, "PEFT adapts these matrices and nothing else"
    trained = [factor for pair in pairs.values() for factor in pair]
    # Its rate is set in every step.
    optimizer = torch.optim.AdamW(trained, lr=0.0, betas=(0.9, 0.999), eps=1e-8, weight_decay=budget.weight_decay)
    return Trained(method, budget, model, pairs, optimizer, average=[factor.detach().clone() for factor in trained])
