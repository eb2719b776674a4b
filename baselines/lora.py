"""LoRA (Hu et al., arXiv 2106.09685): W0 + (alpha / r) B A, with A and B trained by AdamW on the answer tokens.

As in PEFT: A0 ~ kaiming_uniform(a=sqrt(5)), B0 = 0, scaling alpha / r.  One adapter goes through the whole stream.
Every other method of the bench is a change of some parts of this one.
"""

from harness.method import Method, MethodSettings, Recipe


def compose(settings: MethodSettings) -> Recipe:
    return Recipe()


METHOD = Method(
    name="lora",
    summary="plain LoRA, one adapter through the stream",
    source="arXiv 2106.09685; PEFT's definition",
    compose=compose,
)
