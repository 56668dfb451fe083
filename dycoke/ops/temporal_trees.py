"""Trees of tokens that repeat each other from frame to frame, at whichever place."""

from __future__ import annotations

import torch
from torch import Tensor


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
    """Mean over each tree of tokens, at its root: tokens [T, N, D], parent [T, N] as `links` gives it -> fp32.

    What is not a root holds the mean of its part of the tree. Sums climb twice as many frames in each round, one
    product of matrices for all frames, so that additions have a fixed order.
    """
    frames, per_frame, _ = tokens.shape
    sums, sizes = tokens.float().clone(), torch.ones_like(parent, dtype=torch.float32)
    place = torch.arange(per_frame, device=parent.device)[:, None]
    reach, ancestor = 1, parent
    while reach < frames:
        onto = (ancestor[reach:, None] == place).float()  # [T - reach, N of the frame `reach` before, N]
        sums[:-reach] += onto @ sums[reach:]
        sizes[:-reach] += (onto @ sizes[reach:, :, None])[:, :, 0]
        further = torch.full_like(ancestor, -1)
        further[reach:] = ancestor[:-reach].gather(1, ancestor[reach:].clamp_min(0))
        ancestor = torch.where(ancestor < 0, -1, further)
        reach *= 2
    return sums / sizes[:, :, None]
