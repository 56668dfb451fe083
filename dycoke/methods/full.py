"""Keep every visual token: the baseline, run through the same path as every method."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch

from dycoke.registry import register
from dycoke.types import Compressed, Plan, VisualTokens


@dataclass(frozen=True)
class KeepAll:
    """Compressor that removes nothing: embeds [T, N, D] -> [T * N, D], index 0 .. T * N - 1."""

    needs: ClassVar[frozenset[str]] = frozenset()
    min_frames: ClassVar[int] = 1
    positions: ClassVar[str] = "packed"
    raster: ClassVar[bool] = True

    def compress(self, video: VisualTokens) -> Compressed:
        embeds = video.embeds.flatten(0, 1)
        return Compressed(embeds, torch.arange(len(embeds), device=embeds.device))

    def count(self, frames: int, per_frame: int) -> int:
        return frames * per_frame


@register("full", source="the uncompressed model", retention="1", official="none: nothing to set")
@dataclass(frozen=True)
class Full:
    """Every visual token reaches the language model."""

    def plan(self) -> Plan:
        return Plan(before=KeepAll())
