"""A method whose loss breaks a rule of the contract, as :mod:`broken_methods` has them."""

from __future__ import annotations

from harness.method import CrossEntropy, Method, MethodSettings, Recipe
from harness.method.bound import BoundCrossEntropy


class BoundHalf(BoundCrossEntropy):
    def is_cross_entropy(self, *, taught):
        return True

    def tokens(self, student, teacher, target, row, position):
        return super().tokens(student, teacher, target, row, position) / 2


class Half(CrossEntropy):
    @classmethod
    def bind(cls, losses, device):
        return BoundHalf()


def compose(settings: MethodSettings) -> Recipe:
    return Recipe(loss=Half())


HALVED = Method(name="halved", summary="s", source="s", compose=compose)
BROKEN = [(HALVED, "its cross-entropy is one", "class Half")]
