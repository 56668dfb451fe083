"""VidCom2: frames unlike the rest of the video keep more, and each keeps what is unlike its mean and the video's."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import torch

from dycoke import budget
from dycoke.bases import Before
from dycoke.ops.tokens.rank import mask_slots, ranks
from dycoke.registry import register
from dycoke.types import Compressed, Positions, VisualTokens

if TYPE_CHECKING:
    from torch import Tensor

BANDWIDTHS = tuple(2.0**power for power in range(-3, 2))  # of the Gaussians whose sum is the similarity
TEMPERATURE = 0.01  # of the softmax that turns frame scores into shares of the budget


@register(
    "vidcom2",
    source="Video Compression Commander: Plug-and-Play Inference Acceleration for Video Large Language Models, "
    "EMNLP 2025",
    paper="https://arxiv.org/abs/2505.14454",
    code="https://github.com/xuyang-liu16/VidCom2/tree/944a17d",
    retention="keep",
    official="R_RATIO = 0.25",
    deviations=(
        "The total is round(keep * T * N) exactly, shared among the frames in proportion to their published scales; "
        "the released code rounds every frame by itself, so that its total is known only afterwards.",
        "What a frame capped at all its tokens cannot take goes to the others; the released code leaves it unspent.",
        "Below one token a frame the frames compete for the budget; the released code then exceeds it.",
        "In LLaVA-Video a newline stands behind each row that keeps a token; the released code keeps all newlines of a "
        "frame, in one block behind its kept tokens.",
        "Variance, norms and similarities are fp32; the released code computes them in the model's half precision.",
    ),
)
@dataclass(frozen=True)
class VidCom2(Before):
    """Keep the tokens least like their frame's mean and the video's, more of them in frames unlike the rest."""

    keep: float = field(default=0.25, metadata={"help": "share of the visual tokens kept, in (0, 1]"})
    positions: Positions = field(default="packed", metadata={"help": "RoPE positions: packed or original"})

    def __post_init__(self) -> None:
        super().__post_init__()
        budget.check_ratio("keep", self.keep, above_zero=True)

    def compress(self, video: VisualTokens) -> Compressed:
        frames, per_frame = video.embeds.shape[:2]
        total = self.count(frames, per_frame)
        tokens = steady_channels(video.embeds)
        to_video = similarity(tokens, tokens.mean(dim=(0, 1), keepdim=True))
        to_frame = similarity(tokens, tokens.mean(dim=1, keepdim=True))
        share = (to_video.mean(dim=1) / -TEMPERATURE).softmax(dim=0)
        # The published scale also has the factor keep, which is the same for all frames: the total stands for it.
        scale = 1 + share - share.mean()
        index = mask_slots(apportion(to_video + to_frame, scale, total), total)
        return Compressed(video.embeds.flatten(0, 1).index_select(0, index), index)

    def count(self, frames: int, per_frame: int) -> int:
        return budget.from_keep(self.keep, frames * per_frame)


def steady_channels(embeds: Tensor) -> Tensor:
    """Unit vectors of the half of the channels that vary least over a video: [T, N, D] -> [T, N, D // 2] fp32.

    Source: xuyang-liu16/VidCom2@944a17d, token_compressor/vidcom2/vidcom2.py.
    """
    embeds = embeds.float()
    steady = embeds.var(dim=(0, 1), correction=0).argsort(stable=True)[: embeds.shape[2] // 2]
    return torch.nn.functional.normalize(embeds.index_select(2, steady), dim=2)


def similarity(tokens: Tensor, center: Tensor) -> Tensor:
    """Sum of Gaussians of the distance between tokens [T, N, C] and a center that broadcasts to them: [T, N] fp32."""
    squared = (tokens - center).square().sum(dim=2)
    return sum(torch.exp(squared / (-2 * width)) for width in BANDWIDTHS)


def apportion(order_score: Tensor, target: Tensor, total: int) -> Tensor:
    """Which `total` tokens stay, as a mask [T, N] bool, shared among the frames in proportion to `target`.

    order_score [T, N]: within a frame, lower is kept first. target [T] > 0: the tokens each frame would keep if
    there were fractions of them; only the proportions count. The token of rank r (from 0) in frame t stands in line
    at (r + 1/2) / target[t], and the first `total` are taken. That is the divisor method of Sainte-Laguë: where the
    rounded targets add up to `total` they are the quotas, and what a full frame cannot take goes to the others. If
    `total` reaches T, no frame is left empty. Ties go to the lower slot. Raises ValueError unless 0 <= total <= T * N.
    """
    frames, per_frame = order_score.shape
    if not 0 <= total <= frames * per_frame:
        raise ValueError(f"total={total}: expected 0 to {frames * per_frame} tokens of {frames} frames of {per_frame}")
    rank = ranks(-order_score)
    queue = (rank + 0.5) / target[:, None]
    if total >= frames:
        queue = queue.masked_fill(rank == 0, -1.0)
    taken = queue.flatten().argsort(stable=True)[:total]
    mask = torch.zeros(frames * per_frame, dtype=torch.bool, device=order_score.device)
    return mask.index_fill_(0, taken, True).view(frames, per_frame)
