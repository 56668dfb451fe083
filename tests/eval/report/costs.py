"""Tokens of the paper's videos, 32 frames of 196, for the tests of cost by arithmetic."""

from __future__ import annotations

from dycoke import build
from dycoke.lab.cost import Tokens, planned

FRAMES, PER_FRAME = 32, 196
FULL = FRAMES * PER_FRAME
T = 1e12


def tokens_of(name: str, layers: int, frames: int = FRAMES, **options) -> Tokens:
    """What a method's plan has each layer read."""
    return planned(build(name, **options).plan(), frames, PER_FRAME, layers)


def flat(count: float, layers: int) -> Tokens:
    """As many tokens in every layer."""
    return Tokens((count,) * layers, (count,) * layers)
