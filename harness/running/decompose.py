"""What a run would else do first: decompose the base model, from whose SVDs intruder dimensions and starts are read.

On two CPU cores that takes 15 s for a model of 135M, twice what all else takes of the analysis in study `quick` and
3 % of its run.  So `lorabench fetch` does it, into the cache that the run reads.  On a GPU it is left to the run: that
takes 9 s there, beside the first task (:mod:`harness.engine.spectra_ahead`).
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from harness.data import paths
from harness.data.models import ModelSource
from harness.errors import LorabenchError
from harness.executors.hardware import likely_kind
from harness.method.registry import methods
from harness.store.spectra import Wanted, find, write_note
from harness.study.arms import expand_arms
from harness.study.config import Study
from harness.study.forecast import takes_spectra

Report = Callable[[str], None]


def decompose(study: Study, file: Path, model: ModelSource, report: Report) -> None:
    """Put the decompositions that a run of the study on this machine will read into the cache.

    ``report`` is called with one line a step.  Where they are there, nothing is loaded, neither the model nor torch.
    Where they can't be kept, that is a line as well: model and data are ready, and there may be nothing left to run.

    Raises InputError for a study or a model that the run would refuse.
    """
    if study.device == "cuda":
        return
    cache = paths.cache_dir() / "spectra"
    wanted = [Wanted(model.digest, study.dtype, targets) for targets in _looked_at(study, file)]
    absent = [each for each in wanted if find(cache, each) is None]
    if absent and likely_kind(study.device) != "cpu":
        return
    if all(_decompose(study, each, model, report) for each in absent) and wanted:
        report(f"model {model.name}: decomposed for {_purpose(study)} in {cache}")


def _purpose(study: Study) -> str:
    return "adapters' starts" if study.scoring.intruders_after == "never" else "intruder dimensions"


def _looked_at(study: Study, file: Path) -> list[frozenset[str]]:
    """The projections whose decompositions arms look at, or intruder dimensions of them, each choice once."""
    arms = [arm for arm in expand_arms(study, methods(), str(file)) if takes_spectra(study, arm.recipe)]
    return list(dict.fromkeys(frozenset(arm.training.adapter.targets) for arm in arms))


def _decompose(study: Study, wanted: Wanted, model: ModelSource, report: Report) -> bool:
    """Decompose as a pack does, and note which file that made; whether it could be kept."""
    import torch

    from harness.engine.environment import use_threads
    from harness.engine.model.load import load_model
    from harness.engine.spectra import Spectra

    use_threads(study.threads)
    dtype, targets = getattr(torch, study.dtype), sorted(wanted.targets)
    loaded = load_model(model.path, dtype=dtype, device=torch.device("cpu"), targets=targets)
    cache = paths.cache_dir() / "spectra"
    try:
        spectra = Spectra(loaded, cache, lambda text: report(f"model {model.name}: {text}"))
        write_note(cache, wanted, spectra.path)
    except LorabenchError as error:
        report(f"model {model.name}: not decomposed, so the run has to: {error.where}: {error.what}")
        return False
    return True
