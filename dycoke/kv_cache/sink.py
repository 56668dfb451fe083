"""Sinks of the keys and values of a prefill: a cache that grows while decoding, or the store of an engine."""

from __future__ import annotations

from typing import Any, Protocol

import torch
from torch import Tensor

from dycoke.report.usage import CacheUse


class Sink(Protocol):
    """Store that the layers of one prefill fill, one after the other.

    prompt: tokens of a row; steps: tokens decoded so far; stepping: whether a decode step is under way, in which the
    layers may append; use: what the report says of the cache.
    """

    prompt: int
    steps: int
    stepping: bool
    use: CacheUse

    def fill(self, layer: int, keys: Tensor, values: Tensor) -> None:
        """Take the prompt's keys and values [B, H, S, D] of a layer."""
        ...

    def abandon(self) -> None:
        """End a step, if one is under way, that nobody will finish."""
        ...

    def columns_of(self, layer: int, width: int = 0) -> tuple[Tensor, Tensor]:
        """Copies of what a layer holds, [B, H, C, D] each. Raises ValueError where they cannot be looked at."""
        ...


class MakeSink(Protocol):
    """Makes the sink of one prefill: what fills another place than a cache of `generate` hands one down."""

    def __call__(
        self,
        kwargs: dict[str, Any],
        shape: tuple[int, int],
        device: torch.device,
        real: Tensor | None,
        visual: Tensor | None,
    ) -> Sink:
        """kwargs: of the language model; shape (B, S); real, visual [B, S] bool, None for all and for none."""
        ...
