"""DyCoke: temporal token merging before the language model, and the method that joins both stages of the paper."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar, Literal

from dycoke import budget
from dycoke.methods.dynamic_pruning import CHOICES, DEVIATIONS, PUBLISHED_REFRESH, VARIANTS, DynamicPruning
from dycoke.ops.tokens.temporal_merge import released_merge, temporal_merge
from dycoke.registry import register
from dycoke.types import Compressed, Plan, Positions, VisualTokens, check_choice, check_positions


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
        check_choice("variant", self.variant, VARIANTS)
        if not self.raster and self.positions == "original":
            raise ValueError(
                "positions='original' with variant='official': the released code emits tokens in order of similarity, "
                "and original positions must ascend; accepted: positions='packed', or variant='paper'"
            )

    @property
    def raster(self) -> bool:
        return self.variant == "paper"

    @property
    def min_frames(self) -> int:
        return 1 if self.variant == "paper" else 5

    def compress(self, video: VisualTokens) -> Compressed:
        """Raises ValueError for variant "official" with T <= 4."""
        merge = temporal_merge if self.variant == "paper" else released_merge
        return Compressed(*merge(video.embeds, budget.kept_per_frame(self.k, video.embeds.shape[1])))

    def count(self, frames: int, per_frame: int) -> int:
        counted = budget.windows_count if self.variant == "paper" else budget.official_count
        return counted(frames, per_frame, self.k)


@register(
    "dycoke",
    source="DyCoke: Dynamic Compression of Tokens for Fast Video Large Language Models, CVPR 2025, section 3",
    paper="https://arxiv.org/abs/2411.15024",
    retention="r = 1/4 + 3/4 (1 - K); of those, layers from L read a share 1 - P while decoding",
    official="paper and README: K=.7 L=3 P=.7; evaluation wrapper: K=.7 L=3 P=.8; builder: K=.3 L=3 P=.8; config: L=3 "
    "P=.8",
    deviations=(
        "The last window is compared like all others, as the formula counts; a loop bound of the released code leaves "
        "its third frame whole.",
        "Every frame counts, from one frame on; the released code loses an odd last frame and fails at four or fewer.",
        "Tokens stay in raster order, because the paper speaks of no other; the released code emits those of a "
        "compared frame by ascending similarity.",
        *DEVIATIONS,
    ),
)
@dataclass(frozen=True)
class DyCoke:
    """Temporal token merging before the language model, and dynamic pruning of its KV cache while decoding.

    The defaults are the paper's (K = .7, L = 3, P = .7); `variant` sets both stages. Raises TypeError or ValueError
    for options out of range or that exclude each other.
    """

    k: float = field(default=0.7, metadata={"help": "K, share removed from every compared frame, in [0, 1]"})
    l: int = field(default=3, metadata={"help": "L, first layer that reads less of the cache, from 1"})  # noqa: E741
    p: float = field(default=0.7, metadata={"help": "P, share of the visual tokens it does not read, in [0, 1)"})
    variant: Literal["paper", "official"] = field(
        default="paper", metadata={"help": "paper, or official: the released code with its quirks"}
    )
    positions: Positions = field(default="packed", metadata={"help": "RoPE positions: packed or original"})
    decode: Literal["dynamic", "one_shot", "random", "off"] = field(
        default="dynamic", metadata={"help": "dynamic, one_shot or random pruning while decoding, or off"}
    )
    refresh: float = field(
        default=PUBLISHED_REFRESH, metadata={"help": "cosine under which tokens are chosen anew; 1.0: at every step"}
    )
    seed: int = field(default=0, metadata={"help": "seed of decode=random"})
    dp_cache: Literal["device", "host"] = field(
        default="device", metadata={"help": "where tokens that are not read live: device, or host (pinned memory)"}
    )

    def __post_init__(self) -> None:
        self.plan()  # the stages check their options; a bad one must fail here, not at attach

    def plan(self) -> Plan:
        check_choice("decode", self.decode, (*CHOICES, "off"))
        pruning = DynamicPruning(
            self.l,
            self.p,
            self.variant,
            "dynamic" if self.decode == "off" else self.decode,
            self.refresh,
            self.seed,
            self.dp_cache,
        )
        if self.decode == "off" and self.variant == "official":
            raise ValueError(
                "decode='off' with variant='official': the released code has only decode='dynamic'; for its temporal "
                "merging alone use Plan(before=TemporalMerge(k, 'official'))"
            )
        before = TemporalMerge(self.k, self.variant, self.positions)
        return Plan(before=before, decode=None if self.decode == "off" else pruning)
