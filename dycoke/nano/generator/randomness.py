"""Random numbers as a function of integers: the same seed gives the same video on every device, in every batch.

A counter-based generator: each number is the splitmix64 finaliser (Steele, Lea, Flood 2014) of (seed, stream, counter)
in wrapping 64-bit integers, so nothing depends on the order in which numbers are drawn or on a device's own generator.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

_BITS = 24


def _signed(x: int) -> int:
    """The int64 with the low 64 bits of x."""
    return (x + (1 << 63)) % (1 << 64) - (1 << 63)


_GOLDEN = _signed(0x9E3779B97F4A7C15)
_FIRST = _signed(0xBF58476D1CE4E5B9)
_SECOND = _signed(0x94D049BB133111EB)


def _shift(x: Tensor, bits: int) -> Tensor:
    """Logical right shift: torch's own shift of int64 copies the sign bit."""
    return (x >> bits) & ((1 << (64 - bits)) - 1)


def mix(x: Tensor) -> Tensor:
    """int64 of any shape -> int64, every output bit depending on every input bit."""
    x = (x ^ _shift(x, 30)) * _FIRST
    x = (x ^ _shift(x, 27)) * _SECOND
    return x ^ _shift(x, 31)


def bits(seeds: Tensor, stream: int, *shape: int) -> Tensor:
    """Independent int64 [*seeds.shape, *shape] for each seed; `stream` separates the uses of one seed."""
    counter = torch.arange(1, math.prod(shape) + 1, device=seeds.device).view(shape)
    key = mix(mix(seeds) + _signed((stream + 1) * _FIRST))
    return mix(key.reshape(*seeds.shape, *[1] * len(shape)) + counter * _GOLDEN)


def uniform(seeds: Tensor, stream: int, *shape: int) -> Tensor:
    """float32 in [0, 1), [*seeds.shape, *shape]."""
    return _shift(bits(seeds, stream, *shape), 64 - _BITS).float() / (1 << _BITS)


def integers(seeds: Tensor, stream: int, low: int, high: int, *shape: int) -> Tensor:
    """int64 in [low, high), [*seeds.shape, *shape]."""
    return low + (uniform(seeds, stream, *shape) * (high - low)).long()


def permutation(seeds: Tensor, stream: int, size: int) -> Tensor:
    """A permutation of range(size) for each seed, int64 [*seeds.shape, size]."""
    return uniform(seeds, stream, size).argsort(dim=-1, stable=True)


def noise(seeds: Tensor, *shape: int) -> Tensor:
    """Triangular noise in (-1, 1), variance 1/6, float32 [*seeds.shape, *shape]: two uniform halves of one number."""
    drawn = bits(seeds, 0, *shape)
    return (_shift(drawn, 40) + (drawn & ((1 << _BITS) - 1))).float() / (1 << _BITS) - 1
