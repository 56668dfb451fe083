"""Rotary tables of one new token a row, which the module of a model makes in ten kernels."""

from __future__ import annotations

import torch
from torch import Tensor


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
        from dycoke.ops.layer.rotary_tables_triton import rotary_tables_triton  # Triton only where there is a GPU

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
