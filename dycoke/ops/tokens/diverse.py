"""Tokens that matter and differ from each other.

The torch reference is the definition; on CUDA the rounds of choices run in `diverse_triton`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
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
    if weighted.is_cuda:
        from dycoke.ops.tokens.diverse_triton import farthest_triton  # Triton only where there is a GPU

        return farthest_triton(weighted, pick, count)
    return farthest_torch(weighted, pick, count)


def farthest_torch(weighted: Tensor, first: Tensor, count: int) -> Tensor:
    """In each frame `count` tokens, from first [T] int64 on, each the one whose least value so far is largest.

    weighted [T, N, N] fp32, row i as seen from token i, -inf on the diagonal and nowhere else; count from 1 to N.
    Ties go to the lower index. -> mask [T, N] bool.
    """
    frame = torch.arange(len(first), device=first.device)
    least = weighted[frame, first]
    # Each choice depends on those before it: a loop over rounds, every frame of the video in each.
    for _ in range(count - 1):
        least = torch.minimum(least, weighted[frame, least.argmax(1)])
    return least == -torch.inf
