"""Attention of the last row of a prompt, by hand: what a model's fast attention does not return."""

from __future__ import annotations

import torch
from torch import Tensor


def last_slot(real: Tensor) -> Tensor:
    """The last True slot [B] of each row of real [B, S] bool; the last slot where there is none."""
    return real.shape[1] - 1 - real.flip(1).int().argmax(1)


def last_row(query: Tensor, key: Tensor, scaling: float, real: Tensor, heads: str) -> Tensor:
    """Attention [B, S] fp32 of query [B, Hq, 1, D] to key [B, H, S, D], the heads' mean or, with heads="max", maximum.

    Only slots where real [B, S] bool holds are attended. Query head h shares key head h // (Hq / H).
    Raises ValueError for another `heads`.
    """
    if heads not in ("mean", "max"):
        raise ValueError(f"heads={heads!r}: expected mean or max")
    batch, count, _, dim = query.shape
    grouped = query.view(batch, key.shape[1], count // key.shape[1], dim)
    scores = (grouped @ key.transpose(2, 3)).float() * scaling  # [B, H, Hq / H, S]
    attention = scores.masked_fill(~real[:, None, None, :], -torch.inf).softmax(-1).flatten(1, 2)
    return attention.mean(1) if heads == "mean" else attention.amax(1)
