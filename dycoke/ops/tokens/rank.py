"""The best of each row and where a mask is True, with lengths that are given, so that nothing is read back."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from torch import Tensor


def ranks(scores: Tensor) -> Tensor:
    """Place of every entry of scores [G, N] in its row, the highest first: int64 [G, N]; ties go to the lower index."""
    order = scores.argsort(dim=1, descending=True, stable=True)
    place = torch.arange(scores.shape[1], device=scores.device).expand_as(order)
    return torch.empty_like(order).scatter_(1, order, place)  # a second sort would take several launches more


def top_mask(scores: Tensor, counts: Tensor) -> Tensor:
    """The counts[g] highest scores of row g, as a mask: scores [G, N], counts [G] -> [G, N] bool."""
    return ranks(scores) < counts[:, None]


def mask_slots(mask: Tensor, total: int) -> Tensor:
    """Ascending flat positions [total] int64 of the True entries of a mask of any shape, of which there are `total`."""
    mask = mask.flatten()
    place = torch.where(mask, mask.cumsum(0) - 1, total)  # the place past the end takes what is left out
    slots = torch.arange(len(mask), device=mask.device)
    return slots.new_empty(total + 1).scatter_(0, place, slots)[:total]


def arrange(embeds: Tensor, index: Tensor, total: int, raster: bool) -> tuple[Tensor, Tensor]:
    """Tokens [M, D] and their slots [M]: in raster order if asked, or if all `total` slots are kept, else as given.

    A published order says where to put what is left of a video; where everything is left, it is the video's own.
    """
    if not raster and len(index) < total:
        return embeds, index
    index, order = index.sort()
    return embeds.index_select(0, order), index
