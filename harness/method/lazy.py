"""``torch`` for files that are read where nothing trains: it is imported when the first of its names is asked for.

Listing, checking settings and planning read every method's file, and importing torch takes seconds.  In a method's file

    from harness.method.lazy import torch

stands for ``import torch``, as long as torch is used within functions alone: a decorator such as ``torch.no_grad()``
asks at once.  A plain ``import torch`` works as well; then listing methods takes as long as torch does.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any


class LazyTorch:
    """Has whatever torch has.  ``import`` stands in the function so that ``torch.compile`` can follow it."""

    def __getattr__(self, name: str) -> Any:
        import torch

        return getattr(torch, name)

    def __reduce__(self) -> tuple[Any, ...]:
        return LazyTorch, ()


if TYPE_CHECKING:
    import torch as torch
else:
    torch = LazyTorch()
