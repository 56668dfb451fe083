"""Splits of seeds into training, validation and test by their two top bits, so that they never overlap."""

from __future__ import annotations

import torch
from torch import Tensor

SPLITS = ("train", "validation", "test")
SIZE = 1 << 62
"""Seeds of a split."""


def split_seeds(split: str, start: int, count: int) -> Tensor:
    """Seeds number `start` to `start + count - 1` of a split, int64 [count].

    Raises ValueError for an unknown split, and for numbers outside it.
    """
    if count < 1 or start < 0 or start + count > SIZE:
        raise ValueError(f"start={start}, count={count}: expected at least one seed, from number 0 on, below {SIZE}")
    return split_seed(torch.arange(start, start + count), split)


def split_seed(numbers: Tensor, split: str) -> Tensor:
    """The seeds of a split that have these numbers, int64, whose two top bits are not looked at."""
    if split not in SPLITS:
        raise ValueError(f"split={split!r}: expected one of {', '.join(SPLITS)}")
    top = SPLITS.index(split) << 62
    return (numbers & (SIZE - 1)) | (top - (1 << 64) if top >> 63 else top)
