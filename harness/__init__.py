"""lorabench: which way of LoRA fine-tuning forgets least and learns fastest when tasks follow one another.

The Python interface is these functions; ``import harness`` is instant, what they need is imported when they are called:

    import harness as lb

    study = lb.load_study("quick", name="one-seed", seeds=[0])
    lb.plan(study)                          # a table of its trials, and how far each is
    folder = lb.run(study)                  # only what is missing; results/one-seed
    lb.results(folder)                      # a table of one row a trial, or (tidy=True) of one row a number
    lb.leaderboard(folder)                  # a row an arm: means, intervals, tests against the reference
    lb.compare(folder, "combined", "lora")  # paired differences, and how sure they are
    lb.audit("adapter", "org/model", tasks=["tomi"])   # PEFT folders made elsewhere, against their base

``docs/notebook.md`` walks through them.

Whatever a caller can get wrong is an :class:`harness.errors.InputError`: what, where, and what to do next.

Inside, ``harness.cli`` has the verbs, ``harness.study`` says what runs, ``harness.running`` how, ``harness.executors``
where, ``harness.engine`` takes the steps, ``harness.scoring`` asks lm-eval's questions, ``harness.analysis`` is pure
maths, ``harness.store`` keeps records, and ``harness.report`` makes tables and figures.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    import pandas as pd

    from harness.running.campaign import Campaign
    from harness.study.config import Study

__all__ = [
    "audit",
    "compare",
    "leaderboard",
    "load_study",
    "plan",
    "results",
    "run",
    "write_report",
]


def load_study(study: str | Path, *, name: str | None = None, **changes: Any) -> Study:
    """The study of this name (``lorabench studies``) or file, checked.

    ``changes`` replace top-level keys of the file (``seeds=[0]``, ``model="tiny-random-llama"``).  A changed study
    needs a ``name``: its results go into ``results/<name>``, and a folder holds one study.  Raises InputError.
    """
    from harness.data import paths
    from harness.errors import InputError
    from harness.study import load
    from harness.study.config import check_name

    file = load.find_study(str(study), paths.studies_dir())
    if changes and name is None:
        raise InputError(
            f"a changed study needs a name, or its results would take the place of those of '{file.stem}'",
            where="load_study",
            remedy=f'say name="{file.stem}-mine", for example',
        )
    if name is not None:
        changes["name"] = check_name(name, "study", "name")
    return load.load_study(file, overrides=changes)


def plan(study: Study | str, *, out: str | Path | None = None) -> pd.DataFrame:
    """The trials of a study, one row each: what they are, and ``status`` (``missing`` where there is no record).

    ``out`` is the folder of its results, if not ``results/<name>``.  Nothing is trained; the model and the tasks are
    fetched where they are not there yet.
    """
    import pandas as pd

    from harness.executors.hardware import likely_device
    from harness.running.campaign import read_state

    campaign = _loader(study, out)(device=likely_device)
    statuses = read_state(campaign).statuses
    keys = ("arm", "method", "setting", "order", "seed")
    rows = [
        {key: getattr(trial.spec, key) for key in keys}
        | {"tasks": len(trial.spec.stream), "trial": trial.fingerprint, "status": statuses[trial.fingerprint]}
        for trials in campaign.plan.by_arm.values()
        for trial in trials
    ]
    return pd.DataFrame(rows)


def run(study: Study | str, *, executor: str = "local", out: str | Path | None = None, quiet: bool = False) -> Path:
    """Run what is missing of a study, and write its report; returns the folder of its results.

    ``executor`` is ``local`` (this process) or ``ray``.  Finished trials are kept, whatever happens to others: the
    ``status`` of :func:`plan` and :func:`results` says which failed.  ``quiet`` leaves out how far it is.
    """
    from contextlib import nullcontext

    from harness.cli.show.progress import progress
    from harness.executors import Deferred
    from harness.executors.interface import Watcher
    from harness.report import build_report
    from harness.running import campaign as campaigns
    from harness.store.reported import current_answer

    with Deferred(executor) as runner:
        campaign, before, device = campaigns.open_campaign(_loader(study, out), runner)
        silent = nullcontext(Watcher(lambda units: None, lambda job, units, what: None))
        with silent if quiet else progress(campaign.study.name, before.complete) as watcher:
            after = campaigns.run(campaign, runner, device, watcher, {"executor": executor})
    if "ok" in after.statuses.values() and current_answer(campaign.folder) is None:
        build_report(campaign.folder)
    return campaign.folder


def write_report(folder: str | Path, *, allow_mixed: bool = False) -> list[Path]:
    """Write the tables, figures and pages of a folder of results (or of a study's, by name); returns the files."""
    from harness.report import build_report

    return build_report(_folder(folder), allow_mixed=allow_mixed)


def results(folder: str | Path, *, tidy: bool = False, allow_mixed: bool = False) -> pd.DataFrame:
    """A folder of results (or a study's, by name) as a table.

    One row a trial, its metrics in columns; a trial that failed or diverged has its ``status`` and no metrics.  With
    ``tidy`` one row a number, as in ``trials.csv``.  Raises InputError where no trial is finished, and for trials that
    may not be compared unless ``allow_mixed``.
    """
    import pandas as pd

    from harness.report.study import gather
    from harness.store import read_trials

    place = _folder(folder)
    study = gather(read_trials(place), allow_mixed=allow_mixed, where=str(place))
    if tidy:
        return _tidy(study)
    metrics = {trial.record.fingerprint: trial.metrics for trial in study.trials}
    rows = []
    for record in study.records:
        spec = record.spec
        about = {"study": record.study, "arm": spec.arm, "method": spec.method, "setting": spec.setting}
        about |= {"order": spec.order, "seed": spec.seed, "trial": record.fingerprint, "status": record.status}
        rows.append(about | metrics.get(record.fingerprint, {}))
    return pd.DataFrame(rows)


def leaderboard(folder: str | Path, *, allow_mixed: bool = False) -> pd.DataFrame:
    """The board of a folder of results (or of a study's, by name): a row an arm, with the columns of leaderboard.csv.

    Contestants first, ranked where the evidence is complete, controls below them.  Shares are from 0 to 1.  Raises
    InputError where no trial is finished, and for trials that may not be compared unless ``allow_mixed``.
    """
    import pandas as pd

    from harness.report import leaderboard as boards
    from harness.report import leaderboard_csv
    from harness.report.study import gather
    from harness.store import read_trials
    from harness.store.tuning import read_tuning

    place = _folder(folder)
    study = gather(read_trials(place), allow_mixed=allow_mixed, where=str(place), tuning=read_tuning(place))
    table = leaderboard_csv.table(boards.rows(study), partial=study.partial)
    return pd.DataFrame(table, columns=leaderboard_csv.columns_of(study))


def compare(
    folder: str | Path, first: str, second: str, *, other: str | Path | None = None, allow_mixed: bool = False
) -> pd.DataFrame:
    """Arm ``first`` minus arm ``second``, in pairs of the same order and seed: one row a metric.

    Columns are ``mean``, ``ci_low``, ``ci_high`` (95 %), ``pairs``, ``p`` (two-sided, of the t behind the interval) and
    ``p_sign_flip`` (a check, from six pairs up); empty where no test may be made.  ``attrs["answer"]`` says it in
    sentences that claim no more than the test.  ``other`` is the folder of the second arm, if another.  Raises
    InputError for arms that may not be compared.
    """
    import pandas as pd

    from harness.report import compare_studies
    from harness.report.comparison import as_data

    one = _folder(folder)
    two = one if other is None else _folder(other)
    data = as_data(compare_studies(one, first, two, second, allow_mixed=allow_mixed))
    table = pd.DataFrame.from_dict(data["differences"], orient="index").rename_axis("metric")
    table.attrs["answer"] = data["answer"]
    return table


def audit(
    adapters: str | Path | Sequence[str | Path],
    model: str,
    *,
    tasks: Sequence[str] = (),
    probes: Sequence[str] = (),
    out: str | Path | None = None,
    quiet: bool = False,
    **settings: Any,
) -> pd.DataFrame:
    """Score PEFT folders made elsewhere (LoRA or DoRA) against their base ``model``, and write the page of the audit.

    One row for the base and one for each adapter, with the columns of ``audit.csv``: scores, differences to the base on
    the same items with their standard error and McNemar's p, intruder dimensions.  ``attrs["answer"]`` says it in
    sentences, ``attrs["folder"]`` is where page and record are (``out``, or ``results/audit-<adapter>``).

    ``settings`` are ``dtype``, ``threads``, ``independent``, ``another_base``, and those of ``scoring`` (``items``,
    ``probe_items``, ``split``, ``num_fewshot``, ...).  Raises InputError for what can't be audited.
    """
    from contextlib import nullcontext

    import pandas as pd

    from harness.cli.show.progress import progress
    from harness.executors import make_executor
    from harness.executors.interface import Watcher
    from harness.posthoc import audit as audits
    from harness.report import write_audit
    from harness.report.pages.audit import rows
    from harness.report.sequence import of_sequence
    from harness.report.text.audit import verdict
    from harness.study.audit_settings import AuditSettings

    own = {key: settings.pop(key) for key in list(settings) if key in AuditSettings.model_fields and key != "scoring"}
    scoring = {**settings.pop("scoring", {}), **settings}
    folders = [Path(adapters)] if isinstance(adapters, str | Path) else [Path(each) for each in adapters]
    values = {"model": model, "tasks": list(tasks), "probes": list(probes), "scoring": scoring, **own}
    loaded = audits.load_audit(folders, values, Path(out) if out else None)
    silent = nullcontext(Watcher(lambda units: None, lambda job, units, what: None))
    with silent if quiet else progress(loaded.folder.name) as watcher:
        record = audits.run(loaded, make_executor("local").device("any").kind, watcher, of_sequence)
    write_audit(record, loaded.folder)
    table = pd.DataFrame(rows(record))
    table.attrs |= {"answer": verdict(record), "folder": str(loaded.folder)}
    return table


def _loader(study: Study | str, out: str | Path | None) -> Callable[..., Campaign]:
    """``harness.running.campaign.lay_out`` of this study, with all arguments but the device."""
    from functools import partial

    from harness.running.campaign import lay_out
    from harness.study.folders import results_folder

    checked = load_study(study) if isinstance(study, str) else study
    return partial(lay_out, checked, checked.name, results_folder(checked.name, None, Path(out) if out else None))


def _folder(folder: str | Path) -> Path:
    """A folder of results, or that of the study of this name.  Raises InputError where there is none."""
    from harness.errors import InputError
    from harness.study.folders import results_folder

    place = Path(folder) if Path(folder).is_dir() else results_folder(str(folder), None, None)
    if not place.is_dir():
        remedy = "run the study first: harness.run(STUDY), or lorabench run STUDY"
        raise InputError("there are no results here", where=str(place), remedy=remedy)
    return place


def _tidy(study: Any) -> pd.DataFrame:
    from tempfile import TemporaryDirectory

    import pandas as pd

    from harness.report.trials_csv import write_trials

    unfinished = [record for arm in study.arms for record in arm.unfinished]
    with TemporaryDirectory() as place:
        return pd.read_csv(write_trials(Path(place) / "trials.csv", study.trials, unfinished))
