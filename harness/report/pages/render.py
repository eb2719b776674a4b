"""How a page is put together: two templates, escaping for HTML and Markdown, figures in the page."""

from __future__ import annotations

import json
import re
from base64 import b64encode
from collections.abc import Mapping
from hashlib import sha256
from pathlib import Path
from typing import Any

import jinja2
from markupsafe import Markup, escape

from harness.report.figures.files import stems
from harness.report.figures.style import inline
from harness.report.files import write_text
from harness.report.text.table import Table

TEMPLATES = Path(__file__).parent / "templates"
#: What Markdown would read as markup, as text.
MARKDOWN = str.maketrans(
    {
        "&": "&amp;",
        "<": "&lt;",
        ">": "&gt;",
        "|": "&#124;",
        "`": "&#96;",
        "$": "&#36;",
        "*": r"\*",
        "~": r"\~",
        "\\": r"\\",
    }
)


def write_pair(
    template: str, context: dict[str, Any], captions: Mapping[str, tuple[str, str]], folder: Path, data: Any = None
) -> list[Path]:
    """Write ``<template>.md`` and ``<template>.html`` with the figures that lie in ``folder/figures``.

    ``captions`` maps a figure to its title and its words.  The page is one file, with figures inline; ``data`` is what
    its script works on.
    """
    figures: list[dict[str, Any]] = [
        {"name": name, "title": title, "caption": caption, "pages": stems(name, folder / "figures")}
        for name, (title, caption) in captions.items()
    ]
    tools = {"indented": indented, "grid": _grid}
    markdown = _environment(html=False).get_template(f"{template}.md.j2").render(context, figures=figures, **tools)
    for figure in figures:
        figure["svgs"] = [
            Markup(inline(folder / "figures" / f"{stem}.svg", stem, _page_title(figure["title"], number)))
            for number, stem in enumerate(figure["pages"], start=1)
        ]
    path = write_text(folder / f"{template}.md", markdown)
    return [path, write_page(template, context | {"figures": figures}, folder, data)]


def write_page(template: str, context: Mapping[str, Any], folder: Path, data: Any = None) -> Path:
    """Write ``<template>.html``; its script is named by its hash, so that no other one runs."""
    script = (TEMPLATES / "report.js").read_text(encoding="utf-8")
    html = (
        _environment(html=True)
        .get_template(f"{template}.html.j2")
        .render(
            context,
            script=Markup(script),
            script_hash=b64encode(sha256(script.encode()).digest()).decode(),
            data=_embedded(data),
        )
    )
    return write_text(folder / f"{template}.html", html)


def _page_title(title: str, number: int) -> str:
    return title if number == 1 else f"{title}, page {number}"


def _environment(*, html: bool) -> jinja2.Environment:
    """Everything is escaped for where it goes; in Markdown by ``finalize``, which applies to every expression."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(TEMPLATES),
        autoescape=html,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        finalize=None if html else _markdown,
    )
    environment.filters["breakable"] = _breakable
    return environment


def _breakable(name: str) -> Markup:
    """An arm's name that may break between its settings, not within a word."""
    return Markup(re.sub(r"([@,])", r"\1<wbr>", str(escape(name))))


def _embedded(data: Any) -> Markup:
    """JSON inside a script element, which no text in it can end."""
    text = json.dumps(data, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    return Markup(text.replace("&", r"\u0026").replace("<", r"\u003c").replace(">", r"\u003e"))


def _markdown(value: Any) -> Any:
    """Text that stays text in GitHub's Markdown, table cells included."""
    if isinstance(value, Markup):
        return value
    text = " ".join(str(value).splitlines()) if value is not None else ""
    text = text.translate(MARKDOWN).replace("](", "]\\(")
    text = re.sub(r"^(?=[#+-]+(\s|$))", r"\\", text)  # at the beginning a heading or a list, but not of -0.5
    # An underscore inside a word, as in stable_lora, marks nothing up.
    return re.sub(r"(?<!\w)_|_(?!\w)", r"\\_", text)


def _grid(table: Table) -> Markup:
    """A table in GitHub's Markdown: numbers to the right, sentences to the left."""
    rules = ["---", *(["---" if table.prose else "---:"] * (len(table.columns) - 1))]
    cells = [[_markdown(cell) for cell in row] for row in (table.columns, *table.fixed, *table.rows)]
    return Markup("\n".join(f"| {' | '.join(row)} |" for row in (cells[0], rules, *cells[1:])))


def indented(text: str) -> Markup:
    """Verbatim text as an indented Markdown block, which nothing inside can end."""
    return Markup("\n".join("    " + line for line in text.splitlines()))
