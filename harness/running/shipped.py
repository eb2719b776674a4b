"""Settings that ship with a study, so that who compares with its board need not tune: ``tasks/studies/tuned``."""

from __future__ import annotations

from pathlib import Path

from harness.data import paths
from harness.errors import InputError
from harness.executors.hardware import likely_device
from harness.running.campaign import load_campaign
from harness.store.claims import claim
from harness.store.tuning import FILE, Tuning, read_choices, read_tuning, write_tuning
from harness.study.folders import TUNING
from harness.study.tuning import trials_digest


def take_shipped(name: str, model: str | None, out: Path | None) -> tuple[Path, Tuning]:
    """Write a study's ``tuning.json`` from what ships with it, and where it is.

    Raises InputError where nothing ships with the study, where its data, methods, grids or model are not those that
    the settings were chosen with, and where the folder has another choice already.
    """
    campaign = load_campaign(name, model=model, out=out, device=likely_device, tune=True)
    folder, study = campaign.folder.parent, campaign.study.name.removesuffix(f"-{TUNING}")
    file = paths.tuned_dir() / f"{study}.json"
    if not file.exists():
        with_them = sorted(path.stem for path in paths.tuned_dir().glob("*.json"))
        raise InputError(
            f"no settings ship with the study '{study}'; they do with {', '.join(with_them) or 'no study'}",
            where="--shipped",
            remedy=f"lorabench tune {name}: it tries them here",
        )
    shipped = read_choices(file).model_copy(update={"shipped": True})
    for search in (search for search in campaign.searches if search.tries):
        choice = shipped.arms.get(search.arm)
        if choice is None or choice.digest != trials_digest(campaign.plan, search):
            raise InputError(
                f"the settings that ship with '{study}' were chosen for another version of '{search.arm}': other data, "
                "model, method, budget or grid",
                where=str(file),
                remedy=f"lorabench tune {name}: it tries them here",
            )
    with claim(folder):
        if read_tuning(folder) not in (None, shipped):
            raise InputError(
                "this study has been tuned here already",
                where=str(folder / FILE),
                remedy="remove this file to take the settings that ship with the study",
            )
        write_tuning(folder, shipped)
    return folder / FILE, shipped
