"""Rotary position embedding and the write to the KV cache by a Triton kernel; `rotary_write_torch` is what it does."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from dycoke.ops.layer.rotary_write import check_rotary


@triton.jit
def _rounded(value, dtype: tl.constexpr):
    return value.to(dtype).to(tl.float32)


@triton.jit
def _rotate_and_place(
    qkv, cos, sin, tail_keys, tail_values, position, out,
    row_step, cos_step, sin_step, k_row, k_head, k_column, v_row, v_head, v_column,
    query_heads: tl.constexpr, heads: tl.constexpr, half: tl.constexpr, block: tl.constexpr,
):  # fmt: skip
    """One head of one row in each program."""
    head, row = tl.program_id(0), tl.program_id(1).to(tl.int64)
    dtype: tl.constexpr = qkv.dtype.element_ty
    offset = tl.arange(0, block)
    inside = offset < half
    at = qkv + row * row_step + head * 2 * half + offset
    first = tl.load(at, mask=inside, other=0.0)
    second = tl.load(at + half, mask=inside, other=0.0)
    column = tl.load(position).to(tl.int64)
    if head < query_heads + heads:
        cos_at, sin_at = cos + row * cos_step + offset, sin + row * sin_step + offset
        left, right = first.to(tl.float32), second.to(tl.float32)
        kept = _rounded(left * tl.load(cos_at, mask=inside, other=0.0).to(tl.float32), dtype)
        turned = _rounded(-right * tl.load(sin_at, mask=inside, other=0.0).to(tl.float32), dtype)
        first = (kept + turned).to(dtype)
        kept = _rounded(right * tl.load(cos_at + half, mask=inside, other=0.0).to(tl.float32), dtype)
        turned = _rounded(left * tl.load(sin_at + half, mask=inside, other=0.0).to(tl.float32), dtype)
        second = (kept + turned).to(dtype)
    if head < query_heads:
        to = out + (row * query_heads + head) * 2 * half + offset
    elif head < query_heads + heads:
        to = tail_keys + row * k_row + (head - query_heads) * k_head + column * k_column + offset
    else:
        to = tail_values + row * v_row + (head - query_heads - heads) * v_head + column * v_column + offset
    tl.store(to, first, mask=inside)
    tl.store(to + half, second, mask=inside)


def rotary_write_triton(
    qkv: Tensor,
    cos: Tensor,
    sin: Tensor,
    tail_keys: Tensor,
    tail_values: Tensor,
    position: Tensor,
) -> Tensor:
    """Same as `rotary_write_torch`, up to 32 bits, for contiguous last axes. Not differentiable."""
    query_heads = check_rotary(qkv, cos, sin, tail_keys, tail_values, position)
    rows, heads, _, dim = tail_keys.shape
    out = torch.empty(rows, query_heads, dim, dtype=qkv.dtype, device=qkv.device)
    strides = qkv.stride(0), cos.stride(0), sin.stride(0), *tail_keys.stride()[:3], *tail_values.stride()[:3]
    half = dim // 2
    with torch.cuda.device_of(qkv):
        _rotate_and_place[(query_heads + 2 * heads, rows)](
            *(qkv, cos, sin, tail_keys, tail_values, position, out, *strides),
            **{"query_heads": query_heads, "heads": heads, "half": half, "block": triton.next_power_of_2(half)},
            num_warps=1,
            enable_fp_fusion=False,  # a fused product would not be rounded to the dtype, as the reference is
        )
    return out
