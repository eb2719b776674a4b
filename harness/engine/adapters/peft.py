"""PEFT adapter folders as the engine's stacked factors: several adapters, of any ranks, become the trials of one pack.

What is read is plain LoRA on linear projections, W0 + s B A with s = alpha / r (or alpha / sqrt r), whatever rank and
alpha each matrix has, and DoRA, whose magnitudes are the norms of the rows of that.  Everything else that adds to it or
changes W0 is refused by name: its scores would be of another model than the one a person ships.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path

import torch
from torch import Tensor, nn

from harness.data.files import sha256_of
from harness.engine.adapters.layout import Layout
from harness.engine.adapters.peft_config import CONFIG, PeftConfig, read_config
from harness.engine.adapters.peft_weights import WEIGHTS, read_weights
from harness.engine.model.packed import PackedModel
from harness.errors import InputError


@dataclass(frozen=True)
class PeftAdapter:
    """One adapter folder: A [r, n] and B [m, r] of every adapted module, fp32 and unscaled."""

    folder: Path
    config: PeftConfig
    factors: Mapping[str, tuple[Tensor, Tensor]]
    scaling: Mapping[str, float]  #: the factor of B A in W0 + s B A, by module
    sha256: str  #: of the weights file
    bytes: int
    magnitudes: Mapping[str, Tensor] = field(default_factory=dict)  #: of DoRA: [m], by module

    @property
    def is_dora(self) -> bool:
        return bool(self.magnitudes)

    @cached_property
    def ranks(self) -> tuple[int, ...]:
        """The ranks that occur, rising."""
        return tuple(sorted({a.shape[0] for a, _ in self.factors.values()}))

    @cached_property
    def scalings(self) -> tuple[float, ...]:
        """The factors s that occur, rising."""
        return tuple(sorted(set(self.scaling.values())))

    @cached_property
    def targets(self) -> tuple[str, ...]:
        """Types of the adapted projections."""
        return tuple(sorted({module.rpartition(".")[2] for module in self.factors}))

    @cached_property
    def parameters(self) -> int:
        vectors = sum(magnitude.numel() for magnitude in self.magnitudes.values())
        return vectors + sum(a.numel() + b.numel() for a, b in self.factors.values())


def read_peft(folder: Path) -> PeftAdapter:
    """Read a folder that ``PeftModel.save_pretrained`` wrote.

    Raises :class:`InputError` where it is not LoRA or DoRA on linear projections in safetensors, or where PEFT would
    not load all of it.
    """
    _check_folder(folder)
    config = read_config(folder / CONFIG)
    weights = folder / WEIGHTS
    if not weights.is_file():
        pickles = sorted(path.name for path in folder.glob("adapter_model.*") if path.suffix in (".bin", ".pt", ".pth"))
        others = sorted(path.name for path in folder.glob("*.safetensors"))
        instead = f"only {pickles[0]}: pickles run code when read and are not loaded" if pickles else "no weights"
        instead = f"but {', '.join(others[:3])}, which PEFT does not read" if others else instead
        remedy = "save the adapter with PEFT's save_pretrained, in safetensors"
        raise InputError(f"no {WEIGHTS}, {instead}", where=str(folder), remedy=remedy)
    factors, magnitudes = read_weights(weights)
    ranks = config.ranks(list(factors))
    for module, (a, b) in factors.items():
        _check_ranks((a.shape[0], b.shape[1]), ranks[module], f"{weights}:{module}")
    scaling = config.scalings(ranks)
    _check_reach(config, factors, scaling, weights)
    _check_magnitudes(config, factors, magnitudes, weights)
    return PeftAdapter(folder, config, factors, scaling, sha256_of(weights), weights.stat().st_size, magnitudes)


def _check_magnitudes(
    config: PeftConfig, factors: Mapping[str, tuple[Tensor, Tensor]], magnitudes: Mapping[str, Tensor], weights: Path
) -> None:
    """Refuse DoRA without a magnitude for each row of each matrix, and magnitudes that PEFT would not load."""
    again = "save weights and configuration together"
    if magnitudes and not config.use_dora:
        where = f"{weights}:{next(iter(magnitudes))}"
        raise InputError(f"PEFT would not load this magnitude: {CONFIG} lacks use_dora", where=where, remedy=again)
    if not config.use_dora:
        return
    for module, (_, b) in factors.items():
        if module not in magnitudes:
            raise InputError("lora_magnitude_vector is missing", where=f"{weights}:{module}", remedy=again)
        if len(magnitudes[module]) != b.shape[0]:
            what = f"there are {len(magnitudes[module])} magnitudes for {b.shape[0]} rows"
            raise InputError(what, where=f"{weights}:{module}", remedy=again)
    if stray := sorted(magnitudes.keys() - factors.keys()):
        raise InputError("there is a magnitude without factors", where=f"{weights}:{stray[0]}", remedy=again)


def _check_folder(folder: Path) -> None:
    try:
        folder.stat()
    except FileNotFoundError:
        pass
    except OSError as error:  # a name that is too long, a folder that may not be entered
        raise InputError(f"can't be read: {error.strerror}", where=str(folder), remedy="give another folder") from error
    if folder.is_file():
        raise InputError("this is a file", where=str(folder), remedy=f"give its folder: {folder.parent}")
    if not folder.is_dir():
        remedy = "give a folder that PEFT wrote; one on the hub is fetched first (hf download NAME --local-dir FOLDER)"
        raise InputError("there is no such folder", where=str(folder), remedy=remedy)
    if (folder / CONFIG).is_file():
        return
    inside = sorted(path.parent for way in ("*", "snapshots/*") for path in folder.glob(f"{way}/{CONFIG}"))
    if inside:
        names = ", ".join(str(path.relative_to(folder)) for path in inside[:5])
        raise InputError(
            f"the folder has no {CONFIG}, but its subfolders have: {names}{' ...' if len(inside) > 5 else ''}",
            where=str(folder),
            remedy=f"give the folder of one adapter: {inside[0]}",
        )
    raise InputError(f"the folder has no {CONFIG}", where=str(folder), remedy="give a folder that PEFT wrote")


def names_base(adapter: PeftAdapter, model: str, folder: Path | None = None) -> bool | None:
    """Whether the adapter says that it was made for ``model``, by the last parts of the two names; None without a name.

    A hub id, its folder in the hub's cache, another folder and a name of the catalogue mean the same model where
    ``org/`` and the path are left out.  ``folder`` is where the model lies, which an export of ours may name.
    """
    named = adapter.config.base_model_name_or_path
    if not named:
        return None
    return _last(named) == _last(model) or (folder is not None and Path(named) == folder)


def check_base_name(adapter: PeftAdapter, model: str, folder: Path | None = None) -> None:
    """Refuse an adapter that names another base than ``model``, which lies in ``folder``."""
    named = adapter.config.base_model_name_or_path
    if named and names_base(adapter, model, folder) is False:
        base = _hub_id(named)
        path = "" if base == named else f", by its folder in the hub's cache ({named})"
        raise InputError(
            f"the adapter was made for '{base}'{path}, and --model is '{model}'",
            where=f"{adapter.config.path}:base_model_name_or_path",
            remedy=f"give --model {base}, or --another-base if the two are the same weights",
        )


def check_fits(adapter: PeftAdapter, base: PackedModel) -> list[str]:
    """Refuse factors of modules that the base lacks, that are no linear projections, or that have other shapes.

    ``base`` is loaded without targets: nothing of it is wrapped yet.  Returns the projections that the adapter's
    target_modules names and that it has no factors for; PEFT leaves them as they are in the base, too.
    """
    modules = dict(base.module.named_modules())
    linear = [name for name, module in modules.items() if type(module) is nn.Linear]
    family = type(base.module).__name__
    for name, (a, b) in adapter.factors.items():
        where = f"{adapter.folder / WEIGHTS}:{name}"
        module = modules.get(name)
        if module is None:
            near = difflib.get_close_matches(name[-200:], linear, n=1, cutoff=0.5)
            remedy = f"its nearest is {near[0]}; " if near else ""
            raise InputError(
                f"the base ({family}) has no such module",
                where=where,
                remedy=f"{remedy}give the base that the adapter was made for (--model)",
            )
        if module is base.head or type(module) is not nn.Linear:
            kind = "the output head" if module is base.head else f"a {type(module).__name__}"
            raise InputError(
                f"the adapted module is {kind}, and only adapters of linear projections are scored",
                where=where,
                remedy="audit an adapter without it, or merge it into the base first",
            )
        shape, wanted = (b.shape[0], a.shape[1]), tuple(module.weight.shape)
        if shape != wanted:
            raise InputError(
                f"B A is {shape[0]} x {shape[1]}, and the base's matrix is {wanted[0]} x {wanted[1]}",
                where=where,
                remedy="give the base that the adapter was made for (--model)",
            )
    named = adapter.config.adapted([name for name in linear if modules[name] is not base.head])
    return [name for name in named if name not in adapter.factors]


def stack_adapters(adapters: Sequence[PeftAdapter], model: PackedModel) -> tuple[Layout, Tensor, Tensor]:
    """(layout, values [K, P] in fp32, scaling [K]) of K adapters, all with magnitudes or none, on the model's device.

    The alpha / r of every matrix is in its B, so scaling is 1.  Lower ranks are filled up with zero rows of A and zero
    columns of B, and matrices that an adapter does not touch are zero, with the magnitudes that they have: none of
    that changes a product.
    """
    layout = model.layout(max(adapter.ranks[-1] for adapter in adapters))
    if any(adapter.is_dora for adapter in adapters):
        layout = replace(layout, vectors=("magnitude",))
    values = unchanged(layout, model).repeat(len(adapters), 1)
    for slot, (a, b) in zip(layout.slots, layout.split(values), strict=True):
        for k, adapter in enumerate(adapters):
            if slot.module in adapter.factors:
                lora_a, lora_b = adapter.factors[slot.module]
                rank = lora_a.shape[0]
                a[k, :rank] = lora_a
                b[k, :, :rank] = lora_b * adapter.scaling[slot.module]
    if layout.vectors:
        for slot, lengths in zip(layout.slots, layout.vector("magnitude", values), strict=True):
            for k, adapter in enumerate(adapters):
                if slot.module in adapter.magnitudes:
                    lengths[k] = adapter.magnitudes[slot.module]
    return layout, values.to(model.device), torch.ones(len(adapters), device=model.device)


def unchanged(layout: Layout, model: PackedModel) -> Tensor:
    """The row [1, P], on the CPU, that leaves the base as it is: no factors, and the magnitudes that W0 has."""
    row = torch.zeros(1, layout.size)
    if layout.vectors:
        for magnitude, (_, weight) in zip(layout.vector("magnitude", row), model.weights(), strict=True):
            magnitude.copy_(weight.float().square().sum(1).sqrt())
    return row


def _last(name: str) -> str:
    return _hub_id(name).replace("\\", "/").rstrip("/").rpartition("/")[2].lower()


def _hub_id(name: str) -> str:
    """``org/name`` of a folder in the hub's cache, ``.../models--org--name/snapshots/<revision>``; others as given."""
    parts = name.replace("\\", "/").rstrip("/").split("/")
    for place, part in enumerate(parts):
        kind, *named = part.split("--")
        if kind == "models" and named and parts[place + 1 : place + 2] in ([], ["snapshots"]):
            return "/".join(named)
    return name


def _check_ranks(ranks: tuple[int, int], rank: int, where: str) -> None:
    if ranks != (rank, rank):
        raise InputError(
            f"A has rank {ranks[0]} and B {ranks[1]}, and {CONFIG} says {rank}",
            where=where,
            remedy="save weights and configuration together (r, rank_pattern)",
        )


def _check_reach(
    config: PeftConfig, factors: Mapping[str, tuple[Tensor, Tensor]], scaling: Mapping[str, float], weights: Path
) -> None:
    """Refuse factors that PEFT would not load, and a scaling that takes them out of the range of fp32."""
    adapted = set(config.adapted(list(factors)))
    for module, (_, b) in factors.items():
        if module not in adapted:
            raise InputError(
                f"PEFT would not load these factors: {CONFIG} does not name the module",
                where=f"{weights}:{module}",
                remedy="save weights and configuration together (target_modules, exclude_modules, layers_to_transform)",
            )
        if not (b * scaling[module]).isfinite().all():
            raise InputError(
                f"alpha / r is {scaling[module]:g}, which takes B out of the range of fp32",
                where=f"{config.path}:lora_alpha",
                remedy="save weights and configuration together (lora_alpha, alpha_pattern)",
            )
