"""The operations of `fused` as Triton kernels; its references are what they compute.

For a norm, one program reads a whole row into registers, so that a residual add, its statistics and the norm are one
pass over memory: two reads and two writes per value where three kernels in turn would need five and three.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from dycoke.ops.layer.fused import check_added, check_gate, check_norm


def rms_norm_triton(hidden: Tensor, weight: Tensor, eps: float) -> Tensor:
    """Same as `rms_norm_torch`, up to 32 bits."""
    check_norm(hidden, weight)
    return _run(hidden.contiguous(), None, weight, None, eps)


def add_rms_norm_triton(delta: Tensor, residual: Tensor, weight: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    """Same as `add_rms_norm_torch`, up to 32 bits."""
    check_added(delta, residual)
    check_norm(delta, weight)
    return _run(delta, residual.contiguous(), weight, None, eps), delta


def layer_norm_triton(hidden: Tensor, weight: Tensor, bias: Tensor, eps: float) -> Tensor:
    """Same as `layer_norm_torch`, up to 32 bits."""
    check_norm(hidden, weight, bias)
    return _run(hidden.contiguous(), None, weight, bias, eps)


def add_layer_norm_triton(
    delta: Tensor, residual: Tensor, weight: Tensor, bias: Tensor, eps: float
) -> tuple[Tensor, Tensor]:
    """Same as `add_layer_norm_torch`, up to 32 bits."""
    check_added(delta, residual)
    check_norm(delta, weight, bias)
    return _run(delta, residual.contiguous(), weight, bias, eps), delta


def _run(rows: Tensor, residual: Tensor | None, weight: Tensor, bias: Tensor | None, eps: float) -> Tensor:
    """The norm of contiguous rows [..., D], a LayerNorm if there is a bias; with a residual, rows becomes the sum."""
    dim = rows.shape[-1]
    out = torch.empty_like(rows)
    count = rows.numel() // dim
    if not count:
        return out
    block = triton.next_power_of_2(dim)
    with torch.cuda.device_of(rows):
        _norm[(count,)](
            rows,
            rows if residual is None else residual,
            weight.contiguous(),
            weight if bias is None else bias.contiguous(),
            out,
            eps,
            dim=dim,
            added=residual is not None,
            centred=bias is not None,
            block=block,
            num_warps=max(1, min(16, block // 512)),
        )
    return out


@triton.jit
def _norm(
    rows, residual, weight, bias, out, eps,
    dim: tl.constexpr, added: tl.constexpr, centred: tl.constexpr, block: tl.constexpr,
):  # fmt: skip
    start = tl.program_id(0).to(tl.int64) * dim
    place = tl.arange(0, block)
    inside = place < dim
    raw = tl.load(rows + start + place, mask=inside, other=0.0)
    dtype = raw.dtype
    if added:
        other = tl.load(residual + start + place, mask=inside, other=0.0)
        raw = (other.to(tl.float32) + raw.to(tl.float32)).to(dtype)
        tl.store(rows + start + place, raw, mask=inside)
    value = raw.to(tl.float32)
    scale = tl.load(weight + place, mask=inside, other=0.0).to(tl.float32)
    if centred:
        value = tl.where(inside, value - tl.sum(value) / dim, 0.0)
    rate = 1.0 / tl.sqrt(tl.sum(value * value) / dim + eps)
    if centred:
        shift = tl.load(bias + place, mask=inside, other=0.0).to(tl.float32)
        result = value * rate * scale + shift
    else:
        result = (value * rate).to(dtype).to(tl.float32) * scale
    tl.store(out + start + place, result.to(dtype), mask=inside)


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
