"""The prompt of a teacher that is shown the answer: a template, what it must hold, and how it is filled."""

from __future__ import annotations

import re

#: What a template of a teacher's prompt names in braces.
PROMPT_PARTS = ("prompt", "demonstration")


def check_teacher_prompt(template: str) -> str:
    """The template, if it names what a teacher's prompt is made of; else ValueError."""
    if missing := [name for name in PROMPT_PARTS if f"{{{name}}}" not in template]:
        raise ValueError(f"a teacher's prompt must hold {{prompt}} and {{demonstration}}; {{{missing[0]}}} is missing")
    return template


def fill_teacher_prompt(template: str, prompt: str, demonstration: str) -> str:
    """The template with both in their places; what stands in braces within them stays as it is."""
    parts: dict[str, str] = dict(zip(PROMPT_PARTS, (prompt, demonstration.strip()), strict=True))
    return re.sub(r"\{(" + "|".join(PROMPT_PARTS) + r")\}", lambda match: parts[match[1]], template)
