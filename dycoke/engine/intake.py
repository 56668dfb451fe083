"""One request on its way into the engine: what its prefill fills, and the bucket that decodes it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from dycoke.engine.bucket import Bucket
from dycoke.engine.template import Part, tail_bucket
from dycoke.kv_cache.request import DecodeRequest
from dycoke.kv_cache.sink import Sink
from dycoke.ops.attend.last_row import last_slot
from dycoke.report.usage import CacheUse

if TYPE_CHECKING:
    from dycoke.engine.buckets import Engine


class StoreSink:
    """A prefill's keys and values go straight into a bucket's store.

    prompt: tokens of a row; order [B, S] int64: its columns with padding first, None where it is first already.
    """

    steps, stepping = 0, False

    def __init__(self, bucket: Bucket, prompt: int, order: Tensor | None) -> None:
        self._bucket, self._order, self.prompt = bucket, order, prompt
        self.use: CacheUse = bucket.template.use

    def fill(self, layer: int, keys: Tensor, values: Tensor) -> None:
        """Keys and values [B, H, S, D] of a layer."""
        self._bucket.store(layer, keys, values, self._order)

    def abandon(self) -> None:
        """Nothing: the steps of a bucket are its own."""

    def columns_of(self, layer: int, width: int = 0) -> tuple[Tensor, Tensor]:
        """Raises ValueError: the bucket serves the next request already."""
        raise ValueError(
            f"keys and values of layer {layer} are in the engine's store and cannot be looked at; accepted: "
            "engine='off', or a cache of the caller's own"
        )


class Intake:
    """One request of an engine, of at most `tokens` new tokens: `sink` is what its prefill makes its cache with."""

    def __init__(self, engine: Engine, tokens: int) -> None:
        self._engine, self._tail = engine, tail_bucket(tokens)
        self._bucket: Bucket | None = None
        self._grown: DecodeRequest | None = None  # filled first where layers drop columns
        self._positions: Tensor | None = None

    def sink(
        self,
        kwargs: dict[str, Any],
        shape: tuple[int, int],
        device: torch.device,
        real: Tensor | None,
        visual: Tensor | None,
    ) -> Sink:
        """What a prefill fills; see `dycoke.kv_cache.sink.MakeSink`."""
        kept = torch.ones(shape, dtype=torch.bool, device=device) if real is None else real.to(device)
        seen = torch.zeros_like(kept) if visual is None else visual.to(device) & kept
        self._positions = _next_positions(kwargs.get("position_ids"), kept)
        engine = self._engine
        if engine.pruned:
            self._grown = DecodeRequest(engine.policy, engine.depth, shape, device, kept, seen, tail=1)
            return self._grown
        part = Part(kept, seen)
        aligned = real is None or bool((kept.int().diff(dim=1) >= 0).all())
        self._bucket = engine.bucket_for([0] * engine.depth, [part], shape[0], self._tail, self._positions)
        return StoreSink(self._bucket, shape[1], None if aligned else part.order)

    def bucket(self) -> Bucket:
        """The bucket, filled. Raises RuntimeError if no prefill has asked for a sink."""
        if self._grown is not None:
            self._move_in(self._grown)
            self._grown = None
        if self._bucket is None:
            raise RuntimeError("the prefill filled no cache")
        return self._bucket

    def _move_in(self, request: DecodeRequest) -> None:
        """Take over a request whose layers dropped columns, a layer at a time."""
        parts = [
            Part(section.real, visual, section.index, section.shift)
            for section, visual in zip(request.sections, request.visual, strict=True)
        ]
        numbers = request.numbers
        self._bucket = self._engine.bucket_for(numbers, parts, request.batch, self._tail, self._positions)
        for layer, number in enumerate(numbers):
            entry = request.hand_over(layer)
            self._bucket.store(layer, entry.keys, entry.values, parts[number].order)


def _next_positions(given: Tensor | None, real: Tensor) -> Tensor:
    """RoPE positions [B] behind a prompt: given [B or 1, S] or None, as a prefill gets them; real [B, S] bool."""
    if given is None:  # transformers then counts slots, padding too
        return torch.full((len(real),), real.shape[1], device=real.device)
    last = last_slot(real)[:, None]
    return given.to(real.device).expand(real.shape).gather(1, last)[:, 0] + 1
