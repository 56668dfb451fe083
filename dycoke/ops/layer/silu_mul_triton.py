"""The middle of a gated MLP as one Triton kernel; `silu_mul.silu_mul_torch` is what it computes."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from dycoke.ops.layer.silu_mul import check_gate

_BLOCK = 2048


def silu_mul_triton(gate: Tensor, up: Tensor) -> Tensor:
    """Same as `silu_mul_torch`, up to 32 bits."""
    check_gate(gate, up)
    size = gate.numel()
    if size:
        with torch.cuda.device_of(gate):
            _silu_mul[(triton.cdiv(size, _BLOCK),)](gate, up, size, block=_BLOCK, num_warps=8)
    return gate


@triton.jit
def _silu_mul(gate, up, size, block: tl.constexpr):
    place = tl.program_id(0).to(tl.int64) * block + tl.arange(0, block)
    inside = place < size
    raw = tl.load(gate + place, mask=inside, other=0.0)
    value = raw.to(tl.float32)
    active = (value / (1.0 + tl.exp(-value))).to(raw.dtype).to(tl.float32)
    other = tl.load(up + place, mask=inside, other=0.0).to(tl.float32)
    tl.store(gate + place, (active * other).to(raw.dtype), mask=inside)
