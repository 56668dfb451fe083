"""Trees of tokens that repeat each other from frame to frame, at whichever place."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
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
