"""Batches of prompts whose lengths are known: as many rows as a KV budget allows, cut in two where memory runs out."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TypeVar

import torch
from torch import nn

from dycoke.model_shape import Shape

# Of the memory the weights leave. Prefill and the vision tower need about twice what the keys and values do: at 7B a
# prompt token has 57 KB of those and 113 KB of the widest layer, and 32 frames need 0.5 GB in the tower.
SHARE = 0.3
CPU_BYTES = 4 * 2**30

T = TypeVar("T")
R = TypeVar("R")


@dataclass(frozen=True)
class KVBudget:
    """total: bytes that the keys and values of one batch may take; column: bytes of one token's in all layers."""

    total: int
    column: int

    @classmethod
    def of(cls, model: nn.Module, total: int | None = None) -> KVBudget:
        """The budget of a model; where none is given a share of what its weights leave of its GPUs, 4 GiB on a CPU.

        The share is of all memory, not of what happens to be free, so that the same model on the same GPUs always has
        the same. Raises ValueError for a total that is not a positive integer.
        """
        if total is not None and (isinstance(total, bool) or not isinstance(total, int) or total < 1):
            raise ValueError(f"kv_budget={total!r}: expected bytes, an integer of at least 1")
        shape = Shape.of(model.config)
        return cls(total or _left_by(model), shape.column_bytes(model.dtype) * shape.layers)

    def bytes_of(self, columns: int) -> int:
        """Bytes of the keys and values of so many tokens."""
        return self.column * columns

    def rows(self, columns: int) -> int:
        """Number of rows of so many tokens that fit; 0 if none does."""
        return self.total // self.bytes_of(columns)


def form(columns: Sequence[int], budget: KVBudget | None, most: int) -> list[slice]:
    """Batches of rows that need so many columns each, longest first: parts of the sequence, in its order.

    A batch is padded to its first row. No batch has more than `most` rows, nor goes beyond the budget, if there is one;
    a row that does so alone stands alone. Depends on nothing else.
    """
    found, start = [], 0
    while start < len(columns):
        fits = most if budget is None else max(1, min(most, budget.rows(columns[start])))
        found.append(slice(start, min(start + fits, len(columns))))
        start += fits
    return found


class Halving:
    """Runs batches, and those that run out of GPU memory as two halves, which it says once by a warning.

    weight: columns of a batch; one that has as many as one that failed is cut before it is tried.
    """

    def __init__(self, weight: Callable[[Sequence[T]], int]) -> None:
        self._weight = weight
        self._failed: float = math.inf

    def __call__(self, batch: Sequence[T], run: Callable[[Sequence[T]], R]) -> Iterator[tuple[Sequence[T], R]]:
        """Parts of the batch, in order, each with its result of `run`. Raises OutOfMemoryError for one row alone."""
        parts = [batch]
        while parts:
            part = parts.pop(0)
            done = None
            if len(part) == 1 or self._weight(part) < self._failed:
                done = self._tried(part, run)
            if done is not None:
                yield part, done[0]
                continue
            middle = (len(part) + 1) // 2
            parts[:0] = [part[:middle], part[middle:]]

    def _tried(self, part: Sequence[T], run: Callable[[Sequence[T]], R]) -> tuple[R] | None:
        try:
            return (run(part),)
        except torch.cuda.OutOfMemoryError:
            if len(part) == 1:
                raise
        # Outside of the handler, whose traceback holds the tensors of the batch that failed.
        torch.cuda.empty_cache()
        if self._failed == math.inf:
            warnings.warn(
                f"a batch of {len(part)} rows ran out of GPU memory and is answered as two; so are later ones of its "
                "size. A smaller KV budget or batch size spares the attempt",
                stacklevel=3,
            )
        self._failed = min(self._failed, self._weight(part))
        return None


def _left_by(model: nn.Module) -> int:
    weights = [each for part in (model.parameters(), model.buffers()) for each in part]
    left = 0
    for device in {each.device for each in weights if each.device.type == "cuda"}:
        used = sum(each.numel() * each.element_size() for each in weights if each.device == device)
        left += torch.cuda.get_device_properties(device).total_memory - used
    return int(SHARE * left) if left else CPU_BYTES
