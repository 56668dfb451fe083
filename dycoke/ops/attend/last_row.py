"""Attention of the last row of a prompt, by hand: what a model's fast attention does not return."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from torch import Tensor


def last_slot(real: Tensor) -> Tensor:
    """The last True slot [B] of each row of real [B, S] bool; the last slot where there is none."""
    return real.shape[1] - 1 - real.flip(1).int().argmax(1)


def last_row(query: Tensor, key: Tensor, scaling: float, real: Tensor) -> Tensor:
    """Attention [B, Hq, S] fp32 of query [B, Hq, 1, D] to the keys [B, H, S, D] where real [B, S] bool holds.

    Query head h shares key head h // (Hq / H).
    """
    batch, count, _, dim = query.shape
    grouped = query.view(batch, key.shape[1], count // key.shape[1], dim)
    scores = (grouped @ key.transpose(2, 3)).float() * scaling  # [B, H, Hq / H, S]
    return scores.masked_fill(~real[:, None, None, :], -torch.inf).softmax(-1).flatten(1, 2)


def rotary_row(cos: Tensor, sin: Tensor, last: Tensor) -> Tensor:
    """Score [B, S] fp32 of a query of ones at slots last [B] against keys of ones, from rotary tables [B, S, D].

    The sum over pairs of channels of 2 cos(angle between the places), over sqrt(D).
    """
    at = last[:, None, None].expand(-1, 1, cos.shape[2])
    turned = cos.float() * cos.float().gather(1, at) + sin.float() * sin.float().gather(1, at)
    return turned.sum(-1) * cos.shape[2] ** -0.5
