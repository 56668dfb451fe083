"""A request in the shape of its bucket: more rows, more columns, the prompt at the right end of each row.

A CUDA graph replays over tensors of fixed shapes. So rows are added that hold nothing, and a prompt of n tokens takes
the last n of a bucket's columns, wherever its padding stood; the kernels count columns from the right.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

from torch import Tensor
from torch.nn.functional import pad

from dycoke.kv_cache.columns import Section
from dycoke.kv_cache.request import DecodeRequest
from dycoke.kv_cache.side_stream import SideStream
from dycoke.types import DecodePolicy

ROW_BUCKETS = (1, 2, 4, 8, 16, 32, 64)  # above: multiples of the last
COLUMNS = 256  # capacities are multiples of it, and of an eighth of their power of two
TAIL = 64
LISTED = 128  # what a pruned step reads at most, and keeps, is rounded up to multiples of it


def row_bucket(rows: int) -> int:
    """Rows of the graph that serves `rows` rows."""
    return next((size for size in ROW_BUCKETS if rows <= size), -(-rows // ROW_BUCKETS[-1]) * ROW_BUCKETS[-1])


def column_bucket(columns: int) -> int:
    """Columns of the store that holds a prompt of `columns`: at most an eighth more, above 2,048."""
    step = max(COLUMNS, 2 ** max((columns - 1).bit_length() - 4, 0))
    return -(-columns // step) * step


def tail_bucket(tokens: int) -> int:
    """Columns reserved for an answer of `tokens`."""
    return -(-max(tokens, 1) // TAIL) * TAIL


@dataclass(frozen=True)
class Part:
    """Columns that layers share: real, visual [B, S] bool of a section of the prompt, as prefill has them.

    index [B, S] int64: the column of the part before; shift [B, 1]: as in `Section`; both None in the first.
    """

    real: Tensor
    visual: Tensor
    index: Tensor | None = None
    shift: Tensor | None = None

    @property
    def order(self) -> Tensor:
        """Columns [B, S] int64 with the padding first and the order kept otherwise."""
        return self.real.int().argsort(dim=1, stable=True)


def padded_request(
    policy: DecodePolicy | None,
    numbers: Sequence[int],
    parts: Sequence[Part],
    rows: int,
    tail: int,
    *,
    side: SideStream | None = None,
    counted: bool = True,
) -> DecodeRequest:
    """A request of `rows` rows whose parts take the columns of their buckets; nothing is filled in yet.

    numbers: the part of each layer. tail: columns for the answer. side, counted: as in `DecodeRequest`. Reads the
    device.
    """
    real, visual = (_right(mask, parts[0], rows) for mask in (parts[0].real, parts[0].visual))
    request = DecodeRequest(
        policy, len(numbers), tuple(real.shape), real.device, real, visual, tail=tail, side=side, counted=counted
    )
    if len(parts) > 1:
        sections = request.sections[:1]
        for before, part in pairwise(parts):
            sections.append(_narrowed(sections[-1], before, part, rows))
        observed = parts[numbers[request.first - 1]]
        request.divide(sections[1:], numbers, _right(observed.visual, observed, rows))
    if request.choice is not None:
        request.choice.widen(LISTED)
    return request


def _right(mask: Tensor, part: Part, rows: int) -> Tensor:
    """mask [B, S] of a part's columns in the bucket's: [rows, capacity] bool."""
    moved = (mask & part.real).gather(1, part.order)
    return pad(moved, (column_bucket(mask.shape[1]) - mask.shape[1], 0, 0, rows - mask.shape[0]))


def _narrowed(section: Section, before: Part, part: Part, rows: int) -> Section:
    """The section of `part` behind that of the part before it, both in their buckets."""
    capacity = column_bucket(part.real.shape[1])
    place = before.order.argsort(dim=1) + section.columns - before.real.shape[1]  # where a column went
    index = place.gather(1, part.index).gather(1, part.order)
    index = pad(index, (capacity - index.shape[1], 0, 0, rows - len(index)))
    shift = None if part.shift is None else pad(part.shift, (0, 0, 0, rows - len(part.shift)))
    return section.narrowed(index, _right(part.real, part, rows), shift)
