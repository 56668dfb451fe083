"""Anchor tokens that take in what is like them in a segment."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from dycoke.ops.tokens.rank import mask_slots

if TYPE_CHECKING:
    from torch import Tensor


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
