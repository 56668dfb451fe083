"""The best of each row and where a mask is True, with lengths that are given, so that nothing is read back."""

from __future__ import annotations

from torch import Tensor


def ranks(scores: Tensor) -> Tensor:
    """Place of every entry of scores [G, N] in its row, the highest first: int64 [G, N]; ties go to the lower index."""
    return scores.argsort(dim=1, descending=True, stable=True).argsort(dim=1)


def top_mask(scores: Tensor, counts: Tensor) -> Tensor:
    """The counts[g] highest scores of row g, as a mask: scores [G, N], counts [G] -> [G, N] bool."""
    return ranks(scores) < counts[:, None]


def mask_slots(mask: Tensor, total: int) -> Tensor:
    """Ascending flat positions [total] int64 of the True entries of a mask of any shape, of which there are `total`."""
    return (~mask.flatten()).byte().argsort(stable=True)[:total]
