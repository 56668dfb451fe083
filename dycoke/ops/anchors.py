"""Anchor tokens that take in what is like them in a segment."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import normalize

from dycoke.ops.rank import mask_slots


def gather_context(
    embeds: Tensor, free: Tensor, anchors: Tensor, counts: list[int], segment: Tensor, beta: float
) -> tuple[Tensor, Tensor]:
    """Anchors with their context: embeds [K, D] fp32 and slots [K] int64, ascending.

    embeds [T, N, D]; free [T, N] bool: tokens that are context; anchors [T, N] bool: K of the free ones, counts[t] in
    frame t; segment [T] int64. In each frame with anchors, every free token of the frame's segment joins the anchor
    with the most similar direction, ties to the lower slot; so an anchor joins itself, and each frame with anchors
    sums up the whole segment. With n tokens joined an anchor becomes w * itself + (1 - w) * their mean, where w is the
    larger of beta and 1 / (n + 1). Source: FastVID (DTM), as in LunarShen/FastVID@ea8b57e, fastvid_llavaonevision.
    """
    tokens = embeds.float().flatten(0, 1)
    slots = mask_slots(anchors, sum(counts))
    hosts = [t for t, count in enumerate(counts) if count]
    width = max(counts)
    taken = torch.tensor([counts[t] for t in hosts], device=embeds.device)[:, None]
    real = torch.arange(width, device=embeds.device) < taken  # [A, W]: anchors of a frame are padded to the most
    padded = slots.new_zeros(real.shape).masked_scatter_(real, slots)

    picked = tokens.index_select(0, padded.flatten())
    directions = normalize(tokens, dim=1)
    similarity = directions @ directions.index_select(0, padded.flatten()).T
    nearest = similarity.view(-1, *real.shape).masked_fill(~real, -torch.inf).argmax(2)  # [T * N, A]
    shared = segment[:, None] == segment[torch.tensor(hosts, device=embeds.device)]  # [T, A]
    joins = (free[:, :, None] & shared[:, None]).flatten(0, 1)  # [T * N, A]
    joins = joins.T[:, None] & (nearest.T[:, None] == torch.arange(width, device=embeds.device)[:, None])
    joins = joins.flatten(0, 1).float()  # [A * W, T * N]
    number = joins.sum(1, keepdim=True)
    weight = (1 / (number + 1)).clamp_min(beta)
    merged = weight * picked + (1 - weight) * (joins @ tokens) / number.clamp_min(1)
    return merged.index_select(0, mask_slots(real, sum(counts))), slots
