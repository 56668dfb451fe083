"""Rotary position embedding of one new token per row: its tables, and queries and keys with their write to the cache.

A model's own module makes the tables in ten kernels.
"""

from __future__ import annotations

import torch
from torch import Tensor


def rotary_write(
    qkv: Tensor, cos: Tensor, sin: Tensor, tail_keys: Tensor, tail_values: Tensor, position: Tensor
) -> Tensor:
    """Rotated queries [B, Hq, D] of one new token a row; its rotated key and its value are written into the tails.

    qkv [B, (Hq + 2H) * D]: query, key and value heads side by side, of which Hq follows. cos, sin [B, D] of the token's
    position, in the dtype of qkv: halves are rotated and products rounded as Llama's and Qwen2's attention do it.
    tail_keys, tail_values [B, H, T, D], any strides but a contiguous last axis; position [1] int64, on the device: the
    column written, in range. Not differentiable on CUDA. Raises ValueError for shapes that do not fit together.
    """
    query_heads = check_rotary(qkv, cos, sin, tail_keys, tail_values, position)
    if _has_kernel(qkv, cos, sin, tail_keys, tail_values):
        from dycoke.ops.layer.rotary_step_triton import rotary_write_triton  # Triton only where there is a GPU

        return rotary_write_triton(qkv, cos, sin, tail_keys, tail_values, position)
    return _rotary_write(qkv, cos, sin, tail_keys, tail_values, position, query_heads)


def rotary_write_torch(
    qkv: Tensor, cos: Tensor, sin: Tensor, tail_keys: Tensor, tail_values: Tensor, position: Tensor
) -> Tensor:
    """The reference of `rotary_write`, on any device."""
    query_heads = check_rotary(qkv, cos, sin, tail_keys, tail_values, position)
    return _rotary_write(qkv, cos, sin, tail_keys, tail_values, position, query_heads)


def check_rotary(
    qkv: Tensor, cos: Tensor, sin: Tensor, tail_keys: Tensor, tail_values: Tensor, position: Tensor
) -> int:
    """The number of query heads. Raises ValueError unless all fit together."""
    if tail_keys.ndim != 4 or tail_values.shape != tail_keys.shape:
        raise ValueError(
            f"tails: expected [B, H, T, D] twice, got {tuple(tail_keys.shape)} and {tuple(tail_values.shape)}"
        )
    rows, heads, _, dim = tail_keys.shape
    if qkv.ndim != 2 or qkv.shape[0] != rows or qkv.shape[1] % dim or qkv.shape[1] <= 2 * heads * dim:
        raise ValueError(f"qkv: expected [{rows}, (Hq + {2 * heads}) * {dim}], got shape {tuple(qkv.shape)}")
    if dim % 2:
        raise ValueError(f"D={dim}: expected an even head dimension")
    for name, each in (("cos", cos), ("sin", sin)):
        if each.shape != (rows, dim):
            raise ValueError(f"{name}: expected [{rows}, {dim}], got shape {tuple(each.shape)}")
    if position.shape != (1,):
        raise ValueError(f"position: expected [1], got shape {tuple(position.shape)}")
    return qkv.shape[1] // dim - 2 * heads


def _has_kernel(qkv: Tensor, *others: Tensor) -> bool:
    """Whether the kernel takes this call: on CUDA, of one dtype of at most 32 bits, with contiguous last axes."""
    same = all(each.dtype == qkv.dtype and each.stride(-1) == 1 for each in others)
    return qkv.is_cuda and qkv.dtype != torch.float64 and qkv.stride(-1) == 1 and same


def _rotary_write(
    qkv: Tensor,
    cos: Tensor,
    sin: Tensor,
    tail_keys: Tensor,
    tail_values: Tensor,
    position: Tensor,
    query_heads: int,
) -> Tensor:
    rows, heads, _, dim = tail_keys.shape
    query, key, value = qkv.view(rows, -1, dim).split([query_heads, heads, heads], dim=1)
    tail_keys.index_copy_(2, position, _rotated(key, cos, sin)[:, :, None])
    tail_values.index_copy_(2, position, value[:, :, None])
    return _rotated(query, cos, sin)


def _rotated(states: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """states [B, H, D] by cos, sin [B, D]."""
    first, second = states.chunk(2, dim=-1)
    return states * cos[:, None] + torch.cat((-second, first), dim=-1) * sin[:, None]


def rotary_tables(
    positions: Tensor, frequencies: Tensor, scaling: float, dtype: torch.dtype, shift: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Tables cos, sin [B, D] of positions [B] int64, as Llama's and Qwen2's rotary modules make them.

    frequencies [D / 2]: of the module, one for each pair; scaling: of both tables, its `attention_scaling`. shift
    [B, 1] int64, taken off the positions; None for none. Angles and tables are fp32 and rounded once, to dtype. Not
    differentiable. Raises ValueError for shapes that do not fit together, and for frequencies on another device.
    """
    check_tables(positions, frequencies, shift)
    if positions.is_cuda and dtype != torch.float64:
        from dycoke.ops.layer.rotary_step_triton import rotary_tables_triton  # Triton only where there is a GPU

        return rotary_tables_triton(positions, frequencies, scaling, dtype, shift)
    return rotary_tables_torch(positions, frequencies, scaling, dtype, shift)


def rotary_tables_torch(
    positions: Tensor, frequencies: Tensor, scaling: float, dtype: torch.dtype, shift: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """The reference of `rotary_tables`, on any device."""
    check_tables(positions, frequencies, shift)
    positions = positions[:, None] if shift is None else positions[:, None] - shift
    angles = positions.float() * frequencies.float()
    angles = torch.cat([angles, angles], dim=1)
    return (angles.cos() * scaling).to(dtype), (angles.sin() * scaling).to(dtype)


def check_tables(positions: Tensor, frequencies: Tensor, shift: Tensor | None) -> None:
    """Raise ValueError unless all fit together."""
    if positions.ndim != 1:
        raise ValueError(f"positions: expected [B], got shape {tuple(positions.shape)}")
    if frequencies.ndim != 1:
        raise ValueError(f"frequencies: expected [D / 2], got shape {tuple(frequencies.shape)}")
    if frequencies.device != positions.device:
        raise ValueError(f"frequencies on {frequencies.device}: expected {positions.device}, as positions are")
    if shift is not None and shift.shape != (len(positions), 1):
        raise ValueError(f"shift: expected [{len(positions)}, 1], got shape {tuple(shift.shape)}")
