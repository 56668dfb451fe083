"""Masks that a caller may pass to a language model: [1, 1, S, S] bool, true where a query sees a key."""

from __future__ import annotations

import torch
from torch import Tensor


def causal(length: int) -> Tensor:
    return torch.ones(length, length, dtype=torch.bool).tril()[None, None]


def packed(length: int) -> Tensor:
    """Two samples in one row."""
    mask, half = causal(length), length // 2
    mask[..., half:, :half] = False
    return mask


def packed_first_alone(length: int) -> Tensor:
    """The first sample is one token, which the last one's row hides as it would a slot of padding."""
    mask = causal(length)
    mask[..., 1:, 0] = False
    return mask


def shared_prefix(length: int) -> Tensor:
    """Two continuations of a prefix, which do not see each other."""
    mask, third = causal(length), length // 3
    mask[..., 2 * third :, third : 2 * third] = False
    return mask


def prefix_lm(length: int) -> Tensor:
    """The first half sees all of itself."""
    mask = causal(length)
    mask[..., : length // 2, : length // 2] = True
    return mask


def bidirectional(length: int) -> Tensor:
    return torch.ones(1, 1, length, length, dtype=torch.bool)


def window(length: int) -> Tensor:
    return causal(length) & ~torch.ones(length, length, dtype=torch.bool).tril(-4)


def one_row(length: int) -> Tensor:
    """A single query in the middle that does not see the first key."""
    mask = causal(length)
    mask[..., length // 2, 0] = False
    return mask


CUSTOM = (packed, packed_first_alone, shared_prefix, prefix_lm, bidirectional, window, one_row)


def added(mask: Tensor, hidden: float | None = None, dtype: torch.dtype = torch.float32) -> Tensor:
    """The mask as what is added to scores; hidden: in place of the dtype's lowest number."""
    hidden = torch.finfo(dtype).min if hidden is None else hidden
    return torch.zeros(mask.shape, dtype=dtype).masked_fill(~mask, hidden)


def biased(length: int, heads: int) -> Tensor:
    """A bias of its own for each head, as ALiBi adds: [1, H, S, S]."""
    place = torch.arange(length)
    far = (place[None] - place[:, None]).float()
    slopes = -(2.0 ** -torch.arange(1, heads + 1))
    return (slopes[:, None, None] * -far).masked_fill(~causal(length)[0], torch.finfo(torch.float32).min)[None]


def by_head(length: int, heads: int) -> Tensor:
    """The last head sees a window, the others everything: [1, H, S, S]."""
    mask = causal(length).repeat(1, heads, 1, 1)
    mask[:, -1] = window(length)[:, 0]
    return mask
