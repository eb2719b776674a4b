"""Models: a name of the catalogue, a local folder or a hub id becomes a plain transformers folder with a digest."""

from harness.data.models.catalogue import model_names
from harness.data.models.loading import Loadable, loadable
from harness.data.models.resolve import ModelSource, model_ready, resolve_model

__all__ = ["Loadable", "ModelSource", "loadable", "model_names", "model_ready", "resolve_model"]
