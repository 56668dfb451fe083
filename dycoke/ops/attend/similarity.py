"""How far the attention of a step has turned from that of the step before it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from torch import Tensor

EPS = 1e-8


def turn(attn: Tensor, among: Tensor, previous: Tensor) -> Tensor:
    """Cosine [B] fp32 between a step's attention [B, S] fp32 and the last one's, which it then replaces.

    Only columns where `among` [B, S] bool holds count. previous [B, S] fp32 is overwritten with what counted of attn;
    zeros stand for no step before, and give a cosine of 0. Source: DyCoke, section 3.3.
    """
    if attn.is_cuda:
        from dycoke.ops.attend.similarity_triton import turn_triton  # Triton only where there is a GPU

        return turn_triton(attn, among, previous)
    return turn_torch(attn, among, previous)


def turn_torch(attn: Tensor, among: Tensor, previous: Tensor) -> Tensor:
    """The reference of `turn`, on any device."""
    seen = torch.where(among, attn, 0.0)
    cosine = torch.nn.functional.cosine_similarity(seen, previous, dim=1, eps=EPS)
    previous.copy_(seen)
    return cosine
