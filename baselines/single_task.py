"""One LoRA for each task, from a fresh start: the reference for intransigence.

At every task the adapter, the optimizer and everything else start again, from a seed of the trial and the task's
number, on the untouched base.  The diagonal of the accuracy matrix is what a task alone can be learnt to; what a
sequential arm reaches below that, it was too stiff to learn.  Everything off the diagonal is one task's adapter on
another's items.
"""

from harness.method import Method, MethodSettings, Recipe


def compose(settings: MethodSettings) -> Recipe:
    return Recipe(between="fresh")


METHOD = Method(
    name="single_task",
    summary="a fresh LoRA for each task (reference for intransigence)",
    source="control",
    control=True,
    compose=compose,
    on_one_task="plain LoRA",
)
