"""The KV cache of a request whose later layers read part of the prompt: one store, and an index view over it.

A layer's keys and values are those of the prompt, kept as prefill made them, and a tail that takes a column for every
decoded token. What a step reads is an index on the device; nothing is copied to read less, and nothing is evicted:
a column that is not read now can be read at any later step. The whole store is the paper's DP cache.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor

from dycoke.entries import DeviceEntries, check_state, reorder_state
from dycoke.host_cache import HostEntries, Slots
from dycoke.ops.choose import list_columns
from dycoke.ops.sparse_decode import Reads, Scratch, Store, sparse_decode, sparse_decode_observed
from dycoke.types import DecodePolicy
from dycoke.usage import CacheUse

TAIL = 64  # columns of decoded tokens a request starts with; doubled when they are full


@dataclass
class Columns:
    """What the layers of one device read. rows, filled [B] int32 and position [1] int64 as in `Store`."""

    rows: Tensor
    filled: Tensor
    position: Tensor
    whole: Reads
    pruned: Reads | None = None
    scratch: Scratch = field(default_factory=Scratch)  # of all layers in turn
    wanted: Tensor | None = None  # what is being fetched: kept until the next choice, for another stream reads it


class DecodeRequest:
    """What the decode steps of one request share. Lives as long as the cache whose layers hold it.

    policy: chooses the columns; None reads everything. layers: of the model. real [B, S] bool: columns that are no
    padding, None if all are. visual [B, S] bool: columns the policy may leave out, None if there are none.
    host: keep the entries of pruned layers in host memory. tail: columns to reserve for the answer.
    Reads the device when it is made, and not afterwards.
    """

    def __init__(
        self,
        policy: DecodePolicy | None,
        layers: int,
        shape: tuple[int, int],
        device: torch.device,
        real: Tensor | None,
        visual: Tensor | None,
        *,
        host: bool = False,
        tail: int = TAIL,
        trace: bool = False,
    ) -> None:
        self.batch, self.prompt = shape
        real = torch.ones(shape, dtype=torch.bool, device=device) if real is None else real.to(device)
        visual = torch.zeros_like(real) if visual is None else visual.to(device) & real
        self.policy = policy if bool(visual.any()) else None
        self.first = layers if policy is None else policy.first_layer
        # First layer that reads less: `first`, or no layer where there is nothing to prune.
        self.pruned_from = layers if self.policy is None else self.first
        self.entries: list[DeviceEntries | HostEntries | None] = [None] * layers
        self.tails: list[tuple[Tensor, Tensor] | None] = [None] * layers
        self._stores: list[Store | None] = [None] * layers  # made once: a step has no time for it
        self.capacity, self.steps, self.stepping = tail, 0, False
        self.use = CacheUse(layers, self.first, self.batch, trace)
        self.use.start(device)
        self._device = device
        self._whole = _whole(real)
        self._columns: dict[torch.device, Columns] = {}
        self.columns(device)
        self.slots: Slots | None = None
        if self.policy is None:
            return
        self.state = self.policy.start(visual)
        check_state(self.state, self.batch)
        self._kept = self.state.keep.shape
        self.use.selections = getattr(self.state, "selections", None)
        text = real & ~visual
        self._width = min(self.prompt, int(text.sum(1).max()) + self.state.keep.shape[1])
        # One column more than there are: what is padded in `keep` marks that one.
        self._text = torch.nn.functional.pad(text, (0, 1))
        if host:
            self.slots = Slots(text, torch.tensor([policy.budget(n) for n in visual.sum(1).tolist()], device=device))

    def columns(self, device: torch.device) -> Columns:
        """What the layers on `device` share; made when the first of them is filled."""
        if device not in self._columns:
            count = self._whole.count.to(device)
            index = None if self._whole.index is None else self._whole.index.to(device)
            self._columns[device] = Columns(
                rows=torch.arange(self.batch, dtype=torch.int32, device=device),
                filled=torch.full((self.batch,), self.steps, dtype=torch.int32, device=device),
                position=torch.full((1,), self.steps - 1, device=device),
                whole=Reads(count, index),
            )
        return self._columns[device]

    def fill(self, layer: int, keys: Tensor, values: Tensor) -> None:
        """Take a layer's prompt, [B, H, S, D] each, and reserve its tail.

        Raises ValueError if the prompt is not the one that was announced.
        """
        if (keys.shape[0], keys.shape[2]) != (self.batch, self.prompt):
            raise ValueError(
                f"a prompt of {keys.shape[0]} rows and {keys.shape[2]} tokens where {self.batch} and {self.prompt} "
                "were announced"
            )
        self.columns(keys.device)
        on_host = self.slots is not None and layer >= self.pruned_from
        self.entries[layer] = HostEntries(keys, values, self.slots) if on_host else DeviceEntries(keys, values)
        self.tails[layer] = tuple(t.new_zeros(*t.shape[:2], self.capacity, t.shape[3]) for t in (keys, values))
        self.use.column_bytes = (keys.shape[1] * keys.shape[3] + values.shape[1] * values.shape[3]) * keys.itemsize
        self._count_bytes()

    def reserve(self, tokens: int) -> None:
        """Make room for an answer of `tokens`; a step that is captured in a CUDA graph must never need to grow."""
        if tokens <= self.capacity:
            return
        pad = (0, 0, 0, tokens - self.capacity)
        self.tails = [t and tuple(torch.nn.functional.pad(part, pad) for part in t) for t in self.tails]
        self.capacity, self._stores = tokens, [None] * len(self._stores)
        self._count_bytes()

    def advance(self) -> None:
        """Begin a step: one more column of the tail is valid, which the layers fill in turn.

        Raises ValueError if the step before failed half-way, so that some layers lack its token.
        """
        if self.stepping:
            raise ValueError("a step of this request failed: pass the whole prompt and a fresh cache")
        self.steps += 1
        if self.steps > self.capacity:
            self.reserve(2 * self.capacity)
        self.stepping = True
        self.tick()

    def tick(self) -> None:
        """The part of `advance` that happens on the device, and so in every replay of a CUDA graph."""
        for columns in self._columns.values():
            columns.filled.add_(1)
            columns.position.add_(1)

    def append(self, layer: int, keys: Tensor, values: Tensor) -> None:
        """Write the new token's keys and values [B, H, 1, D] of a layer."""
        position = self._columns[keys.device].position
        tail_keys, tail_values = self.tails[layer]
        tail_keys.index_copy_(2, position, keys)
        tail_values.index_copy_(2, position, values)

    def attend(self, layer: int, query: Tensor, scale: float) -> Tensor:
        """Attention of the new token, query [B, Hq, 1, D] -> [B, 1, Hq, D], over what the layer is to read."""
        columns, query, store = self._columns[query.device], query.squeeze(2), self.store(layer)
        if layer >= self.pruned_from:
            out = sparse_decode(query, store, columns.pruned, scale, columns.scratch)
        elif layer == self.pruned_from - 1 and self.policy is not None:
            out, attn = sparse_decode_observed(query, store, columns.whole, scale, columns.scratch)
            self._choose(attn)
        else:
            out = sparse_decode(query, store, columns.whole, scale, columns.scratch)
        return out.unsqueeze(1)

    def store(self, layer: int) -> Store:
        """A layer's keys and values; for entries in host memory, those on the device, once they have arrived."""
        entry, store = self.entries[layer], self._stores[layer]
        if isinstance(entry, HostEntries):
            entry.wait()
        if store is None:
            columns = self._columns[entry.keys.device]
            rows = entry.own_rows if isinstance(entry, HostEntries) else columns.rows
            store = Store(entry.keys, entry.values, *self.tails[layer], rows, columns.filled)
            self._stores[layer] = store
        return store

    def end_step(self) -> None:
        """Count what the step read."""
        self.stepping = False
        columns = self._columns[self._device]
        above = columns.whole if self.policy is None else self._listed
        self.use.step(columns.whole.count, above.count, columns.filled)
        if self.use.trace:
            index = above.index
            if index is None:
                index = torch.arange(self.prompt, device=self._device)
                index = (index + self.prompt - above.count[:, None]).remainder(self.prompt)
            self.use.note_columns(index, above.count, self.prompt, columns.filled)

    def reorder(self, rows: Tensor) -> None:
        """Give each batch row the history of row rows[b], as beam search asks; the prompt's entries stay in place."""
        if self.policy is not None:
            reorder_state(self.state, rows)
            self.use.selections = getattr(self.state, "selections", None)
            self._text = self._text.index_select(0, rows.to(self._text.device))
        for device, columns in self._columns.items():
            chosen, whole = rows.to(device), columns.whole
            columns.rows = columns.rows.index_select(0, chosen)
            index = None if whole.index is None else whole.index.index_select(0, chosen)
            columns.whole = Reads(whole.count.index_select(0, chosen), index)
        if self.slots is not None:
            self.slots.reorder(rows)

    def reorder_layer(self, layer: int, rows: Tensor) -> None:
        """The part of `reorder` that moves a layer's own keys and values."""
        self.tails[layer] = tuple(t.index_select(0, rows.to(t.device)) for t in self.tails[layer])
        self._stores[layer] = None
        if isinstance(self.entries[layer], HostEntries):
            self.entries[layer].reorder(rows)

    def _choose(self, attn: Tensor) -> None:
        """Let the policy choose, and tell every later layer what to read; attn [B, S] of the observer."""
        self.policy.step(self.state, attn.to(self._device))
        keep = self.state.keep
        if keep.shape != self._kept:
            raise ValueError(
                f"state.keep of shape {tuple(keep.shape)}: expected {tuple(self._kept)}, as start() made it"
            )
        marked = self._text.scatter(1, torch.where(keep < 0, self.prompt, keep), True)
        index, count = list_columns(marked[:, : self.prompt], self._width)
        self._listed = Reads(count, index)
        if self.slots is not None:
            wanted = self.slots.assign(keep)
            self.use.fetched.add_((wanted >= 0).sum())
            index = self.slots.place(index)
        for device, columns in self._columns.items():
            columns.pruned = Reads(count.to(device, non_blocking=True), index.to(device, non_blocking=True))
            if self.slots is not None:
                here = [e for e in self.entries[self.first :] if e.keys.device == device]
                columns.wanted = wanted.to(device, non_blocking=True)
                HostEntries.fetch_all(here, columns.rows, columns.wanted)

    def _count_bytes(self) -> None:
        entries = [entry for entry in self.entries if entry is not None]
        tails = sum(part.numel() * part.itemsize for tail in self.tails if tail is not None for part in tail)
        self.use.device_bytes = sum(entry.device_bytes for entry in entries) + tails
        self.use.host_bytes = sum(entry.host_bytes for entry in entries)
        self.use.host_layers = sum(isinstance(entry, HostEntries) for entry in entries)


def _whole(real: Tensor) -> Reads:
    """Every real column: by its number where they end the prompt, by an index where padding stands behind them."""
    count = real.sum(1).int()
    columns = torch.arange(real.shape[1], device=real.device)
    if bool((real == (columns >= real.shape[1] - count[:, None])).all()):
        return Reads(count)
    index, count = list_columns(real, real.shape[1])
    return Reads(count, index)
