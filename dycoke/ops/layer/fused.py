"""What a prefill's layers do in one pass over memory: norms, alone or behind a residual add, and a gated MLP's middle.

The torch references are the definition, with the roundings of transformers' modules in the dtype they are given; on
CUDA the kernels of `fused_triton` run. Statistics are fp32 (float64 for float64). Not differentiable on CUDA.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional


def rms_norm(hidden: Tensor, weight: Tensor, eps: float) -> Tensor:
    """RMSNorm of hidden [..., D] with weight [D], as Qwen2 and Llama have it.

    Raises ValueError for a weight of another size or dtype.
    """
    check_norm(hidden, weight)
    if _has_kernel(hidden):
        from dycoke.ops.layer.fused_triton import rms_norm_triton  # Triton only where there is a GPU

        return rms_norm_triton(hidden, weight, eps)
    return rms_norm_torch(hidden, weight, eps)


def add_rms_norm(delta: Tensor, residual: Tensor, weight: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    """RMSNorm of residual + delta, both [..., D], and that sum, which is written over delta; residual is only read.

    The sum is rounded before it is normalised. Raises ValueError for shapes or dtypes that differ, or a delta that is
    not contiguous.
    """
    check_added(delta, residual)
    check_norm(delta, weight)
    if _has_kernel(delta):
        from dycoke.ops.layer.fused_triton import add_rms_norm_triton

        return add_rms_norm_triton(delta, residual, weight, eps)
    return add_rms_norm_torch(delta, residual, weight, eps)


def layer_norm(hidden: Tensor, weight: Tensor, bias: Tensor, eps: float) -> Tensor:
    """LayerNorm of hidden [..., D] with weight and bias [D], rounded once, at its end.

    Raises ValueError for a weight or bias of another size or dtype.
    """
    check_norm(hidden, weight, bias)
    if _has_kernel(hidden):
        from dycoke.ops.layer.fused_triton import layer_norm_triton

        return layer_norm_triton(hidden, weight, bias, eps)
    return layer_norm_torch(hidden, weight, bias, eps)


def add_layer_norm(delta: Tensor, residual: Tensor, weight: Tensor, bias: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    """LayerNorm of residual + delta, and that sum, which is written over delta; otherwise as `add_rms_norm`."""
    check_added(delta, residual)
    check_norm(delta, weight, bias)
    if _has_kernel(delta):
        from dycoke.ops.layer.fused_triton import add_layer_norm_triton

        return add_layer_norm_triton(delta, residual, weight, bias, eps)
    return add_layer_norm_torch(delta, residual, weight, bias, eps)


def rms_norm_torch(hidden: Tensor, weight: Tensor, eps: float) -> Tensor:
    """The reference of `rms_norm`, on any device."""
    exact = hidden if hidden.dtype == torch.float64 else hidden.float()
    scaled = exact * torch.rsqrt(exact.pow(2).mean(-1, keepdim=True) + eps)
    return weight * scaled.to(hidden.dtype)


def add_rms_norm_torch(delta: Tensor, residual: Tensor, weight: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    """The reference of `add_rms_norm`, on any device."""
    total = delta.add_(residual)
    return rms_norm_torch(total, weight, eps), total


def layer_norm_torch(hidden: Tensor, weight: Tensor, bias: Tensor, eps: float) -> Tensor:
    """The reference of `layer_norm`, on any device."""
    return functional.layer_norm(hidden, weight.shape, weight, bias, eps)


def add_layer_norm_torch(
    delta: Tensor, residual: Tensor, weight: Tensor, bias: Tensor, eps: float
) -> tuple[Tensor, Tensor]:
    """The reference of `add_layer_norm`, on any device."""
    total = delta.add_(residual)
    return layer_norm_torch(total, weight, bias, eps), total


def check_norm(hidden: Tensor, *parameters: Tensor) -> None:
    """Raise ValueError unless weight, and bias, are [D] for rows [..., D] of their dtype."""
    for given in parameters:
        if given.shape != hidden.shape[-1:] or given.dtype != hidden.dtype:
            raise ValueError(
                f"weight or bias of shape {tuple(given.shape)} and {given.dtype} for rows of shape "
                f"{tuple(hidden.shape)} and {hidden.dtype}: expected [D] of the same dtype"
            )


def check_added(delta: Tensor, residual: Tensor) -> None:
    """Raise ValueError unless both can be added, and the sum be written over delta."""
    if delta.shape != residual.shape or delta.dtype != residual.dtype:
        raise ValueError(
            f"delta of shape {tuple(delta.shape)} and {delta.dtype} for a residual of shape {tuple(residual.shape)} "
            f"and {residual.dtype}: expected the same"
        )
    if not delta.is_contiguous():
        raise ValueError("delta: expected a contiguous tensor, because the sum is written over it")


def _has_kernel(hidden: Tensor) -> bool:
    return hidden.is_cuda and hidden.dtype != torch.float64


def silu_mul(gate: Tensor, up: Tensor) -> Tensor:
    """silu(gate) * up, both contiguous and of one shape, written over gate and returned; SiLU is rounded first.

    Raises ValueError for shapes or dtypes that differ, and for tensors that are not contiguous.
    """
    check_gate(gate, up)
    if gate.is_cuda and gate.dtype != torch.float64:
        from dycoke.ops.layer.fused_triton import silu_mul_triton  # Triton only where there is a GPU

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
