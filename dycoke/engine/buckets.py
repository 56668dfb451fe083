"""The engine of one model: its buckets, made as requests ask for them, and the memory they take."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext, suppress
from typing import Any

import torch
from torch import Tensor, nn

from dycoke.engine.bucket import Bucket
from dycoke.engine.intake import Intake
from dycoke.engine.joined_weights import JoinedWeights, worth_joining
from dycoke.engine.template import Part, padded_request, row_bucket, tail_bucket
from dycoke.engine.weights import Weights
from dycoke.kv_cache.request import DecodeRequest
from dycoke.kv_cache.side_stream import SideStream
from dycoke.types import DecodePolicy

STORES_SHARE = 0.3  # of a GPU's memory: the most that stores take of prompts other than the one at hand
_ON_CPU = 2**30


class Engine:
    """Buckets of a language model with a decode policy, made as requests ask for them.

    pruned: layers may drop columns in prefill, so that a prompt's bucket is known behind it only.
    """

    def __init__(
        self, language_model: nn.Module, head: nn.Linear, policy: DecodePolicy | None, *, pruned: bool
    ) -> None:
        self.weights = Weights.of(language_model, head)
        self.policy, self.pruned = policy, pruned
        self.counts = policy is not None or pruned  # whether what it reads is worth a report
        self._buckets: OrderedDict[Any, Bucket] = OrderedDict()
        self._captured = self.weights.captured()
        self._pool: tuple[int, int] | None = None
        self._latest: Bucket | None = None  # whose last step may still be under way

    @property
    def depth(self) -> int:
        """Layers of the language model."""
        return len(self.weights.layers)

    def device(self) -> AbstractContextManager[None]:
        """Within the context, the GPU of the weights is the current one: streams and captures are those of a device."""
        device = self.weights.device
        return torch.cuda.device(device) if device.type == "cuda" else nullcontext()

    def admit(self, tokens: int) -> Intake:
        """A request comes, of at most `tokens` new tokens."""
        return Intake(self, tokens)

    def moved(self, language_model: nn.Module, head: nn.Linear) -> bool:
        """Whether weights have moved or been replaced since this was last asked: graphs would read the old, and go."""
        weights = Weights.of(language_model, head)
        captured = weights.captured()
        if captured == self._captured:
            return False
        self._buckets.clear()
        self._latest = None
        self.weights, self._captured = weights, captured
        return True

    @torch.inference_mode()
    def bucket_for(
        self, numbers: Sequence[int], parts: Sequence[Part], rows: int, tail: int, positions: Tensor
    ) -> Bucket:
        """The bucket for a prompt of these parts, found or made, that has begun with it; its store is yet to be filled.

        numbers: the part of each layer. tail: columns for the answer. positions [B] int64 of the first decoded tokens.
        """

        def make(side: SideStream | None = None) -> DecodeRequest:
            return padded_request(self.policy, numbers, parts, row_bucket(rows), tail, side=side, counted=self.counts)

        if self._latest is not None:
            self._latest.wait()
            self._latest = None  # its store may have to go
        request = make()
        key = request.signature
        if key not in self._buckets:
            self._make_room(request)
            self._buckets[key] = self._made(make, request.batch)
        self._buckets.move_to_end(key)
        self._latest = self._buckets[key]
        self._latest.take(request, positions)
        return self._latest

    def _made(self, make: Callable[[SideStream | None], DecodeRequest], rows: int) -> Bucket:
        """A new bucket; where memory runs out, without any other and without joined weights."""
        with suppress(torch.cuda.OutOfMemoryError):
            return self._bucket_of(make, rows, join=True)
        # Behind the error: while it is handled, its traceback holds on to what was half made.
        self._buckets.clear()
        torch.cuda.empty_cache()
        return self._bucket_of(make, rows, join=False)

    def _bucket_of(self, make: Callable[[SideStream | None], DecodeRequest], rows: int, *, join: bool) -> Bucket:
        if not self._buckets and self.weights.device.type == "cuda":
            self._pool = torch.cuda.graph_pool_handle()  # one that no graph uses any more is gone
        joined = None
        if join and worth_joining(self.weights, rows):
            # All buckets of many rows share a copy, which is gone with the last.
            shared = (each.joined for each in self._buckets.values() if each.joined is not None)
            joined = next(shared, None) or JoinedWeights(self.weights)
        return Bucket(self.weights, make, self._pool, joined)

    def has_room(self, rows: int, tokens: int) -> bool:
        """Whether so many new tokens of so many rows may be reserved for, which the whole answer is at once."""
        return row_bucket(rows) * tail_bucket(tokens) * self._column_bytes * self.depth <= self._room()

    @property
    def _column_bytes(self) -> int:
        """Keys and values of a token in a layer."""
        weights = self.weights
        return 2 * weights.kv_heads * weights.head_dim * weights.dtype.itemsize

    def _room(self) -> int:
        device = self.weights.device
        if device.type != "cuda":
            return _ON_CPU
        return int(torch.cuda.get_device_properties(device).total_memory * STORES_SHARE)

    def _make_room(self, request: DecodeRequest) -> None:
        """Let go of the stores that were used longest ago, where those that stay would take too much."""
        columns = sum(request.section(layer).columns + request.capacity for layer in range(self.depth))
        wanted = columns * self._column_bytes * request.batch
        while self._buckets and sum(each.nbytes for each in self._buckets.values()) + wanted > self._room():
            self._buckets.popitem(last=False)
