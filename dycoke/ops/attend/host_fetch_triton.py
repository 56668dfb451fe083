"""Fetching columns from mapped host memory as one Triton kernel; `host_fetch.fetch_torch` is what it computes.

A program takes a few slots of one head, keys and values together, so that all reads over the bus are under way at
once; one whose slots want nothing leaves before it reads any.
"""

from __future__ import annotations

import triton
import triton.language as tl
from torch import Tensor

_SLOTS = 16


def fetch_triton(
    host_keys: Tensor, host_values: Tensor, rows: Tensor, wanted: Tensor, keys: Tensor, values: Tensor, first: int
) -> None:
    """Same as `fetch_torch`; the last dimension of the four stores must be contiguous."""
    batch, width = wanted.shape
    heads, _, dim = keys.shape[1:]
    if not (batch and width):
        return
    _fetch[(triton.cdiv(width, _SLOTS), heads, batch)](
        host_keys,
        host_values,
        rows.contiguous(),
        wanted.contiguous(),
        keys,
        values,
        *host_keys.stride()[:3],
        *host_values.stride()[:3],
        *keys.stride()[:3],
        *values.stride()[:3],
        first,
        width,
        dim=dim,
        block_d=triton.next_power_of_2(dim),
        block_w=_SLOTS,
        num_warps=4,
    )


@triton.jit(do_not_specialize=["first", "width"])
def _fetch(
    host_keys,
    host_values,
    rows,
    wanted,
    keys,
    values,
    host_key_row,
    host_key_head,
    host_key_column,
    host_value_row,
    host_value_head,
    host_value_column,
    key_row,
    key_head,
    key_slot,
    value_row,
    value_head,
    value_slot,
    first,
    width,
    dim: tl.constexpr,
    block_d: tl.constexpr,
    block_w: tl.constexpr,
):
    head, row = tl.program_id(1).to(tl.int64), tl.program_id(2).to(tl.int64)
    slot = tl.program_id(0) * block_w + tl.arange(0, block_w)
    column = tl.load(wanted + row * width + slot, mask=slot < width, other=-1)
    if tl.max(column) >= 0:
        source = tl.load(rows + row).to(tl.int64)
        offset = tl.arange(0, block_d)[None, :]
        mask = (column >= 0)[:, None] & (offset < dim)
        away = column.to(tl.int64)[:, None]
        here = (slot + first).to(tl.int64)[:, None]
        host_keys += source * host_key_row + head * host_key_head
        host_values += source * host_value_row + head * host_value_head
        key = tl.load(host_keys + away * host_key_column + offset, mask=mask)
        value = tl.load(host_values + away * host_value_column + offset, mask=mask)
        keys += row * key_row + head * key_head
        values += row * value_row + head * value_head
        tl.store(keys + here * key_slot + offset, key, mask=mask)
        tl.store(values + here * value_slot + offset, value, mask=mask)
