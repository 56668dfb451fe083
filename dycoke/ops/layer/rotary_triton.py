"""Rotary position embedding as one Triton kernel; `rotary.rotate_torch` is what it computes."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from dycoke.ops.layer.rotary import check_rotary

_HEADS = 16  # a program's, so that both tables are read once for many heads


def rotate_triton(query: Tensor, key: Tensor, cos: Tensor, sin: Tensor) -> tuple[Tensor, Tensor]:
    """Same as `rotate_torch`, up to 32 bits."""
    check_rotary(query, key, cos, sin)
    batch, length, query_heads, dim = query.shape
    heads = key.shape[2]
    if query.numel():
        half = dim // 2
        tables = [table.expand(batch, -1, -1) for table in (cos, sin)]
        if any(table.stride(2) != 1 for table in tables):
            tables = [table.contiguous() for table in tables]
        grid = (length, batch, triton.cdiv(query_heads + heads, _HEADS))
        with torch.cuda.device_of(query):
            _rotate[grid](
                query,
                key,
                *tables,
                *(table.stride(axis) for table in tables for axis in (0, 1)),
                length,
                query_heads=query_heads,
                heads=heads,
                half=half,
                block_h=_HEADS,
                block_d=triton.next_power_of_2(half),
                num_warps=4,
            )
    return query, key


@triton.jit
def _turned(low, high, cos_low, cos_high, sin_low, sin_high):
    """Both halves, every product rounded to the dtype of the input."""
    dtype = low.dtype
    first = (low.to(tl.float32) * cos_low).to(dtype).to(tl.float32)
    second = (high.to(tl.float32) * cos_high).to(dtype).to(tl.float32)
    first -= (high.to(tl.float32) * sin_low).to(dtype).to(tl.float32)
    second += (low.to(tl.float32) * sin_high).to(dtype).to(tl.float32)
    return first.to(dtype), second.to(dtype)


@triton.jit
def _rotate(
    query, key, cos, sin, cos_row, cos_step, sin_row, sin_step, length,
    query_heads: tl.constexpr, heads: tl.constexpr, half: tl.constexpr, block_h: tl.constexpr, block_d: tl.constexpr,
):  # fmt: skip
    place, row = tl.program_id(0), tl.program_id(1).to(tl.int64)
    token = row * length + place
    head = tl.program_id(2) * block_h + tl.arange(0, block_h)
    column = tl.arange(0, block_d)
    real = column < half
    # The heads of a token's query and, behind them, of its key: which tensor a head is in is a choice of pointers.
    in_query = head < query_heads
    own = tl.where(
        in_query,
        query + (token * query_heads + head) * (2 * half),
        key + (token * heads + head - query_heads) * (2 * half),
    )
    low = own[:, None] + column[None, :]
    inside = (head < query_heads + heads)[:, None] & real[None, :]
    cos += row * cos_row + place * cos_step + column
    sin += row * sin_row + place * sin_step + column
    cos_low = tl.load(cos, mask=real, other=0.0).to(tl.float32)[None, :]
    cos_high = tl.load(cos + half, mask=real, other=0.0).to(tl.float32)[None, :]
    sin_low = tl.load(sin, mask=real, other=0.0).to(tl.float32)[None, :]
    sin_high = tl.load(sin + half, mask=real, other=0.0).to(tl.float32)[None, :]
    first, second = _turned(
        tl.load(low, mask=inside, other=0.0),
        tl.load(low + half, mask=inside, other=0.0),
        cos_low,
        cos_high,
        sin_low,
        sin_high,
    )
    tl.store(low, first, mask=inside)
    tl.store(low + half, second, mask=inside)
