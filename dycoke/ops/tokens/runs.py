"""Tokens of one place through the frames of a video: which follow each other, and means over runs of them."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from dycoke.ops.tokens.temporal_merge import cosine

if TYPE_CHECKING:
    from torch import Tensor

APART = -2.0  # below every cosine


def by_place(video: Tensor, slots: Tensor, per_frame: int) -> tuple[Tensor, Tensor]:
    """Order of the slots of each row that puts the tokens of one place side by side, and which follow another there.

    video, slots [B, S] int64, -1 where there is no video token: those come last. -> order [B, S] int64, and follows
    [B, S] bool, in that order: the token before is of the same place of the same video.
    """
    place = torch.where(video < 0, -1, video * per_frame + slots % per_frame)
    last = torch.iinfo(torch.int64).max
    # Two stable sorts: by frame, then by place, text last.
    order = slots.argsort(dim=1, stable=True)
    order = order.gather(1, torch.where(video < 0, last, place).gather(1, order).argsort(dim=1, stable=True))
    sorted_place = place.gather(1, order)
    follows = (sorted_place[:, 1:] == sorted_place[:, :-1]) & (sorted_place[:, 1:] >= 0)
    return order, torch.nn.functional.pad(follows, (1, 0))


def follow_similarity(hidden: Tensor, order: Tensor, follows: Tensor) -> Tensor:
    """Cosine [B, S] fp32 of each token of hidden [B, S, D] with the one before in `order`; -2 if it follows none."""
    ordered = hidden.gather(1, order[:, :, None].expand_as(hidden))
    return torch.nn.functional.pad(cosine(ordered[:, 1:], ordered[:, :-1]), (1, 0)).where(follows, APART)


def run_means(hidden: Tensor, order: Tensor, joins: Tensor) -> Tensor:
    """hidden [B, S, D] with the first token of each run replaced by the mean of the run.

    joins [B, S] bool, in `order`: the token belongs to the run of the one before it. Means are taken in fp32 over
    neighbours, in their order, so that they repeat exactly. Reads the device once.
    """
    ordered = hidden.gather(1, order[:, :, None].expand_as(hidden))
    heads = (~joins).flatten().nonzero().flatten()
    lengths = torch.diff(heads, append=heads.new_full((1,), joins.numel()))
    means = torch.segment_reduce(ordered.flatten(0, 1).float(), "mean", lengths=lengths, axis=0)
    ordered = ordered.flatten(0, 1).index_copy(0, heads, means.to(hidden.dtype)).view_as(ordered)
    return torch.empty_like(hidden).scatter_(1, order[:, :, None].expand_as(hidden), ordered)
