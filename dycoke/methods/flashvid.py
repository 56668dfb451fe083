"""FlashVID: diverse salient tokens of every frame, and what is left of the others once repeated ones are merged."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from numbers import Real
from typing import TYPE_CHECKING, Literal

import torch

from dycoke import budget
from dycoke.bases import Before, KeepAll, KeepMost, option_of, part
from dycoke.ops.tokens.cluster import cluster_means, dpc_knn
from dycoke.ops.tokens.diverse import cosine_distances, diverse_tokens
from dycoke.ops.tokens.rank import mask_slots
from dycoke.ops.tokens.segments import find_cuts, segment_ids, step_cosine
from dycoke.registry import register
from dycoke.types import Compressed, Plan, Positions, VisualTokens, check_choice, check_layer

if TYPE_CHECKING:
    from torch import Tensor

NEIGHBOURS = 7  # that make a token's density, in the released code
Trees = Literal["mean", "published"]
TREES: tuple[str, ...] = ("mean", "published")


@dataclass(frozen=True)
class FlashVidOuter(Before):
    """Compressor: ceil(N * keep * expansion) tokens a frame, a share alpha diverse and salient ones, the rest merged.

    The other tokens join the one most like them in the frame before, if it is in the same segment and their cosine
    above tau_merge, unless fewer would then be left than the budget asks for. The trees that result are averaged at
    their first token (trees=published divides by less, as `tree_sums_by_children` says), and clustered within each
    frame until the segment's budget is met, averages at the centres. Tokens come in raster order. With a budget of all
    tokens the video comes back as it is. Source: FlashVID; Fanziyang-v/FlashVID@3efef7e, flashvid/utils.py.
    """

    keep: float = field(default=0.25, metadata={"help": "R, share kept as a mean over 28 layers at the other defaults"})
    expansion: float = field(default=1.25, metadata={"help": "how many times keep enters the language model, from 1"})
    alpha: float = field(default=0.7, metadata={"help": "share of the budget that diverse tokens take, in [0, 1]"})
    tau_segment: float = field(default=0.9, metadata={"help": "cosine of frames below which a segment ends"})
    segments: int = field(default=8, metadata={"help": "segments a video has at least, from 1"})
    tau_merge: float = field(default=0.8, metadata={"help": "cosine above which a token joins one before it"})
    positions: Positions = field(default="packed", metadata={"help": "RoPE positions: packed or original"})
    trees: Trees = field(
        default="mean",
        metadata={"help": "a tree as the mean of its tokens; published: their sum by the root's direct children + 1"},
    )

    needs = frozenset({"saliency"})

    def __post_init__(self) -> None:
        super().__post_init__()
        budget.check_ratio("keep", self.keep, above_zero=True)
        if isinstance(self.expansion, bool) or not isinstance(self.expansion, Real):
            raise TypeError(f"expansion={self.expansion!r}: expected a number")
        if not 1 <= self.expansion < float("inf"):
            raise ValueError(f"expansion={self.expansion!r}: expected a number from 1")
        for name in ("alpha", "tau_segment", "tau_merge"):
            budget.check_ratio(name, getattr(self, name))
        budget.check_count("segments", self.segments)
        check_choice("trees", self.trees, TREES)

    def compress(self, video: VisualTokens) -> Compressed:
        frames, per_frame, _ = video.embeds.shape
        kept = kept_per_frame(self.keep, self.expansion, per_frame)
        if kept == per_frame:
            return KeepAll().compress(video)
        diverse = budget.share_ceil(self.alpha, kept)
        embeds = video.embeds.float()
        pooled = embeds.mean(1)
        segment = segment_ids(find_cuts(step_cosine(pooled), self.tau_segment, self.segments))
        directions = torch.nn.functional.normalize(embeds, dim=2)
        weight = video.needed("saliency") * event_relevance(embeds, pooled, segment)
        chosen = diverse_tokens(cosine_distances(directions), weight, diverse)
        tokens = video.embeds.flatten(0, 1)
        if diverse < kept:
            parent = links(directions, ~chosen, segment, self.tau_merge, per_frame - kept)
            left = ~chosen & (parent < 0)
            counts = self._clusters(segment, left, kept - diverse)
            merged, centres = cluster_trees(self._trees(embeds, parent), left, counts)
            slots = mask_slots(centres, frames * (kept - diverse))
            tokens = tokens.index_copy(0, slots, merged.flatten(0, 1)[slots].to(tokens.dtype))
            chosen = chosen | centres
        index = mask_slots(chosen, frames * kept)
        return Compressed(tokens.index_select(0, index), index)

    def _trees(self, embeds: Tensor, parent: Tensor) -> Tensor:
        """Each tree of tokens as one, at its root."""
        return (tree_means if self.trees == "mean" else tree_sums_by_children)(embeds, parent)

    def _clusters(self, segment: Tensor, left: Tensor, each: int) -> Tensor:
        """Clusters of every frame [T]: `each` times its frames in a segment, in proportion to the tokens left."""
        sizes: dict[int, list[int]] = {}
        for number, size in torch.stack([segment, left.sum(1)], dim=1).tolist():
            sizes.setdefault(number, []).append(size)
        counts = [share for sized in sizes.values() for share in share_out(sized, each * len(sized))]
        return torch.tensor(counts, device=left.device)

    def count(self, frames: int, per_frame: int) -> int:
        return frames * kept_per_frame(self.keep, self.expansion, per_frame)


def event_relevance(embeds: Tensor, pooled: Tensor, segment: Tensor) -> Tensor:
    """Mean product of each token with the mean tokens of its segment's frames: [T, N, D], [T, D], [T] -> [T, N]."""
    same = (segment[:, None] == segment).float()
    event = same @ pooled / same.sum(1, keepdim=True)  # [T, D]: the same mean in all frames of a segment
    return (embeds @ event[:, :, None])[:, :, 0]


def cluster_trees(tokens: Tensor, left: Tensor, counts: Tensor) -> tuple[Tensor, Tensor]:
    """Means [T, N, D] of counts [T] clusters of the tokens left [T, N] of each frame, and their centres [T, N] bool."""
    centres, assignment, _ = dpc_knn(tokens, left, counts, NEIGHBOURS, limit=counts)
    return cluster_means(tokens, assignment, left)[0], centres


@dataclass(frozen=True)
class FlashVidInner(KeepMost):
    """Pruner: on entry to `layer`, keep the ceil(n * keep) visual tokens with most of the last row's attention."""

    layer: int = field(default=20, metadata={"help": "first layer with fewer tokens, from 1 to the last layer"})
    keep: float = field(default=0.3, metadata={"help": "share that stays there; 1: no stage inside"})

    def __post_init__(self) -> None:
        check_layer("layer", self.layer)

    def count(self, visual: int) -> int:
        return budget.share_ceil(self.keep, visual)


@register(
    "flashvid",
    source="FlashVID: Efficient Video Large Language Models via Training-free Tree-based Spatiotemporal Token Merging, "
    "ICLR 2026",
    paper="https://arxiv.org/abs/2602.08024",
    code="https://github.com/Fanziyang-v/FlashVID/tree/3efef7e",
    retention="ceil(N * keep * expansion) / N enter the language model, times inner_keep from `layer` on",
    official="retention_ratio = 0.10 to 0.25, expansion = 1.25, alpha = 0.7, segment_threshold = 0.9, "
    "min_segment_num = 8, temporal_threshold = 0.8; layer 20 keeps 0.3",
    deviations=(
        "The clusters of a segment are shared out among its frames by their tokens left, so that the budget is met "
        "exactly and known beforehand; the released code rounds up in every frame. A frame with hardly any token left "
        "may then keep none.",
        "The budget of a frame is at most all its tokens; the released code asks for more and fails.",
        "A token is chosen as diverse once; the released variant for LLaVA may choose one again where products of "
        "tokens are negative, and so lose a part of the budget.",
        "Chosen tokens of a segment of one frame are not clustered with the others as well, which is an oversight of "
        "the released code that uses them twice.",
        "A tree is the mean of all its tokens; the released code, and trees=published, divides by one more than the "
        "root's direct children, so that longer trees grow in norm: the published numbers are of that.",
        "Where too many tokens would join, as many do as the budget allows, ties to the lower slot; the released code "
        "leaves one more unmerged, and none of equal cosines.",
        "Ties in the clustering go to the lower index, and no noise is added to the densities: equal calls must give "
        "equal results.",
        "Cosines, distances and averages are fp32; the released code has half precision for some.",
        "LLaVA-Video keeps its own newlines, because a method must not change the model; the released scripts run it "
        "with one newline a frame, and inside the model count these among the visual tokens that compete.",
    ),
)
@dataclass(frozen=True)
class FlashVid:
    """Keep diverse salient tokens of every frame, and the rest as trees over time; then prune once inside the model.

    On entry to `layer`, the share inner_keep of the visual tokens stays: those that got most of the last token's
    attention in the layer before.
    """

    keep: float = option_of(FlashVidOuter, "keep")
    expansion: float = option_of(FlashVidOuter, "expansion")
    alpha: float = option_of(FlashVidOuter, "alpha")
    tau_segment: float = option_of(FlashVidOuter, "tau_segment")
    segments: int = option_of(FlashVidOuter, "segments")
    tau_merge: float = option_of(FlashVidOuter, "tau_merge")
    positions: Positions = option_of(FlashVidOuter, "positions")
    layer: int = option_of(FlashVidInner, "layer")
    inner_keep: float = option_of(FlashVidInner, "keep")
    trees: Trees = option_of(FlashVidOuter, "trees")

    def __post_init__(self) -> None:
        budget.check_ratio("inner_keep", self.inner_keep, above_zero=True)
        self.plan()  # the stage checks its options; a bad one must fail here, not at attach

    def plan(self) -> Plan:
        inner = part(FlashVidInner, self, keep=self.inner_keep) if self.inner_keep < 1 else None
        return Plan(before=part(FlashVidOuter, self), inside=inner)


def links(directions: Tensor, free: Tensor, segment: Tensor, threshold: float, room: int) -> Tensor:
    """Place in the frame before of the token that each one joins, -1 where it joins none: [T, N] int64.

    directions [T, N, D] unit vectors; free [T, N] bool: tokens that may join and be joined; segment [T] int64. A token
    joins the one most like it, ties to the lower place, if their cosine is above the threshold and the frame before is
    of its segment. In a segment of L frames those L * room join whose cosines are highest, ties to the lower slot.
    Source: FlashVID (TSTM), Fanziyang-v/FlashVID@3efef7e, flashvid/utils.py.
    """
    frames, per_frame, _ = directions.shape
    cosine = directions[1:] @ directions[:-1].transpose(1, 2)  # [T - 1, N, N of the frame before]
    both = free[1:, :, None] & free[:-1, None] & (segment[1:] == segment[:-1])[:, None, None]
    best, place = cosine.masked_fill(~both, -torch.inf).max(2)
    best = torch.cat([best.new_full((1, per_frame), -torch.inf), best])
    place = torch.cat([place.new_zeros(1, per_frame), place])
    wanted = best > threshold

    slot = torch.arange(frames * per_frame, device=best.device)
    owner = segment[slot // per_frame]
    order = best.flatten().argsort(descending=True, stable=True)
    order = order[owner[order].argsort(stable=True)]  # segment by segment, the highest cosine first
    same = segment[:, None] == segment
    begin = same.int().argmax(1) * per_frame
    rank = torch.empty_like(slot).scatter_(0, order, slot).view(frames, per_frame) - begin[:, None]
    return torch.where(wanted & (rank < same.sum(1, keepdim=True) * room), place, -1)


def tree_means(tokens: Tensor, parent: Tensor) -> Tensor:
    """Mean over each tree of tokens, at its root, zeros elsewhere: tokens [T, N, D], parent [T, N] -> [T, N, D] fp32.

    parent as `links` gives it. Each tree is added up in the order of its slots, so that the result repeats exactly.
    """
    order, begin, _ = _trees(parent)
    return _bags(tokens, order, begin, "mean")


def tree_sums_by_children(tokens: Tensor, parent: Tensor) -> Tensor:
    """Sum over each tree, divided by one more than its root's direct children; shapes and places as in `tree_means`.

    A tree of more than two frames is so more than the mean of its tokens, and grows with every frame. Source:
    Fanziyang-v/FlashVID@3efef7e, flashvid/utils.py, spatiotemporal_compression.
    """
    order, begin, above = _trees(parent)
    onto = torch.where(parent.flatten() < 0, -1, above).sort().values
    slot = torch.arange(len(onto), device=onto.device)
    children = torch.searchsorted(onto, slot, right=True) - torch.searchsorted(onto, slot)
    return _bags(tokens, order, begin, "sum") / (1 + children).view(*parent.shape, 1)


def _trees(parent: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Slots [T * N] tree by tree, where each slot's own tree begins among them, and the slot above each one."""
    frames, per_frame = parent.shape
    slot = torch.arange(frames * per_frame, device=parent.device)
    above = slot - slot % per_frame - per_frame + parent.flatten()  # in the frame before
    root = torch.where(parent.flatten() < 0, slot, above)
    # Every round doubles how far a token looks up its tree, which has no more steps than the video.
    for _ in range(max(frames - 2, 0).bit_length()):
        root = root[root]
    order = root.argsort(stable=True)
    return order, torch.searchsorted(root[order], slot), above


def _bags(tokens: Tensor, order: Tensor, begin: Tensor, mode: str) -> Tensor:
    return torch.nn.functional.embedding_bag(order, tokens.float().flatten(0, 1), begin, mode=mode).view(tokens.shape)


def kept_per_frame(keep: float, expansion: float, per_frame: int) -> int:
    """Tokens of a frame that FlashVID lets into the language model: ceil(N * keep * expansion) in double, at most N."""
    return min(per_frame, math.ceil(per_frame * float(keep) * float(expansion)))


def share_out(counts: Sequence[int], total: int) -> list[int]:
    """Share `total` in proportion to `counts`, exactly, nobody above his own; all of them if `total` reaches their sum.

    Everyone gets the floor of his share. What is left goes out one by one, to those who would get nothing first, then
    by the largest remainder; ties go to the first.
    """
    whole = sum(counts)
    if total >= whole:
        return list(counts)
    shares = [divmod(count * total, whole) for count in counts]
    order = sorted(range(len(counts)), key=lambda i: (shares[i][0] > 0 or counts[i] == 0, -shares[i][1]))
    extra = set(order[: total - sum(floor for floor, _ in shares)])
    return [floor + (i in extra) for i, (floor, _) in enumerate(shares)]
