"""HoliTom: merge what stays still over a segment, then keep a share of the still and of the moving tokens."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

import torch

from dycoke import budget
from dycoke.bases import Inside, KeepAll, Ordered, option_of, part
from dycoke.ops.tokens.cluster import cluster_means, dpc_knn
from dycoke.ops.tokens.rank import arrange, mask_slots, top_mask
from dycoke.ops.tokens.segments import Span, membership, step_cosine, still_counts, still_steps, stillest_segments
from dycoke.ops.tokens.survivors import strongest
from dycoke.registry import register
from dycoke.types import Compressed, Order, Plan, Positions, VisualTokens, check_choice, check_layer

if TYPE_CHECKING:
    from torch import Tensor

Newlines = Literal["kept", "published"]
NEWLINES: tuple[str, ...] = ("kept", "published")


@dataclass(frozen=True)
class HoliTomOuter(Ordered):
    """Compressor: one token for a position that stays still through a segment, and a share of what is then left.

    Segments are those that let most tokens go. Their still tokens, averaged over the frames, are clustered; the
    others are kept by saliency, frame by frame. A still token stands in its segment's first frame, at the place of its
    cluster's centre. Published order: segment by segment, first the still tokens, then those of each frame.
    keep=1 leaves nothing to compress and returns the video as it is. Source: HoliTom, outer stage;
    cokeshao/HoliTom@b1d1412, holitom/llava_arch.py.
    """

    keep: float = field(default=0.25, metadata={"help": "R, share of the visual tokens kept, in (0, 1]"})
    tau: float = field(default=0.8, metadata={"help": "cosine above which a position stays still, in [0, 1]"})
    beta: float = field(default=0.6, metadata={"help": "weight of a cluster's centre against its others, in [0, 1]"})
    neighbours: int = field(default=7, metadata={"help": "K, neighbours that make a token's density, from 1"})
    positions: Positions = field(default="packed", metadata={"help": "RoPE positions: packed or original"})
    order: Order = field(
        default="published", metadata={"help": "published: still tokens of a segment first; or raster"}
    )

    needs = frozenset({"saliency"})

    def __post_init__(self) -> None:
        super().__post_init__()
        budget.check_ratio("keep", self.keep, above_zero=True)
        budget.check_ratio("tau", self.tau)
        budget.check_ratio("beta", self.beta)
        budget.check_count("neighbours", self.neighbours)

    def compress(self, video: VisualTokens) -> Compressed:
        if self.keep == 1:
            return KeepAll().compress(video)
        frames, per_frame = video.embeds.shape[:2]
        steps = still_steps(step_cosine(video.embeds) > self.tau)
        counts = still_counts(steps).tolist()
        segments, removed = stillest_segments(counts)
        ratio = kept_of_left(self.keep, removed, frames * per_frame)
        clusters, moving = self._shares(segments, counts, ratio, per_frame)
        longer = [segment for segment in segments if segment[1] > segment[0]]

        span = torch.tensor(longer, dtype=torch.int64, device=steps.device).view(-1, 2)
        first, length = span[:, 0], span[:, 1] - span[:, 0] + 1
        still = steps.index_select(0, first) >= length[:, None] - 1  # [G, N]
        belongs = membership(span, frames)  # [G, T]
        merged, centres = self._merge(belongs, video.embeds, still, torch.tensor(clusters, device=steps.device))
        at = mask_slots(centres, sum(clusters))
        moves = belongs.T @ still.float() == 0  # [T, N]
        saliency = video.needed("saliency").masked_fill(~moves, -torch.inf)
        chosen = top_mask(saliency, torch.tensor(moving, device=steps.device))
        index = mask_slots(chosen, sum(moving))

        embeds = torch.cat(
            [
                merged.flatten(0, 1).index_select(0, at).to(video.embeds.dtype),
                video.embeds.flatten(0, 1).index_select(0, index),
            ]
        )
        frame = torch.cat([first.index_select(0, at // per_frame), index // per_frame])
        place = torch.cat([at, index]) % per_frame
        behind = torch.arange(len(frame), device=frame.device) >= len(at)  # in a frame, moving tokens follow still ones
        order = ((frame * 2 + behind) * per_frame + place).argsort()
        index = (frame * per_frame + place).index_select(0, order)
        return Compressed(*arrange(embeds.index_select(0, order), index, frames * per_frame, self.raster))

    def _shares(
        self, segments: list[Span], counts: list[list[int]], ratio: float, per_frame: int
    ) -> tuple[list[int], list[int]]:
        """Clusters of each segment of two frames or more, and how many moving tokens of each frame stay."""
        clusters, moving = [], []
        for first, last in segments:
            steps = last - first
            still = counts[first][steps] if steps else 0
            stay = budget.share_ceil(ratio, per_frame - still)
            moving += [stay] * (steps + 1)
            if steps:  # where nothing moves, rounding must not lose the whole segment
                clusters.append(budget.share_round(ratio, still) or int(stay == 0))
        return clusters, moving

    def _merge(self, belongs: Tensor, embeds: Tensor, still: Tensor, counts: Tensor) -> tuple[Tensor, Tensor]:
        """Tokens [G, N, D] fp32 with the clusters of still [G, N] tokens merged at their centres [G, N] bool."""
        frames, per_frame, dim = embeds.shape
        share = belongs / belongs.sum(1, keepdim=True)  # [G, T]
        means = (share @ embeds.float().reshape(frames, -1)).view(-1, per_frame, dim)
        centres, assignment, _ = dpc_knn(means, still, counts, self.neighbours, limit=counts)
        others, number = cluster_means(means, assignment, still & ~centres)
        blended = self.beta * means + (1 - self.beta) * others
        return torch.where((number > 0)[:, :, None], blended, means), centres

    def count(self, frames: int, per_frame: int) -> int | None:
        return frames * per_frame if self.keep == 1 else None

    def bound(self, frames: int, per_frame: int) -> int:
        return most_tokens(self.keep, frames, per_frame)


@dataclass(frozen=True)
class HoliTomInner(Inside):
    """Pruner: on entry to `layer`, the share r of the visual tokens leaves as in FastV, and is averaged into the rest.

    newlines=published: newlines count and compete as visual tokens do, and may be averaged into these.
    """

    layer: int = field(default=18, metadata={"help": "first layer with fewer tokens, from 1 to the last layer"})
    r: float = field(default=0.5, metadata={"help": "share that leaves there; 0: no stage inside (without M)"})
    newlines: Newlines = field(
        default="kept", metadata={"help": "kept there, as text; published: they compete with visual tokens"}
    )

    def __post_init__(self) -> None:
        check_layer("layer", self.layer)
        budget.check_ratio("r", self.r)
        check_choice("newlines", self.newlines, NEWLINES)

    @property
    def newlines_compete(self) -> bool:
        return self.newlines == "published"

    def count(self, visual: int) -> int | None:
        return None if self.newlines_compete else self._stay(visual)

    def bound(self, visual: int, layers: int) -> int:
        """Visual tokens read by all layers together: no layout has more newlines than tokens between them."""
        most = min(visual, self._stay(2 * visual if self.newlines_compete else visual))
        return self.layer * visual + (layers - self.layer) * most

    def prune(self, hidden: Tensor, visual: Tensor, scores: Tensor) -> tuple[Tensor, Tensor]:
        return strongest(scores, visual, self._stay)

    def merge(self, hidden: Tensor, visual: Tensor, index: Tensor, mask: Tensor) -> Tensor:
        return fold(hidden, visual, index, mask)

    def _stay(self, visual: int) -> int:
        return budget.share_round(1 - self.r, visual)


@register(
    "holitom",
    source="HoliTom: Holistic Token Merging for Fast Video Large Language Models, NeurIPS 2025",
    paper="https://arxiv.org/abs/2505.21334",
    code="https://github.com/cokeshao/HoliTom/tree/b1d1412",
    retention="at most keep, plus what rounding up adds (1.25 tokens a frame at most), and less where little moves; "
    "times 1 - r from `layer` on",
    official="RETAIN_RATIO = 0.25, T = 0.8 (0.65 at 10 %), BETA = 0.6, K = 7, D = 0; HOLITOM_k = 18, HOLITOM_r = 0.5",
    deviations=(
        "Ties in the clustering go to the lower index, and no noise is added to the densities: equal calls must give "
        "equal results.",
        "Cosines, distances and averages are fp32; the released code computes cosines in half precision.",
        "keep=1 returns the video as it is; the released code would still merge what stays still.",
        "A segment without moving tokens keeps at least one still token; the released code may round it away.",
        "No contextual clustering of moving tokens (D > 0), because the official scripts leave it off, and no limit of "
        "1024 frames to a segment, because no model here reads as many.",
        "Inside, a token that stays becomes the mean of itself and all that leave for it; the released code halves it "
        "with one after the other, so that the result depends on their order.",
        "Inside, newlines between visual tokens are text and stay; the released code, and newlines=published, counts "
        "them into the tokens of which a share stays, and folds them into others.",
        "The layer whose attention is scored stays causal; the released code asks for its attention map and thereby "
        "lets it see what comes later.",
    ),
)
@dataclass(frozen=True)
class HoliTom:
    """Merge what stays still through a segment, keep a share of what is left, and merge again inside the model.

    On entry to `layer`, the share r of the visual tokens that got least of the last token's attention in the layer
    before leaves, each averaged into the one that stays and is most like it. With newlines=published the newlines of
    videos and pictures are among them. Source: cokeshao/HoliTom@b1d1412, holitom/modeling_qwen2.py, and
    holitom/llava_arch.py:642 for what counts.
    """

    keep: float = option_of(HoliTomOuter, "keep")
    tau: float = option_of(HoliTomOuter, "tau")
    beta: float = option_of(HoliTomOuter, "beta")
    neighbours: int = option_of(HoliTomOuter, "neighbours")
    positions: Positions = option_of(HoliTomOuter, "positions")
    order: Order = option_of(HoliTomOuter, "order")
    layer: int = option_of(HoliTomInner, "layer")
    r: float = option_of(HoliTomInner, "r")
    newlines: Newlines = option_of(HoliTomInner, "newlines")

    def __post_init__(self) -> None:
        self.plan()  # the stage checks its options; a bad one must fail here, not at attach

    def plan(self) -> Plan:
        inner = part(HoliTomInner, self) if self.r else None
        return Plan(before=part(HoliTomOuter, self), inside=inner)


def fold(hidden: Tensor, visual: Tensor, index: Tensor, mask: Tensor) -> Tensor:
    """hidden [B, S, D] at index [B, S'], each kept visual token the mean of itself and those that leave for it.

    visual [B, S] bool; mask [B, S'] bool: slots of index that are no padding. A visual token of a row that index does
    not name goes to the visual one it names with the highest cosine; of equals the lower. Where none stays nothing is
    averaged. Arithmetic is fp32; a token nothing goes to stays as it is, to the bit.
    """
    kept = hidden.take_along_dim(index[:, :, None], 1)
    stays = torch.zeros_like(visual).scatter_(1, index, mask)
    targets = visual.gather(1, index) & mask  # [B, S']
    unit = torch.nn.functional.normalize(hidden.float(), dim=2)
    likeness = unit @ unit.take_along_dim(index[:, :, None], 1).mT  # [B, S, S']
    nearest = likeness.masked_fill(~targets[:, None, :], -torch.inf).argmax(2, keepdim=True)
    goes = (visual & ~stays & targets.any(1, keepdim=True))[:, :, None]
    share = torch.zeros_like(likeness).scatter_(2, nearest, goes.float())  # one a row at most
    guests = share.sum(1)[:, :, None]  # [B, S', 1]
    mean = ((kept.float() + share.mT @ hidden.float()) / (guests + 1)).to(hidden.dtype)
    return torch.where(guests > 0, mean, kept)


def kept_of_left(keep: float, removed: int, total: int) -> float:
    """Share kept of what is left once still positions are merged over time, in double, as the released code has it.

    keep is the share of all `total` tokens, `removed` of which the merging takes away.
    Source: cokeshao/HoliTom@b1d1412, holitom/llava_arch.py.
    """
    return min(float(keep) / ((total - removed) / total), 1.0)


def most_tokens(keep: float, frames: int, per_frame: int) -> int:
    """Most tokens HoliTom keeps: the budget and what rounding adds, 1 a frame and 1/2 a segment of several frames."""
    total = frames * per_frame
    return min(total, math.ceil(float(keep) * total + 1.25 * frames))
