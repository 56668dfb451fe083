"""FastVID: salient tokens of every frame, and anchors that sum up the rest of a segment."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

import torch

from dycoke import budget
from dycoke.bases import Before, KeepAll
from dycoke.ops.tokens.cluster import density_scores, distances
from dycoke.ops.tokens.rank import mask_slots, top_mask
from dycoke.ops.tokens.segments import find_cuts, segment_ids, spans, step_cosine
from dycoke.registry import register
from dycoke.types import Compressed, Positions, VisualTokens, check_choice

if TYPE_CHECKING:
    from torch import Tensor

NEIGHBOURS = 4  # that make a token's density, in the released code
Release = Literal["onevision", "llava_video"]
RELEASES: tuple[str, ...] = ("onevision", "llava_video")


@register(
    "fastvid",
    source="FastVID: Dynamic Density Pruning for Fast Video Large Language Models, NeurIPS 2025",
    paper="https://arxiv.org/abs/2503.11187",
    code="https://github.com/LunarShen/FastVID/tree/ea8b57e",
    retention="int(N * keep) / N",
    official="retention_ratio = 0.10, DySeg_c = 8, DySeg_tau = 0.9, STPrune_d = 0.4, DTM_p = 4, DTM_beta = 0.6",
    deviations=(
        "Without vision_head the frame means of the tokens and the attention they receive stand in for the frame "
        "embeddings and the attention of SigLIP's pooling head, which the checkpoints of LLaVA do not hold.",
        "As in the release for LLaVA-OneVision on every model; release=llava_video has the formula of the other: of a "
        "segment's n L tokens in L frames int(n L d) are context, spare salient ones go to its first frames, and an "
        "anchor is not a member of its own context.",
        "What a segment's context does not divide by its anchor frames goes to the last of these, one each, as in the "
        "release for LLaVA-Video; that for LLaVA-OneVision drops it, so that the count depends on the cuts.",
        "Where the anchor frames could not hold a segment's context, they stand closer together; the released code "
        "fails there.",
        "With an anchor frame at every frame each still sums up its whole segment; the released code then takes the "
        "frame alone, as an accident of how it tells segments of one frame.",
        "A video of fewer frames than segments is one segment a frame; the released code fails there.",
        "A frame keeps one token at least: with none the video would be gone.",
        "Ties in the densities go to the lower index, and no noise is added to them: equal calls must give equal "
        "results.",
        "Cosines, distances and averages are fp32; the released code has half precision for some.",
    ),
)
@dataclass(frozen=True)
class FastVID(Before):
    """Keep the salient tokens of every frame, and a few anchors that take in what is like them in a segment.

    Of the int(N * keep) tokens of a frame, a share `context` is pooled over the segment and spent on anchors, which
    stand in every anchor_every-th frame from the segment's end: those tokens that are not salient and score highest
    as density peaks. Tokens keep their own positions by default, as published. Where int(N * keep) is N, the video
    comes back as it is. Source: FastVID; LunarShen/FastVID@ea8b57e, fastvid_llavaonevision, fastvid_llavavideo.
    """

    keep: float = field(default=0.1, metadata={"help": "share of every frame's tokens kept, in (0, 1]"})
    tau: float = field(default=0.9, metadata={"help": "cosine of frames below which a segment ends, in [0, 1]"})
    segments: int = field(default=8, metadata={"help": "c, segments a video has at least, from 1"})
    anchor_every: int = field(default=4, metadata={"help": "p, frames from one anchor frame to the next, from 1"})
    context: float = field(default=0.4, metadata={"help": "d, share of the budget spent on anchors, in [0, 1]"})
    beta: float = field(default=0.6, metadata={"help": "least weight of an anchor against its context, in [0, 1]"})
    vision_head: str = field(default="", metadata={"help": "SigLIP checkpoint whose pooling head is used; empty: none"})
    positions: Positions = field(default="original", metadata={"help": "RoPE positions: packed or original"})
    release: Release = field(
        default="onevision", metadata={"help": "whose formula: onevision, or llava_video, budgets by the segment"}
    )

    needs = frozenset({"saliency"})

    def __post_init__(self) -> None:
        super().__post_init__()
        budget.check_ratio("keep", self.keep, above_zero=True)
        for name in ("tau", "context", "beta"):
            budget.check_ratio(name, getattr(self, name))
        for name in ("segments", "anchor_every"):
            budget.check_count(name, getattr(self, name))
        if not isinstance(self.vision_head, str):
            raise TypeError(f"vision_head={self.vision_head!r}: expected a path, or '' for none")
        check_choice("release", self.release, RELEASES)

    def compress(self, video: VisualTokens) -> Compressed:
        frames, per_frame, _ = video.embeds.shape
        kept = self._kept(per_frame)
        if kept == per_frame:
            return KeepAll().compress(video)
        device = video.embeds.device
        scenes = video.embeds.float().mean(1) if video.scenes is None else video.scenes
        segment = segment_ids(find_cuts(step_cosine(scenes), self.tau, self.segments))
        of_frame, counts = self._counts([last - first + 1 for first, last in spans(segment.tolist())], kept, per_frame)

        salient = top_mask(video.needed("saliency"), torch.tensor(of_frame, device=device))
        chosen, embeds = salient, video.embeds.flatten(0, 1)
        if any(counts):
            scores = density_scores(distances(video.embeds), ~salient, NEIGHBOURS)
            anchors = top_mask(scores, torch.tensor(counts, device=device))
            themselves = self.release == "onevision"
            merged, slots = gather_context(video.embeds, ~salient, anchors, counts, segment, self.beta, themselves)
            chosen, embeds = salient | anchors, embeds.index_copy(0, slots, merged.to(embeds.dtype))
        index = mask_slots(chosen, frames * kept)
        return Compressed(embeds.index_select(0, index), index)

    def _counts(self, lengths: list[int], kept: int, per_frame: int) -> tuple[list[int], list[int]]:
        """Salient tokens and anchors of every frame, `kept` together as a mean over a segment."""
        if self.release == "llava_video":
            return llava_video_counts(lengths, kept, self.context, per_frame, self.anchor_every)
        context = budget.share_floor(self.context, kept)
        anchors = anchor_counts(lengths, context, per_frame - kept + context, self.anchor_every)
        return [kept - context] * sum(lengths), anchors

    def _kept(self, per_frame: int) -> int:
        return budget.share_floor(self.keep, per_frame, least=1)

    def count(self, frames: int, per_frame: int) -> int:
        return frames * self._kept(per_frame)


def gather_context(
    embeds: Tensor, free: Tensor, anchors: Tensor, counts: list[int], segment: Tensor, beta: float, themselves: bool
) -> tuple[Tensor, Tensor]:
    """Anchors with their context: embeds [K, D] fp32 and slots [K] int64, ascending.

    embeds [T, N, D]; free [T, N] bool: tokens that are context; anchors [T, N] bool: K of the free ones, counts[t] in
    frame t; segment [T] int64. In each frame with anchors, every free token of the frame's segment joins the anchor
    with the most similar direction, ties to the lower slot; so an anchor joins itself, and each frame with anchors
    sums up the whole segment. Unless `themselves`, the anchors of a frame join none of it. With n tokens joined an
    anchor becomes w * itself + (1 - w) * their mean, where w is the larger of beta and 1 / (n + 1). Source: FastVID
    (DTM), LunarShen/FastVID@ea8b57e: as in fastvid_llavaonevision, and in fastvid_llavavideo without `themselves`.
    """
    tokens, device = embeds.float().flatten(0, 1), embeds.device
    total = sum(counts)
    slots = mask_slots(anchors, total)
    taken = torch.tensor([count for count in counts if count], device=device)  # [A]: frames with anchors
    begin = taken.cumsum(0) - taken
    host = torch.repeat_interleave(torch.arange(len(taken), device=device), taken, output_size=total)  # [K]
    column = torch.arange(max(counts), device=device)
    padded = (begin[:, None] + column).clamp_max(total - 1)  # [A, W]: anchors of a frame, padded to the most

    directions = torch.nn.functional.normalize(tokens, dim=1)
    similarity = (directions @ directions.index_select(0, slots).T).index_select(1, padded.flatten())
    similarity = similarity.view(-1, *padded.shape).masked_fill(column >= taken[:, None], -torch.inf)
    nearest = similarity.argmax(2) + begin  # [T * N, A]
    shared = segment[slots // embeds.shape[1]][:, None] == segment.repeat_interleave(embeds.shape[1])  # [K, T * N]
    anchor = torch.arange(total, device=device)[:, None]
    joins = (nearest.T.index_select(0, host) == anchor) & shared & free.flatten()
    if not themselves:
        frame = torch.arange(len(tokens), device=device) // embeds.shape[1]
        joins &= ~((slots // embeds.shape[1])[:, None].eq(frame) & anchors.flatten())
    joins = joins.float()
    number = joins.sum(1, keepdim=True)
    weight = (1 / (number + 1)).clamp_min(beta)
    mean = joins @ tokens / number.clamp_min(1)
    return weight * tokens.index_select(0, slots) + (1 - weight) * mean, slots


def anchor_counts(lengths: Sequence[int], context: int, room: int, every: int) -> list[int]:
    """Anchors of every frame, given the lengths of the segments: `context` times the length in each, exactly.

    Anchor frames are every `every`-th, counted from a segment's end, or closer together where fewer could not hold the
    anchors, at most `room` each. They get equal shares, the remainder one each from the last on, as FastVID's release
    for LLaVA-Video has it.
    """
    return [count for length in lengths for count in _spread_anchors(length, context * length, room, every)]


def llava_video_counts(
    lengths: Sequence[int], kept: int, context: float, per_frame: int, every: int
) -> tuple[list[int], list[int]]:
    """Salient tokens and anchors of every frame, as FastVID's release for LLaVA-Video counts them, segment by segment.

    Of a segment's `kept` times L tokens int(kept * L * context) are anchors, in the frames `anchor_counts` says. The
    others are salient, as many in each frame, the remainder one each from the first on. Source:
    LunarShen/FastVID@ea8b57e, fastvid_llavavideo/LLaVA-NeXT/llava/model/language_model/modeling_qwen2.py.
    """
    salient, anchors = [], []
    for length in lengths:
        pooled = budget.share_floor(context, kept * length)
        share, rest = divmod(kept * length - pooled, length)
        salient += [share + (place < rest) for place in range(length)]
        anchors += _spread_anchors(length, pooled, per_frame - share - bool(rest), every)
    return salient, anchors


def _spread_anchors(length: int, total: int, room: int, every: int) -> list[int]:
    if not total:
        return [0] * length
    needed = -(-total // room)
    step = every if needed == 1 else min(every, (length - 1) // (needed - 1))
    share, rest = divmod(total, -(-length // step))
    from_end = [0 if place % step else share + (place // step < rest) for place in range(length)]
    return from_end[::-1]
