"""Layout of a prefill's rows for the layers: every row's real tokens first, then padding up to a whole bucket.

Attention is causal, so a token never sees what stands behind it: tokens that fill up a bucket change no real one, and
no mask has to be built. Rows without padding stay a batch; where some have padding, the real tokens of all rows stand
one after the other in a single row, and attention takes each of them by itself.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from typing import Protocol

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.functional import scaled_dot_product_attention

# In order of preference: torch takes the first that accepts the shapes, and off CUDA knows the last two alone.
BACKENDS = (
    SDPBackend.CUDNN_ATTENTION,
    SDPBackend.FLASH_ATTENTION,
    SDPBackend.EFFICIENT_ATTENTION,
    SDPBackend.MATH,
)

# cuDNN attention builds a plan for every shape it meets, which takes longer than the attention itself; with lengths in
# steps of this many tokens there are few shapes. It costs next to nothing: matrix products work in tiles of 128 rows or
# more, and fill up the last one anyway.
BUCKET = 128


def preferring(backends: Sequence[SDPBackend] = BACKENDS) -> AbstractContextManager[None]:
    """Within the context, attention takes the first of `backends` that accepts its inputs. Not thread-safe."""
    return sdpa_kernel(list(backends), set_priority=True)


def attend(query: Tensor, key: Tensor, value: Tensor, scale: float, *, causal: bool) -> Tensor:
    """Attention of query [B, S, Hq, D] to key and value [B, S, H, D] -> [B, S, Hq, D], contiguous.

    The layout is the projections' own: backends read strides, and no transpose is written out. Query head h shares key
    head h // (Hq / H).
    """
    grouped = query.shape[2] != key.shape[2]
    query, key, value = (each.transpose(1, 2) for each in (query, key, value))
    out = scaled_dot_product_attention(query, key, value, scale=scale, is_causal=causal, enable_gqa=grouped)
    return out.transpose(1, 2).contiguous()


def rounded_up(length: int) -> int:
    """`length` tokens in whole buckets."""
    return -(-length // BUCKET) * BUCKET


class Rows(Protocol):
    """A layout: `pack` [B or 1, S, ...] to [R, L, ...], `unpack` back with zeros at padding, attention in between.

    Values that all rows share, [1, S, ...], stay so where the layout lets them.
    """

    def pack(self, values: Tensor) -> Tensor: ...

    def unpack(self, values: Tensor) -> Tensor: ...

    def attend(self, query: Tensor, key: Tensor, value: Tensor, scale: float) -> Tensor: ...


def rows_of(mask: Tensor | None, length: int, device: torch.device) -> Rows:
    """The layout of rows of S slots whose values are on `device`, mask [B, S] (0 at padding) or None for no padding.

    A mask on a GPU is waited for: how many tokens a row has decides the shapes.
    """
    if mask is None:
        return WholeRows(length)
    real = mask.bool().cpu()
    return WholeRows(length) if bool(real.all()) else PaddedRows(real, device)


class WholeRows:
    """Rows without padding, [B, S, ...] -> [B, L, ...]."""

    def __init__(self, length: int) -> None:
        self._length, self._filled = length, rounded_up(length)

    def pack(self, values: Tensor) -> Tensor:
        if self._filled == self._length:
            return values.contiguous()
        packed = values.new_zeros(values.shape[0], self._filled, *values.shape[2:])
        packed[:, : self._length] = values
        return packed

    def unpack(self, values: Tensor) -> Tensor:
        return values[:, : self._length]

    def attend(self, query: Tensor, key: Tensor, value: Tensor, scale: float) -> Tensor:
        return attend(query, key, value, scale, causal=True)


class PaddedRows:
    """Rows of which some have padding, on either side or between: [B, S, ...] -> [1, L, ...].

    real: bool [B, S] on the CPU; device: where the values are.
    """

    def __init__(self, real: Tensor, device: torch.device) -> None:
        self._shape = tuple(real.shape)
        lengths = real.sum(1).tolist()
        starts, self._total = [], 0
        for length in lengths:
            starts.append(self._total)
            self._total += rounded_up(length)
        self._spans = [(start, start + rounded_up(n)) for start, n in zip(starts, lengths, strict=True) if n]
        places = [torch.arange(start, start + n) for start, n in zip(starts, lengths, strict=True)]
        self._places = torch.cat(places).to(device)  # of the real tokens, packed
        self._slots = real.flatten().nonzero()[:, 0].to(device)  # of the same, in the batch

    def pack(self, values: Tensor) -> Tensor:
        packed = values.new_zeros(self._total, *values.shape[2:])
        values = values.expand(self._shape[0], *values.shape[1:])
        packed[self._places] = values.flatten(0, 1)[self._slots]
        return packed[None]

    def unpack(self, values: Tensor) -> Tensor:
        batch, length = self._shape
        slots = values.new_zeros(batch * length, *values.shape[2:])
        slots[self._slots] = values[0, self._places]
        return slots.view(batch, length, *values.shape[2:])

    def attend(self, query: Tensor, key: Tensor, value: Tensor, scale: float) -> Tensor:
        if not self._spans:
            return query
        return torch.cat(
            [
                attend(*(each[:, start:stop] for each in (query, key, value)), scale, causal=True)
                for start, stop in self._spans
            ],
            dim=1,
        )


MOST_TOKENS = 32768  # far above what fills a GPU, and of 7B shapes 2.3 GB of a gated MLP


def by_tokens(run: Callable[[Tensor], Tensor], hidden: Tensor, most: int = MOST_TOKENS) -> Tensor:
    """run(hidden [R, L, D]) -> [R, L, E], of a function of every token by itself, in pieces of at most `most`."""
    rows, length, width = hidden.shape
    if rows * length <= most:
        return run(hidden)
    pieces = hidden.reshape(1, rows * length, width).split(most, dim=1)
    return torch.cat([run(piece) for piece in pieces], dim=1).view(rows, length, -1)
