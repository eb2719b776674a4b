"""One optimizer step for K trials: the whole training algorithm, in the order in which it happens."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from harness.engine.adapters import AdapterBank
from harness.engine.batches import Batch, Example, Step, make_step
from harness.engine.losses import cross_entropy, loss_and_gradient
from harness.engine.method import Average, BoundAverage, BoundPart, BoundUpdate, Recipe, Task
from harness.engine.model import PackedModel, make_bank
from harness.engine.optimizer import AdamWSettings, PackedAdamW


@dataclass(frozen=True)
class RowSpec:
    """What trains in one row of a pack."""

    recipe: Recipe
    learning_rate: float
    init_seed: int
    also_average: tuple[Average, ...] = ()  #: averages of arms that train alike and are only scored differently


class Trainer:
    """The state of K rows that train side by side, and the step that changes it.

    Rows are independent: a row's numbers are those it would have alone, up to the rounding of larger matrix products.
    A row whose loss, gradient or rate is not finite is switched off on the device and changes nobody.
    """

    def __init__(
        self, model: PackedModel, rows: Sequence[RowSpec], rank: int, alpha: float, settings: AdamWSettings
    ) -> None:
        scaling = [row.recipe.adapter.scaling(rank, alpha) for row in rows if row.recipe.adapter]
        self.model, self.rows = model, rows
        self.bank: AdapterBank = make_bank(model, rank, [row.init_seed for row in rows], scaling)
        self._start()
        self.rates = torch.tensor([row.learning_rate for row in rows], device=model.device)
        self.ratios = torch.tensor([[1.0, row.recipe.b_rate_ratio] for row in rows], device=model.device)
        a_size, size = self.bank.layout.a_size, self.bank.layout.size
        self.optimizer = PackedAdamW(self.bank.values, settings, (a_size, size - a_size))
        self.alive = torch.ones(len(rows), dtype=torch.bool, device=model.device)
        self.loss = type(rows[0].recipe.loss).bind([row.recipe.loss for row in rows], model.device)
        self.updates = self._bind_updates()
        self._bind_averages()

    # -- parts ----------------------------------------------------------------------------------------------------

    def _start(self) -> None:
        """Put every row where its adapter starts."""
        for values, row in zip(self.bank.values, self.rows, strict=True):
            assert row.recipe.adapter is not None, "arms without an adapter have no rows"
            values.copy_(row.recipe.adapter.start(values, self.bank.layout))

    def _bind_updates(self) -> dict[str, BoundUpdate]:
        """One bound rule for each kind of update rule that any row has."""
        kinds = {type(rule): None for row in self.rows for rule in row.recipe.updates}
        return {
            kind.__name__: kind.bind(
                [next((r for r in row.recipe.updates if type(r) is kind), None) for row in self.rows], self.bank
            )
            for kind in kinds
        }

    def _bind_averages(self) -> None:
        """One bound average for each kind that any row keeps, and where in it to find which."""
        wanted: dict[type[Average], list[tuple[int, Average]]] = {}
        for index, row in enumerate(self.rows):
            for average in dict.fromkeys((row.recipe.average, *row.also_average)):
                if average is not None:
                    wanted.setdefault(type(average), []).append((index, average))
        self.averages: dict[str, BoundAverage] = {}
        self._place: dict[tuple[int, Average], tuple[str, int]] = {}
        for kind, entries in wanted.items():
            bound = kind.bind([average for _, average in entries], [index for index, _ in entries], self.bank)
            self.averages[kind.__name__] = bound
            self._place |= {entry: (kind.__name__, place) for place, entry in enumerate(entries)}

    def _averaged(self, row: int, average: Average | None) -> Tensor:
        assert average is not None, "Recipe checks that what scores or teaches from an average keeps one"
        kind, place = self._place[row, average]
        return self.averages[kind].values[place]

    def weights(self, row: int, recipe: Recipe) -> Tensor:
        """The adapter [P] that counts as the result of a trial with this recipe that trains in this row."""
        return self.bank.values[row] if recipe.scored == "student" else self._averaged(row, recipe.average)

    def _teacher(self) -> Tensor:
        """[K, P]: every row's own average."""
        return torch.stack([self._averaged(index, row.recipe.average) for index, row in enumerate(self.rows)])

    # -- the ends of a task ---------------------------------------------------------------------------------------

    def begin_task(self, number: int, examples: Sequence[Sequence[Example]]) -> None:
        """Before the first step of task ``number``; ``examples`` of each row in the order of training."""
        self.task = Task(number, examples, self._likelihood_gradient)
        for part in self._parts().values():
            part.begin_task(self.bank, self.task)

    def end_task(self) -> None:
        """After its last step, before it is scored."""
        for part in self._parts().values():
            part.end_task(self.bank, self.task)

    def _likelihood_gradient(self, rows: Sequence[Sequence[Example]]) -> Tensor:
        """[K, P]: the gradient of -log p(answers) of ``rows[k]``, summed over tokens, at the values of row k."""
        values = self.bank.values.detach().requires_grad_()
        for batch in make_step(rows, 0, self.model.device).passes:
            student = self._answer_states(batch, values)
            target, weight = batch.target, torch.ones_like(batch.weight)

            def token_loss(logits: Tensor, part: slice, target: Tensor = target) -> Tensor:
                return cross_entropy(logits, target[part])

            _, gradient = loss_and_gradient(student, self.model.logits, token_loss, weight)
            student.backward(gradient)
        assert values.grad is not None
        return values.grad

    # -- one step -------------------------------------------------------------------------------------------------

    def step(self, step: Step, warmup: float, progress: float) -> tuple[Tensor, bool]:
        """Losses [K] of this step, after updating every row; and whether a teacher pass was made.

        ``warmup`` scales the rate; ``progress`` in [0, 1) is the share of the current task's steps that are done.
        Nothing is read back to the host.
        """
        values = self.bank.values.detach().requires_grad_()
        taught = self.loss.needs_teacher(progress)
        teacher = self._teacher() if taught else None
        losses = torch.zeros_like(self.rates)
        for batch in step.passes:
            losses += self._accumulate(batch, values, teacher)
        assert values.grad is not None
        self._update(values.grad, losses, warmup)
        return losses, taught

    def _accumulate(self, batch: Batch, values: Tensor, teacher_values: Tensor | None) -> Tensor:
        """Add a pass's gradient to ``values.grad``; returns its part [K] of the losses."""
        teacher = None
        if teacher_values is not None:
            with torch.no_grad():
                teacher = self._answer_states(batch, teacher_values)
        student = self._answer_states(batch, values)

        def token_loss(logits: Tensor, part: slice) -> Tensor:
            with torch.no_grad():
                taught_by = None if teacher is None else self.model.logits(teacher[part]).float()
            return self.loss.tokens(logits, taught_by, batch.target[part], batch.trial[part], batch.position[part])

        losses, gradient = loss_and_gradient(student, self.model.logits, token_loss, batch.weight)
        student.backward(gradient)
        return torch.zeros_like(self.rates).index_add_(0, batch.trial, losses * batch.weight)

    def _answer_states(self, batch: Batch, values: Tensor) -> Tensor:
        """Hidden states [N, d] from which the answer tokens are predicted."""
        with self.model.adapted(self.bank.layout, values, self.bank.scaling):
            return self.model.hidden(batch.ids).flatten(0, 1).index_select(0, batch.source)

    @torch.no_grad()
    def _update(self, gradient: Tensor, losses: Tensor, warmup: float) -> None:
        self.alive &= losses.isfinite() & self.rates.isfinite()
        for rule in self.updates.values():
            rule.penalise(self.bank, gradient)
        for rule in self.updates.values():
            rule.before_step(self.bank, self.alive)
        rates = self.rates[:, None] * self.ratios * warmup
        norm = self.optimizer.step(self.bank.values, gradient, rates, self.alive)
        self.alive &= norm.isfinite()
        for average in self.averages.values():
            average.after_step(self.bank)

    # -- checkpoints ----------------------------------------------------------------------------------------------

    def _parts(self) -> dict[str, BoundPart]:
        return {
            **{f"update.{k}": v for k, v in self.updates.items()},
            **{f"average.{k}": v for k, v in self.averages.items()},
        }

    def state(self) -> dict[str, Tensor]:
        """Every tensor that a later step depends on."""
        tensors = {"values": self.bank.values, "alive": self.alive}
        tensors |= {f"adamw.{name}": tensor for name, tensor in self.optimizer.state().items()}
        for prefix, part in self._parts().items():
            tensors |= {f"{prefix}.{name}": tensor for name, tensor in part.state().items()}
        return tensors

    def load(self, state: dict[str, Tensor]) -> None:
        """The inverse of :meth:`state`."""
        self.bank.values.copy_(state["values"])
        self.alive.copy_(state["alive"])
        for prefix, part in self._parts().items():
            part.load({name: state[f"{prefix}.{name}"] for name in part.state()})
        self.optimizer.load({name: state[f"adamw.{name}"] for name in self.optimizer.state()})
