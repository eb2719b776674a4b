"""``lorabench perf train``: the training engine, in tokens a second, against what others do with the same examples.

First what the device can do, then parity with PEFT, then speed.  Contenders of one size run in turns, on the same
examples: the engine at several pack sizes, and HF's Trainer with PEFT, one process a trial: one (B0), or as many as
share the device best (BN).  Without those, ``--no-peers``, it is the engine alone.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch

from harness.engine.environment import device_name, fused_kernels
from harness.engine.model.packed import ALL_LINEAR, PackedModel
from harness.errors import unknown_name
from harness.method.recipe import Recipe
from harness.method.registry import methods
from harness.perf.ceilings import Ceilings, ceilings, roof
from harness.perf.common import SHAPES, perf_dtype, perf_model, save, this_device
from harness.perf.engine_pack import (
    ALPHA,
    KINDS,
    RANK,
    ROWS,
    EnginePack,
    free_memory,
    made_examples,
    mean_tokens,
    out_of_memory,
)  # fmt: skip
from harness.perf.gate import check_parity
from harness.perf.memory import check_fits, does_not_fit, fits
from harness.perf.peers import PeerError, Peers, missing, peers
from harness.perf.train_headline import headline


@dataclass(frozen=True)
class Agenda:
    """What is measured of one size: pack sizes by kind of step, processes that share the device, distillation."""

    packs: Mapping[str, Sequence[int]]
    processes: Sequence[int] = ()
    distilled: int = 0  #: rows whose step with a teacher is compared with the same without; 0: none


#: Of a GPU of 140 GB, in about five minutes.
AGENDAS = {
    "135m": Agenda({"all": (1, 16, 32, 64), "answer": (16, 64), "bench": (1, 10, 30)}, (4, 8, 16), 16),
    "0.5b": Agenda({"all": (1, 16, 32)}),
    "1.5b": Agenda({"all": (1, 8, 16)}),
}
#: Of two CPU cores, in less than a minute.
SMALL = {"tiny": Agenda({"all": (1, 4), "bench": (1, 4)}, (2,), 4)}
OTHER = Agenda({"all": (1, 8), "bench": (1, 8)})


@dataclass(frozen=True)
class Settings:
    """Models (``random:<shape>`` or real ones), what is measured of each, and seconds of a turn."""

    agendas: Mapping[str, Agenda]
    peers: bool = True
    seconds: float = 1.5


def settings(
    models: Sequence[str], packs: Sequence[int], processes: Sequence[int], *, with_peers: bool, small: bool
) -> Settings:
    """What the options ask for: nothing asked is the edition of this device, as far as it fits."""
    device = this_device()
    small = small or (device.type == "cpu" and not models)
    for size in (model.removeprefix("random:") for model in models if model.startswith("random:")):
        if size not in SHAPES:
            raise unknown_name("size", size, SHAPES, where="--sizes")
        check_fits(size, device)
    edition = SMALL if small else AGENDAS
    if not models:
        models = [f"random:{size}" for size in edition if small or fits(size, device)]
        for size in edition.keys() - {model.removeprefix("random:") for model in models}:
            print(f"{size} does not fit on this device, and is left out")
    agendas = {model: edition.get(model.removeprefix("random:"), OTHER) for model in models}
    if packs:
        agendas = {model: Agenda(dict.fromkeys(KINDS, packs), agenda.processes) for model, agenda in agendas.items()}
    if processes:
        agendas = {model: replace(agenda, processes=processes) for model, agenda in agendas.items()}
    return Settings(agendas, with_peers, 0.3 if small else 1.5)


def main(asked: Settings, out: Path) -> list[str]:
    """Ceilings, parity, speed; prints a table and writes ``train-<device>.json``.  Returns what failed, in words."""
    device = this_device()
    print(f"{device_name(device)}, {perf_dtype(device)}, {ROWS} rows a trial and step", flush=True)
    limits = ceilings(device, perf_dtype(device))
    print(f"ceilings: {json.dumps(asdict(limits))}", flush=True)
    parity = check_parity(device)
    print(f"parity with PEFT in float32, in units of what is allowed: {json.dumps(parity)}", flush=True)
    skipped = ("not asked for" if not asked.peers else missing()) and {"peers": missing() or "not asked for"}
    if skipped:
        print(f"peers are skipped: {skipped['peers']}", flush=True)
    sizes = {}
    for model, agenda in asked.agendas.items():
        sizes[model.removeprefix("random:")] = Contest(model, agenda, asked, limits, bool(skipped)).run()
        free_memory(device)
    about = {
        "rows_per_trial": ROWS, "rank": RANK, "seconds_of_a_turn": asked.seconds,
        "kinds": {name: kind._asdict() for name, kind in KINDS.items()}, "ceilings": asdict(limits), "parity": parity,
        "dtype": str(perf_dtype(device)).removeprefix("torch."), "skipped": skipped or {},
    }  # fmt: skip
    head = headline(sizes)
    save(out, "train", device, {**about, "sizes": sizes, "headline": head})
    print(json.dumps(head, indent=1))
    return [f"{name}: {failure}" for name, size in sizes.items() for failure in size["failures"]]


class Contest:
    """All that are timed of one size, in turns."""

    def __init__(self, model: str, agenda: Agenda, asked: Settings, limits: Ceilings, without_peers: bool) -> None:
        self.name, self.agenda, self.seconds = model, agenda, asked.seconds
        self.limits, self.without_peers = limits, without_peers
        self.device = this_device()
        self.model: PackedModel
        self.rows: list[dict[str, Any]] = []
        self.peer_rows: dict[tuple[int, str], list[dict[str, float]]] = {}
        self.failures: list[str] = []
        self.peers: Peers | None = None

    def run(self) -> dict[str, Any]:
        print(self.name, flush=True)
        with tempfile.TemporaryDirectory() as folder, self._start_peers(Path(folder)) as self.peers:
            self.model = perf_model(self.name, self.device)  # while they load theirs
            if self.model.why_plain and self.device.type == "cuda":
                print(f"not all is fused: {self.model.why_plain}", flush=True)
            if self.peers is not None:
                self.peers.start()
            for kind, packs in self.agenda.packs.items():
                for trials in packs:
                    self._compare(kind, trials)
            if self.agenda.distilled:
                self._distil(self.agenda.distilled)
            for count in self.agenda.processes:
                self._share(count)
            self.failures += self.peers.failures if self.peers else []
        for failure in self.failures:
            print(f"failed: {failure}", flush=True)
        return {
            "rows": self.rows,
            "peers": [self._peer_row(count, kind, rounds) for (count, kind), rounds in self.peer_rows.items()],
            "roofs": self._roofs(),
            "fused_kernels": self.model.why_plain or fused_kernels(),
            "failures": self.failures,
        }

    def _start_peers(self, folder: Path):
        """As many as are told at once, at most; nobody where there are none."""
        if self.without_peers:
            return nullcontext(None)
        config, path = SHAPES.get(self.name.removeprefix("random:")), None
        if not self.name.startswith("random:"):
            config, path = None, _folder(self.name)
        vocabulary = config["vocab_size"] if config else _vocabulary(str(path))
        examples = {kind: made_examples(KINDS[kind], vocabulary, 0) for kind in self.agenda.packs}
        asked = {
            "config": config, "path": path, "device": self.device.type, "threads": 1, "batch": ROWS,
            "dtype": str(perf_dtype(self.device)).removeprefix("torch."),
            "lora": {"r": RANK, "lora_alpha": ALPHA, "target_modules": list(ALL_LINEAR)},
            "kinds": {
                kind: [[example.ids.tolist(), example.answer_start] for step in steps for example in step]
                for kind, steps in examples.items()
            },
        }  # fmt: skip
        tokens = {kind: mean_tokens(steps) for kind, steps in examples.items()}
        return peers(max([1, *self.agenda.processes]), asked, tokens, folder)

    # -- packs ------------------------------------------------------------------------------------------------------

    def _pack(self, trials: int, kind: str, recipe: Recipe | None = None) -> EnginePack | None:
        """A pack that is warm; None, and said, where memory runs out.  Raises InputError where that is so for one."""
        try:
            return EnginePack(self.model, trials, kind, recipe)
        except RuntimeError as error:
            if not out_of_memory(error):
                raise
            why = str(error).splitlines()[0]
        free_memory(self.device)
        if trials == 1:
            raise does_not_fit(self.name.removeprefix("random:"), self.device, f"ran out of memory ({why})")
        print(f"K={trials:3}  {kind:6}  skipped: out of memory", flush=True)
        self.rows.append({"trials": trials, "kind": kind, "skipped": f"out of memory: {why}"})
        return None

    def _compare(self, kind: str, trials: int) -> None:
        """The engine, one peer, and the engine again."""
        if pack := self._pack(trials, kind):
            pack.run(self.seconds)
            self._peer(1, kind)
            pack.run(self.seconds)
            self._keep(pack)

    def _distil(self, trials: int) -> None:
        """Steps with a teacher in turns with the same steps without."""
        method = methods()["self_distill"]
        distilled = method.compose(method.settings().resolved(64))
        plain, taught = (self._pack(trials, "answer", recipe) for recipe in (None, distilled))
        if plain and taught:
            for _ in range(2):
                plain.run(self.seconds)
                taught.run(self.seconds)
            self._keep(plain, recipe="lora", over_plain=1.0)
            self._keep(taught, recipe="self_distill", over_plain=taught.step_seconds / plain.step_seconds)

    def _keep(self, pack: EnginePack, **more: Any) -> None:
        row = {**pack.row(), **more}
        self.rows.append(row)
        print(f"K={row['trials']:3}  {row['kind']:6}  {row['tokens_per_second']:>12,.0f} tok/s  "
              f"{row['step_ms']:8.1f} ms/step  {row['peak_memory_gib']:6.2f} GiB  {more.get('recipe', '')}"
              f"{row.get('eager', '')}", flush=True)  # fmt: skip

    def _share(self, count: int) -> None:
        """So many processes at once, twice; for longer, since a step of each takes longer."""
        kind = next(iter(self.agenda.packs))
        for _ in range(2):
            self._peer(count, kind, 4 * self.seconds)

    def _peer(self, count: int, kind: str, seconds: float | None = None) -> None:
        if self.peers is None or len(self.peers.processes) < count:
            return
        threads = max(1, torch.get_num_threads() // count)
        try:
            row = self.peers.train(count, kind, seconds or self.seconds, threads)
        except PeerError as error:
            self.failures.append(f"{count} processes: {error}")
            return
        self.peer_rows.setdefault((count, kind), []).append(row)
        print(f"N={count:3}  {kind:6}  {row['tokens_per_second']:>12,.0f} tok/s", flush=True)

    @staticmethod
    def _peer_row(count: int, kind: str, rounds: Sequence[Mapping[str, float]]) -> dict[str, Any]:
        speeds = sorted(each["tokens_per_second"] for each in rounds)
        return {
            "processes": count, "kind": kind, "steps": sum(each["steps"] for each in rounds),
            "tokens_per_second": float(torch.tensor(speeds).quantile(0.5)), "tokens_per_second_least": speeds[0],
            "tokens_per_second_most": speeds[-1], "rounds": len(speeds),
        }  # fmt: skip

    def _roofs(self) -> dict[str, Any]:
        """By kind of step; nothing for a model whose shape is not a Llama's."""
        shape = SHAPES.get(self.name.removeprefix("random:")) or _shape(self.model)
        kinds = {kind: KINDS[kind] for kind in self.agenda.packs} if shape else {}
        return {
            name: roof(shape, self.limits, rank=RANK, length=kind.longest, labelled=kind.labelled).as_dict()
            for name, kind in kinds.items()
        }


def _folder(name: str) -> str:
    from harness.data.models import resolve_model

    return str(resolve_model(name).path)


def _vocabulary(path: str) -> int:
    from transformers import AutoConfig

    return int(AutoConfig.from_pretrained(path, local_files_only=True).get_text_config().vocab_size)


def _shape(model: PackedModel) -> dict[str, Any]:
    """The numbers that a roof is of, as far as the model's configuration has them all."""
    config = model.module.config.get_text_config()
    names = ("hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads", "num_key_value_heads",
             "vocab_size", "tie_word_embeddings")  # fmt: skip
    found = {name: getattr(config, name, None) for name in names}
    return {} if None in found.values() else found
