"""Random dropping: the floor every method has to beat at the same budget."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import torch

from dycoke import budget
from dycoke.bases import TopScores
from dycoke.registry import register
from dycoke.types import Positions, VisualTokens, check_seed

if TYPE_CHECKING:
    from torch import Tensor


@register(
    "random_drop",
    source="floor of the comparisons (random rows of VidCom2, Table 1)",
    retention="keep",
    official="none: a floor, at the budget of what it is compared with",
)
@dataclass(frozen=True)
class RandomDrop(TopScores):
    """Keep a seeded random subset of all visual tokens of a video, in raster order."""

    keep: float = field(default=0.5, metadata={"help": "share of the visual tokens kept, in (0, 1]"})
    seed: int = field(default=0, metadata={"help": "seed of the choice; the same for every video of one shape"})
    positions: Positions = field(default="packed", metadata={"help": "RoPE positions: packed or original"})

    def __post_init__(self) -> None:
        super().__post_init__()
        budget.check_ratio("keep", self.keep, above_zero=True)
        check_seed(self.seed)

    def score(self, video: VisualTokens) -> Tensor:
        frames, per_frame = video.embeds.shape[:2]
        # From a generator of its own on the CPU: the same choice on every device, and the global RNG stays put.
        order = torch.randperm(frames * per_frame, generator=torch.Generator().manual_seed(self.seed))
        return -order.argsort().view(frames, per_frame).to(video.embeds.device)  # minus the place in the order

    def count(self, frames: int, per_frame: int) -> int:
        return budget.from_keep(self.keep, frames * per_frame)
