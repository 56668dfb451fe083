"""Store of a layer's prompt on the device."""

from __future__ import annotations

from torch import Tensor


class DeviceEntries:
    """Keys and values [B, H, S, D] of a layer's prompt where prefill left them: no copy."""

    host_bytes = 0

    def __init__(self, keys: Tensor, values: Tensor) -> None:
        self.keys, self.values = own(keys), own(values)

    @property
    def device_bytes(self) -> int:
        return nbytes(self.keys, self.values)


def nbytes(*tensors: Tensor) -> int:
    """Bytes of the elements of these tensors."""
    return sum(tensor.numel() * tensor.itemsize for tensor in tensors)


def own(entries: Tensor) -> Tensor:
    """The tensor itself, or a copy where it is a part of something larger or its channels are apart."""
    whole = entries.untyped_storage().nbytes() == nbytes(entries)
    return entries if whole and entries.stride(-1) == 1 else entries.contiguous().clone()
