"""rsLoRA (Kalajdzievski, arXiv 2312.03732): W0 + (alpha / sqrt r) B A, so that the rank does not damp the update.

Everything else is plain LoRA.  As in PEFT (``use_rslora=True``); at rank 8 and alpha 16 the scaling is 5.66, where that
of LoRA is 2.
"""

from dataclasses import dataclass

from harness.method import LowRank, Method, MethodSettings, Recipe


@dataclass(frozen=True)
class RankStabilised(LowRank):
    """LoRA factors, scaled by alpha / sqrt(rank)."""

    def scaling(self, rank: int, alpha: float) -> float:
        return alpha / rank**0.5


def compose(settings: MethodSettings) -> Recipe:
    return Recipe(adapter=RankStabilised())


METHOD = Method(
    name="rslora",
    summary="LoRA scaled by alpha / sqrt(rank)",
    source="arXiv 2312.03732; PEFT's definition",
    compose=compose,
)
