"""Rotary position embedding of queries and keys where the projections wrote them: no transpose, no second copy.

The torch reference is the definition; on CUDA `rotate` runs `rotate_triton`. Not differentiable.
"""

from __future__ import annotations

import torch
from torch import Tensor


def rotate(query: Tensor, key: Tensor, cos: Tensor, sin: Tensor) -> tuple[Tensor, Tensor]:
    """Turn query [B, S, Hq, D] and key [B, S, H, D] in place by the tables cos, sin [B or 1, S, D], and return them.

    Halves are paired as Llama and Qwen2 do (x[i] with x[i + D / 2]); each product is rounded before the sum.
    Raises ValueError for shapes or dtypes that do not fit together, and for tensors that are not contiguous.
    """
    check_rotary(query, key, cos, sin)
    if query.is_cuda and query.dtype != torch.float64:
        from dycoke.ops.layer.rotary_triton import rotate_triton  # Triton only where there is a GPU

        return rotate_triton(query, key, cos, sin)
    return rotate_torch(query, key, cos, sin)


def rotate_torch(query: Tensor, key: Tensor, cos: Tensor, sin: Tensor) -> tuple[Tensor, Tensor]:
    """The reference of `rotate`, on any device."""
    check_rotary(query, key, cos, sin)
    cos, sin = cos[:, :, None], sin[:, :, None]
    for each in (query, key):
        low, high = each.chunk(2, dim=-1)
        turned = torch.cat([-high, low], dim=-1) * sin
        each.mul_(cos).add_(turned)
    return query, key


def check_rotary(query: Tensor, key: Tensor, cos: Tensor, sin: Tensor) -> None:
    """Raise ValueError unless queries, keys and tables fit together."""
    if query.ndim != 4 or key.ndim != 4 or query.shape[:2] != key.shape[:2] or query.shape[3] != key.shape[3]:
        raise ValueError(
            f"query {tuple(query.shape)} and key {tuple(key.shape)}: expected [B, S, Hq, D] and [B, S, H, D]"
        )
    batch, length, _, dim = query.shape
    if dim % 2 or cos.shape != sin.shape or cos.shape not in ((batch, length, dim), (1, length, dim)):
        raise ValueError(
            f"cos {tuple(cos.shape)} and sin {tuple(sin.shape)} for queries {tuple(query.shape)}: expected "
            "[B or 1, S, D] with an even D"
        )
    if len({each.dtype for each in (query, key, cos, sin)}) > 1:
        raise ValueError(f"dtypes {query.dtype}, {key.dtype}, {cos.dtype}, {sin.dtype}: expected one")
    if not (query.is_contiguous() and key.is_contiguous()):
        raise ValueError("query and key: expected contiguous tensors, because they are turned in place")
