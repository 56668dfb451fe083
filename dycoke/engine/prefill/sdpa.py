"""Scaled dot product attention with the backend that is fastest on Hopper, where torch does not choose it by itself."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager

from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.functional import scaled_dot_product_attention

# In order of preference: torch takes the first that accepts the shapes, and off CUDA knows the last two alone.
BACKENDS = (
    SDPBackend.CUDNN_ATTENTION,
    SDPBackend.FLASH_ATTENTION,
    SDPBackend.EFFICIENT_ATTENTION,
    SDPBackend.MATH,
)

# cuDNN attention builds a plan for every shape it meets, which takes longer than the attention itself; with lengths in
# steps of this many tokens there are few shapes. It costs next to nothing: matrix products work in tiles of 128 rows or
# more, and fill up the last one anyway.
BUCKET = 128


def preferring(backends: Sequence[SDPBackend] = BACKENDS) -> AbstractContextManager[None]:
    """Within the context, attention takes the first of `backends` that accepts its inputs. Not thread-safe."""
    return sdpa_kernel(list(backends), set_priority=True)


def attend(query: Tensor, key: Tensor, value: Tensor, scale: float, *, causal: bool) -> Tensor:
    """Attention of query [B, S, Hq, D] to key and value [B, S, H, D] -> [B, S, Hq, D], contiguous.

    The layout is the projections' own: backends read strides, and no transpose is written out. Query head h shares key
    head h // (Hq / H).
    """
    grouped = query.shape[2] != key.shape[2]
    query, key, value = (each.transpose(1, 2) for each in (query, key, value))
    out = scaled_dot_product_attention(query, key, value, scale=scale, is_causal=causal, enable_gqa=grouped)
    return out.transpose(1, 2).contiguous()


def rounded_up(length: int) -> int:
    """`length` tokens in whole buckets."""
    return -(-length // BUCKET) * BUCKET
