"""Rotary tables of a decode step by a Triton kernel; `rotary_tables_torch` is what it does."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from dycoke.ops.layer.rotary_tables import check_tables


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
