"""The engine of one model: which bucket serves a request, and how its prompt gets there."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from typing import Any

import torch
from torch import Tensor, nn

from dycoke.engine.bucket import Bucket
from dycoke.engine.joined_weights import JoinedWeights, worth_joining
from dycoke.engine.padded import Part, padded_request, row_bucket, tail_bucket
from dycoke.engine.refill import signature
from dycoke.engine.weights import Weights
from dycoke.kv_cache.request import DecodeRequest
from dycoke.ops.attend.last_row import last_slot
from dycoke.types import DecodePolicy
from dycoke.usage import CacheUse

STORES_SHARE = 0.3  # of a GPU's memory: the most that stores take of prompts other than the one at hand
_ON_CPU = 2**30


class Intake:
    """Takes a prefill's keys and values, layer by layer, into a bucket: the cache of `generate` hands them here."""

    steps, stepping = 0, False

    def __init__(self, bucket: Bucket, prompt: int, order: Tensor | None) -> None:
        self._bucket, self._order, self.prompt = bucket, order, prompt
        self.use: CacheUse = bucket.template.use

    def fill(self, layer: int, keys: Tensor, values: Tensor) -> None:
        """Keys and values [B, H, S, D] of a layer."""
        self._bucket.store(layer, keys, values, self._order)

    def columns_of(self, layer: int, width: int = 0) -> tuple[Tensor, Tensor]:
        """Raises ValueError: the bucket serves the next request already."""
        raise ValueError(
            f"keys and values of layer {layer} are in the engine's store and cannot be looked at; accepted: "
            "engine='off', or a cache of the caller's own"
        )


class Engine:
    """Buckets of a language model with a decode policy, made as requests ask for them.

    pruned: layers may drop columns in prefill, so that a prompt's bucket is known behind it only.
    """

    def __init__(
        self, language_model: nn.Module, head: nn.Linear, policy: DecodePolicy | None, *, pruned: bool
    ) -> None:
        self.weights = Weights.of(language_model, head)
        self._policy, self._pruned = policy, pruned
        self.counts = policy is not None or pruned  # whether what it reads is worth a report
        self._buckets: OrderedDict[Any, Bucket] = OrderedDict()
        self._captured = self.weights.captured()
        self._pool: tuple[int, int] | None = None
        self._thread: int | None = None  # whose request is under way
        self.tail = 0
        self._bucket: Bucket | None = None
        self._latest: Bucket | None = None  # whose last step may still be under way
        self._request: DecodeRequest | None = None
        self._positions: Tensor | None = None

    def device(self) -> AbstractContextManager[None]:
        """Within the context, the GPU of the weights is the current one: streams and captures are those of a device."""
        device = self.weights.device
        return torch.cuda.device(device) if device.type == "cuda" else nullcontext()

    @property
    def active(self) -> bool:
        """Whether a prefill of this thread is to ask `request` for its cache."""
        return self._thread == threading.get_ident()

    @contextmanager
    def aside(self) -> Iterator[None]:
        """Within the context, prefills are not those of the request under way, if there is one."""
        thread, self._thread = self._thread, None
        try:
            yield
        finally:
            self._thread = thread

    def begin(self, tokens: int) -> None:
        """A request comes, of at most `tokens` new tokens; until `end`, its prefill asks `request` for its cache."""
        self._thread, self.tail = threading.get_ident(), tail_bucket(tokens)
        self._bucket = self._request = self._positions = None

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

    def end(self) -> None:
        """The request is over."""
        self._thread = None
        self._bucket = self._request = self._positions = None

    def request(
        self,
        kwargs: dict[str, Any],
        shape: tuple[int, int],
        device: torch.device,
        real: Tensor | None,
        visual: Tensor | None,
    ) -> Intake | DecodeRequest:
        """What a prefill [B, S] with these arguments of the language model is to fill.

        real, visual [B, S] bool, None for all and for none.
        """
        kept = torch.ones(shape, dtype=torch.bool, device=device) if real is None else real.to(device)
        seen = torch.zeros_like(kept) if visual is None else visual.to(device) & kept
        self._positions = _next_positions(kwargs.get("position_ids"), kept)
        if self._pruned:
            self._request = DecodeRequest(self._policy, len(self.weights.layers), shape, device, kept, seen, tail=1)
            return self._request
        part = Part(kept, seen)
        aligned = real is None or bool((kept.int().diff(dim=1) >= 0).all())
        self._choose([0] * len(self.weights.layers), [part], shape[0])
        return Intake(self._bucket, shape[1], None if aligned else part.order)

    def prefilled(self) -> Bucket:
        """The bucket of the request, filled, and no other prefill's. Raises RuntimeError if none has asked for one."""
        self._thread = None
        if self._request is not None:
            self._move_in(self._request)
        if self._bucket is None:
            raise RuntimeError("the prefill filled no cache")
        return self._bucket

    def _move_in(self, request: DecodeRequest) -> None:
        """Take over a request whose layers dropped columns, a layer at a time."""
        parts = [
            Part(section.real, visual, section.index, section.shift)
            for section, visual in zip(request.sections, request.visual, strict=True)
        ]
        self._choose(request.numbers, parts, request.batch)
        for layer, entry in enumerate(request.entries):
            part = parts[request.numbers[layer]]
            self._bucket.store(layer, entry.keys, entry.values, part.order)
            request.entries[layer] = request.tails[layer] = None

    @torch.inference_mode()
    def _choose(self, numbers: list[int] | tuple[int, ...], parts: list[Part], rows: int) -> None:
        """Find the bucket for parts of a prompt, or make it, and begin with them."""

        def make() -> DecodeRequest:
            request = padded_request(self._policy, numbers, parts, row_bucket(rows), self.tail)
            request.counted = self.counts
            return request

        if self._latest is not None:
            self._latest.wait()
            self._latest = None  # its store may have to go
        request = make()
        key = signature(request)
        if key not in self._buckets:
            self._make_room(request)
            self._buckets[key] = self._made(make, request.batch)
        self._buckets.move_to_end(key)
        self._bucket = self._latest = self._buckets[key]
        self._bucket.take(request, self._positions)

    def _made(self, make: Callable[[], DecodeRequest], rows: int) -> Bucket:
        """A new bucket; where memory runs out, without any other and without joined weights."""
        with suppress(torch.cuda.OutOfMemoryError):
            return self._bucket_of(make, rows, join=True)
        # Behind the error: while it is handled, its traceback holds on to what was half made.
        self._buckets.clear()
        torch.cuda.empty_cache()
        return self._bucket_of(make, rows, join=False)

    def _bucket_of(self, make: Callable[[], DecodeRequest], rows: int, *, join: bool) -> Bucket:
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
        return row_bucket(rows) * tail_bucket(tokens) * self._column_bytes * len(self.weights.layers) <= self._room()

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
        columns = sum(request.section(layer).columns + self.tail for layer in range(len(self.weights.layers)))
        wanted = columns * self._column_bytes * request.batch
        while self._buckets and sum(each.nbytes for each in self._buckets.values()) + wanted > self._room():
            self._buckets.popitem(last=False)


def _next_positions(given: Tensor | None, real: Tensor) -> Tensor:
    """RoPE positions [B] behind a prompt: given [B or 1, S] or None, as a prefill gets them; real [B, S] bool."""
    if given is None:  # transformers then counts slots, padding too
        return torch.full((len(real),), real.shape[1], device=real.device)
    last = last_slot(real)[:, None]
    return given.to(real.device).expand(real.shape).gather(1, last)[:, 0] + 1
