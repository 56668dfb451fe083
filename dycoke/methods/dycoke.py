"""DyCoke: temporal token merging before the language model (stage 1 of the paper)."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar, Literal

from dycoke import budget
from dycoke.ops.temporal_merge import released_merge, temporal_merge
from dycoke.registry import register
from dycoke.types import Compressed, Plan, Positions, VisualTokens, check_positions

VARIANTS = ("paper", "official")


@dataclass(frozen=True)
class TemporalMerge:
    """Compressor: drop the tokens of a frame that repeat an earlier frame of its window of four.

    k is the share *removed* from every compared frame: frames 1 and 2 of a window are compared with frame 0, frame 3
    with frame 2, and int((1 - k) * N) least similar tokens stay. Source: DyCoke, section 3.2.
    variant "official" reproduces the released code instead: survivors in order of similarity, an odd last frame lost,
    the last window's third frame whole, T <= 4 refused (the released code crashes there).
    """

    k: float = 0.7
    variant: Literal["paper", "official"] = "paper"
    positions: Positions = "packed"

    needs: ClassVar[frozenset[str]] = frozenset()

    def __post_init__(self) -> None:
        budget.check_ratio("k", self.k)
        check_positions(self.positions)
        if self.variant not in VARIANTS:
            raise ValueError(f"variant={self.variant!r}: expected one of {', '.join(VARIANTS)}")
        if not self.raster and self.positions == "original":
            raise ValueError(
                "positions='original' with variant='official': the released code emits tokens in order of similarity, "
                "and original positions must ascend; accepted: positions='packed', or variant='paper'"
            )

    @property
    def raster(self) -> bool:
        return self.variant == "paper"

    def compress(self, video: VisualTokens) -> Compressed:
        """Raises ValueError for variant "official" with T <= 4."""
        merge = temporal_merge if self.variant == "paper" else released_merge
        return Compressed(*merge(video.embeds, budget.kept_per_frame(self.k, video.embeds.shape[1])))

    def count(self, frames: int, per_frame: int) -> int:
        counted = budget.windows_count if self.variant == "paper" else budget.official_count
        return counted(frames, per_frame, self.k)


@register(
    "dycoke",
    source="DyCoke: Dynamic Compression of Tokens for Fast Video Large Language Models, CVPR 2025, section 3.2",
    paper="https://arxiv.org/abs/2411.15024",
)
@dataclass(frozen=True)
class DyCoke:
    """Temporal token merging: windows of four frames, repeated tokens dropped before the language model."""

    k: float = field(default=0.7, metadata={"help": "K, share removed from every compared frame, in [0, 1]"})
    variant: Literal["paper", "official"] = field(
        default="paper", metadata={"help": "paper, or official: the released code with its quirks"}
    )
    positions: Positions = field(default="packed", metadata={"help": "RoPE positions: packed or original"})

    def __post_init__(self) -> None:
        self.plan()  # the compressor checks its options; a bad one must fail here, not at attach

    def plan(self) -> Plan:
        return Plan(before=TemporalMerge(self.k, self.variant, self.positions))
