"""What a person should know of a model before it is used; torch is needed only for one that was not tried before."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from harness.engine.model.verdict import Verdict, place
from harness.engine.model.verdicts import kept_verdict


def remarks_on(path: Path, dtype: str, target_sets: Iterable[tuple[str, ...]]) -> tuple[str, ...]:
    """Remarks on the model in this folder, used with each of these sets of projections; most often none.

    ``dtype`` is ``float32`` or ``bfloat16``.  A model that was not tried before is tried, see
    :func:`harness.engine.model.load.try_out`.  Raises InputError for what ``load_model`` refuses.
    """
    wanted = sorted(target_sets)
    verdicts = {targets: _kept(path, dtype, targets) for targets in wanted}
    if untried := [targets for targets in wanted if verdicts[targets] is None]:
        import torch

        from harness.engine.model.load import try_out

        verdicts |= try_out(path, getattr(torch, dtype), untried)
    for verdict in filter(None, verdicts.values()):
        verdict.raise_if_refused(place(path))
    return tuple(dict.fromkeys(remark for verdict in filter(None, verdicts.values()) if (remark := verdict.remark())))


def _kept(path: Path, dtype: str, targets: tuple[str, ...]) -> Verdict | None:
    """The verdict of either kind of device."""
    return kept_verdict(path, dtype, "cuda", targets) or kept_verdict(path, dtype, "cpu", targets)
