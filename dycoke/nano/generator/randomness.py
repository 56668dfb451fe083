"""Random numbers as a function of integers: the same seed gives the same video on every device, in every batch.

A counter-based generator: each number is the splitmix64 finaliser (Steele, Lea, Flood 2014) of (seed, field, counter)
in wrapping 64-bit integers. Nothing depends on the order in which numbers are drawn, on a device's own generator, or on
how a device rounds.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

_WORD = 1 << 64
_RESOLUTION = 24  # bits of a drawn fraction


def _signed(x: int) -> int:
    """The int64 with the low 64 bits of x."""
    return (x + (1 << 63)) % _WORD - (1 << 63)


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


def bits(seeds: Tensor, field: int, *shape: int) -> Tensor:
    """Independent int64 [*seeds.shape, *shape] for each seed; `field` separates the uses of one seed."""
    counter = torch.arange(1, math.prod(shape) + 1, device=seeds.device).view(shape)
    key = mix(mix(seeds) + _signed((field + 1) * _FIRST))
    return mix(key.reshape(*seeds.shape, *[1] * len(shape)) + counter * _GOLDEN)


def fractions(seeds: Tensor, field: int, *shape: int) -> Tensor:
    """int64 in [0, 2**24), [*seeds.shape, *shape]: a fraction of one in 24 bits."""
    return _shift(bits(seeds, field, *shape), 64 - _RESOLUTION)


def share(fraction: Tensor, of: Tensor | int) -> Tensor:
    """int64 in [0, of): that fraction of a whole number, rounded down."""
    return (fraction * of) >> _RESOLUTION


def integers(seeds: Tensor, field: int, low: Tensor | int, high: Tensor | int, *shape: int) -> Tensor:
    """int64 in [low, high), [*seeds.shape, *shape]; bounds are numbers or tensors that broadcast to that."""
    return low + share(fractions(seeds, field, *shape), high - low)


def chance(seeds: Tensor, field: int, percent: Tensor | int, *shape: int) -> Tensor:
    """bool [*seeds.shape, *shape], true in `percent` of a hundred cases."""
    return integers(seeds, field, 0, 100, *shape) < percent


def permutation(seeds: Tensor, field: int, size: int) -> Tensor:
    """A permutation of range(size) for each seed, int64 [*seeds.shape, size]."""
    return bits(seeds, field, size).argsort(dim=-1, stable=True)


def subset(seeds: Tensor, field: int, size: int, count: Tensor) -> Tensor:
    """`count` [B] different numbers of range(size), ascending, before the others: int64 [B, size]."""
    place = permutation(seeds, field, size).argsort(dim=-1)
    number = torch.arange(size, device=seeds.device)
    return torch.where(place < count[:, None], number, number + size).argsort(dim=-1)


def pick(seed: int, field: int, count: int) -> int:
    """One of range(count): `integers` for a single seed, without tensors."""
    key = _mixed(_mixed(seed) + (field + 1) * _FIRST)
    return (_mixed(key + _GOLDEN) >> (64 - _RESOLUTION)) * count >> _RESOLUTION


def _mixed(x: int) -> int:
    x %= _WORD
    x = (x ^ (x >> 30)) * _FIRST % _WORD
    x = (x ^ (x >> 27)) * _SECOND % _WORD
    return x ^ (x >> 31)
