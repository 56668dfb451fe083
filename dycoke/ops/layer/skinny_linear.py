"""Linear layers of a decode step: a few rows against whole weights, with what stands around them in a layer.

The torch reference, a model's own operations one after the other, is the definition. On CUDA `skinny_linear` runs the
kernels of `skinny_linear_triton`, which read every weight once, or, where that is faster for a single weight, one
product of cuBLAS; more rows than the kernels are made for take the reference otherwise.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.nn import functional

from dycoke.ops.attend.sparse_decode import Scratch
from dycoke.ops.layer.fused import rms_norm, rms_norm_torch

if TYPE_CHECKING:
    from dycoke.ops.layer.skinny_linear_triton import Tiling

FEW_ROWS = 16  # to here the kernels were faster for every linear of a 7b step, on an H200
MOST_ROWS = 64  # from here on a linear is no longer bound by reading its weights
_MOST_WEIGHTS = 3
_DTYPES = (torch.float32, torch.bfloat16, torch.float16)

Biases = Sequence[Tensor | None]
Norm = tuple[Tensor, float]


def skinny_linear(
    x: Tensor,
    weights: Sequence[Tensor],
    biases: Biases | None = None,
    *,
    norm: Norm | None = None,
    gate: bool = False,
    residual: Tensor | None = None,
    out: Tensor | None = None,
    scratch: Scratch | None = None,
    tiling: Tiling | None = None,
) -> Tensor:
    """x [R, K] by one to three weights [N_i, K] as nn.Linear holds them -> [R, sum N_i], outputs side by side.

    biases: one [N_i] or None for each weight. norm: weight [K] and epsilon of Qwen2's RMSNorm, applied to x first.
    gate: of exactly two weights of one shape, silu(x weights[0]^T) * (x weights[1]^T), [R, N]. residual [R, N], added
    last. out: where to write the result; it may be the residual's own memory. Sums are fp32 (float64 for float64), and
    every product, norm and sum is rounded to the dtype where the model's own operations round it; only where cuBLAS
    adds the residual to a product is there one rounding for both. scratch: for the kernels; without it they allocate
    what they need at each call. tiling: instead of the one chosen by shape, or of cuBLAS; ignored where no kernel runs.
    Not differentiable on CUDA. Raises ValueError for shapes that do not fit together.
    """
    check_linear(x, weights, biases, norm, gate, residual, out)
    if _has_kernel(x, weights, residual, out):
        from dycoke.ops.layer.skinny_linear_triton import (  # Triton only where a GPU is
            chosen_tiling,
            skinny_linear_triton,
        )

        if tiling is None:
            sizes = tuple(weight.shape[0] for weight in weights)
            tiling = chosen_tiling(x.device, x.dtype, *x.shape, sizes, gate)
        if tiling is not None:
            return skinny_linear_triton(
                x, weights, biases, norm=norm, gate=gate, residual=residual, out=out, scratch=scratch, tiling=tiling
            )
    if x.is_cuda and len(weights) == 1:
        return one_product(x, weights[0], None if biases is None else biases[0], norm, residual, out)
    return _one_after_another(x, weights, biases, norm, gate, residual, out)


def skinny_linear_torch(
    x: Tensor,
    weights: Sequence[Tensor],
    biases: Biases | None = None,
    *,
    norm: Norm | None = None,
    gate: bool = False,
    residual: Tensor | None = None,
    out: Tensor | None = None,
) -> Tensor:
    """The reference of `skinny_linear`, on any device and for any number of rows."""
    check_linear(x, weights, biases, norm, gate, residual, out)
    return _one_after_another(x, weights, biases, norm, gate, residual, out)


def one_product(
    x: Tensor, weight: Tensor, bias: Tensor | None, norm: Norm | None, residual: Tensor | None, out: Tensor | None
) -> Tensor:
    """`skinny_linear` of a single weight by one product, which sums in fp32, adds the residual itself and rounds once.

    Nothing is copied where out is the residual. Without a residual the bias is added in the same way.
    """
    if norm is not None:
        x = rms_norm(x, *norm)
    added, weight = bias if residual is None else residual, weight.t()
    if added is None:
        return torch.mm(x, weight, out=out)
    if out is not None and out is residual:
        result = residual.addmm_(x, weight)
    else:
        result = torch.addmm(added, x, weight, out=out)
    return result if residual is None or bias is None else result.add_(bias)


def check_linear(
    x: Tensor,
    weights: Sequence[Tensor],
    biases: Biases | None,
    norm: Norm | None,
    gate: bool,
    residual: Tensor | None,
    out: Tensor | None,
) -> None:
    """Raise ValueError unless all fit together."""
    if x.ndim != 2:
        raise ValueError(f"x: expected [R, K], got shape {tuple(x.shape)}")
    if not 1 <= len(weights) <= _MOST_WEIGHTS:
        raise ValueError(f"weights: expected 1 to {_MOST_WEIGHTS}, got {len(weights)}")
    rows, width = x.shape
    for weight in weights:
        if weight.ndim != 2 or weight.shape[1] != width:
            raise ValueError(f"weights: expected [N, {width}], got shape {tuple(weight.shape)}")
    if gate and (len(weights) != 2 or weights[0].shape != weights[1].shape):
        raise ValueError(f"gate: expected two weights of one shape, got {[tuple(w.shape) for w in weights]}")
    if biases is not None:
        sizes = [bias if bias is None else tuple(bias.shape) for bias in biases]
        if len(sizes) != len(weights) or any(
            size is not None and size != weight.shape[:1] for size, weight in zip(sizes, weights, strict=True)
        ):
            raise ValueError(f"biases: expected [N] or None for each of {len(weights)} weights, got {sizes}")
    if norm is not None and norm[0].shape != (width,):
        raise ValueError(f"norm: expected a weight of shape [{width}], got {tuple(norm[0].shape)}")
    expected = rows, weights[0].shape[0] if gate else sum(weight.shape[0] for weight in weights)
    for name, each in (("residual", residual), ("out", out)):
        if each is not None and each.shape != expected:
            raise ValueError(f"{name}: expected shape {expected}, got {tuple(each.shape)}")


def _has_kernel(x: Tensor, weights: Sequence[Tensor], residual: Tensor | None, out: Tensor | None) -> bool:
    """Whether the kernels take this call: a few rows on CUDA, of one dtype of at most 32 bits, contiguous."""
    if not (x.is_cuda and 1 <= x.shape[0] <= MOST_ROWS and x.dtype in _DTYPES):
        return False
    whole = all(weight.dtype == x.dtype and weight.is_contiguous() for weight in weights)
    return whole and all(each is None or each.is_contiguous() for each in (residual, out))


def _one_after_another(
    x: Tensor,
    weights: Sequence[Tensor],
    biases: Biases | None,
    norm: Norm | None,
    gate: bool,
    residual: Tensor | None,
    out: Tensor | None,
) -> Tensor:
    if norm is not None:
        x = rms_norm_torch(x, *norm)
    biases = (None,) * len(weights) if biases is None else biases
    products = [functional.linear(x, weight, bias) for weight, bias in zip(weights, biases, strict=True)]
    if gate:
        result = functional.silu(products[0]) * products[1]
    else:
        result = products[0] if len(products) == 1 else torch.cat(products, dim=1)
    if residual is not None:
        return torch.add(residual, result, out=out) if out is not None else residual + result
    return result if out is None else out.copy_(result)
