"""Entries of pruned layers in pinned host memory; on the device only the text and what a step reads.

All layers read the same columns, so one map from columns to slots serves them all. When the policy chooses anew, the
columns that came in are fetched into the slots of those that left, by a kernel that reads the host's memory through
an index on the device: the host never learns which columns they are. Fetches run on a stream of their own; a layer
waits for its own entries and no other's.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from dycoke.kv_cache.device_store import nbytes
from dycoke.ops.attend.choose import list_columns, place_columns, plan_fetch
from dycoke.ops.attend.host_fetch import fetch

_streams: dict[torch.device, torch.cuda.Stream] = {}


def host_cache_works(model: nn.Module) -> bool:
    """Check whether the model is on a GPU to fetch into."""
    return any(parameter.is_cuda for parameter in model.parameters())


class Slots:
    """Table of the columns in the slots of the smaller store. text [B, S] bool always has a slot; budget [B] more do.

    Reads the device when it is made.
    """

    def __init__(self, text: Tensor, budget: Tensor) -> None:
        count = text.sum(1)
        self.first, self.width = int(count.max()), int(budget.max())
        self.home = torch.where(text, text.int().cumsum(1) - 1, -1).int()
        self.text = list_columns(text, self.first)[0]
        slot = torch.arange(self.width, device=text.device)
        self.valid = slot < budget[:, None]
        self.held = torch.full_like(self.valid, -1, dtype=torch.int32)

    def assign(self, keep: Tensor) -> Tensor:
        """Give the columns keep [B, W] int64 slots; returns the column to fetch into each slot, -1 where none."""
        return plan_fetch(keep, self.held, self.valid)

    def place(self, index: Tensor) -> Tensor:
        """Slots [B, N] int32 of columns index [B, N] int32, in the same order; -1 stays -1."""
        return place_columns(index, self.held, self.home, self.first)

    def reorder(self, rows: Tensor) -> None:
        for name in ("home", "text", "valid", "held"):
            value = getattr(self, name)
            setattr(self, name, value.index_select(0, rows.to(value.device)))


class HostEntries:
    """Keys and values of a layer's prompt [B, H, S, D] on the host, and those of `slots` [B, H, A, D] on the device."""

    def __init__(self, keys: Tensor, values: Tensor, slots: Slots) -> None:
        self._slots = slots
        self._arrived: torch.cuda.Event | None = None
        self.own_rows = torch.arange(keys.shape[0], dtype=torch.int32, device=keys.device)
        self.keys, self.values = self._on_device(keys), self._on_device(values)
        stream = _stream(keys.device)
        if stream is not None:
            stream.wait_stream(torch.cuda.current_stream(keys.device))
        with torch.cuda.stream(stream):
            self.host_keys, self.host_values = self._on_host(keys, stream), self._on_host(values, stream)

    @property
    def device_bytes(self) -> int:
        return nbytes(self.keys, self.values)

    @property
    def host_bytes(self) -> int:
        return nbytes(self.host_keys, self.host_values)

    def _on_device(self, entries: Tensor) -> Tensor:
        """The smaller store, with the text in its first slots. [B, H, A, D], a column's heads side by side."""
        batch, heads, _, dim = entries.shape
        slots = self._slots
        store = entries.new_zeros(batch, slots.first + slots.width, heads, dim).transpose(1, 2)
        text = slots.text.clamp(min=0).long().to(entries.device)
        store[:, :, : slots.first] = entries.gather(2, text[:, None, :, None].expand(-1, heads, -1, dim))
        return store

    def _on_host(self, entries: Tensor, stream: torch.cuda.Stream | None) -> Tensor:
        batch, heads, columns, dim = entries.shape
        pinned = entries.is_cuda
        host = torch.empty(batch, columns, heads, dim, dtype=entries.dtype, pin_memory=pinned).transpose(1, 2)
        host.copy_(entries, non_blocking=pinned)
        if stream is not None:
            entries.record_stream(stream)  # its memory may go to others once the copy has run
        return host

    @staticmethod
    def fetch_all(entries: Sequence[HostEntries], rows: Tensor, wanted: Tensor) -> None:
        """Bring column wanted[b, w] of host row rows[b] into slot w of row b, in each of these layers of one device."""
        if not entries:
            return
        stream = _stream(wanted.device)
        if stream is None:
            for entry in entries:
                entry._fetch(rows, wanted)
            return
        stream.wait_stream(torch.cuda.current_stream(wanted.device))
        with torch.cuda.stream(stream):
            for entry in entries:
                entry._fetch(rows, wanted)
                entry._arrived = torch.cuda.Event()
                entry._arrived.record(stream)

    def _fetch(self, rows: Tensor, wanted: Tensor) -> None:
        fetch(self.host_keys, self.host_values, rows, wanted, self.keys, self.values, self._slots.first)

    def wait(self) -> None:
        """Let the current stream wait for the entries fetched last."""
        if self._arrived is not None:
            torch.cuda.current_stream(self.keys.device).wait_event(self._arrived)

    def reorder(self, rows: Tensor) -> None:
        """Give each row the slots of row rows[b]; the host's rows stay, and are found by the request's `rows`."""
        rows = rows.to(self.keys.device)
        self.keys, self.values = (_select_rows(t, rows) for t in (self.keys, self.values))


def _select_rows(store: Tensor, rows: Tensor) -> Tensor:
    return store.transpose(1, 2).index_select(0, rows).transpose(1, 2)


def _stream(device: torch.device) -> torch.cuda.Stream | None:
    """The stream on which entries of a device come and go; None on a CPU."""
    if device.type != "cuda":
        return None
    if device not in _streams:
        _streams[device] = torch.cuda.Stream(device)
    return _streams[device]
