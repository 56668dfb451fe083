"""Layers that hold the same columns of a prompt, where a stage inside the language model drops some on the way."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import Tensor

from dycoke.ops.attend.choose import list_columns
from dycoke.ops.attend.sparse_decode import Reads, Scratch


@dataclass
class Section:
    """Layers that follow each other and hold the same C columns, of B rows.

    real [B, C] bool: columns that are not padding; whole: all of those. index [B, C] int64: which column of the section
    before each of them is; origin [B, C] int64: which of the prompt's; both None in the first section. shift [B, 1]:
    by how much the positions of decoded tokens move back in these layers, None where they do not.
    """

    real: Tensor
    whole: Reads
    index: Tensor | None = None
    origin: Tensor | None = None
    shift: Tensor | None = None
    _rotated: tuple[int, tuple[Tensor, Tensor]] | None = None  # a step, and the rotary tables of its shifted position

    @property
    def columns(self) -> int:
        return self.real.shape[1]

    @classmethod
    def start(cls, real: Tensor) -> Section:
        """Section of a prompt [B, S] from which nothing has been dropped. Reads the device."""
        return cls(real, whole(real))

    def narrowed(self, index: Tensor, real: Tensor, shift: Tensor | None) -> Section:
        """The section behind this one, whose layers hold these columns of it. Reads the device."""
        origin = index if self.origin is None else self.origin.gather(1, index)
        return Section(real, whole(real), index, origin, shift)

    def shifted_tables(self, step: int, make: Callable[[Tensor], tuple[Tensor, Tensor]]) -> tuple[Tensor, Tensor]:
        """Rotary tables of a step's position in these layers: make(shift), once per step for all of them."""
        if self._rotated is None or self._rotated[0] != step:
            self._rotated = step, make(self.shift)
        return self._rotated[1]

    def refill(self, section: Section) -> None:
        """Take over, in place, the values of a section of the same shapes."""
        self.real.copy_(section.real)
        for name in ("index", "shift"):
            if getattr(self, name) is not None:
                getattr(self, name).copy_(getattr(section, name))
        self.whole.count.copy_(section.whole.count)
        if self.whole.index is not None:
            self.whole.index.copy_(section.whole.index)

    def reorder(self, rows: Tensor) -> None:
        """Give each batch row what row rows[b] had."""
        for name in ("real", "index", "origin", "shift"):
            value = getattr(self, name)
            if value is not None:
                setattr(self, name, value.index_select(0, rows.to(value.device)))
        self.whole = reordered(self.whole, rows)


@dataclass
class Columns:
    """Columns that a section's layers on one device read. rows, filled [B] int32, position [1] int64 as in `Store`."""

    rows: Tensor
    filled: Tensor
    position: Tensor
    whole: Reads
    pruned: Reads | None = None
    scratch: Scratch = field(default_factory=Scratch)  # of all layers in turn
    wanted: Tensor | None = None  # what is being fetched: kept until the next choice, because another stream reads it

    def restart(self, whole: Reads) -> None:
        """Begin with a new prompt, of which the layers read `whole`, in place."""
        self.filled.zero_()
        self.position.fill_(-1)
        if self.whole.count is not whole.count:
            self.whole.count.copy_(whole.count)


def moved(reads: Reads, device: torch.device) -> Reads:
    """The same columns, on `device`."""
    index = None if reads.index is None else reads.index.to(device, non_blocking=True)
    return Reads(reads.count.to(device, non_blocking=True), index)


def reordered(reads: Reads, rows: Tensor) -> Reads:
    """The same columns, with row b taken from row rows[b]."""
    rows = rows.to(reads.count.device)
    index = None if reads.index is None else reads.index.index_select(0, rows)
    return Reads(reads.count.index_select(0, rows), index)


def whole(real: Tensor) -> Reads:
    """Every real column: by its number where they end the prompt, by an index where padding stands behind them."""
    count = real.sum(1).int()
    columns = torch.arange(real.shape[1], device=real.device)
    if bool((real == (columns >= real.shape[1] - count[:, None])).all()):
        return Reads(count)
    index, count = list_columns(real, real.shape[1])
    return Reads(count, index)
