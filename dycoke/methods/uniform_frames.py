"""Fewer frames: what a user would do without any method."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch

from dycoke import budget
from dycoke.bases import Before
from dycoke.registry import register
from dycoke.types import Compressed, Positions, VisualTokens


@register(
    "uniform_frames",
    source="floor of the comparisons; DyCoke, Table 6 (equal FLOPs)",
    retention="keep, in whole frames",
    official="none: a floor, at the budget of what it is compared with",
)
@dataclass(frozen=True)
class UniformFrames(Before):
    """Keep whole frames at even spacing, the first one always."""

    keep: float = field(default=0.5, metadata={"help": "share of the frames kept, in (0, 1]; at least one"})
    positions: Positions = field(default="packed", metadata={"help": "RoPE positions: packed or original"})

    def __post_init__(self) -> None:
        super().__post_init__()
        budget.check_ratio("keep", self.keep, above_zero=True)

    def compress(self, video: VisualTokens) -> Compressed:
        frames, per_frame = video.embeds.shape[:2]
        kept = budget.from_keep(self.keep, frames)
        device = video.embeds.device
        # Frame floor(i * T / kept): integers throughout, so that no rounding can repeat or skip a frame.
        chosen = torch.arange(kept, device=device) * frames // kept
        index = (chosen[:, None] * per_frame + torch.arange(per_frame, device=device)).flatten()
        return Compressed(video.embeds.index_select(0, chosen).flatten(0, 1), index)

    def count(self, frames: int, per_frame: int) -> int:
        return budget.from_keep(self.keep, frames) * per_frame
