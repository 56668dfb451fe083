"""Tables of numbers as tensors, made once on each device: making one anew lets a GPU wait for its host."""

from __future__ import annotations

from functools import cache

import torch
from torch import Tensor


@cache
def constant(values: tuple, device: torch.device, dtype: torch.dtype = torch.int64) -> Tensor:
    """A tensor of a (nested) tuple of numbers. It is shared, so nobody may write into it."""
    return torch.tensor(values, dtype=dtype, device=device)
