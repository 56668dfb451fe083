"""What a layer of the cache keeps of its prompt on the device, and states that follow their rows."""

from __future__ import annotations

import dataclasses
from typing import Any

from torch import Tensor

from dycoke.types import PolicyState


class DeviceEntries:
    """Keys and values [B, H, S, D] of a layer's prompt where prefill left them: no copy."""

    host_bytes = 0

    def __init__(self, keys: Tensor, values: Tensor) -> None:
        self.keys, self.values = own(keys), own(values)

    @property
    def device_bytes(self) -> int:
        return nbytes(self.keys, self.values)


def nbytes(*tensors: Tensor) -> int:
    """Bytes the elements of these tensors take."""
    return sum(tensor.numel() * tensor.itemsize for tensor in tensors)


def own(entries: Tensor) -> Tensor:
    """The tensor itself, or a copy where it is a part of something larger or its channels are apart."""
    whole = entries.untyped_storage().nbytes() == nbytes(entries)
    return entries if whole and entries.stride(-1) == 1 else entries.contiguous().clone()


def reorder_state(state: PolicyState, rows: Tensor) -> None:
    """Give every tensor attribute of a policy's state the rows rows [B]; two names of one tensor stay one.

    New tensors are set, frozen or not: those of before may be the policy's own.
    """
    moved: dict[int, tuple[Tensor, Tensor]] = {}
    for name in state_names(state):
        value = getattr(state, name)
        if isinstance(value, Tensor):
            if id(value) not in moved:
                moved[id(value)] = value, value.index_select(0, rows.to(value.device))
            object.__setattr__(state, name, moved[id(value)][1])


def check_state(state: Any, batch: int) -> None:
    """Raise TypeError for a state whose attributes cannot be set or that has no keep, ValueError for another shape."""
    state_names(state)
    if not isinstance(getattr(state, "keep", None), Tensor):
        raise TypeError(f"state {type(state).__name__}: expected an attribute keep, int64 [B, W]")
    if state.keep.ndim != 2 or state.keep.shape[0] != batch:
        raise ValueError(f"state.keep of shape {tuple(state.keep.shape)}: expected [{batch}, W]")


def state_names(state: Any) -> list[str]:
    """Names of a state's attributes. Raises TypeError where they cannot be set, as a tuple's."""
    if hasattr(state, "__dict__"):
        return list({"keep": None, **vars(state)})  # keep may be an attribute of the class
    if dataclasses.is_dataclass(state):
        return [each.name for each in dataclasses.fields(state)]
    raise TypeError(f"state {type(state).__name__}: expected an object whose attributes can be set, to reorder beams")
