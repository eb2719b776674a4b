"""The base model, not trained: the lower control.

It learns nothing and forgets exactly nothing, so every metric's zero can be seen on the board.
"""

from harness.method import Method, NoSettings, Recipe


def compose(settings: NoSettings) -> Recipe:
    return Recipe(adapter=None)


METHOD = Method(
    name="frozen",
    summary="the base model, never trained (lower control)",
    source="control",
    control=True,
    settings=NoSettings,
    compose=compose,
)
