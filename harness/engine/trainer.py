"""One optimizer step for K trials: the whole training algorithm, in the order in which it happens."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial

import torch
from torch import Tensor

from harness.analysis.intruders import Spectrum, spectrum
from harness.engine.adapters.layout import AdapterBank, DenseLayout, Frozen, Layout, joined
from harness.engine.batches import Batch, Example, Step, make_step
from harness.engine.losses import cross_entropy, loss_and_gradient
from harness.engine.model.packed import PackedModel, make_bank
from harness.engine.optimizer import AdamWSettings, PackedAdamW
from harness.engine.rollouts import own_answers
from harness.method.recipe import Adapter, Average, BoundAverage, BoundPart, BoundUpdate, Recipe, Start, Task
from harness.study.seeds import derive


@dataclass(frozen=True)
class RowSpec:
    """What trains in one row of a pack."""

    recipe: Recipe
    learning_rate: float
    init_seed: int
    also_average: tuple[Average, ...] = ()  #: averages of arms that train alike and are only scored differently

    @property
    def adapter(self) -> Adapter:
        assert self.recipe.adapter is not None, "arms without an adapter have no rows"
        return self.recipe.adapter


@dataclass(frozen=True)
class Scored:
    """The weights that count as one trial's result: W0 + scaling * ``values`` [P], as ``layout`` divides them."""

    layout: Layout | DenseLayout
    values: Tensor
    scaling: float


@dataclass(frozen=True)
class Spent:
    """Real tokens of one step, of each row of the pack, by what they went through the model for."""

    student: tuple[int, ...]  #: with gradient
    teacher: tuple[int, ...]
    prompt: tuple[int, ...]  #: read in order to sample
    sampled: tuple[int, ...]


class Trainer:
    """The state of K rows that train side by side, and the step that changes it.

    Rows are independent: a row's numbers are those it would have alone, up to the rounding of larger matrix products.
    A row whose loss, gradient or rate is not finite is switched off on the device and changes nobody.
    """

    def __init__(
        self,
        model: PackedModel,
        rows: Sequence[RowSpec],
        rank: int,
        alpha: float,
        settings: AdamWSettings,
        spectra: Callable[[], Sequence[Spectrum]] | None = None,
    ) -> None:
        """``spectra`` gives the SVD of every W0, which some adapters start from; none: it is computed then."""
        adapter = rows[0].adapter
        self.model, self.rows, self.settings = model, rows, settings
        self.between = rows[0].recipe.between
        self.spectra = spectra or (lambda: [spectrum(weight[None]) for _, weight in model.weights()])
        scaling = [row.adapter.scaling(rank, alpha) for row in rows]
        layout = adapter.layout(model.slots, rank)
        self.bank: AdapterBank = make_bank(model, layout, [row.init_seed for row in rows], scaling)
        self.rates = torch.tensor([row.learning_rate for row in rows], device=model.device)
        sections = layout.sections
        ratios = [[1.0, row.recipe.b_rate_ratio][: len(sections)] for row in rows]
        self.ratios = torch.tensor(ratios, device=model.device)
        self.alive = torch.ones(len(rows), dtype=torch.bool, device=model.device)
        self.needs = rows[0].recipe.loss  # all but whom it learns from is in its pack_key: the same for every row
        self.loss = type(self.needs).bind([row.recipe.loss for row in rows], model.device)
        self.waits = any(row.adapter.needs_examples for row in rows)
        self.teachers = [row.recipe.loss.teacher for row in rows]
        self.bare = set(self.teachers) == {"base"}
        #: [K, P]: where the stream began, which is the base, and in rows with a snapshot where the task did.
        kept = not self.bare and {"base", "snapshot"} & set(self.teachers)
        self.starts = torch.empty_like(self.bank.values) if kept else None
        self._start(0, [()] * len(rows))

    # -- parts ----------------------------------------------------------------------------------------------------

    def _start(self, number: int, examples: Sequence[Sequence[Example]]) -> None:
        """Fresh adapters on what is frozen, and everything that goes with them: moments, rules, averages."""
        bank, waits = self.bank, self.waits and not examples[0]
        bank.draw([derive(row.init_seed, "task", number) if number else row.init_seed for row in self.rows])
        for index, row in enumerate(self.rows):
            if not (row.adapter.needs_examples and waits):
                frozen = bank.layout.frozen.row(index) if bank.layout.frozen else None
                layout, scaling = replace(bank.layout, frozen=frozen), float(bank.scaling[index])
                at = Start(layout, scaling, self.model, self.spectra, examples[index])
                bank.values[index] = row.adapter.start(bank.values[index].clone(), at)
        if self.rows[0].adapter.taken_off:
            self._put_below(joined(bank.layout.frozen, bank.layout, bank.layout.scaled(bank.values, -bank.scaling)))
        if self.starts is not None:
            self.starts.copy_(bank.values)
        self.optimizer = PackedAdamW(bank.values, self.settings, bank.layout.sections)
        self.updates = self._bind_updates()
        self._bind_averages()
        self.waits = waits

    def _put_below(self, frozen: Frozen | None) -> None:
        if frozen is not None and isinstance(frozen.layout, Layout) and frozen.layout.magnitudes:
            changes = zip(self.model.weights(), frozen.changes(torch.float32), strict=True)
            scales = [change.resolved(weight).scale for (_, weight), change in changes]
            frozen = replace(frozen, scales=tuple(scale for scale in scales if scale is not None))
        self.bank.layout = replace(self.bank.layout, frozen=frozen)

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
        """The trained part [P] of the result of a trial with this recipe in this row, without what is frozen below."""
        return self._result(row, recipe)[1]

    def _result(self, row: int, recipe: Recipe) -> tuple[Layout | DenseLayout, Tensor]:
        if recipe.scored == "student":
            return self.bank.layout, self.bank.values[row]
        assert recipe.average is not None, "Recipe checks that what scores from an average keeps one"
        kind, place = self._place[row, recipe.average]
        return self.averages[kind].result(place, self.bank)

    def scored(self, row: int, recipe: Recipe) -> Scored:
        """All that a trial with this recipe, trained in this row, has put on the base."""
        layout, values = self._result(row, recipe)
        if self.bank.layout.frozen is None:
            return Scored(layout, values, float(self.bank.scaling[row]))
        below = self.bank.layout.frozen.row(row)
        own = replace(layout, frozen=below).scaled(values[None], self.bank.scaling[row : row + 1])
        whole = joined(below, layout, own)
        return Scored(whole.layout, whole.values[0], 1.0)

    def lost_energy(self, row: int, recipe: Recipe) -> float | None:
        """What a trial's result leaves out of the average that it is of (``BoundAverage.lost_energy``)."""
        if recipe.scored == "student" or recipe.average is None:
            return None
        kind, place = self._place[row, recipe.average]
        return self.averages[kind].lost_energy(place, self.bank)

    def _teacher(self) -> Tensor | None:
        """[K, P]: every row's own teacher; none where all are the base, for which no adapter is in place."""
        if self.bare:
            return None
        return torch.stack([self._teacher_of(index, row.recipe) for index, row in enumerate(self.rows)])

    def _teacher_of(self, row: int, recipe: Recipe) -> Tensor:
        match recipe.loss.teacher:
            case "ema":
                return self._averaged(row, recipe.average)
            case "live":
                return self.bank.values[row]
        assert self.starts is not None, "kept where a row learns from its base or from a snapshot"
        return self.starts[row]

    # -- the ends of a task ---------------------------------------------------------------------------------------

    def begin_task(self, number: int, examples: Sequence[Sequence[Example]]) -> None:
        """Before the first step of task ``number``; ``examples`` of each row in the order of training."""
        if (number and self.between in ("reinit", "fresh")) or self.waits:
            self._put_below(self._all_scored() if number and self.between == "reinit" else None)
            self._start(number, examples)
        if "snapshot" in self.teachers:
            rows = [index for index, teacher in enumerate(self.teachers) if teacher == "snapshot"]
            self.starts[rows] = self.bank.values[rows]
        self.task = Task(number, examples, self._likelihood_gradient)
        for part in self._parts().values():
            part.begin_task(self.bank, self.task)

    def end_task(self) -> None:
        """After its last step, before it is scored."""
        for part in self._parts().values():
            part.end_task(self.bank, self.task)

    def _all_scored(self) -> Frozen:
        """What is scored of every row, as what the next adapters stand on."""
        found = [self.scored(index, row.recipe) for index, row in enumerate(self.rows)]
        values = torch.stack([entry.values for entry in found])
        scaling = torch.tensor([entry.scaling for entry in found], device=values.device)
        return joined(None, found[0].layout, found[0].layout.scaled(values, scaling))

    def _likelihood_gradient(self, rows: Sequence[Sequence[Example]]) -> Tensor:
        """[K, P]: the gradient of -log p(answers) of ``rows[k]``, summed over tokens, at the values of row k."""
        values = self.bank.values.detach().requires_grad_()
        for batch in make_step(rows, 0, self.model.device).passes:
            student = self._states(batch.ids, batch.source, values)
            target, weight = batch.target, torch.ones_like(batch.weight)

            def token_loss(logits: Tensor, part: slice, target: Tensor = target) -> Tensor:
                return cross_entropy(logits, target[part])

            _, gradient = loss_and_gradient(student, self.model.logits, token_loss, weight)
            student.backward(gradient)
        assert values.grad is not None
        return values.grad

    # -- one step -------------------------------------------------------------------------------------------------

    def step(self, step: Step, warmup: float, progress: float) -> tuple[Tensor, Spent]:
        """Losses [K] of this step, after updating every row; and the tokens that it took.

        ``warmup`` scales the rate; ``progress`` in [0, 1) is the share of the current task's steps that are done.
        Nothing is read back to the host but the students' own answers, token by token, where a loss is on those.
        """
        assert not self.waits, "an adapter that starts from examples must have seen them: call begin_task first"
        values = self.bank.values.detach().requires_grad_()
        taught, samples = self.loss.needs_teacher(progress), self.needs.sampling is not None
        teach = partial(self._taught_states, self._teacher()) if taught else None
        losses, none = torch.zeros_like(self.rates), (0,) * len(self.rows)
        spent = Spent(none, none, none, none)
        if self.needs.given:
            spent = Spent(step.tokens, step.teacher_tokens if taught and not samples else none, none, none)
            for batch in step.passes:
                losses += self._accumulate(batch, values, None if samples else teach)
        if taught and samples:
            own, prompt, sampled = self._rollout(step)
            student = tuple(map(sum, zip(spent.student, own.tokens, strict=True)))
            spent = Spent(student, own.teacher_tokens, prompt, sampled)
            for batch in own.passes:
                losses += self._accumulate(batch, values, teach, own=True)
        assert values.grad is not None, "a loss that leaves out the given answers needs its teacher in every step"
        self._update(values.grad, losses, warmup)
        return losses, spent

    def _rollout(self, step: Step) -> tuple[Step, tuple[int, ...], tuple[int, ...]]:
        """The step with the students' own answers, and the tokens read and drawn for them."""
        assert self.needs.sampling is not None
        with self.model.adapted(self.bank.layout, self.bank.values, self.bank.scaling):
            found = own_answers(self.model, step, self.needs.sampling)
        own = make_step(found.rows, step.end, self.model.device, step.budget, by_answer=True)
        return own, found.prompt_tokens, found.sampled_tokens

    def _accumulate(
        self, batch: Batch, values: Tensor, teach: Callable[[Batch], Tensor] | None, *, own: bool = False
    ) -> Tensor:
        """Add a pass's gradient to ``values.grad``; returns its part [K] of the losses.

        ``teach`` gives the teachers' states; ``own``: the answers are the students', not the given ones.
        """
        teacher = teach(batch) if teach else None
        student = self._states(batch.ids, batch.source, values)

        def token_loss(logits: Tensor, part: slice) -> Tensor:
            row, position = batch.trial[part], batch.position[part]
            with torch.no_grad():
                taught_by = None if teacher is None else self.model.logits(teacher[part]).float()
            if own:
                assert taught_by is not None
                return self.loss.own_tokens(logits, taught_by, row, position)
            return self.loss.tokens(logits, taught_by, batch.target[part], row, position)

        losses, gradient = loss_and_gradient(student, self.model.logits, token_loss, batch.weight)
        student.backward(gradient)
        return torch.zeros_like(self.rates).index_add_(0, batch.trial, losses * batch.weight)

    @torch.no_grad()
    def _taught_states(self, values: Tensor | None, batch: Batch) -> Tensor:
        """The teachers' hidden states [N, d] at the same answer tokens, behind their own prompts."""
        return self._states(batch.teacher_ids, batch.teacher_source, values)

    def _states(self, ids: Tensor, source: Tensor, values: Tensor | None) -> Tensor:
        """Hidden states [N, d] of these places, from which answer tokens are predicted; no ``values``: the base's."""
        with self.model.adapted(self.bank.layout, values, self.bank.scaling):
            return self.model.hidden(ids).flatten(0, 1).index_select(0, source)

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
        frozen = self.bank.layout.frozen
        if frozen is not None:
            rank = frozen.layout.rank if isinstance(frozen.layout, Layout) else 0  # 0: dense
            tensors |= {"frozen.values": frozen.values, "frozen.rank": torch.tensor(rank)}
        if self.starts is not None:
            tensors["starts"] = self.starts
        tensors |= {f"adamw.{name}": tensor for name, tensor in self.optimizer.state().items()}
        for prefix, part in self._parts().items():
            tensors |= {f"{prefix}.{name}": tensor for name, tensor in part.state().items()}
        return tensors

    def load(self, state: dict[str, Tensor]) -> None:
        """The inverse of :meth:`state`."""
        self.bank.values.copy_(state["values"])
        self.alive.copy_(state["alive"])
        if "frozen.values" in state:
            rank, slots = int(state["frozen.rank"]), self.model.slots
            below = replace(self.bank.layout, rank=rank) if rank else DenseLayout(slots)
            self._put_below(joined(None, below, state["frozen.values"].to(self.model.device)))
        if self.starts is not None:
            self.starts.copy_(state["starts"])
        for prefix, part in self._parts().items():
            part.load({name: state[f"{prefix}.{name}"] for name in part.state()})
        self.optimizer.load({name: state[f"adamw.{name}"] for name in self.optimizer.state()})
        self.waits = False
