"""Bring columns of keys and values from a store in host memory into slots of a smaller store on the device.

The torch reference is the definition; for slots on a GPU `fetch` runs `host_fetch_triton`, which reads the host's
memory through its mapped address, by an index that stays on the device.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from torch import Tensor


def fetch(
    host_keys: Tensor, host_values: Tensor, rows: Tensor, wanted: Tensor, keys: Tensor, values: Tensor, first: int
) -> None:
    """Copy column wanted[b, w] of the host's row rows[b] into slot first + w of row b of `keys` and `values`, in place.

    host_keys, host_values [P, H, S, D]: pinned host memory where the slots are on a GPU. rows [B] int32. wanted
    [B, W] int32: -1 leaves the slot alone. keys, values [B, H, A, D] with A >= first + W, of the host's dtype.
    Raises ValueError if the slots are on a GPU and the host's memory is not pinned, and so cannot be read from there.
    """
    if keys.is_cuda:
        from dycoke.ops.attend.host_fetch_triton import fetch_triton  # Triton only where there is a GPU

        fetch_triton(host_keys, host_values, rows, wanted, keys, values, first)
    else:
        fetch_torch(host_keys, host_values, rows, wanted, keys, values, first)


def fetch_torch(
    host_keys: Tensor, host_values: Tensor, rows: Tensor, wanted: Tensor, keys: Tensor, values: Tensor, first: int
) -> None:
    """The reference of `fetch`: all tensors on one device."""
    column = wanted.clamp(min=0).long()
    fetched = (wanted >= 0)[:, None, :, None]
    for host, slots in ((host_keys, keys), (host_values, values)):
        target = slots[:, :, first : first + wanted.shape[1]]
        incoming = host[rows.long()[:, None], :, column].transpose(1, 2)  # [B, W, H, D] -> [B, H, W, D]
        target.copy_(torch.where(fetched, incoming, target))
