"""Tokens that matter and differ from each other."""

from __future__ import annotations

import torch
from torch import Tensor


def cosine_distances(directions: Tensor) -> Tensor:
    """1 - cosine between all tokens of a frame, 0 from each to itself: unit vectors [T, N, D] -> [T, N, N]."""
    distance = 1 - directions @ directions.transpose(1, 2)
    distance.diagonal(dim1=1, dim2=2).zero_()
    return distance


def diverse_tokens(distance: Tensor, weight: Tensor, count: int) -> Tensor:
    """In each frame `count` tokens, chosen one by one to be as far as can be from those before: mask [T, N] bool.

    distance [T, N, N]; weight [T, N] scales how far token j is from any other. The first choice is the token whose
    second smallest weighted distance, its own of 0 among them, is largest; each further one the token whose smallest
    to the chosen ones is. Ties go to the lower index. N is 2 at least, unless count is 0.
    Source: FlashVID (ADTS), in the variant that is released for LLaVA.
    """
    if not count:
        return torch.zeros_like(weight, dtype=torch.bool)
    weighted = distance * weight[:, None]
    pick = weighted.topk(2, dim=1, largest=False).values[:, 1].argmax(1)
    weighted.diagonal(dim1=1, dim2=2).fill_(-torch.inf)  # once chosen, never again
    frame = torch.arange(len(weight), device=weight.device)
    least = weighted[frame, pick]
    # Each choice depends on those before it: a loop over rounds, every frame of the video in each.
    for _ in range(count - 1):
        least = torch.minimum(least, weighted[frame, least.argmax(1)])
    return least == -torch.inf
