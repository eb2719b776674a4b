"""The pages of the repository in Markdown: their links, anchors and blocks of commands."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

from markdown_it import MarkdownIt
from markdown_it.token import Token
from places import ROOT

#: First line of a block that a test can only read, and what follows it: what it needs.
NEEDS = re.compile(r"# needs (a GPU|the internet|a cluster|Slurm|Kubernetes)\b")
PAGES = sorted(
    [
        *(ROOT / name for name in ("README.md", "CONTRIBUTING.md", "results/README.md", "results/reference/README.md")),
        *(ROOT / name for name in ("tasks/README.md", "baselines/README.md", "examples/README.md")),
        *(ROOT / "docs").glob("*.md"),
    ]
)


@dataclass(frozen=True)
class Block:
    """A fenced block of ``sh``."""

    page: Path
    line: int
    text: str

    @property
    def needs(self) -> str:
        """What it needs that a test has not; empty where it runs as it stands."""
        found = NEEDS.match(self.text)
        return found[1] if found else ""

    @property
    def commands(self) -> list[list[str]]:
        """The words of its lines."""
        return [words for line in self.text.splitlines() if (words := shlex.split(line, comments=True))]


def parsed(page: Path) -> list[Token]:
    return MarkdownIt("commonmark").enable("table").parse(page.read_text(encoding="utf-8"))


def blocks(page: Path, language: str = "sh") -> list[Block]:
    fences = [token for token in parsed(page) if token.type == "fence" and token.info.split()[:1] == [language]]
    return [Block(page, token.map[0] + 1 if token.map else 0, token.content) for token in fences]


def links(page: Path) -> Iterator[str]:
    """Where links and pictures lead, in this repository alone."""
    for token in parsed(page):
        for part in token.children or ():
            target = str(part.attrs.get("href") or part.attrs.get("src") or "")
            if target and "://" not in target and not target.startswith("mailto:"):
                yield target


def anchors(page: Path) -> set[str]:
    """Of the headings, as GitHub and GitLab make them."""
    tokens = parsed(page)
    titles = [after.content for here, after in pairwise(tokens) if here.type == "heading_open"]
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}
