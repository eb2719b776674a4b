"""Arrays of numbers as text, so that a record stays plain JSON and keeps every bit: ``f8:`` and base64.

Before the colon stands the type of number: ``i1`` to ``i8`` for whole numbers, ``f4`` and ``f8`` for floats, always
little-endian.  :meth:`Packed.of` takes the smallest that holds every value exactly, so the same values are the same
text.  numpy reads it: ``np.frombuffer(base64.b64decode(text[3:]), "<" + text[:2])``.
"""

from __future__ import annotations

import binascii
import math
import struct
from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, ClassVar, Self

import numpy as np
from pydantic import GetCoreSchemaHandler
from pydantic_core import CoreSchema, core_schema


@dataclass(frozen=True, slots=True)
class Packed:
    """A fixed list of numbers.  Its ``data`` are the bytes of as many numbers of type ``kind``."""

    kind: str
    data: bytes

    KINDS: ClassVar[tuple[str, ...]]  #: types of number that it may have, the smallest first

    @classmethod
    def of(cls, values: Iterable[float]) -> Self:
        """Raises ValueError for what is no list of such numbers, is not finite, or does not fit the largest type."""
        array = np.asarray(list(values))
        if not array.size:
            return cls(cls.KINDS[0], b"")
        if array.dtype.kind not in ("iu" if cls.KINDS[0][0] == "i" else "iuf") or array.ndim != 1:
            raise ValueError(f"these are no {cls.__name__.lower()}")
        if not np.isfinite(array).all():
            raise ValueError(_NOT_FINITE)
        for kind in cls.KINDS:
            with np.errstate(over="ignore"):
                packed = array.astype(f"<{kind}")
            if (packed == array).all():
                return cls(kind, packed.tobytes())
        raise ValueError(f"some of these fit no {cls.KINDS[-1]}")

    @classmethod
    def parse(cls, text: str) -> Self:
        """The inverse of :attr:`text`.  Raises ValueError for any other text, and for numbers that are not finite."""
        kind, _, body = text.partition(":")
        if kind not in cls.KINDS:
            raise ValueError(f"it begins with '{kind[:8]}', not with one of {', '.join(cls.KINDS)} and a colon")
        try:
            data = binascii.a2b_base64(body, strict_mode=True)
        except ValueError as error:
            raise ValueError(f"it is no base64: {error}") from None
        if len(data) % int(kind[1]):
            raise ValueError(f"{len(data)} bytes are no whole number of {kind}")
        if kind[0] == "f" and not _finite(kind, data):
            raise ValueError(_NOT_FINITE)
        return cls(kind, data)

    @property
    def text(self) -> str:
        return f"{self.kind}:{binascii.b2a_base64(self.data, newline=False).decode('ascii')}"

    @property
    def array(self) -> np.ndarray:
        """[n] float64 or int64, read-only where no copy was needed."""
        return np.frombuffer(self.data, f"<{self.kind}").astype(np.float64 if self.kind[0] == "f" else np.int64)

    def tolist(self) -> list[Any]:
        """Python's ints or floats."""
        return list(_unpacked(self.kind, self.data))

    def __len__(self) -> int:
        return len(self.data) // int(self.kind[1])

    def __getitem__(self, index: int) -> Any:
        return np.frombuffer(self.data, f"<{self.kind}")[index].item()

    @classmethod
    def __get_pydantic_core_schema__(cls, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        """Text in JSON; a list of numbers is taken where a record is made."""
        return core_schema.no_info_plain_validator_function(
            cls._take, serialization=core_schema.plain_serializer_function_ser_schema(lambda packed: packed.text)
        )

    @classmethod
    def _take(cls, value: Any) -> Self:
        if isinstance(value, cls):
            return value
        if isinstance(value, str):
            return cls.parse(value)
        raise ValueError(f"these are no packed {cls.__name__.lower()}")


def _finite(kind: str, data: bytes) -> bool:
    """Whether all numbers are; of few numbers, which most arrays have, this takes half of numpy's time."""
    if len(data) > 256:
        return bool(np.isfinite(np.frombuffer(data, f"<{kind}")).all())
    numbers = _unpacked(kind, data)
    return math.isfinite(sum(numbers)) or all(map(math.isfinite, numbers))  # numbers of which one is not have no sum


def _unpacked(kind: str, data: bytes) -> tuple[Any, ...]:
    """Python's ints or floats; of few numbers, which most arrays have, in a quarter of numpy's time."""
    return _layout(kind, len(data) // int(kind[1])).unpack(data)


@lru_cache(maxsize=1024)
def _layout(kind: str, numbers: int) -> struct.Struct:
    code = {"i1": "b", "i2": "h", "i4": "i", "i8": "q", "f4": "f", "f8": "d"}[kind]
    return struct.Struct(f"<{numbers}{code}")


_NOT_FINITE = "one of its numbers is not finite"


class Integers(Packed):
    """Whole numbers."""

    __slots__ = ()
    KINDS = ("i1", "i2", "i4", "i8")


class Floats(Packed):
    """Numbers of float64; those of float32, such as a loss, take half the room."""

    __slots__ = ()
    KINDS = ("f4", "f8")
