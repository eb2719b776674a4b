"""What every method must do, as rules that can be checked outside of the tests: ``lorabench methods --check NAME``.

The rules are run on a random two-layer model and on random data, in seconds.  One that is broken is named, with the
line of the part that breaks it.
"""

from __future__ import annotations

import inspect
import traceback
from collections.abc import Iterator, Mapping

from harness.checks.reads import HostReads
from harness.checks.rules import RULES, BrokenRuleError, file_of, recipe
from harness.errors import InputError, unknown_name
from harness.method import Method

__all__ = ["RULES", "HostReads", "check", "recipe"]


def check(name: str, methods: Mapping[str, Method]) -> Iterator[str]:
    """The rules that the method keeps, one after the other; raises InputError at the first that it breaks."""
    if name not in methods:
        raise unknown_name("method", name, methods)
    method = methods[name]
    others = [other for other in methods.values() if other is not method]
    for rule, holds in RULES.items():
        try:
            holds(method, others)
        except BrokenRuleError as error:
            raise _refusal(method, rule, str(error), _place(error.part)) from error
        except InputError:
            raise
        except Exception as error:
            what = f"{type(error).__name__}: {error}"
            raise _refusal(method, rule, what, _raised_at(error, method)) from error
        yield rule


def _refusal(method: Method, rule: str, what: str, where: str) -> InputError:
    return InputError(
        f"the method '{method.name}' breaks the rule '{rule}': {what}",
        where=where,
        remedy="see the contract in harness/method/recipe.py; then check again",
    )


def _place(part: object) -> str:
    """``file:line`` of a class, a function, or the class of a value; a place as it is."""
    if isinstance(part, str):
        return part
    part = part if inspect.isclass(part) or inspect.isfunction(part) else type(part)
    try:
        return f"{inspect.getsourcefile(part)}:{inspect.getsourcelines(part)[1]}"
    except (OSError, TypeError):
        return repr(part)


def _raised_at(error: BaseException, method: Method) -> str:
    """The last line of the method's file that an error came through."""
    lines = [f.lineno for f in traceback.extract_tb(error.__traceback__) if f.filename == str(file_of(method))]
    return f"{file_of(method)}:{lines[-1]}" if lines else _place(method.compose)
