"""The state of K rows that train side by side, from fresh adapters to scored weights and checkpoints.

:mod:`harness.engine.step` says how one step changes it, :mod:`harness.engine.task_ends` what starts and rules look at
before and after a task.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from harness.analysis.intruders import Spectrum, spectrum
from harness.engine.adapters.bank import AdapterBank, layout_of
from harness.engine.adapters.layout import Below, DenseLayout, Layout, joined
from harness.engine.batches import Example
from harness.engine.model.packed import PackedModel, make_bank
from harness.engine.optimizer import OptimizerSettings
from harness.engine.task_ends import TaskEnds, Texts
from harness.engine.trunk import Trunk
from harness.method.bound import BoundAverage, BoundOptimizer, BoundPart, BoundUpdate, CurrentTask
from harness.method.parts import Adapter, Average
from harness.method.recipe import Recipe


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
class ScoredWeights:
    """The weights that count as one trial's result: W0 + scaling * ``values`` [P], as ``layout`` divides them."""

    layout: Layout | DenseLayout
    values: Tensor
    scaling: float


class Rows:
    """Everything that a later step depends on, and what a task's beginning and end do to it.

    Rows are independent: a row's numbers are those it would have alone, up to the rounding of larger matrix products.
    A row whose loss, gradient or rate is not finite is switched off on the device and changes no other row.
    """

    def __init__(
        self,
        model: PackedModel,
        specs: Sequence[RowSpec],
        rank: int,
        alpha: float,
        settings: OptimizerSettings,
        spectra: Callable[[], Sequence[Spectrum]] | None = None,
        texts: Texts | None = None,
    ) -> None:
        """``spectra`` gives the SVD of every W0, which some adapters start from; None: it is computed when one does.

        ``texts`` gives the unscored text of a task in the order of a seed, where an adapter's start looks at it.
        """
        adapter = specs[0].adapter
        self.model, self.specs, self.settings = model, specs, settings
        self.trunk = Trunk(model)
        self.between = specs[0].recipe.between
        scaling = [row.adapter.scaling(rank, alpha) for row in specs]
        layout = layout_of(adapter, model.slots, rank)
        self.bank: AdapterBank = make_bank(model, layout, [row.init_seed for row in specs], scaling)
        spectra = spectra or (lambda: [spectrum(weight[None]) for _, weight in model.weights()])
        self.ends = TaskEnds(self.trunk, self.bank, spectra, texts)
        self.rates = torch.tensor([row.learning_rate for row in specs], device=model.device)
        self.factor = torch.ones((), dtype=torch.float64, device=model.device)  #: of the rates, in this step
        self.alive = torch.ones(len(specs), dtype=torch.bool, device=model.device)
        #: All but whom it learns from is in its ``pack_key``: the same for every row.
        self.kind_of_loss = specs[0].recipe.loss
        self.loss = type(self.kind_of_loss).bind([row.recipe.loss for row in specs], model.device)
        self.teacher_kinds = [row.recipe.loss.teacher for row in specs]
        self.only_base_teaches = set(self.teacher_kinds) == {"base"}
        #: [K, P]: where the stream began, which is the base, and in rows with a snapshot where the task did.
        kept = not self.only_base_teaches and {"base", "snapshot"} & set(self.teacher_kinds)
        self.starts = torch.empty_like(self.bank.values) if kept else None
        self.updates: dict[str, BoundUpdate] = {}
        self.averages: dict[str, BoundAverage] = {}
        #: [K, S]: which ``sections`` of its columns a row trains; None: all rows train all.
        self.trains = _trained_sections(specs, layout)
        if self.trains is not None:
            self.trains = self.trains.to(model.device)
        self.task: CurrentTask | None = None  #: None before the first has begun: nothing has its start
        self._bind()

    # -- what stays -----------------------------------------------------------------------------------------------

    def release(self, gradient: Tensor) -> Tensor | None:
        """Take the ``gradient`` [K, P] off what stays, in place; the values as they are, where anything does."""
        if self.trains is None:
            return None
        for part, trains in zip(gradient.split(self.bank.layout.sections, 1), self.trains.split(1, 1), strict=True):
            part.mul_(trains)
        return self.bank.values.clone()

    def hold(self, values: Tensor | None) -> None:
        """Put what stays back to where it is in these ``values``; whatever a step's rules and decay do, it stays."""
        if values is None or self.trains is None:
            return
        sections = self.bank.layout.sections
        both = zip(self.bank.values.split(sections, 1), values.split(sections, 1), self.trains.split(1, 1), strict=True)
        for now, then, trains in both:
            now.copy_(torch.where(trains > 0, now, then))

    def trained_numbers(self, row: int) -> int:
        """How many numbers of a row train at a time."""
        return self.bank.layout.live(self.bank.values[row], self.specs[row].adapter.fixes)

    # -- parts ----------------------------------------------------------------------------------------------------

    def _start(self, position: int, examples: Sequence[Sequence[Example]]) -> None:
        """Fresh adapters on what is frozen, and everything that goes with them: moments, rules, averages."""
        below = self.ends.start(self.specs, position, examples, self.alive.tolist())
        if below is not None:
            self._put_below(joined(self.bank.layout.frozen, self.bank.layout, below))
        if self.starts is not None:
            self.starts.copy_(self.bank.values)
        self._bind(anew=bool(position))

    def _bind(self, *, anew: bool = False) -> None:
        """Parts at their start, of adapters that are at theirs; ``anew``: those that span tasks go on."""
        self.optimizer = self._bind_optimizer()
        self._bind_updates(self.updates if anew else {})
        self._bind_averages(self.averages if anew else {})

    def become(self, specs: Sequence[RowSpec]) -> None:
        """Go on with other settings of the same parts, as the next task has them: each part with the state it has."""
        if tuple(specs) == tuple(self.specs):
            return
        before, self.specs = self._parts(), specs
        self.loss = type(self.kind_of_loss).bind([row.recipe.loss for row in specs], self.model.device)
        self._bind(anew=True)
        for name, part in self._parts().items():
            if part is not before[name]:
                part.load(before[name].state())

    def _bind_optimizer(self) -> BoundOptimizer:
        kind = type(self.specs[0].recipe.optimizer)  # in the pack_key: the same for every row
        return kind.bind([row.recipe.optimizer for row in self.specs], self.bank, self.settings.weight_decay)

    def _put_below(self, frozen: Below | None) -> None:
        if frozen is not None and isinstance(frozen.layout, Layout) and frozen.layout.vectors:
            changes = zip(self.model.weights(), frozen.changes(torch.float32), strict=True)
            scales = [change.resolved(weight).scale for (_, weight), change in changes]
            frozen = replace(frozen, scales=tuple(scale for scale in scales if scale is not None))
        self.bank.layout = replace(self.bank.layout, frozen=frozen)

    def _bind_updates(self, kept: Mapping[str, BoundUpdate]) -> None:
        """One bound rule for each kind of update rule that any row has; of ``kept`` those that span tasks go on."""
        kinds = {type(rule): None for row in self.specs for rule in row.recipe.updates}
        self.updates = {}
        for kind in kinds:
            rules = [next((r for r in row.recipe.updates if type(r) is kind), None) for row in self.specs]
            goes_on = kept.get(kind.__name__) if kind.spans_tasks else None
            self.updates[kind.__name__] = goes_on or kind.bind(rules, self.bank)

    def _bind_averages(self, kept: Mapping[str, BoundAverage]) -> None:
        """One bound average for each kind that any row keeps, and where in it to find which.

        Of ``kept``, those of the task before, the ones that span tasks go on.
        """
        wanted: dict[type[Average], list[tuple[int, Average]]] = {}
        for index, row in enumerate(self.specs):
            for average in dict.fromkeys((row.recipe.average, *row.also_average)):
                if average is not None:
                    wanted.setdefault(type(average), []).append((index, average))
        self.averages = {}
        self._place: dict[tuple[int, Average], tuple[str, int]] = {}
        for kind, entries in wanted.items():
            bound = kept.get(kind.__name__) if kind.spans_tasks else None
            if bound is None:
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

    def scored(self, row: int, recipe: Recipe) -> ScoredWeights:
        """All that a trial with this recipe, trained in this row, has put on the base."""
        layout, values = self._result(row, recipe)
        if self.bank.layout.frozen is None:
            if isinstance(layout, Layout):
                layout, (values,) = layout.plain(values[None])
            return ScoredWeights(layout, values, float(self.bank.scaling[row]))
        below = self.bank.layout.frozen.row(row)
        upper = replace(layout, frozen=below).scaled(values[None], self.bank.scaling[row : row + 1])
        whole = joined(below, layout, upper)
        return ScoredWeights(whole.layout, whole.values[0], 1.0)

    def lost_energy(self, row: int, recipe: Recipe) -> float | None:
        """What a trial's result leaves out of the average that it is of (``BoundAverage.lost_energy``)."""
        if recipe.scored == "student" or recipe.average is None:
            return None
        kind, place = self._place[row, recipe.average]
        return self.averages[kind].lost_energy(place, self.bank)

    def teachers(self) -> Tensor | None:
        """[K, P]: the values of every row's teacher; None where all are the base, for which no adapter is in place."""
        if self.only_base_teaches:
            return None
        return torch.stack([self._teacher_of(index, row.recipe) for index, row in enumerate(self.specs)])

    def _teacher_of(self, row: int, recipe: Recipe) -> Tensor:
        match recipe.loss.teacher:
            case "ema":
                return self._averaged(row, recipe.average)
            case "live":
                return self.bank.values[row]
        assert self.starts is not None, "kept where a row learns from its base or from a snapshot"
        return self.starts[row]

    # -- the ends of a task ---------------------------------------------------------------------------------------

    def begin_task(self, position: int, examples: Sequence[Sequence[Example]]) -> None:
        """Before the first step of the task at ``position``; ``examples`` of each row in the order of training."""
        if not position or self.between in ("reinit", "fresh"):
            self._put_below(self._all_scored() if position and self.between == "reinit" else None)
            self._start(position, examples)
        if "snapshot" in self.teacher_kinds and self.starts is not None:
            rows = [index for index, teacher in enumerate(self.teacher_kinds) if teacher == "snapshot"]
            self.starts[rows] = self.bank.values[rows]
        self.task = self.ends.task(position, examples)
        for part in self._parts().values():
            part.begin_task(self.bank, self.task)
        self.ends.count_read()

    def end_task(self) -> None:
        """After its last step, before it is scored."""
        assert self.task is not None, "a task that ends has begun"
        for part in self._parts().values():
            part.end_task(self.bank, self.task)
        self.ends.count_read()
        self.trunk.end_task()

    def take_read_tokens(self) -> list[int]:
        """Tokens that the parts of each row have read at the ends of tasks, since this was last asked."""
        return self.ends.take_read_tokens()

    def _all_scored(self) -> Below:
        """What is scored of every row, as what the next adapters stand on."""
        scored = [self.scored(index, row.recipe) for index, row in enumerate(self.specs)]
        values = torch.stack([entry.values for entry in scored])
        scaling = torch.tensor([entry.scaling for entry in scored], device=values.device)
        return joined(None, scored[0].layout, scored[0].layout.scaled(values, scaling))

    # -- checkpoints ----------------------------------------------------------------------------------------------

    def _parts(self) -> dict[str, BoundPart]:
        return {
            **{f"update.{k}": v for k, v in self.updates.items()},
            **{f"average.{k}": v for k, v in self.averages.items()},
            "optimizer": self.optimizer,
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
        for prefix, part in self._parts().items():
            tensors |= {f"{prefix}.{name}": tensor for name, tensor in part.state().items()}
        return tensors

    def load(self, state: dict[str, Tensor]) -> None:
        """The inverse of :meth:`state`."""
        self.bank.values.copy_(state["values"])
        self.alive.copy_(state["alive"])
        if "frozen.values" in state:
            rank, slots = int(state["frozen.rank"]), self.model.slots
            below = replace(self.bank.layout.plain_layout, rank=rank) if rank else DenseLayout(slots)
            self._put_below(joined(None, below, state["frozen.values"].to(self.model.device)))
        if self.starts is not None:
            self.starts.copy_(state["starts"])
        for prefix, part in self._parts().items():
            part.load({name: state[f"{prefix}.{name}"] for name in part.state()})


def _trained_sections(specs: Sequence[RowSpec], layout: Layout | DenseLayout) -> Tensor | None:
    """[K, 2], 1 where a row trains the columns of A, and the others; None where all rows train all."""
    if not any(row.adapter.fixes for row in specs) or isinstance(layout, DenseLayout):
        return None
    return torch.tensor([[float(row.adapter.fixes != name) for name in "AB"] for row in specs])
