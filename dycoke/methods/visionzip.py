"""VisionZip, as ported to video: of each pooled frame, the most attended tokens and a few that sum up the others."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import torch

from dycoke import budget
from dycoke.bases import KeepAll, Ordered
from dycoke.ops.tokens.rank import arrange
from dycoke.registry import register
from dycoke.types import Compressed, Order, Positions, VisualTokens

if TYPE_CHECKING:
    from torch import Tensor


@register(
    "visionzip",
    source="VisionZip: Longer is Better but Not Necessary in Vision Language Models, CVPR 2025; "
    "its video port in HoliTom's repository",
    paper="https://arxiv.org/abs/2412.04467",
    code="https://github.com/dvlab-research/VisionZip/tree/3151f6d",
    retention="keep",
    official="SPATIAL_TOKENS = 20, 30, 40 or 50 of 196 tokens a frame; 54 of 64 dominant",
    deviations=(
        "The budget of a frame is round(keep * N) in place of a number of tokens, so that it fits every grid.",
        "In layouts with newlines every token has its own slot; the port gives dominant tokens those of others there.",
        "In LLaVA-Video rows that keep nothing have no newline; the port keeps the newlines of all rows, which at 10 % "
        "are 54 of 480 tokens.",
        "Follows the video port, because the original works in CLIP before pooling, by its class token in layer 22.",
        "Cosines and means are fp32, whatever the model's precision, because ties would depend on it.",
        "With everything kept the frames come back in raster order, because there is nothing to sum up.",
    ),
)
@dataclass(frozen=True)
class VisionZip(Ordered):
    """Keep the most attended tokens of each frame, and a few of the rest to each of which its likes are added.

    Of S kept tokens of a frame, int(S * 54 / 64) are dominant: those with the most saliency. The others are
    contextual: every n-th token of the rest, in raster order. The tokens then left over go to the contextual one with
    the most similar key, which becomes itself plus their mean: a sum whose norm grows, as published.
    """

    keep: float = field(default=0.25, metadata={"help": "share of every frame's tokens kept, in (0, 1]"})
    positions: Positions = field(default="packed", metadata={"help": "RoPE positions: packed or original"})
    order: Order = field(
        default="published", metadata={"help": "published: per frame dominant, then contextual; or raster"}
    )

    needs = frozenset({"saliency", "keys"})

    def __post_init__(self) -> None:
        super().__post_init__()
        budget.check_ratio("keep", self.keep, above_zero=True)

    def compress(self, video: VisualTokens) -> Compressed:
        frames, per_frame = video.embeds.shape[:2]
        kept = budget.from_keep(self.keep, per_frame)
        if kept == per_frame:
            return KeepAll().compress(video)
        dominant, contextual = split_frames(video.needed("saliency"), kept)
        embeds = torch.cat(
            [video.embeds.take_along_dim(dominant[..., None], dim=1), summed_up(video, dominant, contextual)], dim=1
        )
        start = torch.arange(frames, device=embeds.device)[:, None] * per_frame
        index = torch.cat([dominant, contextual], dim=1) + start
        return Compressed(*arrange(embeds.flatten(0, 1), index.flatten(), frames * per_frame, self.raster))

    def count(self, frames: int, per_frame: int) -> int:
        return frames * budget.from_keep(self.keep, per_frame)


def split_frames(saliency: Tensor, kept: int) -> tuple[Tensor, Tensor]:
    """Dominant tokens [T, d] and contextual ones [T, kept - d] of frames with saliency [T, N]; each row ascends."""
    d = dominant_tokens(kept)
    order = saliency.argsort(dim=1, descending=True, stable=True)
    rest = order[:, d:].sort(dim=1).values
    step = rest.shape[1] // (kept - d)
    return order[:, :d].sort(dim=1).values, rest[:, : step * (kept - d) : step]


def summed_up(video: VisualTokens, dominant: Tensor, contextual: Tensor) -> Tensor:
    """Contextual tokens [T, c], each plus the mean of the tokens of neither kind that are most like it: [T, c, D].

    Likeness is the cosine of keys. One that nothing goes to stays as it is.
    """
    keys = torch.nn.functional.normalize(video.needed("keys").float(), dim=2)
    likeness = keys @ keys.take_along_dim(contextual[..., None], dim=1).mT  # [T, N, c]
    assigned = torch.zeros_like(likeness).scatter_(2, likeness.argmax(dim=2, keepdim=True), 1.0)
    own = torch.cat([dominant, contextual], dim=1)[..., None].expand(-1, -1, contextual.shape[1])
    assigned.scatter_(1, own, 0.0)
    share = assigned / assigned.sum(dim=1, keepdim=True).clamp_min(1)
    targets = video.embeds.take_along_dim(contextual[..., None], dim=1)
    return (targets.float() + share.mT @ video.embeds.float()).to(video.embeds.dtype)


def dominant_tokens(kept: int) -> int:
    """Of `kept` tokens of a frame, those VisionZip keeps as they are: int(S * 54 / 64), as in its video port.

    The split of its image default, 54 + 10. S = 20, 30, 40, 50 give 16, 25, 33, 42.
    """
    return kept * 54 // 64
