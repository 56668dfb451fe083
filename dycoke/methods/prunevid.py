"""PruneVid: scenes of similar frames; what is static in a scene is averaged over it; then clusters everywhere."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import torch

from dycoke import budget
from dycoke.bases import KeepAll, KeepMost, Ordered, option_of, part
from dycoke.ops.tokens.cluster import cluster_means, dpc_knn
from dycoke.ops.tokens.rank import arrange, mask_slots
from dycoke.ops.tokens.segments import contiguous, membership, static_places
from dycoke.registry import register
from dycoke.types import Compressed, Order, Plan, Positions, VisualTokens, check_layer

if TYPE_CHECKING:
    from torch import Tensor

NEIGHBOURS = 7  # that make a token's density, in the released code


@dataclass(frozen=True)
class PruneVidOuter(Ordered):
    """Compressor: the static tokens of a segment once, averaged, and of every group of tokens a share, as clusters.

    Segments come from clusters of frame means. A position is static in a segment if its tokens have a mean cosine of
    more than tau with each other. The static tokens of a segment and the others of each frame are groups: one of more
    than 14 tokens becomes clusters, each the mean of its tokens at its centre's place; static ones stand in their
    segment's first frame. Published order: segment by segment, static first, clusters by falling score.
    keep=1 leaves nothing to compress and returns the video as it is. Source: PruneVid;
    Visual-AI/PruneVid@8e90af0, models/pllava/modeling_pllava.py.
    """

    keep: float = field(default=0.5, metadata={"help": "clusters per token of a group, in (0, 1]"})
    tau: float = field(default=0.8, metadata={"help": "mean cosine above which a position is static, in [0, 1]"})
    segments: float = field(default=0.25, metadata={"help": "clusters of frames per frame, in (0, 1]"})
    positions: Positions = field(default="packed", metadata={"help": "RoPE positions: packed or original"})
    order: Order = field(
        default="published", metadata={"help": "published: static tokens of a segment first; or raster"}
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        budget.check_ratio("keep", self.keep, above_zero=True)
        budget.check_ratio("tau", self.tau)
        budget.check_ratio("segments", self.segments, above_zero=True)

    def compress(self, video: VisualTokens) -> Compressed:
        if self.keep == 1:
            return KeepAll().compress(video)
        embeds, device = video.embeds.float(), video.embeds.device
        frames, per_frame, _ = embeds.shape
        segments = self._segments(embeds)
        span = torch.tensor(segments, device=device)
        belongs = membership(span, frames)  # [S, T]
        static = static_places(embeds, belongs, self.tau)  # [S, N]
        static_sizes = static.sum(1).tolist()
        sizes = static_sizes + [
            per_frame - size
            for size, (first, last) in zip(static_sizes, segments, strict=True)
            for _ in range(first, last + 1)
        ]
        counts = [clusters_of(self.keep, size) for size in sizes]

        share = belongs / belongs.sum(1, keepdim=True)
        means = (share @ embeds.reshape(frames, -1)).view(-1, *embeds.shape[1:])
        tokens = torch.cat([means, embeds])  # [S + T, N, D]
        valid = torch.cat([static, belongs.T @ static.float() == 0])
        centres, assignment, score_rank = dpc_knn(tokens, valid, torch.tensor(counts, device=device), NEIGHBOURS)
        merged, _ = cluster_means(tokens, assignment, valid)

        at = mask_slots(centres, sum(counts))
        group, place = at // per_frame, at % per_frame
        clustered = torch.tensor([count < size for count, size in zip(counts, sizes, strict=True)], device=device)
        within = torch.where(clustered[group], score_rank.flatten()[at], place)
        frame = torch.cat([span[:, 0], torch.arange(frames, device=device)])[group]
        order = ((frame * 2 + (group >= len(segments))) * per_frame + within).argsort()
        kept = merged.flatten(0, 1).index_select(0, at[order]).to(video.embeds.dtype)
        return Compressed(*arrange(kept, (frame * per_frame + place)[order], frames * per_frame, self.raster))

    def _segments(self, embeds: Tensor) -> list[tuple[int, int]]:
        """First and last frames of runs of similar frames of [T, N, D]."""
        frames = len(embeds)
        count = torch.tensor([budget.share_floor(self.segments, frames, least=1)], device=embeds.device)
        everyone = torch.ones(1, frames, dtype=torch.bool, device=embeds.device)
        _, label, _ = dpc_knn(embeds.mean(1)[None], everyone, count, NEIGHBOURS)
        return contiguous(label[0].tolist())

    def count(self, frames: int, per_frame: int) -> int | None:
        return frames * per_frame if self.keep == 1 else None

    def bound(self, frames: int, per_frame: int) -> int:
        return most_tokens(self.keep, frames, per_frame)


@dataclass(frozen=True)
class PruneVidInner(KeepMost):
    """Pruner: on entry to `layer`, keep int(n * alpha) visual tokens by the head that attends to each most."""

    layer: int = 11
    alpha: float = field(default=0.4, metadata={"help": "share that stays there; 1: no stage inside"})

    behind = 1
    evicts = True

    def __post_init__(self) -> None:
        check_layer("layer", self.layer - self.behind, lowest=0)
        budget.check_ratio("alpha", self.alpha, above_zero=True)

    def join(self, attention: Tensor, visual: Tensor, rotary: Tensor) -> Tensor:
        return attention.amax(1)

    def count(self, visual: int) -> int:
        return budget.share_floor(self.alpha, visual, least=1)


@register(
    "prunevid",
    source="PruneVid: Visual Token Pruning for Efficient Video Large Language Models, Findings of ACL 2025",
    paper="https://arxiv.org/abs/2412.16117",
    code="https://github.com/Visual-AI/PruneVid/tree/8e90af0",
    retention="keep * (1 - s * (1 - 1/L)), where a share s of the tokens is static in segments of L frames; groups of "
    "14 tokens or fewer stay whole; times alpha behind `layer`",
    official="cluster_ratio = 0.5, tau = 0.8, temporal_segment_ratio = 0.25, k = 7, 16 frames; layer 10, alpha = 0.4",
    deviations=(
        "Ties in the clustering go to the lower index, and no noise is added to the densities: equal calls must give "
        "equal results.",
        "Below seven frames the densities of frames take as many neighbours as there are, and below four there is one "
        "cluster of frames; the released code fails there.",
        "A group of which int(n * keep) is none keeps one cluster; the released code fails there.",
        "A merged token stands at its cluster's centre, so that it has a position; the released code only renumbers.",
        "keep=1 returns the video as it is; the released code would still average what is static.",
        "Cosines, distances and averages are fp32, whatever the model's precision: ties would depend on it.",
        "Inside, the last row scores alone, where the released code takes the maximum over all rows of the question: "
        "that would need the attention matrix which fast kernels never make.",
        "Inside, all visual tokens of a prompt compete, where the released code keeps alpha of every group, for nobody "
        "knows there which token is of which group; at least one stays.",
    ),
)
@dataclass(frozen=True)
class PruneVid:
    """Average what is static over runs of similar frames, cluster what is left, and prune once inside the model.

    Behind `layer`, the share alpha of the visual tokens stays: those that some head of it attends to most from the
    last token. The others leave the KV cache of all layers.
    """

    keep: float = option_of(PruneVidOuter, "keep")
    tau: float = option_of(PruneVidOuter, "tau")
    segments: float = option_of(PruneVidOuter, "segments")
    positions: Positions = option_of(PruneVidOuter, "positions")
    order: Order = option_of(PruneVidOuter, "order")
    layer: int = field(default=10, metadata={"help": "layer whose attention decides which tokens go on behind it"})
    alpha: float = option_of(PruneVidInner, "alpha")

    def __post_init__(self) -> None:
        self.plan()  # the stage checks its options; a bad one must fail here, not at attach

    def plan(self) -> Plan:
        inner = part(PruneVidInner, self, layer=self.layer + 1) if self.alpha < 1 else None
        return Plan(before=part(PruneVidOuter, self), inside=inner)


def clusters_of(keep: float, tokens: int) -> int:
    """Clusters PruneVid makes of a group of tokens: int(n * keep), at least one; up to 14 tokens stay as they are."""
    return tokens if tokens <= 14 else budget.share_floor(keep, tokens, least=1)


def most_tokens(keep: float, frames: int, per_frame: int) -> int:
    """Most tokens PruneVid keeps: in every frame the moving ones, and half of the static ones, shared by two frames."""
    clusters = [clusters_of(keep, tokens) for tokens in range(per_frame + 1)]
    return max(2 * moving + static for moving, static in zip(reversed(clusters), clusters, strict=True)) * frames // 2
