"""Methods that each break one rule of the contract; ``BROKEN`` says which, and a word of the line that does it."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from pydantic import Field

from baselines import sdft
from baselines.lora_ema import FactorEma
from harness.method import Average, BoundAverage, BoundUpdate, LowRank, Method, MethodSettings, Recipe, UpdateRule


def method(name: str, kept: Recipe | None = None, settings: type[MethodSettings] = MethodSettings, **more) -> Method:
    def compose(settings: MethodSettings) -> Recipe:
        return kept or Recipe()

    return Method(**{"name": name, "summary": "s", "source": "s", "compose": compose, "settings": settings} | more)


def part(base: type, kind: type) -> type:
    """An update rule or an average that binds to this, named after it."""

    @dataclass(frozen=True)
    class Part(base):
        @classmethod
        def bind(cls, *arguments):
            return kind(arguments[-1])  # the bank

    Part.__name__ = f"{kind.__name__}Part"
    return Part


class Bound(BoundUpdate):
    def __init__(self, bank) -> None:
        self.steps = torch.zeros(())


class Zeroes(Bound):
    def before_step(self, bank, active) -> None:
        bank.values.zero_()


class Forgets(Bound):
    def before_step(self, bank, active) -> None:
        self.steps += 1
        bank.values *= 1 - 0.001 * self.steps


class Mixes(Bound):
    def before_step(self, bank, active) -> None:
        bank.values *= 1 - 0.1 * bank.values.abs().mean()


class Reads(Bound):
    def before_step(self, bank, active) -> None:
        bank.values *= 1 - 1e-9 * bank.values.norm().item()


class Lists(Bound):
    def before_step(self, bank, active) -> None:
        bank.values *= 1 - 1e-9 * sum(bank.values[:, 0].tolist())


class Masks(Bound):
    def before_step(self, bank, active) -> None:
        bank.values[active] *= 1.0


class Anchors(Bound):
    anchor = None  # which its state leaves out

    def end_task(self, bank, task) -> None:
        self.anchor = bank.values.clone()

    def before_step(self, bank, active) -> None:
        if self.anchor is not None:
            bank.values.lerp_(self.anchor, 0.1)


class ReadsLater(Bound):
    late = False

    def begin_task(self, bank, task) -> None:
        self.late = task.position > 0

    def before_step(self, bank, active) -> None:
        if self.late:
            bank.values *= 0.999 + 0 * bank.values.sum().item()


class Idles(Bound):
    def before_step(self, bank, active) -> None:
        bank.values *= 1.0


class Raises(Bound):
    def before_step(self, bank, active) -> None:
        raise ZeroDivisionError("by zero")


class ReadsInputs(Bound):
    """Which it says to nobody, and a forecast does not count."""

    def end_task(self, bank, task) -> None:
        bank.values *= 0.9 if next(iter(task.inputs(0)(task.examples[0]))) else 1.0


class Decomposes(LowRank):
    def start(self, drawn, at):
        return drawn + 0 * at.spectra()[0].d.sum()


class Shifted(LowRank):
    def start(self, drawn, at):
        return drawn + 0.1


class Writes(LowRank):
    def start(self, drawn, at):
        next(iter(at.model.weights()))[1].mul_(1.001)
        return drawn


class Shrink(UpdateRule):
    @classmethod
    def bind(cls, rules, bank):
        return Zeroes(bank)


class Halves(BoundAverage):
    def __init__(self, bank) -> None:
        self.values = bank.values.clone()

    def after_step(self, bank) -> None:
        self.values.lerp_(bank.values, 0.5)


class Copies(Halves):
    def state(self):
        return {"values": self.values}

    def after_step(self, bank) -> None:
        self.values.copy_(bank.values)


class Unset(MethodSettings):
    warmth: float | None = None


class Reserved(MethodSettings):
    between_tasks: str = "continue"


class Stray(MethodSettings):
    warmth: float = Field(0.1)

    @classmethod
    def grid(cls, steps_per_task):
        return {"wramth": (0.1, 0.2)}


def updating(kind: type[BoundUpdate]) -> Method:
    return method(kind.__name__.lower(), Recipe(updates=(part(UpdateRule, kind)(),)))


def averaging(name: str, average: Average) -> Method:
    return method(name, Recipe(average=average, scored="average"))


BROKEN = [
    (method("nameless", summary=" "), "it is described, in a file that can be read", "def compose"),
    (method("unset", settings=Unset), "its settings have defaults that resolve", "class Unset"),
    (method("stray", settings=Stray), "its settings have defaults that resolve", "class Stray"),
    (method("reserved", settings=Reserved), "its settings have defaults that resolve", "class Reserved"),
    (method("twin", Recipe(updates=(Shrink(),))), "its parts have names of their own", "class Shrink"),
    (method("shifted", Recipe(adapter=Shifted())), "it starts as the base model", "class Shifted"),
    (updating(Zeroes), "it learns a toy", "def compose"),
    (
        method("agrees", sdft.compose(sdft.Settings(demonstration=False, ema_decay=0.9))),
        "it learns a toy",
        "def compose",
    ),
    (method("writes", Recipe(adapter=Writes())), "the base stays as it is", "class Writes"),
    (updating(Forgets), "a checkpoint goes on bit for bit", "@dataclass"),
    (averaging("halves", part(Average, Halves)()), "a checkpoint goes on bit for bit", "@dataclass"),
    (updating(Mixes), "alone is as packed", "@dataclass"),
    (updating(Reads), "a step reads nothing back", ".item()"),
    (updating(Lists), "a step reads nothing back", ".tolist()"),
    (updating(Masks), "a step reads nothing back", "[active]"),
    (updating(Anchors), "a checkpoint goes on bit for bit", "@dataclass"),
    (updating(ReadsLater), "a step reads nothing back", ".item()"),
    (updating(Idles), "its parts do something", "@dataclass"),
    (averaging("copies", part(Average, Copies)()), "its parts do something", "@dataclass"),
    (averaging("warms_up", FactorEma(0.98, warm=True)), "its average lags alike at every position", "def compose"),
    (updating(ReadsInputs), "what it looks at is declared", "@dataclass"),
    (method("decomposes", Recipe(adapter=Decomposes())), "what it looks at is declared", "class Decomposes"),
    (updating(Raises), "it learns a toy", "raise ZeroDivisionError"),
]
