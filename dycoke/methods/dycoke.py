"""DyCoke: temporal token merging before the language model, and the method that joins both stages of the paper."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

import torch

from dycoke import budget
from dycoke.bases import Before, option_of, part
from dycoke.bases.dynamic_pruning import CHOICES, DEVIATIONS, VARIANTS, DynamicPruning
from dycoke.ops.tokens.temporal_merge import WINDOW, check_merge, temporal_merge
from dycoke.registry import register
from dycoke.types import Compressed, Plan, Positions, VisualTokens, check_choice

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class TemporalMerge(Before):
    """Compressor: drop the tokens of a frame that repeat an earlier frame of its window of four.

    k is the share *removed* from every compared frame: frames 1 and 2 of a window are compared with frame 0, frame 3
    with frame 2, and int((1 - k) * N) least similar tokens stay. Source: DyCoke, section 3.2.
    variant "official" reproduces the released code instead: survivors in order of similarity, an odd last frame lost,
    the last window's third frame whole, T <= 4 refused (the released code crashes there).
    """

    k: float = field(default=budget.PAPER_K, metadata={"help": "K, share removed from every compared frame, in [0, 1]"})
    variant: Literal["paper", "official"] = field(
        default="paper", metadata={"help": "paper, or official: the released code with its quirks"}
    )
    positions: Positions = field(default="packed", metadata={"help": "RoPE positions: packed or original"})

    def __post_init__(self) -> None:
        super().__post_init__()
        budget.check_ratio("k", self.k)
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
        counted = budget.windows_count if self.variant == "paper" else released_count
        return counted(frames, per_frame, self.k)


@register(
    "dycoke",
    source="DyCoke: Dynamic Compression of Tokens for Fast Video Large Language Models, CVPR 2025, section 3",
    paper="https://arxiv.org/abs/2411.15024",
    code="https://github.com/KD-TAO/DyCoke/tree/dd74634",
    retention="r = 1/4 + 3/4 (1 - K), rounded down per frame; of those, layers from L read 1 - P while decoding",
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

    k: float = option_of(TemporalMerge, "k")
    l: int = option_of(DynamicPruning, "layer")  # noqa: E741
    p: float = option_of(DynamicPruning, "p")
    variant: Literal["paper", "official"] = option_of(TemporalMerge, "variant")
    positions: Positions = option_of(TemporalMerge, "positions")
    decode: Literal["dynamic", "one_shot", "random", "off"] = field(
        default="dynamic", metadata={"help": "dynamic, one_shot or random pruning while decoding, or off"}
    )
    refresh: float = option_of(DynamicPruning, "refresh")
    seed: int = option_of(DynamicPruning, "seed")
    dp_cache: Literal["device", "host"] = option_of(DynamicPruning, "dp_cache")

    def __post_init__(self) -> None:
        self.plan()  # the stages check their options; a bad one must fail here, not at attach

    def plan(self) -> Plan:
        check_choice("decode", self.decode, (*CHOICES, "off"))
        chosen = "dynamic" if self.decode == "off" else self.decode
        pruning = part(DynamicPruning, self, layer=self.l, decode=chosen)
        if self.decode == "off" and self.variant == "official":
            raise ValueError(
                "decode='off' with variant='official': the released code has only decode='dynamic'; for its temporal "
                "merging alone use Plan(before=TemporalMerge(k, 'official'))"
            )
        return Plan(before=part(TemporalMerge, self), decode=None if self.decode == "off" else pruning)


def released_merge(embeds: Tensor, keep: int) -> tuple[Tensor, Tensor]:
    """What the released code keeps of frames [T, N, D]: tokens [M, D] and slots [M], in its order.

    Every odd frame is pruned against the even one before it, frame i + 2 against frame i for i = 0, 4, ... < T - 4;
    survivors come in order of ascending similarity, and an odd last frame is lost. Similarity has the input's dtype.
    Raises ValueError for T <= 4, where that code crashes. Source: KD-TAO/DyCoke@dd74634, llava/model/llava_arch.py.
    """
    check_merge(embeds, keep)
    frames, per_frame, _ = embeds.shape
    if frames <= WINDOW:
        raise ValueError(
            f"variant='official' needs at least 5 frames, got {frames}: the released code crashes on 1 to 4; "
            "accepted: more frames, or variant='paper'"
        )
    pairs, windows = frames // 2, released_windows(frames)
    left, right = embeds[0 : 2 * pairs : 2], embeds[1 : 2 * pairs : 2]
    # The released code normalises before the cosine in this pass only; bit-exactness asks for the same.
    odd = torch.nn.functional.cosine_similarity(
        torch.nn.functional.normalize(left, dim=-1), torch.nn.functional.normalize(right, dim=-1), dim=-1
    )  # [pairs, N]
    third = torch.nn.functional.cosine_similarity(
        embeds[0 : 4 * windows : 4], embeds[2 : 4 * windows : 4], dim=-1
    )  # [windows, N]
    odd, third = (s.topk(keep, dim=1, largest=False).indices for s in (odd, third))

    row = torch.arange(per_frame, device=embeds.device)
    frame = torch.arange(2 * pairs, device=embeds.device)[:, None] * per_frame  # [2 * pairs, 1]
    pair = odd + frame[1::2]
    split = 2 * windows
    body = torch.cat(
        [
            row + frame[0 : 2 * split : 4],
            pair[0:split:2],
            third + frame[2 : 2 * split : 4],
            pair[1:split:2],
        ],
        dim=1,
    )
    tail = torch.cat([row + frame[2 * split :: 2], pair[split:]], dim=1)
    index = torch.cat([body.flatten(), tail.flatten()])
    return embeds.flatten(0, 1).index_select(0, index), index


def released_count(frames: int, per_frame: int, k: float) -> int:
    """Tokens the released temporal merging keeps: an odd last frame vanishes, the last window's third frame stays."""
    paired = frames // 2 * 2
    whole = frames // 2 - released_windows(frames)
    return whole * per_frame + (paired - whole) * budget.kept_per_frame(k, per_frame)


def released_windows(frames: int) -> int:
    """Windows whose third frame the released code compares with the first: those that start before frame T - 4."""
    return -(-max(frames - 4, 0) // 4)
