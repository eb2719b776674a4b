"""``lorabench new``: a custom method that trains and keeps the contract, to be changed; a task made of given rows."""

from __future__ import annotations

import keyword
import re
from collections.abc import Collection
from pathlib import Path

from harness.data import new_task as from_rows
from harness.data import paths, tasks
from harness.data.new_task import Columns
from harness.data.tasks import PreparedTask
from harness.errors import InputError
from harness.method.registry import methods

NAME = re.compile(r"[a-z][a-z0-9_]{0,63}\Z")

METHOD = '''"""{title}: what it does, in a line (where it is from: a paper with its identifier, or an idea).

    A, B <- (1 - {name}_rate) A, (1 - {name}_rate) B        before every step of AdamW

What deviates from the source, and why.  This is a start that trains: change the rule, its setting and these words.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Self

from pydantic import Field

from harness.method import BoundUpdate, Method, MethodSettings, Recipe, UpdateRule
from harness.method.lazy import torch  # or `import torch`; then listing methods takes as long as that

if TYPE_CHECKING:
    from torch import Tensor

    from harness.engine.adapters import AdapterBank


@dataclass(frozen=True)
class {title}Shrink(UpdateRule):
    """Shrink the factors of one trial by (1 - rate) a step."""

    rate: float

    @classmethod
    def bind(cls, rules: Sequence[Self | None], bank: AdapterBank) -> BoundUpdate:
        return _{title}([rule.rate if rule else 0.0 for rule in rules], bank)


class _{title}(BoundUpdate):
    def __init__(self, rates: list[float], bank: AdapterBank) -> None:
        self.rates = torch.tensor(rates, device=bank.values.device)[:, None]  # [K, 1]: a row is a trial

    def before_step(self, bank: AdapterBank, active: Tensor) -> None:
        bank.values *= 1 - self.rates * active[:, None]


class Settings(MethodSettings):
    {name}_rate: float = Field(1e-3, ge=0, lt=1, description="share of the factors taken away at each step")


def compose(settings: Settings) -> Recipe:
    return Recipe(updates=({title}Shrink(settings.{name}_rate),))


METHOD = Method(
    name="{name}",
    summary="{name}: what it does, in a line",
    source="where it is from",
    settings=Settings,
    compose=compose,
)
'''


def new_method(name: str) -> Path:
    """Write ``baselines/NAME.py``, or ``methods/NAME.py`` in a plug-in folder; returns the file.

    Raises InputError for a name that can't be a module or is taken; an existing file is left as it is.
    """
    _check_name(name, "method", methods())
    folder = _place("method", "baselines", "methods")
    file = folder / f"{name}.py"
    title = "".join(part.capitalize() for part in name.split("_"))
    folder.mkdir(parents=True, exist_ok=True)
    try:
        with file.open("x", encoding="utf-8") as out:
            out.write(METHOD.format(name=name, title=title))
    except FileExistsError as error:
        raise InputError("there is such a file already", where=str(file), remedy="choose another name") from error
    return file


def new_task(name: str, source: Path, columns: Columns, licence: str) -> tuple[PreparedTask, str]:
    """Write ``tasks/NAME`` of the clone or of a folder of plug-ins; see :mod:`harness.data.new_task`."""
    _check_name(name, "task", tasks.task_names())
    return from_rows.new_task(name, source, _place("task", "tasks", "tasks"), columns, licence)


def _place(kind: str, cloned: str, in_plugins: str) -> Path:
    """The folder for it: of the first plug-in folder, else of the clone."""
    if plugins := paths.plugin_dirs():
        return plugins[0] / in_plugins
    if paths.packaged():
        raise InputError(
            f"lorabench is installed as a package here, which is no place for a custom {kind}",
            where="--plugins",
            remedy="name a folder of your own: --plugins DIR",
        )
    return paths.tasks_dir().parent / cloned


def _check_name(name: str, kind: str, taken: Collection[str]) -> None:
    """Refuses what is no lower-case Python identifier, or is in ``taken``."""
    if not NAME.match(name) or keyword.iskeyword(name):
        near = re.sub(r"[^a-z0-9_]+", "_", name.lower()).strip("_0123456789")
        hint = f"for example '{near}'; " if NAME.match(near) and not keyword.iskeyword(near) else ""
        raise InputError(
            f"'{name}' is not a name for a {kind}",
            where="NAME",
            remedy=f"{hint}lower-case letters, digits and '_', at most 64, a letter first, and no word of Python's own",
        )
    if name in taken:
        raise InputError(f"there is a {kind} named '{name}' already", where="NAME", remedy="choose another name")
