"""Store of one layer of a request's cache: its prompt's entries, and a tail with a column per decoded token."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import pad

from dycoke.kv_cache.columns import Columns
from dycoke.kv_cache.device_store import DeviceEntries
from dycoke.kv_cache.host_store import HostEntries
from dycoke.ops.attend.sparse_decode import Store


class LayerStore:
    """Keys and values of a layer: entries of the prompt [B, H, S, D], and tails [B, H, capacity, D] of the answer."""

    def __init__(self, entries: DeviceEntries | HostEntries, tail: tuple[Tensor, Tensor]) -> None:
        self.entries, self.tail = entries, tail
        self._store: Store | None = None  # made once: a step has no time for it

    @property
    def device(self) -> torch.device:
        """Device on which steps read it."""
        return self.entries.keys.device

    @property
    def device_bytes(self) -> int:
        """Bytes on the device that computes."""
        return self.entries.device_bytes + sum(part.numel() * part.itemsize for part in self.tail)

    @property
    def on_host(self) -> bool:
        """Whether the prompt's entries are in host memory."""
        return isinstance(self.entries, HostEntries)

    def reserve(self, more: int) -> None:
        """Make the tail longer by so many columns."""
        self.tail = tuple(pad(part, (0, 0, 0, more)) for part in self.tail)
        self._store = None

    def append(self, position: Tensor, keys: Tensor, values: Tensor) -> None:
        """Write a token's keys and values [B, H, 1, D] to column position [1] of the tail."""
        for part, new in zip(self.tail, (keys, values), strict=True):
            part.index_copy_(2, position, new)

    def evict(self, index: Tensor) -> None:
        """Leave the prompt no columns but index [B, C]."""
        taken = index.to(self.device)[:, None, :, None]
        kept = (part.take_along_dim(taken, 2) for part in (self.entries.keys, self.entries.values))
        self.entries, self._store = DeviceEntries(*kept), None

    def read_by(self, columns: Columns) -> Store:
        """Entries a step reads by index; for entries in host memory, those on the device, once they have arrived."""
        if isinstance(self.entries, HostEntries):
            self.entries.wait()
        if self._store is None:
            rows = self.entries.own_rows if isinstance(self.entries, HostEntries) else columns.rows
            self._store = Store(self.entries.keys, self.entries.values, *self.tail, rows, columns.filled)
        return self._store

    def copied(self, rows: Tensor, taken: int) -> tuple[Tensor, Tensor]:
        """Copies [B, H, S + taken, D] of rows [B] of the prompt and `taken` columns of the tail."""
        parts = zip((self.entries.keys, self.entries.values), self.tail, strict=True)
        keys, values = (torch.cat([own.index_select(0, rows), new[:, :, :taken]], dim=2) for own, new in parts)
        return keys, values

    def reorder(self, rows: Tensor) -> None:
        """Give each batch row the tail of row rows[b]; the prompt's entries on the device stay in place."""
        self.tail = tuple(part.index_select(0, rows.to(part.device)) for part in self.tail)
        self._store = None
        if isinstance(self.entries, HostEntries):
            self.entries.reorder(rows)
