"""Random dropping: the floor every method has to beat at the same budget."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar

import torch

from dycoke import budget
from dycoke.registry import register
from dycoke.types import Compressed, Plan, Positions, VisualTokens, check_positions, check_seed


@register(
    "random_drop",
    source="floor of the comparisons (random rows of VidCom2, Table 1)",
    retention="keep",
    official="none: a floor, at the budget of what it is compared with",
)
@dataclass(frozen=True)
class RandomDrop:
    """Keep a seeded random subset of all visual tokens of a video, in raster order."""

    keep: float = field(default=0.5, metadata={"help": "share of the visual tokens kept, in (0, 1]"})
    seed: int = field(default=0, metadata={"help": "seed of the choice; the same for every video of one shape"})
    positions: Positions = field(default="packed", metadata={"help": "RoPE positions: packed or original"})

    needs: ClassVar[frozenset[str]] = frozenset()
    min_frames: ClassVar[int] = 1
    raster: ClassVar[bool] = True

    def __post_init__(self) -> None:
        budget.check_ratio("keep", self.keep, above_zero=True)
        check_positions(self.positions)
        check_seed(self.seed)

    def plan(self) -> Plan:
        return Plan(before=self)

    def compress(self, video: VisualTokens) -> Compressed:
        flat = video.embeds.flatten(0, 1)
        # From a generator of its own on the CPU: the same choice on every device, and the global RNG stays put.
        order = torch.randperm(len(flat), generator=torch.Generator().manual_seed(self.seed))
        index = order[: self.count(*video.embeds.shape[:2])].sort().values.to(flat.device)
        return Compressed(flat.index_select(0, index), index)

    def count(self, frames: int, per_frame: int) -> int:
        return budget.from_keep(self.keep, frames * per_frame)
