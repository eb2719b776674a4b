"""Steps of decoding with room for all that will be said, on a GPU: the same kernels in the same places, from a graph.

A step launches some 900 kernels, 25 ms on an H200 for what its card computes in 7 for 150 rows of each of 30 trials of
a 135M model.  Where keys and values have their places from the start nothing moves, and one launch does for all.
"""

from __future__ import annotations

import torch
from torch import Tensor
from transformers import Cache
from transformers.cache_utils import DynamicLayer

from harness.engine.captures import OWN_THREAD, aside, capturing
from harness.engine.model.packed import PackedModel

#: Tokens still to come for which a graph is captured: that takes as long as two eager steps.
LEAST_CAPTURED = 4
#: Tokens still to come for which fewer rows are worth a graph of their own.
LEAST_MOVED = 32
#: Share of the card's memory below which what is cached is given back before a capture: within it that can't be.
SPARE = 1 / 8
#: Kernels of attention read a mask as it is where its rows begin at multiples of this.
ALIGNED = 8


class Continuation:
    """The next tokens of N rows, one each at a time, behind what is in a cache."""

    def __init__(self, model: PackedModel, mask: Tensor, positions: Tensor, behind: Cache, most: int) -> None:
        """``mask`` [N, past + 1] is 0 on padding, ``positions`` [N, 1] are those of the next tokens, of which there are
        at most ``most``.  Keys and values move from the cache ``behind`` into one that has room for them.
        """
        self.model, self.left = model, most  #: tokens that may still come
        past = mask.shape[1] - 1
        width = -(-(past + most) // ALIGNED) * ALIGNED
        self.place, self.positions = torch.tensor([past], device=mask.device), positions.clone()
        self.ids = torch.zeros_like(positions)
        usual = [layer for layer in behind.layers if isinstance(layer, DynamicLayer)]
        self.rooms = [_Room(layer, width, self.place) for layer in usual]
        self.cache = Cache(layers=[*self.rooms])
        like = self.rooms[0].keys
        assert like is not None
        self.bias = like.new_full((len(mask), 1, 1, width), torch.finfo(like.dtype).min)
        self.bias[:, 0, 0, :past].masked_fill_(mask[:, :past] != 0, 0)
        self._warm = False
        self._graph: torch.cuda.CUDAGraph | None = None
        self._hidden: Tensor | None = None

    def take(self, ids: Tensor) -> Tensor:
        """Last hidden states [N, d] of the next tokens ``ids`` [N, 1], which last until those of the step after."""
        self.ids.copy_(ids)
        if self._graph is None and self._warm and self.model.captures and self.left >= LEAST_CAPTURED:
            self._capture()
        self.left -= 1
        if self._graph is not None and self._hidden is not None:
            self._graph.replay()
            return self._hidden
        self._warm = True  # kernels are chosen and compiled
        with aside(ids.device):
            return self._step()

    def keep(self, rows: Tensor) -> None:
        """Go on with these of the N rows."""
        for room in self.rooms:
            assert room.keys is not None
            assert room.values is not None
            room.keys, room.values = room.keys[rows], room.values[rows]
        self.bias, self.positions, self.ids = self.bias[rows], self.positions[rows], self.ids[rows]
        self._graph, self._hidden, self._warm = None, None, False

    def _step(self) -> Tensor:
        self.bias.index_fill_(3, self.place, 0)
        hidden = self.model.decode(self.ids, self.bias, self.positions, self.cache)[:, -1]
        self.place += 1
        self.positions += 1
        return hidden

    def _capture(self) -> None:
        """As ``torch.cuda.graph`` does, which first gives cached memory back each time: every batch has a graph."""
        device = self.ids.device
        try:
            graph = torch.cuda.CUDAGraph()
            free, total = torch.cuda.mem_get_info(device)
            if free < SPARE * total:
                torch.cuda.empty_cache()
            pool = _latest[device].pool() if device in _latest else None
            with capturing(), aside(device):
                graph.capture_begin(pool, capture_error_mode=OWN_THREAD)
                try:
                    self._hidden = self._step()
                finally:
                    graph.capture_end()
        except RuntimeError as error:  # of which running out of memory is one
            self.model.capture_failed(error)
        else:
            self._graph = _latest[device] = graph


class _Room(DynamicLayer):
    """Keys and values [N, groups, width, d] of a layer, zeros where nothing is said yet, up to ``place`` [1]."""

    def __init__(self, behind: DynamicLayer, width: int, place: Tensor) -> None:
        super().__init__()
        self.place = place
        assert behind.keys is not None
        assert behind.values is not None
        self.lazy_initialization(behind.keys, behind.values)
        self.keys, self.values = _widened(behind.keys, width), _widened(behind.values, width)
        behind.keys, behind.values, behind.is_initialized = None, None, False

    def update(
        self, key_states: Tensor, value_states: Tensor, *args: object, **kwargs: object
    ) -> tuple[Tensor, Tensor]:
        assert self.keys is not None
        assert self.values is not None
        return self.keys.index_copy_(2, self.place, key_states), self.values.index_copy_(2, self.place, value_states)


def _widened(states: Tensor, width: int) -> Tensor:
    rows, groups, past, size = states.shape
    wide = states.new_zeros(rows, groups, width, size)
    wide[:, :, :past] = states
    return wide


#: The latest graph of a device, whose memory the next one is captured into: what no graph keeps lies idle until torch
#: gives back all that it has cached.
_latest: dict[torch.device, torch.cuda.CUDAGraph] = {}


def forget_graphs() -> None:
    """Keep no memory for graphs to come."""
    _latest.clear()
