"""What a GPU has for programs, which the tilings of kernels are made for."""

from __future__ import annotations

from functools import cache

import torch

_UNBOUNDED = 2**40
_ON_CPU = 4  # stands in for the multiprocessors in Triton's interpreter


@cache
def processors(device: torch.device) -> int:
    """Multiprocessors of a device."""
    return torch.cuda.get_device_properties(device).multi_processor_count if device.type == "cuda" else _ON_CPU


@cache
def shared_memory(device: torch.device) -> int:
    """Bytes of shared memory that one program may have."""
    if device.type != "cuda":
        return _UNBOUNDED
    properties = torch.cuda.get_device_properties(device)
    # Builds for ROCm have the second only, where it is as large.
    return getattr(properties, "shared_memory_per_block_optin", properties.shared_memory_per_block)
