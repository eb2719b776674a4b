"""From a folder to a base model with room for adapters, or a message that says why not.

transformers fills in what a checkpoint lacks with random numbers, leaves out what it does not know, and puts an adapter
that lies beside the weights on them, all with a line of log at most.  A benchmark must not.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import torch
from safetensors import safe_open
from torch import nn

from harness.data.models.catalogue import check_for_loading
from harness.data.models.folder import WEIGHTS
from harness.engine.model.family import check, wrapped
from harness.engine.model.packed import ALL_LINEAR, PackedModel, projections
from harness.engine.model.verdict import Verdict, place
from harness.engine.model.verdicts import keep_verdict, kept_verdict
from harness.errors import InputError, clipped

if TYPE_CHECKING:
    from transformers import PreTrainedModel

#: Bytes of weights that a CPU reads and tries in half a minute.
QUICK = 4e9
SAVE_AGAIN = "copy or fetch the model again, or save it anew with save_pretrained"


def load_model(
    path: Path, *, dtype: torch.dtype, device: torch.device, targets: Sequence[str] = ALL_LINEAR
) -> PackedModel:
    """Load a plain transformers folder (safetensors, no remote code), wrap its projections, and try what it bears.

    Raises :class:`InputError` for a folder whose weights are not exactly those of its configuration, for a quantised
    base, for a family without the wanted projections, and for one that the engine would compute otherwise than its
    forward pass does.
    """
    known = kept_verdict(path, _name(dtype), device.type, targets)
    if known:
        known.raise_if_refused(place(path))
    module = load_module(path, dtype)
    cast(Any, module).to(device)  # transformers wraps it without its types
    refuse_not_finite(module, path)
    return wrap(module, path, dtype, targets)


def wrap(module: Any, path: Path, dtype: torch.dtype, targets: Sequence[str]) -> PackedModel:
    """A model of this folder with room for adapters; tried first, unless its verdict is known."""
    known = kept_verdict(path, _name(dtype), module.device.type, targets) or _tried(module, path, dtype, targets)
    known.raise_if_refused(place(path))
    return wrapped(known, module, targets)


def try_out(path: Path, dtype: torch.dtype, target_sets: Iterable[tuple[str, ...]]) -> dict[tuple[str, ...], Verdict]:
    """What the model bears with each of these sets of projections, loaded for that on the CPU.

    Of a model of more than :data:`QUICK` bytes only the projections are looked at: the first job tries it.  Raises
    InputError for what :func:`load_model` refuses.
    """
    if sum(file.stat().st_size for file in path.glob(WEIGHTS)) > QUICK:
        hollow = _hollow(path)
        for targets in target_sets:
            projections(hollow, targets)
        return {}
    load_tokenizer(path)
    module = load_module(path, dtype)
    refuse_not_finite(module, path)
    return {targets: _tried(module, path, dtype, targets) for targets in target_sets}


def _hollow(path: Path) -> PreTrainedModel:
    """A model without weights."""
    from transformers import AutoModelForCausalLM

    config = load_config(path)
    with _refusing(place(path), "transformers does not make this model"), torch.device("meta"):
        return cast("PreTrainedModel", AutoModelForCausalLM.from_config(config, trust_remote_code=False))


def _name(dtype: torch.dtype) -> str:
    """As a study names it."""
    return str(dtype).removeprefix("torch.")


def _tried(module: Any, path: Path, dtype: torch.dtype, targets: Sequence[str]) -> Verdict:
    """Raises InputError for a model that can't be taken apart, or whose forward pass fails."""
    try:
        with _refusing(place(path), f"{type(module).__name__} can't be tried"):
            verdict = check(module, targets)
    except InputError as error:
        raise InputError(error.what, where=error.where or place(path), remedy=error.remedy) from error
    keep_verdict(verdict, path, _name(dtype), module.device.type, targets)
    return verdict


# -- configuration ----------------------------------------------------------------------------------------------------


def load_config(path: Path) -> Any:
    """The configuration of a folder that may be loaded.  Raises InputError."""
    from transformers import AutoConfig

    check_for_loading(path)
    where = f"{path}/config.json"
    with _refusing(where, "transformers does not read this configuration"):
        config = AutoConfig.from_pretrained(path, local_files_only=True, trust_remote_code=False)
    if getattr(config, "quantization_config", None):
        raise InputError(
            "this base model is quantised; its projections are not nn.Linear",
            where=f"{where}:quantization_config",
            remedy="use the unquantised weights of the same model",
        )
    with _refusing(where, "transformers does not read this configuration"):
        layers, tensors = getattr(config.get_text_config(), "num_hidden_layers", None), _tensor_count(path)
    if isinstance(layers, int) and layers > tensors:  # to build a billion layers takes for ever
        raise InputError(
            f"it has {layers} layers, and there are {tensors} tensors in all",
            where=f"{where}:num_hidden_layers",
            remedy=SAVE_AGAIN,
        )
    return config


def _tensor_count(path: Path) -> int:
    count = 0
    for file in path.glob(WEIGHTS):
        with safe_open(file, framework="np") as opened:
            count += len(opened.keys())
    return count


@contextmanager
def _refusing(where: str, what: str) -> Iterator[None]:
    """Whatever a library raises over a damaged file is an InputError, but for a lack of memory.

    transformers and tokenizers raise ValueError, TypeError, KeyError, OSError, plain Exception and custom errors.
    """
    try:
        yield
    except (InputError, MemoryError, torch.OutOfMemoryError):
        raise
    except Exception as error:
        lines = [line.strip() for line in str(error).splitlines() if line.strip()]
        said = clipped(" ".join(lines[:2]), 300) or "no reason is given"
        raise InputError(
            f"{what}: {type(error).__name__}: {said}",
            where=where,
            remedy="copy or fetch it again; it must be a decoder that the installed transformers has",
        ) from error


# -- weights ----------------------------------------------------------------------------------------------------------


def load_module(path: Path, dtype: torch.dtype) -> PreTrainedModel:
    """The plain model of a folder, on the CPU, every one of its weights read from the folder.

    Raises InputError for weights that are missing, left over or of another shape.
    """
    config = load_config(path)
    try:
        module, info = _from_pretrained(path, config, dtype, "sdpa")
    except ValueError as error:  # Gemma 2 caps its attention scores, which SDPA can't
        if "scaled_dot_product_attention" not in str(error):
            with _refusing(f"{path}/config.json", "transformers has no decoder for it"):
                raise
        module, info = _from_pretrained(path, config, dtype, "eager")
    _refuse_differences(path, type(module).__name__, info)
    return module


def _from_pretrained(
    path: Path, config: Any, dtype: torch.dtype, attention: str
) -> tuple[PreTrainedModel, dict[str, Any]]:
    from transformers import AutoModelForCausalLM
    from transformers.utils import logging

    level, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()  # its table of missing and unexpected keys; ours is an error
    logging.disable_progress_bar()  # one progress bar, ours
    try:
        with _refusing_but(ValueError, str(path)):
            loaded = AutoModelForCausalLM.from_pretrained(
                path,
                config=config,
                dtype=dtype,
                attn_implementation=attention,
                local_files_only=True,
                trust_remote_code=False,
                use_safetensors=True,
                ignore_mismatched_sizes=True,  # or they are an error that does not say which
                output_loading_info=True,
            )
            return cast("tuple[PreTrainedModel, dict[str, Any]]", loaded)  # a pair with `output_loading_info`
    finally:
        logging.set_verbosity(level)
        if bars:
            logging.enable_progress_bar()


@contextmanager
def _refusing_but(kind: type[Exception], where: str) -> Iterator[None]:
    """As :func:`_refusing`; this kind is the caller's."""
    try:
        with _refusing(where, "transformers does not load this model"):
            yield
    except InputError as error:
        if isinstance(error.__cause__, kind):
            raise error.__cause__ from None
        raise


def _refuse_differences(path: Path, family: str, info: dict[str, Any]) -> None:
    """Every weight of the architecture must come from the folder, and every weight of the folder must have its place.

    What transformers itself ignores or ties is not in ``info``.
    """
    for key, shape, wanted in sorted(info["mismatched_keys"]):
        raise InputError(
            f"the tensor has the shape {tuple(shape)}, and config.json makes it {tuple(wanted)} in a {family}",
            where=f"{path}:{key}",
            remedy="config.json and weights are of different models; copy or fetch both again",
        )
    for what, keys in (
        ("is missing from the weights", info["missing_keys"]),
        ("has no place in the model", info["unexpected_keys"]),
    ):
        if keys:
            more = f", and {len(keys) - 1} more" if len(keys) > 1 else ""
            raise InputError(
                f"a tensor {what}{more}: config.json asks for another {family} than the files hold",
                where=f"{path}:{min(keys)}",
                remedy="copy or fetch config.json and weights again; they must be of one model",
            )
    if info["error_msgs"]:
        raise InputError(f"the weights were not loaded: {info['error_msgs'][0]}", where=str(path), remedy=SAVE_AGAIN)


@torch.no_grad()
def refuse_not_finite(module: nn.Module, path: Path) -> None:
    """Raises InputError for a weight with a NaN or an infinity, by name.

    The sums are read back once for all tensors; one that is not finite may be an overflow, and is looked at closely.
    """
    floats = {name: tensor for name, tensor in module.state_dict().items() if tensor.is_floating_point()}
    sums = torch.stack([tensor.sum(dtype=torch.float32) for tensor in floats.values()]).isfinite().tolist()
    for (name, tensor), finite in zip(floats.items(), sums, strict=True):
        if not finite and not tensor.isfinite().all():
            raise InputError(
                "the tensor holds values that are not finite",
                where=f"{path}:{name}",
                remedy="copy or fetch the model again; in float16 weights can overflow, so take bfloat16 or float32",
            )


# -- tokenizer --------------------------------------------------------------------------------------------------------


def load_tokenizer(path: Path) -> Any:
    """The tokenizer of a model's folder.  Raises InputError for one that is broken or has no end token."""
    from transformers import AutoTokenizer

    with _refusing(f"{path}/tokenizer.json", "transformers does not read this tokenizer"):
        tokenizer = AutoTokenizer.from_pretrained(path, local_files_only=True, trust_remote_code=False)
        eos, tokens = tokenizer.eos_token_id, tokenizer.encode("a b")
    if eos is None:
        raise InputError(
            "the tokenizer has no end token", where=f"{path}/tokenizer_config.json:eos_token", remedy="name one there"
        )
    if not tokens:
        raise InputError("the tokenizer makes no tokens of text", where=f"{path}/tokenizer.json", remedy=SAVE_AGAIN)
    return tokenizer
