"""What seeds tell by themselves."""

from __future__ import annotations

from dycoke.nano.generator.splits import SPLITS


def split_of(seed: int) -> str:
    """The split a seed belongs to, by its two top bits; the fourth value they may have is of none."""
    return SPLITS[(seed >> 62) & 3]
