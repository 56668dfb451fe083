"""Kept tokens that take in their neighbours, and one token that is the sum of what is not kept."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from torch import Tensor


def absorb(
    embeds: Tensor, saliency: Tensor, keys: Tensor, chosen: Tensor, neighbours: int, extra: bool
) -> tuple[Tensor, Tensor]:
    """Chosen tokens with their neighbours added, then an extra one: tokens [T, k + 1, D] and places [T, k + 1].

    embeds [T, N, D], saliency [T, N] fp32, keys [T, N, Dk], chosen [T, k] int64. A chosen token becomes itself plus
    the saliency-weighted sum, in fp32, of the `neighbours` tokens of its frame (or all others, if fewer) with the most
    similar keys, which may be chosen themselves and count with what they were. The extra token, last, is the
    saliency-weighted sum of all that are not chosen, of which there must be one, and takes the place of the most
    salient of them. Without `extra` k tokens come back. Ties go to the lower place. Source: LLaVA-PruMerge.
    """
    per_frame = saliency.shape[1]
    keys = torch.nn.functional.normalize(keys.float(), dim=2)
    likeness = keys.take_along_dim(chosen[..., None], dim=1) @ keys.mT  # [T, k, N]
    likeness.scatter_(2, chosen[..., None], -torch.inf)  # no token is its own neighbour
    near = likeness.argsort(dim=2, descending=True, stable=True)[..., : min(neighbours, per_frame - 1)]
    weights = torch.zeros_like(likeness).scatter_(2, near, saliency[:, None].expand_as(likeness).gather(2, near))
    weights.scatter_(2, chosen[..., None], 1.0)
    if extra:
        left = saliency.scatter(1, chosen, 0.0)
        free = saliency.scatter(1, chosen, -torch.inf).argmax(dim=1, keepdim=True)
        weights, chosen = torch.cat([weights, left[:, None]], dim=1), torch.cat([chosen, free], dim=1)
    return (weights @ embeds.float()).to(embeds.dtype), chosen
