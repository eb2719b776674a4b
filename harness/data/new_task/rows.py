"""The rows of a JSONL file for ``lorabench new task``: read as they are meant, or refused with their line.

Nothing is guessed from one row alone: whether answers beside choices are the choices' texts or their places is decided
once for the whole file, and where that can't be told, the person says it (``--answers``).
"""

from __future__ import annotations

import difflib
import json
import re
import unicodedata
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal, InvalidOperation
from pathlib import Path
from typing import Any

from harness.errors import InputError, clipped, unknown_name
from harness.reading import read_text

#: How answers beside choices can be meant (``--answers``).
READINGS = {"text": "texts of the choices", "index": "places from 0", "index1": "places from 1"}
_PLACE = re.compile("0|[1-9][0-9]{0,8}")
_NUMBER = re.compile(r"-?[0-9]+(\.[0-9]+)?([eE][+-]?[0-9]+)?")


@dataclass(frozen=True)
class Columns:
    """What the columns are called; ``choices`` may be missing from the rows."""

    question: str = "question"
    answer: str = "answer"
    choices: str = "choices"
    answers: str | None = None  #: one of READINGS, or None: the one that fits every row


@dataclass(frozen=True)
class FileRow:
    """A row of the file.  White space around an answer or a choice does not count; the question is as it stands."""

    line: int
    question: str
    answer: str
    choices: tuple[str, ...] | None


class _Number(str):
    """A number as it is written: 1.0 is not 1, and no digit is lost."""

    __slots__ = ()


class _TwiceError(ValueError):
    """A key stands twice in one object."""


def read(source: Path, columns: Columns) -> tuple[list[FileRow], list[str]]:
    """Every row, no question twice, and the columns that are not used.  Raises InputError as ``file:line``."""
    _check_columns(columns)
    rows: list[FileRow] = []
    lines: dict[str, int] = {}
    unused: dict[str, None] = {}
    for number, values in _objects(source):
        where = f"{source}:{number}"
        row = _row(number, values, columns, where)
        if rows and (row.choices is None) != (rows[0].choices is None):
            if row.choices is None:
                raise _missing(values, columns.choices, "--choices", where)
            what = f"this row has a column '{columns.choices}', and line {rows[0].line} has none"
            raise InputError(what, where=where, remedy="give choices in every row or in none")
        key = " ".join(row.question.split())
        if key in lines:
            what = f"the question of line {lines[key]} again"
            raise InputError(what, where=where, remedy="a question may stand in one row only: remove one of them")
        lines[key] = number
        rows.append(row)
        unused |= dict.fromkeys(values)
    return rows, [name for name in unused if name not in (columns.question, columns.answer, columns.choices)]


def _check_columns(columns: Columns) -> None:
    if columns.answers is not None and columns.answers not in READINGS:
        raise unknown_name("reading", columns.answers, READINGS, where="--answers")
    names = {"--question": columns.question, "--answer": columns.answer, "--choices": columns.choices}
    if len(set(names.values())) < len(names):
        said = ", ".join(f"{option} {name}" for option, name in names.items())
        raise InputError(f"two of them are the same column: {said}", where="--question", remedy="name three columns")


# -- one row ----------------------------------------------------------------------------------------------------------


def _objects(source: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """(line, object) of every line that is not empty; only a line feed ends a line (JSON may hold U+2028 as it is)."""
    remedy = "give a JSONL file: one JSON object a line, in UTF-8"
    decoder = json.JSONDecoder(
        parse_float=_Number, parse_int=_Number, parse_constant=float, object_pairs_hook=_without_repeats
    )
    for number, line in enumerate(read_text(source, where=str(source), remedy=remedy).split("\n"), start=1):
        where = f"{source}:{number}"
        if not line.strip():
            continue
        try:
            row = decoder.decode(line)
        except _TwiceError as error:
            what = f"the name {_short(str(error))} stands twice in one object"
            raise InputError(what, where=where, remedy="remove one of them: only one could count") from error
        except (ValueError, RecursionError) as error:
            said = error.msg if isinstance(error, json.JSONDecodeError) else "it is nested too deeply"
            raise InputError(f"not JSON: {said}", where=where, remedy="write one JSON object a line") from error
        if not isinstance(row, dict):
            remedy = 'write {"question": ..., "answer": ...}'
            raise InputError(f"{_kind(row)}, not an object with columns", where=where, remedy=remedy)
        yield number, row


def _without_repeats(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    values = dict(pairs)
    if len(values) < len(pairs):
        (name, _), *_ = Counter(name for name, _ in pairs).most_common(1)
        raise _TwiceError(name)
    return values


def _row(number: int, values: Mapping[str, Any], columns: Columns, where: str) -> FileRow:
    for column, option in ((columns.question, "--question"), (columns.answer, "--answer")):
        if column not in values:
            raise _missing(values, column, option, where)
    if columns.choices not in values and columns.choices != Columns.choices:  # a name that was given means something
        raise _missing(values, columns.choices, "--choices", where)
    question = _text(values[columns.question], f"'{columns.question}'", where)
    choices = _choices(values[columns.choices], columns.choices, where) if columns.choices in values else None
    answer = _text(values[columns.answer], f"'{columns.answer}'", where).strip()
    if choices is None and "\n" in answer:
        raise InputError("the answer has more than one line", where=where, remedy="give an answer of one line")
    return FileRow(number, question, answer, choices)


def _missing(row: Mapping[str, Any], column: str, option: str, where: str) -> InputError:
    near = difflib.get_close_matches(column, row, n=1)
    hint = f"did you mean '{near[0]}'? " if near else ""
    what = f"there is no column '{column}'; the row has {', '.join(row) or 'none'}"
    return InputError(what, where=where, remedy=f"{hint}name the column with {option}")


def _text(value: Any, called: str, where: str) -> str:
    """The text, or a number as it is written.  What is neither is not made a text of."""
    if not isinstance(value, str):
        remedy = "write the text that is meant, in quotes, or leave the row out"
        raise InputError(f"{called} is {_kind(value)}, not a text", where=where, remedy=remedy)
    if not value.strip():
        raise InputError(f"{called} is empty", where=where, remedy="give a text that is not empty")
    try:
        value.encode("utf-8")
    except UnicodeEncodeError as error:
        what = f"{called} has half a character, \\u{ord(value[error.start]):04x}, at place {error.start + 1}"
        remedy = "write both halves of it (an emoji is two \\u escapes), or leave it out"
        raise InputError(what, where=where, remedy=remedy) from error
    return str(value)


def _kind(value: Any) -> str:
    """What it is, in the words of JSON and without its content."""
    if isinstance(value, list | dict):
        return "a list" if isinstance(value, list) else "an object"
    return "a number" if isinstance(value, _Number) else "a text" if isinstance(value, str) else json.dumps(value)


def _choices(value: Any, column: str, where: str) -> tuple[str, ...]:
    remedy = "give a list of at least two different texts"
    if not isinstance(value, list) or len(value) < 2:
        has = f"a list of {len(value)}" if isinstance(value, list) else _kind(value)
        raise InputError(f"'{column}' is {has}", where=where, remedy=remedy)
    texts, first = [], {}
    for number, choice in enumerate(value):
        text = _text(choice, f"'{column}'[{number}]", where).strip()
        keys = {unicodedata.normalize("NFC", text), *([_value(choice)] if isinstance(choice, _Number) else [])}
        for key in keys:
            if first.setdefault(key, number) != number:
                same = f"{_short(texts[first[key]])} and {_short(text)}"
                what = f"'{column}'[{first[key]}] and [{number}] are the same: {same}"
                raise InputError(what, where=where, remedy=remedy)
        texts.append(text)
    return tuple(texts)


def _value(text: str) -> Decimal | str:
    """A number's value, exactly."""
    try:
        return Decimal(text)
    except InvalidOperation:  # an exponent of twenty digits
        return text


def _short(text: str) -> str:
    return clipped(repr(text), 100)


def alike(text: str) -> object:
    """Equal for texts that a person would hold for one: numbers by value, letters in either case, odd spaces."""
    if _NUMBER.fullmatch(text):
        return _value(text)
    plain = unicodedata.normalize("NFKC", text).casefold()
    return " ".join("".join(c for c in plain if unicodedata.category(c) != "Cf").split())


# -- what the answers beside choices are ------------------------------------------------------------------------------


def labels(rows: Sequence[FileRow], source: Path, wanted: str | None) -> list[int]:
    """The place of the right choice of every row, from 0.

    One reading for the whole file: the one ``wanted``, else the one that fits every row.  Raises InputError where none
    does, or where two do that mean different choices.
    """
    read = {reading: [_read(row, reading) for row in rows] for reading in READINGS}
    if wanted is not None:
        return _fit(rows, read[wanted], source, wanted)
    fitting = {reading: places for reading, places in read.items() if None not in places}
    if not fitting:
        likely = max(("text", "index"), key=lambda reading: len(rows) - read[reading].count(None))
        return _fit(rows, read[likely], source, likely)
    if list(fitting) == ["index1"]:
        what = "the answers fit only as places of the choices that are counted from 1"
        raise InputError(what, where=str(source), remedy="say --answers index1 if they are, or count from 0")
    differ = [row.line for row, *places in zip(rows, *fitting.values(), strict=True) if len(set(places)) > 1]
    if differ:
        more = f" and {len(differ) - 5} more" if len(differ) > 5 else ""
        shown = f"line{'s' * (len(differ) > 1)} {', '.join(map(str, differ[:5]))}{more}"
        what = f"the answers fit as {' and as '.join(READINGS[r] for r in fitting)}, which are other choices in {shown}"
        remedy = f"say which they are: {', '.join(f'--answers {r} ({READINGS[r]})' for r in fitting)}"
        raise InputError(what, where=f"{source}:{differ[0]}", remedy=remedy)
    return _fit(rows, next(iter(fitting.values())), source, next(iter(fitting)))


def _read(row: FileRow, reading: str) -> int | None:
    """The label under one reading; None where it does not fit."""
    assert row.choices is not None
    if reading == "text":
        return row.choices.index(row.answer) if row.answer in row.choices else None
    place = int(row.answer) - (reading == "index1") if _PLACE.fullmatch(row.answer) else -1
    return place if 0 <= place < len(row.choices) else None


def _fit(rows: Sequence[FileRow], places: Sequence[int | None], source: Path, reading: str) -> list[int]:
    """The labels, where every row has one."""
    for row, place in zip(rows, places, strict=True):
        if place is None:
            assert row.choices is not None
            fits = len(rows) - places.count(None)
            said = f" ({fits} of {len(rows)} answers are {READINGS[reading]})" if fits else ""
            first = int(reading == "index1")
            shown, last = clipped(str(list(row.choices)), 300), first + len(row.choices) - 1
            what = f"the answer {_short(row.answer)} is none of the choices {shown}{said}"
            remedy = f"give one of them in every row, or in every row its number from {first} to {last}"
            raise InputError(what, where=f"{source}:{row.line}", remedy=remedy)
    return [place for place in places if place is not None]
