"""DyCoke with one budget for the whole video: windows as long as their content, our own."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar

from dycoke import budget
from dycoke.ops.tokens.adaptive_merge import adaptive_merge
from dycoke.registry import register
from dycoke.types import Compressed, Plan, Positions, VisualTokens, check_positions


@register(
    "dycoke_adaptive",
    source="ours, building on DyCoke, section 3.2",
    retention="keep",
    official="ours: keep=0.25, the least that DyCoke's own windows can leave",
)
@dataclass(frozen=True)
class DyCokeAdaptive:
    """Cut each place's timeline at equal steps of change, one step for the video; keep the mean of each window.

    Where DyCoke's windows are four frames long and a share K of every compared frame is dropped, here a window is as
    long as its content lasts, and `keep` alone says how many there are: from_keep(keep, T * N), whatever the content.
    A kept token stands for the tokens of its place that resemble it, and is their mean. Works from one frame on.
    """

    keep: float = field(default=0.25, metadata={"help": "share of the visual tokens kept, in (0, 1]"})
    positions: Positions = field(default="packed", metadata={"help": "RoPE positions: packed or original"})

    needs: ClassVar[frozenset[str]] = frozenset()
    min_frames: ClassVar[int] = 1
    raster: ClassVar[bool] = True

    def __post_init__(self) -> None:
        budget.check_ratio("keep", self.keep, above_zero=True)
        check_positions(self.positions)

    def plan(self) -> Plan:
        return Plan(before=self)

    def compress(self, video: VisualTokens) -> Compressed:
        frames, per_frame, _ = video.embeds.shape
        return Compressed(*adaptive_merge(video.embeds, video.grid, self.count(frames, per_frame)))

    def count(self, frames: int, per_frame: int) -> int:
        return budget.from_keep(self.keep, frames * per_frame)
