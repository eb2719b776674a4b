"""``adapter_config.json``: which of its keys decide the numbers, which don't, and which are refused by name.

The rules are those of PEFT's ``LoraConfig`` and ``LoraModel``, so that what is scored is what PEFT would load.
"""

from __future__ import annotations

import math
import re
import reprlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, PositiveInt, ValidationError

from harness.engine.adapters.patterns import Pattern, match_all
from harness.errors import InputError
from harness.reading import read_json

CONFIG = "adapter_config.json"
ALL_LINEAR = "all-linear"  #: PEFT's word for every linear projection but the output head
#: Ways to start A and B that leave W0 as it was.
PLAIN_STARTS = (True, False, "gaussian", "orthogonal", "eva", "mica")
#: Keys that don't change what the saved factors compute: they say how it was trained, or with which tools.
HARMLESS = {
    "task_type", "auto_mapping", "peft_version", "revision", "inference_mode", "lora_dropout", "megatron_core",
    "qalora_group_size", "loftq_config", "eva_config", "corda_config", "lora_ga_config", "runtime_config",
    "ensure_weight_tying",
}  # fmt: skip
#: Keys that PEFT does not read, or not on an nn.Linear; so may any be that ends in ``_version``.
IGNORED = {"fan_in_fan_out", "merge_weights", "enable_lora", "unsloth_fixed", "_from_model_config"}
#: Keys whose empty list or mapping says "none" to PEFT; that of a ``..._config`` says "with its defaults".
EMPTY_IS_NONE = {"modules_to_save", "layer_replication", "target_parameters", "megatron_config",
                 "trainable_token_indices", "alora_invocation_tokens"}  # fmt: skip


def _names(value: Any) -> Any:
    if not isinstance(value, str) and not (isinstance(value, list) and all(isinstance(name, str) for name in value)):
        raise ValueError("must be a text or a list of texts")
    return value


def _layers(value: Any) -> Any:
    layers = value if isinstance(value, list) else [value]
    if not all(type(layer) is int for layer in layers):
        raise ValueError("must be the number of a layer or a list of them")
    return layers


def _plain_names(value: Any) -> Any:
    for name in [value] if isinstance(value, str) else _names(value):
        if not re.fullmatch(r"[\w.]*", name):
            raise ValueError("must be a plain name such as layers, or a list of them")
    return value


Names = Annotated[Any, BeforeValidator(_names)]


class PeftConfig(BaseModel):
    """What of ``adapter_config.json`` decides the numbers; without a value, a key has PEFT's default."""

    model_config = ConfigDict(frozen=True, strict=True, allow_inf_nan=False)

    path: Path  #: of the file
    ignored: tuple[str, ...]  #: keys that stand in it without effect

    peft_type: str
    base_model_name_or_path: Annotated[str, Field(max_length=4096)] | None = None
    r: PositiveInt = 8
    lora_alpha: float = 8
    rank_pattern: dict[str, PositiveInt] = {}
    alpha_pattern: dict[str, float] = {}
    use_rslora: bool = False
    use_dora: bool = False
    init_lora_weights: bool | str = True
    target_modules: Names = []
    exclude_modules: Names = []
    layers_to_transform: Annotated[Any, BeforeValidator(_layers)] = []
    layers_pattern: Annotated[Any, BeforeValidator(_plain_names)] = []

    def ranks(self, modules: Sequence[str]) -> dict[str, int]:
        """The rank of each module."""
        ranks = self._by_pattern("rank_pattern", modules)
        return {module: ranks.get(module, self.r) for module in modules}

    def scalings(self, ranks: Mapping[str, int]) -> dict[str, float]:
        """The factor of B A in W0 + s B A, by module; ``ranks`` are those of the modules."""
        alphas = self._by_pattern("alpha_pattern", list(ranks))
        root = math.sqrt if self.use_rslora else float
        return {module: alphas.get(module, self.lora_alpha) / root(rank) for module, rank in ranks.items()}

    def adapted(self, modules: Sequence[str]) -> list[str]:
        """Those of the modules, all of them linear projections, that PEFT gives factors."""
        excluded = set(self._named("exclude_modules", modules))
        named = [module for module in self._named("target_modules", modules) if module not in excluded]
        if isinstance(self.target_modules, str) or not self.layers_to_transform:
            return named
        return [m for m in named if m in self.target_modules or self._layer(m) in self.layers_to_transform]

    def _by_pattern(self, key: str, modules: Sequence[str]) -> dict[str, Any]:
        """What rank_pattern or alpha_pattern says, by module: the first entry that matches, or has its very name."""
        entries: Mapping[str, Any] = getattr(self, key)
        patterns = [Pattern(rf"(.*\.)?({entry})$", "match", f"{self.path}:{key}.{entry}") for entry in entries]
        values = {module: entries[module] for module in modules if module in entries}
        for entry, matched in reversed(list(zip(entries, match_all(patterns, modules), strict=True))):
            values |= dict.fromkeys(matched, entries[entry])
        return values

    def _named(self, key: str, modules: Sequence[str]) -> list[str]:
        """The modules that a text, which is an expression, or a list of endings names."""
        named = getattr(self, key)
        if key == "target_modules" and named in (ALL_LINEAR, [ALL_LINEAR]):
            return list(modules)
        if isinstance(named, str):
            return match_all([Pattern(named, "fullmatch", f"{self.path}:{key}")], modules)[0] if named else []
        endings = tuple(f".{name}" for name in named)
        return [module for module in modules if module in named or module.endswith(endings)]

    def _layer(self, module: str) -> int | None:
        """The number of a module's layer: the first after a name, or after one that layers_pattern gives."""
        names = [self.layers_pattern] if isinstance(self.layers_pattern, str) else self.layers_pattern
        ways = [rf"(?:^|.*?\.){name}\.(\d+)\." for name in names if name] or [r".*?\.[^.]*\.(\d+)\."]
        matches = (re.match(way, module) for way in ways)
        return next((int(match[1]) for match in matches if match), None)


FIELDS = set(PeftConfig.model_fields) - {"path", "ignored"}


def read_config(path: Path) -> PeftConfig:
    """Read a configuration of LoRA or DoRA.  Raises InputError, as ``file:key``, where it is not one."""
    data = read_json(path, remedy="save the adapter again")
    if not isinstance(data, dict):
        raise InputError("must be a JSON object", where=str(path), remedy="save the adapter again")
    if "peft_type" not in data:
        mlx = "; it is MLX's" if "lora_parameters" in data else ""
        raise InputError(f"there is no peft_type, so PEFT did not write this file{mlx}", where=str(path),
                         remedy="convert the adapter to PEFT's format first")  # fmt: skip
    known = {key: data[key] for key in FIELDS if data.get(key) is not None}
    others = {key: value for key, value in data.items() if key not in FIELDS and not _is_none(key, value)}
    ignored = sorted(key for key in others if key in IGNORED or re.fullmatch(r"(?!peft_)\w{1,40}_version", key))
    try:
        config = PeftConfig.model_validate({**known, "path": path, "ignored": tuple(ignored)})
    except ValidationError as error:
        problem = error.errors(include_input=False, include_url=False)[0]
        key = ".".join(str(part) for part in problem["loc"][:2])
        what = problem["msg"].removeprefix("Value error, ")
        raise InputError(what, where=f"{path}:{key}", remedy="save the adapter again") from None
    _refuse_more_than_lora(config, {key: others[key] for key in others if key not in HARMLESS.union(ignored)})
    return config


def _is_none(key: str, value: Any) -> bool:
    """Whether a value says that what its key is about is not there."""
    if isinstance(value, dict | list):
        return not value and key in EMPTY_IS_NONE
    return not value or (key == "bias" and value == "none")


def _refuse_more_than_lora(config: PeftConfig, others: Mapping[str, Any]) -> None:
    """Only LoRA, only A and B, and only on top of the base as it was."""
    if config.peft_type.upper() != "LORA":
        raise InputError(
            f"this is an adapter of type {config.peft_type}, and only LORA is scored",
            where=f"{config.path}:peft_type",
            remedy="audit a LoRA adapter",
        )
    if config.init_lora_weights not in PLAIN_STARTS:
        raise InputError(
            f"'{config.init_lora_weights}' changed the base's weights when training began, so A and B alone don't say "
            "what was trained",
            where=f"{config.path}:init_lora_weights",
            remedy="save it again with PEFT's path_initial_model_for_weight_conversion, which makes it plain LoRA",
        )
    for key, value in others.items():
        raise InputError(
            f"{key} is {reprlib.repr(value)}; only plain LoRA is scored, W0 + s B A on linear projections, and DoRA",
            where=f"{config.path}:{key}",
            remedy=f"train or save the adapter without {key}, or remove the key if nothing was computed with it",
        )
    if not config.target_modules:
        raise InputError(
            "no projections are named, and what PEFT takes then depends on the base",
            where=f"{config.path}:target_modules",
            remedy="name the types of projection that have factors",
        )
