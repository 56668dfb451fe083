"""Generated ids of a batch, row by row, and where each answer ends."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor


@dataclass(frozen=True)
class Generated:
    """new [B, n] int64: generated ids without the prompts; ends: at which an answer ends.

    A row that ended before the longest one, by such an id or by a text, is filled up with pad.
    """

    new: Tensor
    ends: frozenset[int]
    pad: int

    def lengths(self) -> list[int]:
        """Number of ids generated in each row, the end among them."""
        return [self._length(row) for row in self.new.tolist()]

    def rows(self) -> list[Tensor]:
        """Ids [n] int64 of each row on the CPU, up to its end, which is the last of them."""
        return [row[:length] for row, length in zip(self.new.cpu(), self.lengths(), strict=True)]

    def _length(self, row: list[int]) -> int:
        end = next((place + 1 for place, token in enumerate(row) if token in self.ends), None)
        if end is not None or len(self.new) == 1:
            return end or len(row)
        return max((place + 1 for place, token in enumerate(row) if token != self.pad), default=0)


def ending_ids(model: Any, given: int | Sequence[int] | None = None) -> frozenset[int]:
    """Ids at which `generate` ends an answer: those given to it, else those of the model's generation config."""
    ids = model.generation_config.eos_token_id if given is None else given
    return frozenset({*(ids if isinstance(ids, list | tuple) else [ids])} - {None})
