"""PruMerge and PruMerge+, frame by frame: salient tokens that take in their neighbours, and one sum of the others."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, ClassVar, Literal

import torch

from dycoke import budget
from dycoke.bases import KeepAll, Ordered
from dycoke.ops.tokens.rank import arrange
from dycoke.registry import register
from dycoke.types import Compressed, Order, Positions, VisualTokens, check_choice

if TYPE_CHECKING:
    from torch import Tensor

ADAPTIVE = "adaptive"
Spacing = Literal["even", "published"]
SPACINGS: tuple[str, ...] = ("even", "published")
NEIGHBOURS = 32
SOURCE = "LLaVA-PruMerge: Adaptive Token Reduction for Efficient Large Multimodal Models, ICCV 2025"
PAPER = "https://arxiv.org/abs/2403.15388"
CODE = "https://github.com/42Shawn/LLaVA-PruMerge/tree/1ca8b2b"
DEVIATIONS = (
    "Works on the projected, pooled tokens of every frame; the released code on one image inside the CLIP tower, "
    "before a video model would pool it.",
    "Saliency is averaged over heads, and in SigLIP, which has no class token, over queries; the released code takes "
    "the class token's attention over the full width.",
    "keep as a number sets the budget of a frame, the extra token included, as in other papers' tables; the released "
    "code runs the adaptive rule only.",
    "keep=adaptive keeps at least one salient token a frame; where none stands out the released code leaves only the "
    "extra one, and its plus form divides by zero.",
    "Keys are the mean of their heads, and pooled, because that is what every family here can give; the released code "
    "compares them over the full width.",
    "Saliency is the mean of the patches that a token pools, so that a frame's sums to about a quarter and neighbours "
    "weigh as much less than before pooling.",
    "The extra token takes the most salient slot that is not kept, because it has none of its own.",
    "Where all of a frame is kept nothing is merged, for nothing is lost.",
)


@register(
    "prumerge",
    source=SOURCE,
    paper=PAPER,
    code=CODE,
    retention="share of saliency outliers + 1 / N (adaptive), or keep",
    official="adaptive: saliency above Q3 + 1.5 IQR; 32 neighbours",
    deviations=DEVIATIONS,
)
@dataclass(frozen=True)
class PruMerge(Ordered):
    """Keep each frame's most salient tokens, add their neighbours to them, and the sum of all others as one more.

    A kept token becomes itself plus the saliency-weighted sum of the 32 tokens of its frame with the most similar
    keys, not normalised. The extra token is the saliency-weighted sum of those that are not kept, and stands at the
    most salient slot among them; it comes where something is dropped and the budget has room for a kept one beside it.
    Published order: by saliency, extra last, frame by frame. The outliers of keep=adaptive are counted over the video.
    """

    keep: float | str = field(
        default=ADAPTIVE, metadata={"help": "share of every frame's tokens kept, in (0, 1], or adaptive"}
    )
    positions: Positions = field(default="packed", metadata={"help": "RoPE positions: packed or original"})
    order: Order = field(default="published", metadata={"help": "published: per frame by saliency; or raster"})

    needs = frozenset({"saliency", "keys"})
    spread: ClassVar[int] = 0  # tokens at even spacing kept for each salient one

    def __post_init__(self) -> None:
        super().__post_init__()
        if isinstance(self.keep, str):
            if self.keep != ADAPTIVE:
                raise ValueError(f"keep={self.keep!r}: expected a number in (0, 1], or {ADAPTIVE}")
        else:
            budget.check_ratio("keep", self.keep, above_zero=True)

    def compress(self, video: VisualTokens) -> Compressed:
        frames, per_frame = video.embeds.shape[:2]
        found = outliers(video.needed("saliency")) if self.keep == ADAPTIVE else 0
        kept = self._left_of_frame(frames, per_frame, found)
        if kept == per_frame:
            return KeepAll().compress(video)
        saliency, keys = video.needed("saliency"), video.needed("keys")
        chosen = choose(saliency, max(1, kept - 1), self.spread)
        embeds, within = absorb(video.embeds, saliency, keys, chosen, NEIGHBOURS, extra=kept > 1)
        index = within + torch.arange(frames, device=within.device)[:, None] * per_frame
        return Compressed(*arrange(embeds.flatten(0, 1), index.flatten(), frames * per_frame, self.raster))

    def count(self, frames: int, per_frame: int) -> int | None:
        return None if self.keep == ADAPTIVE else self.bound(frames, per_frame)

    def bound(self, frames: int, per_frame: int) -> int:
        return frames * self._left_of_frame(frames, per_frame, frames * per_frame)

    def _left_of_frame(self, frames: int, per_frame: int, outliers: int) -> int:
        """Tokens left of a frame, the extra one included; only the adaptive rule looks at the outliers."""
        if not isinstance(self.keep, str):
            return budget.from_keep(self.keep, per_frame)
        return min(per_frame, outlier_tokens(outliers, frames, per_frame) * (1 + self.spread) + 1)


@register(
    "prumerge_plus",
    source=SOURCE,
    paper=PAPER,
    code=CODE,
    retention="4 * share of saliency outliers + 1 / N (adaptive), or keep; with spacing=published more, as "
    "the spacing is rounded down",
    official="adaptive: saliency above Q3 + 1.5 IQR, and 3 evenly spaced tokens for each; 32 neighbours",
    deviations=(
        *DEVIATIONS,
        "Evenly spaced tokens are taken from those that are not salient, so that their number is known; the released "
        "code, and spacing=published, spaces them by int(int(1/r)/3) slots of a share r of outliers over the whole "
        "image, and then drops those that are salient already, a number that differs from frame to frame.",
    ),
)
@dataclass(frozen=True)
class PruMergePlus(PruMerge):
    """PruMerge with three evenly spaced tokens beside every salient one.

    A quarter of a frame's kept tokens, rounded up, are salient; the others stand at even spacing, from the first,
    among the rest in raster order. Both take in their neighbours. Published order: salient by saliency, spaced, extra.
    spacing=published takes keep=adaptive, for it follows the share of outliers.
    """

    spacing: Spacing = field(
        default="even",
        metadata={
            "help": "even, among tokens that are not salient; published: over whole frames, less the salient ones"
        },
    )

    spread: ClassVar[int] = 3

    def __post_init__(self) -> None:
        super().__post_init__()
        check_choice("spacing", self.spacing, SPACINGS)
        if self.spacing == "published" and self.keep != ADAPTIVE:
            raise ValueError(
                f"spacing='published' with keep={self.keep!r}: expected keep={ADAPTIVE!r}, for the share of outliers "
                "says how many tokens are kept"
            )

    def compress(self, video: VisualTokens) -> Compressed:
        return super().compress(video) if self.spacing == "even" else self._compress_published(video)

    def bound(self, frames: int, per_frame: int) -> int:
        if self.spacing == "even":
            return super().bound(frames, per_frame)
        return frames * per_frame  # from a sixth of outliers on nearly every slot is spaced

    def _compress_published(self, video: VisualTokens) -> Compressed:
        frames, per_frame = video.embeds.shape[:2]
        saliency, keys = video.needed("saliency"), video.needed("keys")
        found = outliers(saliency)
        salient = outlier_tokens(found, frames, per_frame)
        chosen, stays = choose_published(saliency, salient, spacing_step(found, frames, per_frame))
        embeds, within = absorb(video.embeds, saliency, keys, chosen, NEIGHBOURS, extra=True)
        kept = stays.sum(1, keepdim=True)
        whole = kept >= per_frame - 1  # the extra token is the one that is missing
        embeds = torch.where(whole[..., None], video.embeds.take_along_dim(within[..., None], 1), embeds)
        where = torch.cat([stays, kept < per_frame], dim=1).flatten().nonzero().flatten()
        index = within + torch.arange(frames, device=within.device)[:, None] * per_frame
        kept, slots = embeds.flatten(0, 1)[where], index.flatten()[where]
        return Compressed(*arrange(kept, slots, frames * per_frame, self.raster))


def outliers(saliency: Tensor) -> int:
    """How many of a video's saliencies [T, N] lie above Q3 + 1.5 (Q3 - Q1); waits for the device, once."""
    flat = saliency.flatten()
    first, third = flat.quantile(0.25), flat.quantile(0.75)
    return int((flat > third + 1.5 * (third - first)).sum())


def choose(saliency: Tensor, kept: int, spread: int) -> Tensor:
    """`kept` tokens of each frame [T, kept]: salient ones by saliency [T, N], then `spread` spaced ones for each."""
    salient = -(-kept // (1 + spread))
    order = saliency.argsort(dim=1, descending=True, stable=True)
    rest = order[:, salient:].sort(dim=1).values
    # Place floor(i * R / count): integers throughout, so that no rounding can repeat a token.
    places = torch.arange(kept - salient, device=order.device) * rest.shape[1] // max(1, kept - salient)
    return torch.cat([order[:, :salient], rest[:, places]], dim=1)


def choose_published(saliency: Tensor, salient: int, step: int) -> tuple[Tensor, Tensor]:
    """`salient` tokens of each frame by saliency [T, N], then every `step`-th slot but the last: [T, k] int64.

    And which of them count [T, k] bool: a spaced one that is salient already does not.
    """
    order = saliency.argsort(dim=1, descending=True, stable=True)[:, :salient]
    spaced = torch.arange(0, saliency.shape[1] - 1, step, device=order.device).expand(len(order), -1)
    taken = torch.zeros_like(saliency, dtype=torch.bool).scatter_(1, order, True)
    return torch.cat([order, spaced], 1), torch.cat(
        [torch.ones_like(order, dtype=torch.bool), ~taken.gather(1, spaced)], 1
    )


def absorb(
    embeds: Tensor, saliency: Tensor, keys: Tensor, chosen: Tensor, neighbours: int, extra: bool
) -> tuple[Tensor, Tensor]:
    """Chosen tokens with their neighbours added, then an extra one: tokens [T, k + 1, D] and places [T, k + 1].

    embeds [T, N, D], saliency [T, N] fp32, keys [T, N, Dk], chosen [T, k] int64. A chosen token becomes itself plus
    the saliency-weighted sum, in fp32, of the `neighbours` tokens of its frame (or all others, if fewer) with the most
    similar keys, which may be chosen themselves and count with what they were. The extra token, last, is the
    saliency-weighted sum of all that are not chosen, of which there must be one, and takes the place of the most
    salient of them. Without `extra` k tokens come back. Ties go to the lower place. Source: LLaVA-PruMerge.
    """
    per_frame = saliency.shape[1]
    keys = torch.nn.functional.normalize(keys.float(), dim=2)
    likeness = keys.take_along_dim(chosen[..., None], dim=1) @ keys.mT  # [T, k, N]
    likeness.scatter_(2, chosen[..., None], -torch.inf)  # no token is its own neighbour
    near = likeness.argsort(dim=2, descending=True, stable=True)[..., : min(neighbours, per_frame - 1)]
    weights = torch.zeros_like(likeness).scatter_(2, near, saliency[:, None].expand_as(likeness).gather(2, near))
    weights.scatter_(2, chosen[..., None], 1.0)
    if extra:
        left = saliency.scatter(1, chosen, 0.0)
        free = saliency.scatter(1, chosen, -torch.inf).argmax(dim=1, keepdim=True)
        weights, chosen = torch.cat([weights, left[:, None]], dim=1), torch.cat([chosen, free], dim=1)
    return (weights @ embeds.float()).to(embeds.dtype), chosen


def outlier_tokens(outliers: int, frames: int, per_frame: int) -> int:
    """Salient tokens a frame keeps where `outliers` of a video's T * N saliencies stand out: int(N * share).

    In double, as PruMerge's released code counts, but at least 1 and at most N // 4. No more than a quarter of any
    numbers lie above their third quartile; a quartile rounded to fp32 may miss that.
    """
    return max(1, min(per_frame // 4, int(per_frame * (outliers / (frames * per_frame)))))


def spacing_step(outliers: int, frames: int, per_frame: int) -> int:
    """Slots from one spaced token of PruMerge+ to the next as released: int(int(1 / r) / 3) of a share r of outliers.

    In double, but at least 1; of a video without outliers r is that of one a frame, as in `outlier_tokens`. r = .123
    gives 2, and so 288 spaced tokens of 576, not 3 r, 213. Source: 42Shawn/LLaVA-PruMerge@1ca8b2b,
    llava/model/multimodal_encoder/clip_encoder.py, token_prune_merge_advanced_plus.
    """
    share = (outliers or frames) / (frames * per_frame)
    return max(1, int(int(1 / share) / 3))
