"""The operations of `rotary_step` as one Triton kernel each."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from dycoke.ops.layer.rotary_step import check_rotary, check_tables


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


@triton.jit
def _tables(
    positions, frequencies, shift, cos, sin, scaling,
    half: tl.constexpr, block: tl.constexpr, shifted: tl.constexpr,
):  # fmt: skip
    """One row in each program, whose two halves are alike."""
    row = tl.program_id(0).to(tl.int64)
    pair = tl.arange(0, block)
    inside = pair < half
    position = tl.load(positions + row)
    if shifted:
        position -= tl.load(shift + row)
    angle = position.to(tl.float32) * tl.load(frequencies + pair, mask=inside, other=0.0).to(tl.float32)
    dtype: tl.constexpr = cos.dtype.element_ty
    at = row * 2 * half + pair
    turned, crossed = (tl.cos(angle) * scaling).to(dtype), (tl.sin(angle) * scaling).to(dtype)
    tl.store(cos + at, turned, mask=inside)
    tl.store(cos + at + half, turned, mask=inside)
    tl.store(sin + at, crossed, mask=inside)
    tl.store(sin + at + half, crossed, mask=inside)


def rotary_tables_triton(
    positions: Tensor, frequencies: Tensor, scaling: float, dtype: torch.dtype, shift: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Same as `rotary_tables_torch`, up to 32 bits."""
    check_tables(positions, frequencies, shift)
    rows, half = len(positions), len(frequencies)
    cos, sin = (torch.empty(rows, 2 * half, dtype=dtype, device=positions.device) for _ in range(2))
    positions, shift = positions.contiguous(), None if shift is None else shift.contiguous()
    if rows:
        with torch.cuda.device_of(positions):
            _tables[(rows,)](
                *(positions, frequencies.contiguous(), positions if shift is None else shift, cos, sin, scaling),
                **{"half": half, "block": triton.next_power_of_2(half), "shifted": shift is not None},
                num_warps=1,
            )
    return cos, sin
