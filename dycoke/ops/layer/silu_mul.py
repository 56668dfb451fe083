"""SiLU of the gate times what came up: the middle of a gated MLP.

The torch reference is the definition; on CUDA `silu_mul` runs `silu_mul_triton`. Not differentiable.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional


def silu_mul(gate: Tensor, up: Tensor) -> Tensor:
    """silu(gate) * up, both contiguous and of one shape, written over gate and returned; SiLU is rounded first.

    Raises ValueError for shapes or dtypes that differ, and for tensors that are not contiguous.
    """
    check_gate(gate, up)
    if gate.is_cuda and gate.dtype != torch.float64:
        from dycoke.ops.layer.silu_mul_triton import silu_mul_triton  # Triton only where there is a GPU

        return silu_mul_triton(gate, up)
    return silu_mul_torch(gate, up)


def silu_mul_torch(gate: Tensor, up: Tensor) -> Tensor:
    """The reference of `silu_mul`, on any device."""
    check_gate(gate, up)
    return functional.silu(gate, inplace=True).mul_(up)


def check_gate(gate: Tensor, up: Tensor) -> None:
    """Raise ValueError unless gate and up are contiguous and alike."""
    if gate.shape != up.shape or gate.dtype != up.dtype or not (gate.is_contiguous() and up.is_contiguous()):
        raise ValueError(
            f"gate {tuple(gate.shape)} {gate.dtype} and up {tuple(up.shape)} {up.dtype}: expected contiguous tensors "
            "of one shape and dtype"
        )
