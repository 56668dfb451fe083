"""FastVID: salient tokens of every frame, and anchors that sum up the rest of a segment."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar, Literal

import torch

from dycoke import budget
from dycoke.methods.full import KeepAll
from dycoke.ops.tokens.anchors import gather_context
from dycoke.ops.tokens.cluster import density_scores, distances
from dycoke.ops.tokens.rank import mask_slots, top_mask
from dycoke.ops.tokens.segments import find_cuts, segment_ids, spans, step_cosine
from dycoke.registry import register
from dycoke.types import Compressed, Plan, Positions, VisualTokens, check_choice, check_positions

NEIGHBOURS = 4  # that make a token's density, in the released code
Release = Literal["onevision", "llava_video"]
RELEASES: tuple[str, ...] = ("onevision", "llava_video")


@register(
    "fastvid",
    source="FastVID: Dynamic Density Pruning for Fast Video Large Language Models, NeurIPS 2025",
    paper="https://arxiv.org/abs/2503.11187",
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
class FastVID:
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

    needs: ClassVar[frozenset[str]] = frozenset({"saliency"})
    min_frames: ClassVar[int] = 1
    raster: ClassVar[bool] = True

    def __post_init__(self) -> None:
        budget.check_ratio("keep", self.keep, above_zero=True)
        for name in ("tau", "context", "beta"):
            budget.check_ratio(name, getattr(self, name))
        for name in ("segments", "anchor_every"):
            budget.check_count(name, getattr(self, name))
        if not isinstance(self.vision_head, str):
            raise TypeError(f"vision_head={self.vision_head!r}: expected a path, or '' for none")
        check_positions(self.positions)
        check_choice("release", self.release, RELEASES)

    def plan(self) -> Plan:
        return Plan(before=self)

    def compress(self, video: VisualTokens) -> Compressed:
        frames, per_frame, _ = video.embeds.shape
        kept = self._kept(per_frame)
        if kept == per_frame:
            return KeepAll().compress(video)
        device = video.embeds.device
        scenes = video.embeds.float().mean(1) if video.scenes is None else video.scenes
        segment = segment_ids(find_cuts(step_cosine(scenes), self.tau, self.segments))
        of_frame, counts = self._counts([last - first + 1 for first, last in spans(segment.tolist())], kept, per_frame)

        salient = top_mask(video.saliency, torch.tensor(of_frame, device=device))
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
            return budget.llava_video_counts(lengths, kept, self.context, per_frame, self.anchor_every)
        context = budget.share_floor(self.context, kept)
        anchors = budget.anchor_counts(lengths, context, per_frame - kept + context, self.anchor_every)
        return [kept - context] * sum(lengths), anchors

    def _kept(self, per_frame: int) -> int:
        return budget.share_floor(self.keep, per_frame, least=1)

    def count(self, frames: int, per_frame: int) -> int:
        return frames * self._kept(per_frame)
