"""LAPACK without Python's lock, so that threads decompose their matrices side by side.

scipy's wrappers keep the lock: two threads that reduce matrices by them take as long as one.  Here are the functions
that scipy exports for compiled code (``scipy.linalg.cython_lapack``), called by ctypes, which gives the lock back.
LAPACK's columns are rows here; arrays are contiguous and in fp64.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from importlib import import_module
from typing import Any

import numpy as np
from scipy import LowLevelCallable
from scipy.linalg import LinAlgError

#: What arguments point to: as scipy's signatures end, where Cython's names for its own types vary, and as numpy has it.
TYPES = {"char *": np.dtype("S1"), "int *": np.dtype(np.intc), "_d *": np.dtype(float), "double *": np.dtype(float)}
#: Reflections that reach the rest of a matrix at a time: 16 take 5 % less than the 32 that LAPACK asks for.
PANEL = 16


@dataclass(frozen=True)
class Reduced:
    """A symmetric matrix as Q T Q^T, T tridiagonal."""

    reflections: np.ndarray  #: [p, p], whose product is Q
    factors: np.ndarray  #: [p - 1], of the reflections
    diagonal: np.ndarray  #: [p], of T
    beside: np.ndarray  #: [p - 1], next to it

    @classmethod
    def of(cls, matrix: np.ndarray) -> Reduced:
        """``matrix`` [p, p] is overwritten."""
        p = len(matrix)
        found = cls(matrix, np.empty(p - 1), np.empty(p), np.empty(p - 1))
        work = np.empty(PANEL * p)
        _call("dsytrd", b"L", p, matrix, p, found.diagonal, found.beside, found.factors, work, len(work))
        return found

    def times_q(self, vectors: np.ndarray) -> None:
        """Puts Q v in place of every row of ``vectors`` [N, p]."""
        count, p = vectors.shape
        work = np.empty(64 * count)
        _call("dormtr", b"L", b"L", b"N", p, count, self.reflections, p, self.factors, vectors, p, work, len(work))


def top_values(diagonal: np.ndarray, beside: np.ndarray, count: int) -> np.ndarray:
    """The largest eigenvalues [count] of a tridiagonal matrix, rising."""
    return _bisected(diagonal, beside, count, b"E")[0]


def top_pairs(diagonal: np.ndarray, beside: np.ndarray, count: int) -> tuple[np.ndarray, np.ndarray]:
    """The same, and their eigenvectors [count, p]."""
    p = len(diagonal)
    values, blocks, ends = _bisected(diagonal, beside, count, b"B")
    vectors = np.empty((count, p))
    work, numbers, failed = np.empty(5 * p), np.empty(p, np.intc), np.empty(count, np.intc)
    _call("dstein", p, diagonal, beside, count, values, blocks, ends, vectors, p, work, numbers, failed)
    order = values.argsort()  # where a number beside the diagonal is 0 they come block by block
    return values[order], vectors[order]


def _bisected(
    diagonal: np.ndarray, beside: np.ndarray, count: int, order: bytes
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(values [count], which block each belongs to, where blocks end)."""
    p = len(diagonal)
    values, blocks, ends = np.empty(p), np.empty(p, np.intc), np.empty(p, np.intc)
    found, parts = np.empty((), np.intc), np.empty((), np.intc)
    work, numbers = np.empty(4 * p), np.empty(3 * p, np.intc)
    first, to_rounding = p - count + 1, 0.0
    _call("dstebz", b"I", order, p, 0.0, 0.0, first, p, to_rounding, diagonal, beside, found, parts, values, blocks,
          ends, work, numbers)  # fmt: skip
    return values[:count], blocks, ends


def _call(name: str, *arguments: bytes | float | np.ndarray) -> None:
    """Raises LinAlgError for what LAPACK says is wrong, ``ctypes.ArgumentError`` for arrays of other kinds."""
    routine, types = _routine(name)
    info = np.zeros((), np.intc)
    given = zip((*arguments, info), types, strict=True)
    routine(*(value if isinstance(value, np.ndarray) else np.array(value, kind) for value, kind in given))
    if info:
        raise LinAlgError(f"{name}: info {info}")


@cache
def _routine(name: str) -> tuple[Callable[..., None], list[np.dtype[Any]]]:
    """A function of pointers, and what these point to."""
    exported = LowLevelCallable.from_cython(import_module("scipy.linalg.cython_lapack"), name)
    kinds = exported.signature.removeprefix("void (").removesuffix(")").split(", ")
    types = [next(kind for end, kind in TYPES.items() if said.endswith(end)) for said in kinds]
    address = ctypes.PYFUNCTYPE(ctypes.c_void_p, ctypes.py_object, ctypes.c_char_p)(
        ("PyCapsule_GetPointer", ctypes.pythonapi)
    )
    pointers = [np.ctypeslib.ndpointer(kind, flags="C_CONTIGUOUS") for kind in types]
    return ctypes.CFUNCTYPE(None, *pointers)(address(exported.function, exported.signature.encode())), types
