"""How many programs a GPU runs side by side, which the plans of kernels are made for."""

from __future__ import annotations

from functools import cache

import torch

_ON_CPU = 4  # stands in for the multiprocessors in Triton's interpreter


@cache
def processors(device: torch.device) -> int:
    """Multiprocessors of a device."""
    return torch.cuda.get_device_properties(device).multi_processor_count if device.type == "cuda" else _ON_CPU
