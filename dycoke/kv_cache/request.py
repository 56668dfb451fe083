"""The KV cache of a request whose later layers read part of the prompt: one store, and an index view over it.

A layer's keys and values are those of the prompt, kept as prefill made them, and a tail that takes a column for every
decoded token. What a step reads is an index on the device; nothing is copied to read less, and nothing is evicted:
a column that is not read now can be read at any later step. The whole store is the paper's DP cache.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from dycoke.kv_cache.choice import Choice
from dycoke.kv_cache.columns import Columns, Section, moved, reordered
from dycoke.kv_cache.device_store import DeviceEntries
from dycoke.kv_cache.host_store import HostEntries, Slots
from dycoke.kv_cache.layer_store import LayerStore
from dycoke.kv_cache.side_stream import SideStream
from dycoke.ops.attend.choose import list_columns
from dycoke.ops.attend.sparse_decode import Reads, Store, sparse_decode, sparse_decode_observed
from dycoke.report.usage import CacheUse
from dycoke.types import DecodePolicy

TAIL = 64  # columns of decoded tokens a request starts with; doubled when they are full

_LOOK = "dp_cache='device' and engine='off'"


class DecodeRequest:
    """State that the decode steps of one request share. Lives as long as the cache whose layers hold it.

    policy: chooses the columns; None reads everything. layers: of the model. real [B, S] bool: columns that are no
    padding, None if all are. visual [B, S] bool: columns the policy may leave out, None if there are none.
    host: keep the entries of pruned layers in host memory. tail: columns to reserve for the answer. side: where the
    columns are chosen, in turn with the layers if None. counted: whether steps count what they read.
    Reads the device when it is made and when a prefill drops columns on its way, and not afterwards.
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
        side: SideStream | None = None,
        counted: bool = True,
    ) -> None:
        self.batch, self.prompt = shape
        real = torch.ones(shape, dtype=torch.bool, device=device) if real is None else real.to(device)
        visual = torch.zeros_like(real) if visual is None else visual.to(device) & real
        self.policy = policy if bool(visual.any()) else None
        self.first = layers if policy is None else policy.first_layer
        # First layer that reads less: `first`, or no layer where there is nothing to prune.
        self.pruned_from = layers if self.policy is None else self.first
        self.layers: list[LayerStore | None] = [None] * layers  # until a prefill fills them
        self.capacity, self.steps, self.stepping = tail, 0, False
        self.counted, self.side = counted, side or SideStream()
        self.use = CacheUse(layers, self.first, self.batch, trace and policy is not None)
        self.use.start(device)
        self._device = device
        self.sections, self.visual = [Section.start(real)], [visual]  # of the prompt's columns, as prefill left them
        self._number = [0] * layers  # of each layer's section
        self.shared: dict[tuple[torch.device, int], Columns] = {}
        self.columns(device)
        self._host, self.slots = host, None
        self._listed: dict[int, Reads] = {}
        self.choice: Choice | None = None
        if self.policy is not None:
            self._begin(visual, 0)

    def _begin(self, visual: Tensor, section: int) -> None:
        """Let the policy begin with the visual columns [B, C] of the section its observer is in. Reads the device."""
        self.choice = Choice(self.policy, visual, self.sections[section].real, section)
        self.use.selections = self.choice.state.counted
        if self._host:
            budget = [self.policy.budget(count) for count in visual.sum(1).tolist()]
            self.slots = Slots(self.choice.text[:, :-1], torch.tensor(budget, device=visual.device))

    def narrow(
        self, layer: int, index: Tensor, real: Tensor, visual: Tensor, shift: Tensor | None, *, evict: bool = False
    ) -> None:
        """Layers from `layer` on, which are not filled yet, hold these columns of what the layer before them holds.

        index [B, C] int64 ascending; real, visual [B, C] bool of the columns; shift as in `Section`; evict: the layers
        before hold no others from now on, either. Reads the device.
        """
        index, real, visual = (part.to(self._device) for part in (index, real, visual))
        shift = None if shift is None else shift.to(self._device)
        self.sections.append(self.sections[-1].narrowed(index, real, shift))
        self.visual.append(visual)
        first = 0 if evict else layer
        for earlier in range(first, layer):
            self._evict(earlier)
        self._number[first:] = [len(self.sections) - 1] * (len(self._number) - first)
        if self.policy is not None and (layer < self.first or evict):
            self._begin(visual, len(self.sections) - 1)

    def _evict(self, layer: int) -> None:
        """Leave a layer that is filled no columns but those of the last section."""
        index = self.sections[-1].index
        for section in reversed(self.sections[self._number[layer] + 1 : -1]):
            index = section.index.gather(1, index)
        self.layers[layer].evict(index)
        self.columns(self.layers[layer].device, len(self.sections) - 1)

    def divide(self, sections: Sequence[Section], numbers: Sequence[int], visual: Tensor) -> None:
        """Give the layers, none of which is filled yet, further sections behind the first, as one laid out for them.

        numbers: the section of each layer. visual [B, C] bool: visual columns of the section the policy observes.
        """
        self.sections.extend(sections)
        for number in range(1, len(self.sections)):
            self.columns(self._device, number)
        self._number = list(numbers)
        if self.policy is not None:
            self._begin(visual, self._number[self.first - 1])

    def hand_over(self, layer: int) -> DeviceEntries | HostEntries:
        """Entries of the prompt that a layer gives away; it has none from now on."""
        filled, self.layers[layer] = self.layers[layer], None
        return filled.entries

    @property
    def numbers(self) -> tuple[int, ...]:
        """Number of the section that each layer belongs to."""
        return tuple(self._number)

    def position(self, layer: int) -> Tensor:
        """Column [1] int64 of the tail that a layer's new token is written to."""
        return self._columns_of(layer).position

    def _columns_of(self, layer: int) -> Columns:
        """Columns that a filled layer shares with those of its section on its device."""
        return self.shared[self.layers[layer].device, self._number[layer]]

    def section(self, layer: int) -> Section:
        """The section a layer belongs to."""
        return self.sections[self._number[layer]]

    def columns(self, device: torch.device, section: int = 0) -> Columns:
        """Columns that the layers of a section share on `device`; made when the first of them is filled."""
        if (device, section) not in self.shared:
            whole = self.sections[section].whole
            self.shared[device, section] = Columns(
                rows=torch.arange(self.batch, dtype=torch.int32, device=device),
                filled=torch.full((self.batch,), self.steps, dtype=torch.int32, device=device),
                position=torch.full((1,), self.steps - 1, device=device),
                whole=moved(whole, device),
            )
        return self.shared[device, section]

    def fill(self, layer: int, keys: Tensor, values: Tensor) -> None:
        """Take a layer's prompt, [B, H, S, D] each, and reserve its tail.

        Raises ValueError if the prompt is not the one that was announced.
        """
        announced = self.section(layer).columns
        if (keys.shape[0], keys.shape[2]) != (self.batch, announced):
            raise ValueError(
                f"a prompt of {keys.shape[0]} rows and {keys.shape[2]} tokens where {self.batch} and {announced} "
                "were announced"
            )
        self.columns(keys.device, self._number[layer])
        on_host = self.slots is not None and layer >= self.pruned_from
        entries = HostEntries(keys, values, self.slots) if on_host else DeviceEntries(keys, values)
        tail = tuple(t.new_zeros(*t.shape[:2], self.capacity, t.shape[3]) for t in (keys, values))
        self.layers[layer] = LayerStore(entries, tail)
        self.use.column_bytes = (keys.shape[1] * keys.shape[3] + values.shape[1] * values.shape[3]) * keys.itemsize
        self._count_bytes()

    def reserve(self, tokens: int) -> None:
        """Make room for an answer of `tokens`; a step that is captured in a CUDA graph must never need to grow."""
        if tokens <= self.capacity:
            return
        for layer in self._filled():
            layer.reserve(tokens - self.capacity)
        self.capacity = tokens
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

    def abandon(self) -> None:
        """End a step, if one is under way, without counting what it read: nobody will finish it."""
        self.stepping = False

    def tick(self) -> None:
        """The part of `advance` that happens on the device, and so in every replay of a CUDA graph."""
        for columns in self.shared.values():
            columns.filled.add_(1)
            columns.position.add_(1)

    def append(self, layer: int, keys: Tensor, values: Tensor) -> None:
        """Write the new token's keys and values [B, H, 1, D] of a layer."""
        self.layers[layer].append(self._columns_of(layer).position, keys, values)

    def columns_of(self, layer: int, width: int = 0) -> tuple[Tensor, Tensor]:
        """Keys and values [B, H, C, D] that a layer holds of the prompt and the answer, in copies, in `width` at least.

        Raises ValueError where the prompt's are in host memory or have gone.
        """
        held = self.layers[layer]
        if held is None or held.on_host:
            where = "in the engine's store" if held is None else "in host memory (dp_cache='host')"
            raise ValueError(f"keys and values of layer {layer} are {where} and cannot be looked at; accepted: {_LOOK}")
        taken = max(self.steps - self.stepping, width - held.entries.keys.shape[2])
        return held.copied(self._columns_of(layer).rows, taken)

    def attend(self, layer: int, query: Tensor, scale: float) -> Tensor:
        """Attention of the new token, query [B, Hq, 1, D] -> [B, 1, Hq, D], over what the layer is to read."""
        columns, query, store = self._columns_of(layer), query.squeeze(2), self.store(layer)
        if layer >= self.pruned_from:
            self.side.join()
            out = sparse_decode(query, store, columns.pruned, scale, columns.scratch)
        elif layer == self.pruned_from - 1 and self.choice is not None:
            out, attn = sparse_decode_observed(query, store, columns.whole, scale, columns.scratch)
            with self.side.work(attn):
                self._choose(attn)
        else:
            out = sparse_decode(query, store, columns.whole, scale, columns.scratch)
        return out.unsqueeze(1)

    def store(self, layer: int) -> Store:
        """A layer's keys and values; for entries in host memory, those on the device, once they have arrived."""
        return self.layers[layer].read_by(self._columns_of(layer))

    def end_step(self) -> None:
        """Count what the step read."""
        self.stepping = False
        below, above = [], []
        for number, section in enumerate(self.sections):
            below.append((section.whole.count, self._number[: self.first].count(number)))
            above.append((self._listed.get(number, section.whole).count, self._number[self.first :].count(number)))
        self.use.step(below, above)
        if self.use.trace:
            self.use.note_columns(*self._read_by_pruned(), self.prompt, self.shared[self._device, 0].filled)

    def _read_by_pruned(self) -> tuple[Tensor, Tensor]:
        """Columns of the prompt that layer `first` reads: index [B, N], of which the first count [B] count."""
        number = self._number[self.first]
        section = self.sections[number]
        reads = self._listed.get(number, section.whole)
        index = reads.index
        if index is None:
            index = torch.arange(section.columns, device=self._device)
            index = (index + section.columns - reads.count[:, None]).remainder(section.columns)
        if section.origin is not None:
            index = section.origin.gather(1, index.clamp(min=0).long())
        return index, reads.count

    @property
    def signature(self) -> tuple[Any, ...]:
        """Signature in which two requests agree that can share a CUDA graph: nothing that follows from values."""
        sections = tuple((each.columns, each.whole.index is None, each.shift is None) for each in self.sections)
        chosen = () if self.choice is None else self.choice.signature
        return self.batch, sections, self.numbers, self.capacity, chosen

    def refill(self, request: DecodeRequest) -> None:
        """Take over, in place, what a request of the same signature says of its prompt; its entries come apart.

        Raises ValueError for another signature.
        """
        if self.signature != request.signature:
            raise ValueError(f"a request of signature {request.signature}: expected {self.signature}")
        for to, of in zip(self.sections, request.sections, strict=True):
            to.refill(of)
        for (_, number), columns in self.shared.items():
            columns.restart(self.sections[number].whole)
        if self.choice is not None:
            self.choice.refill(request.choice)

    def recorded(self) -> dict[str, Any]:
        """Parts of the policy's state that a CUDA graph takes over, by name."""
        return {} if self.choice is None else self.choice.recorded()

    def reorder(self, rows: Tensor) -> None:
        """Give each batch row the history of row rows[b], as beam search asks; the prompt's entries stay in place."""
        if self.choice is not None:
            self.choice.reorder(rows)
            self.use.selections = self.choice.state.counted
        for section in self.sections:
            section.reorder(rows)
        for (device, _), columns in self.shared.items():
            columns.rows = columns.rows.index_select(0, rows.to(device))
            columns.whole = reordered(columns.whole, rows)
        if self.slots is not None:
            self.slots.reorder(rows)

    def reorder_layer(self, layer: int, rows: Tensor) -> None:
        """The part of `reorder` that moves a layer's own keys and values."""
        self.layers[layer].reorder(rows)

    def _choose(self, attn: Tensor) -> None:
        """Let the policy choose, and tell every later layer what to read; attn [B, S] of the observer."""
        read, first = self.choice.step(attn.to(self._device)), self.choice.section
        for number in range(first, len(self.sections)):
            section = self.sections[number]
            if number > first:
                read = read.gather(1, section.index) & section.real
            index, count = list_columns(read, min(section.columns, self.choice.width))
            self._listed[number] = Reads(count, index)
            if self.slots is None:
                self._announce(number, self._listed[number])
        if self.slots is not None:
            self._fetch(self.choice.state.keep)

    def _announce(self, number: int, reads: Reads) -> None:
        """Tell the layers of a section on every device what to read."""
        for (device, section), columns in self.shared.items():
            if section == number:
                columns.pruned = moved(reads, device)

    def _fetch(self, keep: Tensor) -> None:
        """Bring the chosen columns keep [B, W] to the device, and tell the layers where they are."""
        wanted, listed = self.slots.assign(keep), self._listed[self.choice.section]
        self.use.fetched.add_((wanted >= 0).sum())
        self._announce(self.choice.section, Reads(listed.count, self.slots.place(listed.index)))
        for (device, section), columns in self.shared.items():
            if section == self.choice.section:
                here = [each.entries for each in self.layers[self.first :] if each.device == device]
                columns.wanted = wanted.to(device, non_blocking=True)
                HostEntries.fetch_all(here, columns.rows, columns.wanted)

    def _count_bytes(self) -> None:
        self.use.device_bytes = sum(layer.device_bytes for layer in self._filled())
        self.use.host_bytes = sum(layer.entries.host_bytes for layer in self._filled())
        self.use.host_layers = sum(layer.on_host for layer in self._filled())

    def _filled(self) -> Iterator[LayerStore]:
        """The layers that hold their prompt."""
        return (layer for layer in self.layers if layer is not None)
